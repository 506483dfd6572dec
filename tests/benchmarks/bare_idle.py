"""The floor of a connection's memory: a bare ASGI application on uvicorn, as `python -m tests.benchmarks.bare_idle`.

It prints its port. A socket is told `ready`; its `start_run` is answered with `run_accepted`, one event and a task that
sleeps, which stands for an agent. Acks are read and forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from tracewire.serving import BACKLOG, bind, port_of

FRAMES_OF_RUN = (
    '{"type":"run_accepted","request_id":"r","run_id":"run"}',
    '{"type":"agent_started","run_id":"run","seq":1,"time":"2026-01-31T12:00:00.000Z","data":{}}',
)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def bare_idle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The ASGI application."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    await send({"type": "websocket.send", "text": '{"type":"ready"}'})
    agent: asyncio.Task[None] | None = None
    while (message := await receive())["type"] != "websocket.disconnect":
        if agent is None and "start_run" in message["text"]:
            agent = asyncio.create_task(asyncio.sleep(3_600))
            for text in FRAMES_OF_RUN:
                await send({"type": "websocket.send", "text": text})
    if agent is not None:
        agent.cancel()


def serve() -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        bare_idle,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    bound = bind("127.0.0.1", 0)
    bound.listen(BACKLOG)
    print(port_of(bound), flush=True)
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    serve()
