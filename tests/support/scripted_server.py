"""A server on a real socket that does what a test's script says, one script a connection: for the client's tests.

What a real server does only in a rare moment, such as losing a connection between a start and its answer, a script does
every time.
"""

import asyncio
import contextlib
import http
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from support.wire import Frame

WAIT_SECONDS: Final = 15.0


class Peer:
    """One accepted connection, as its script sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def send(self, frame_type: str, **fields: Any) -> None:
        """Send one frame."""
        await self.socket.send(json.dumps({"type": frame_type, **fields}))

    async def ready(self, *runs: Frame, heartbeat_seconds: float = 20) -> None:
        """Say `ready`, with these runs."""
        await self.send("ready", user_id="ada", heartbeat_seconds=heartbeat_seconds, runs=runs, agents=["five"])

    async def accept(self, start: Frame, run_id: str = "run") -> None:
        """Accept the run of this `start_run`."""
        await self.send("run_accepted", request_id=start["request_id"], run_id=run_id, thread_id="thread")

    async def event(self, seq: int, name: str = "agent_thinking", *, run_id: str = "run", **data: Any) -> None:
        """Send one event."""
        await self.send(
            name, run_id=run_id, seq=seq, time="2026-07-01T12:00:00Z", agent="five", traceparent="", data=data
        )

    async def complete(self, seq: int, *, run_id: str = "run") -> None:
        """Send the terminal event after so many thoughts, with a receipt of all."""
        counts = {"agent_completed": 1} | ({"agent_thinking": seq - 1} if seq > 1 else {})
        receipt = {"last_seq": seq, "counts": counts}
        await self.event(seq, "agent_completed", run_id=run_id, output="done", receipt=receipt)

    async def receive(self, *types: str) -> Frame:
        """The next frame, which must be of one of these types."""
        async with asyncio.timeout(WAIT_SECONDS):
            frame: Frame = json.loads(await self.socket.recv())
        assert frame["type"] in types, frame
        return frame

    async def close(self, code: int, reason: str = "scripted") -> None:
        """Close with this code."""
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """Lose the connection without a goodbye."""
        self.socket.transport.abort()

    async def stay(self) -> None:
        """Read and forget, until the client goes."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.socket.recv()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Plays one script for each connection, in order, and the last one again for any more. A number in a script's place
    refuses the handshake with that status. Use it as an async context manager: at its end a script that failed raises.

    `tokens` are those that the handshakes brought.
    """

    def __init__(self, *scripts: Script | http.HTTPStatus, retry_after: str | None = None) -> None:
        self.tokens: list[str] = []
        self._scripts: Sequence[Script | http.HTTPStatus] = scripts
        self._retry_after = retry_after
        self._failures: list[Exception] = []
        self._server: Server

    @property
    def url(self) -> str:
        """The socket."""
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}/ws"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._play,
            "127.0.0.1",
            0,
            process_request=self._refuse,
            subprotocols=[Subprotocol("tracewire.v1")],
            compression=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        if self._failures:
            raise ExceptionGroup("scripts failed", self._failures)

    def _next(self) -> Script | http.HTTPStatus:
        return self._scripts[min(len(self.tokens), len(self._scripts)) - 1]

    async def _refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        status = self._next()
        if not isinstance(status, http.HTTPStatus):
            return None
        response = socket.respond(status, "scripted\n")
        if self._retry_after is not None:
            response.headers["Retry-After"] = self._retry_after
        return response

    async def _play(self, socket: ServerConnection) -> None:
        script = self._next()
        assert not isinstance(script, http.HTTPStatus)
        try:
            await script(Peer(socket))
        except ConnectionClosed:
            pass  # the client went; what it did not do shows there
        except Exception as error:  # noqa: BLE001 # raised at the end, where the test sees it
            self._failures.append(error)
