"""A bare WebSocket client: it speaks frames as they stand in `wire.md`, and keeps every one that came, as it came.

It acks nothing and resumes nothing of itself: what the server does about that is what the tests look at.
"""

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from tracewire_telemetry.vocabulary import EVENT_TYPES, TERMINAL_TYPES

WAIT_SECONDS = 20.0
EVENT_NAMES = frozenset(event_type.value for event_type in EVENT_TYPES)
TERMINAL_NAMES = frozenset(event_type.value for event_type in TERMINAL_TYPES)

Frame = dict[str, Any]


class Wire:
    """One open socket. `raw` holds each frame's text, `frames` each object in it, both in the order of arrival."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.raw: list[str] = []
        self.frames: list[Frame] = []
        self._taken = 0

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server echoed."""
        return self.socket.subprotocol

    # Out.

    async def send(self, frame_type: str, **fields: Any) -> None:
        """Send one frame."""
        await self.send_text(json.dumps({"type": frame_type, **fields}))

    async def send_text(self, text: str) -> None:
        """Send this text as a frame, whatever it is."""
        await self.socket.send(text, text=True)

    async def start_run(self, input_value: Any, **fields: Any) -> str:
        """Start a run and give its id, when it is accepted."""
        request_id = fields.pop("request_id", None) or f"request-{uuid.uuid4()}"
        await self.send("start_run", request_id=request_id, input=input_value, **fields)
        accepted = await self.receive_where(
            lambda frame: frame["type"] in ("run_accepted", "rejected") and frame.get("request_id") == request_id
        )
        assert accepted["type"] == "run_accepted", accepted
        return cast("str", accepted["run_id"])

    async def ack(self, run_id: str, seq: int) -> None:
        """Ack 1..`seq` of a run, with the count."""
        await self.send("ack", run_id=run_id, seq=seq, count=seq)

    # In.

    async def receive(self) -> Frame:
        """The next object that the server sends.

        Raises:
            ConnectionClosed: the socket is closed, and everything before was received.
        """
        while self._taken == len(self.frames):
            async with asyncio.timeout(WAIT_SECONDS):
                message = await self.socket.recv(decode=True)
            assert isinstance(message, str)
            self.raw.append(message)
            self.frames += [json.loads(line) for line in message.split("\n")]
        self._taken += 1
        return self.frames[self._taken - 1]

    async def receive_where(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next object for which `wanted` holds; those before it are kept in `frames`."""
        while True:
            frame = await self.receive()
            if wanted(frame):
                return frame

    async def receive_type(self, *types: str) -> Frame:
        """The next object of one of these types."""
        return await self.receive_where(lambda frame: frame["type"] in types)

    async def receive_run(self, run_id: str) -> list[Frame]:
        """Receive until the run's terminal event; all of its events that came over this socket."""
        if not any(is_terminal(frame, run_id) for frame in self.frames[: self._taken]):
            await self.receive_where(lambda frame: is_terminal(frame, run_id))
        return self.events(run_id)

    def events(self, run_id: str) -> list[Frame]:
        """The run's events that came so far, in the order of arrival."""
        return [frame for frame in self.frames if frame["type"] in EVENT_NAMES and frame["run_id"] == run_id]

    async def closed(self) -> tuple[int, str]:
        """Receive until the server closes; its code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive()
        code, reason = self.socket.close_code, self.socket.close_reason
        assert code is not None
        return code, reason or ""

    def cut(self) -> None:
        """Lose the connection without a goodbye."""
        self.socket.transport.abort()


@asynccontextmanager
async def wire_to(
    url: str,
    token: str | None = None,
    *,
    subprotocols: Sequence[str] = ("tracewire.v1",),
    origin: str | None = None,
    ready: bool = True,
) -> AsyncIterator[Wire]:
    """An open socket, with the token in the `Authorization` header where there is one.

    `ready` waits for the server's `ready`.
    """
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with connect(
        url,
        additional_headers=headers,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        origin=Origin(origin) if origin is not None else None,
        compression=None,
        max_size=None,
        ping_interval=None,
        open_timeout=WAIT_SECONDS,
        close_timeout=2,
    ) as socket:
        wire = Wire(socket)
        if ready:
            frame = await wire.receive()
            assert frame["type"] == "ready", frame
        yield wire


def is_terminal(frame: Frame, run_id: str) -> bool:
    """Whether the frame is this run's terminal event."""
    return frame["type"] in TERMINAL_NAMES and frame["run_id"] == run_id


def contract_problems(events: Sequence[Frame]) -> list[str]:
    """What is wrong with all that came of one run: its seqs, its ends, its tool pairs, its receipt."""
    problems: list[str] = []
    seqs = [event["seq"] for event in events]
    if seqs != list(range(1, len(events) + 1)):
        problems.append(f"the seqs are {seqs}")
    types = [event["type"] for event in events]
    terminals = [name for name in types if name in TERMINAL_NAMES]
    if len(terminals) != 1 or types[-1] != terminals[0]:
        problems.append(f"there must be one terminal event, the last: {types}")
        return problems
    if "agent_started" in types[1:] or (len(types) > 1 and types[0] != "agent_started"):
        problems.append(f"agent_started must be the first, once: {types}")
    opened = [event["data"]["tool_call_id"] for event in events if event["type"] == "tool_executing"]
    closed = [event["data"]["tool_call_id"] for event in events if event["type"] == "tool_completed"]
    if sorted(opened) != sorted(closed) or len(set(opened)) != len(opened):
        problems.append(f"tool calls opened {opened}, closed {closed}")
    receipt = events[-1]["data"]["receipt"]
    if receipt != {"last_seq": len(events), "counts": dict(Counter(types))}:
        problems.append(f"the receipt says {receipt}, there came {dict(Counter(types))}")
    return problems
