"""Between the server's sockets and the clients: a WebSocket proxy that does to one user's frames what the row says.

It reads what crosses and keeps it, a `Crossing` a user: what each client really got, frame by frame, and what it sent.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from mutants.moments import HELD_SECONDS_MAX, let_pass
from mutants.rows import REORDERED, Mutant, mutant_of
from support.servers import FIVE
from support.wire import EVENT_NAMES, Frame

BOUND: Final = 10.0
_PASSED_ON: Final = frozenset({1000, 1001, 1003, 1007, 1008, 1009, 1011, *range(3000, 5000)})
"""Codes that a peer may send. Anything else was a lost connection, and is one on the other side too."""


class Crossing:
    """What crossed the sockets of one user, over all of them, in order."""

    def __init__(self, user_id: str) -> None:
        self.mutant = mutant_of(user_id)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.raw: list[str] = []
        self.events: list[Frame] = []
        self.acks: list[Frame] = []
        self.resumes: list[dict[str, int]] = []
        self.closes: list[int] = []
        self.done = False
        """Whether the row's deed is done; it is done once."""


class MutatingProxy:
    """Listens on a free port. Clients connect to `url_of` their user, and their frames go to the server's socket."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._server: Server
        self.crossings: dict[str, Crossing] = {}

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._cross, "127.0.0.1", 0, compression=None, max_size=None, ping_interval=None, close_timeout=2,
            select_subprotocol=lambda _, offered: offered[0] if offered else None,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def url_of(self, user_id: str) -> str:
        """Where this user's client connects."""
        self.crossings.setdefault(user_id, Crossing(user_id))
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}/{user_id}"

    async def _cross(self, client: ServerConnection) -> None:
        request = client.request
        assert request is not None
        crossing = self.crossings[request.path.removeprefix("/")]
        async with connect(
            self._server_url,
            additional_headers={"Authorization": request.headers["Authorization"]},
            subprotocols=[client.subprotocol] if client.subprotocol else None,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=2,
        ) as server:
            down = asyncio.create_task(_Passage(crossing, "client", client).pass_on(_objects(server)))
            up = asyncio.create_task(_Passage(crossing, "ack", server).pass_on(_objects(client)))
            gone = asyncio.create_task(server.wait_closed())
            left = asyncio.create_task(client.wait_closed())
            try:
                await asyncio.wait({gone, left}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    if not _Passage.holds(down):
                        await asyncio.wait({down}, timeout=BOUND)
                    crossing.closes.append(server.close_code or 1006)
                    await _close(client, server.close_code, server.close_reason)
                else:
                    await _close(server, client.close_code, client.close_reason)
            finally:
                for task in (down, up, gone, left):
                    task.cancel()
                await asyncio.gather(down, up, gone, left, return_exceptions=True)


class _Passage:
    """One direction of one connection, in order. `hop` is where it leads."""

    def __init__(self, crossing: Crossing, hop: str, to: "ClientConnection | ServerConnection") -> None:
        mutant = crossing.mutant
        self._crossing = crossing
        self._hop = hop
        self._to = to
        self._mutant = mutant if mutant is not None and mutant.where == hop and mutant.what in _DONE_HERE else None
        self._liar = mutant is not None and (mutant.what, mutant.where) == ("lie", "client") and hop == "ack"
        self._held: Frame | None = None
        self._acked = 0

    @staticmethod
    def holds(task: "asyncio.Task[None]") -> bool:
        """Whether this direction holds a frame back now: it is lost with its connection."""
        return task in _holding

    async def pass_on(self, frames: AsyncIterator[Frame]) -> None:
        """Pass frames on to the end of the connection, one of them as the row has it."""
        with contextlib.suppress(ConnectionClosed):
            async for frame in frames:
                if self._mutant is None:
                    await self._send(self._lied(frame))
                    continue
                for one in self._singly(frame):
                    if self._crossing.done:
                        await self._send(one)
                    else:
                        await self._mutated(self._mutant, one)

    def _singly(self, frame: Frame) -> Iterator[Frame]:
        """An ack of several events as an ack of each: which of them fall together is settled by the machine."""
        if frame["type"] != "ack" or self._hop != "ack":
            yield frame
            return
        for seq in range(min(self._acked, frame["seq"] - 1) + 1, frame["seq"] + 1):
            yield frame | {"seq": seq, "count": seq}
        self._acked = frame["seq"]

    async def _mutated(self, mutant: Mutant, frame: Frame) -> None:
        first, second = REORDERED[mutant.event_type] if mutant.what == "reorder" else (mutant.event_type, "")
        if self._held is not None:
            if not self._is(frame, second):
                await self._send(frame)
                return
            self._crossing.done = True
            await self._send(frame)
            await self._send(self._held)
        elif not self._is(frame, first):
            await self._send(frame)
        elif mutant.what == "reorder":
            self._held = frame
        else:
            self._crossing.done = True
            if mutant.what == "delay":
                await _hold()
            if mutant.what != "drop":
                await self._send(frame)
            if mutant.what == "repeat":
                await self._send(frame)

    def _is(self, frame: Frame, event_type: str) -> bool:
        """Whether the frame is the event of this type, or an ack that covers it."""
        if self._hop == "client":
            return bool(frame["type"] == event_type)
        return frame["type"] == "ack" and event_type != "" and frame["seq"] >= FIVE.index(event_type) + 1

    def _lied(self, frame: Frame) -> Frame:
        mutant = self._crossing.mutant
        if self._liar and mutant is not None and self._is(frame, mutant.event_type):
            self._crossing.done = True
            return frame | {"count": frame["seq"] - 1}
        return frame

    async def _send(self, frame: Frame) -> None:
        text = json.dumps(frame)
        crossing = self._crossing
        if self._hop == "client":
            crossing.raw.append(text)
            if frame["type"] in EVENT_NAMES:
                crossing.events.append(frame)
        elif frame["type"] == "ack":
            crossing.acks.append(frame)
        elif frame["type"] == "resume":
            crossing.resumes.append(frame["runs"])
        await self._to.send(text, text=True)


_DONE_HERE: Final = frozenset({"drop", "repeat", "reorder", "delay"})
_holding: set["asyncio.Task[Any]"] = set()


async def _hold() -> None:
    """Hold what comes until the server gives the connection up."""
    task = asyncio.current_task()
    assert task is not None
    _holding.add(task)
    try:
        await let_pass(HELD_SECONDS_MAX)
    finally:
        _holding.discard(task)


async def _objects(socket: "ClientConnection | ServerConnection") -> AsyncIterator[Frame]:
    """The objects of each frame, of which one may hold several, a line each."""
    async for message in socket:
        assert isinstance(message, str)
        for line in message.split("\n"):
            yield json.loads(line)


async def _close(socket: "ClientConnection | ServerConnection", code: int | None, reason: str | None) -> None:
    if code in _PASSED_ON:
        await socket.close(code or 1000, reason or "")
    else:
        socket.transport.abort()
