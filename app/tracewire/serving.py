"""uvicorn, run beside another in one process: sockets bound by us, signals ours, the exit code ours."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from tracewire.gateway.http_edge import BoundedHttpProtocol, HttpBounds
from tracewire.gateway.transport import SocketProtocol

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening-ready TCP socket; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: without it each event waits 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.set_inheritable(False)
    except BaseException:
        bound.close()
        raise
    return bound


def port_of(bound: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = bound.getsockname()[1]
    return port


def url_of(host: str, bound: socket.socket) -> str:
    """The base URL of what listens on this host by this socket."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port_of(bound)}"


class AppServer(uvicorn.Server):
    """One application on one bound socket. It takes no signals: who runs it sets `should_exit`."""

    def __init__(
        self, app: Any, *, bounds: HttpBounds, frame_bytes_max: int, heartbeat_seconds: float, stop_seconds: float
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws=SocketProtocol,
                ws_max_size=frame_bytes_max,
                ws_ping_interval=heartbeat_seconds,
                ws_ping_timeout=None,
                ws_per_message_deflate=False,
                http=partial(BoundedHttpProtocol, bounds=bounds),  # type: ignore[arg-type] # called as a class is
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=max(1, int(stop_seconds)),
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone."""
        yield


async def ended(server: AppServer, task: "asyncio.Task[None]") -> None:
    """Have the server end, and wait until its task has."""
    server.should_exit = True
    await asyncio.gather(task, return_exceptions=True)
