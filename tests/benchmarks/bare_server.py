"""What every bare application is served by: uvicorn as Tracewire runs it, and nothing of Tracewire's but the socket."""

from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from tracewire.serving import BACKLOG, bind, port_of

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def serve(app: Any) -> None:
    """Serve a bare ASGI application until SIGTERM; its port is printed first."""
    config = uvicorn.Config(
        app,
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
