"""The floor of a connection's memory: a bare ASGI application on uvicorn, as `python -m tests.benchmarks.bare_idle`.

It prints its port. A socket is told `ready`; its `start_run` is answered with `run_accepted`, one event and a task that
sleeps, which stands for an agent. Acks are read and forgotten.
"""

import asyncio
from typing import Any

from tests.benchmarks.bare_server import Receive, Send, serve

FRAMES_OF_RUN = (
    '{"type":"run_accepted","request_id":"r","run_id":"run"}',
    '{"type":"agent_started","run_id":"run","seq":1,"time":"2026-01-31T12:00:00.000Z","data":{}}',
)


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


if __name__ == "__main__":
    serve(bare_idle)
