"""One run as the Python client sees it, and what the client raises."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from tracewire.errors import TracewireError
from tracewire.events import Receipt, ReceivedEnvelope
from tracewire_telemetry.vocabulary import TERMINAL_TYPES

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends one frame over the client's connection."""


class ClientError(TracewireError):
    """Anything that the client raises on purpose."""

    code = "client"


class ConnectionFailedError(ClientError):
    """The server cannot be reached, or does not let this client in. `close_code` is the socket's, where it had one."""

    code = "connection_failed"

    def __init__(self, message: str, close_code: int | None = None) -> None:
        self.close_code = close_code
        super().__init__(message)


class RequestRejectedError(ClientError):
    """The server refused a frame, or no longer has a run (`expired`, `unknown_run`); `code` is the wire's, the message
    says what to do, `retry_after_seconds` when that may help.
    """

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class EventsMissingError(ClientError):
    """The server goes on past an event that it does not send, however often it is asked to."""

    code = "events_missing"

    def __init__(self, run_id: str, seq: int, times: int) -> None:
        self.run_id = run_id
        self.seq = seq
        super().__init__(f"event {seq} of run {run_id} does not come, though it was asked for {times} times")


class ListedRun(Struct, frozen=True):
    """A run as `ready` lists it: `state` is `running`, `awaiting_input`, `completed`, `failed` or `cancelled`."""

    run_id: str
    request_id: str
    agent: str
    state: str
    last_seq: int
    acked_seq: int


class ClientRun:
    """One run as this client sees it: an async iterator of its envelopes, in order, once each, up to the terminal one.

    `received` counts the events by type; `last_seq` is the newest that came without a gap before it. A run that this
    client did not start is only `watched`: its events are counted and acked, and kept for nobody.
    """

    def __init__(
        self, send: "Send", run_id: str, request_id: str, thread_id: str | None, *, watched: bool = False
    ) -> None:
        self.run_id = run_id
        self.request_id = request_id
        self.thread_id = thread_id
        self.received: Counter[str] = Counter()
        self.last_seq = 0
        self.terminal: ReceivedEnvelope | None = None
        self._send = send
        self._queue: asyncio.Queue[ReceivedEnvelope | ClientError] = asyncio.Queue()
        self._acked = 0
        self._watched = watched
        self._resuming = False
        self._fruitless = 0
        self._done = False

    def __aiter__(self) -> AsyncIterator[ReceivedEnvelope]:
        return self

    async def __anext__(self) -> ReceivedEnvelope:
        if self._done:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, ClientError):
            self._done = True
            raise item
        self._done = item.type in TERMINAL_TYPES
        return item

    @property
    def receipt(self) -> Receipt | None:
        """What the terminal event says was sent; `None` before it came."""
        return msgspec.convert(self.terminal.data["receipt"], Receipt) if self.terminal is not None else None

    @property
    def receipt_agrees(self) -> bool:
        """Whether the run has ended and exactly what its receipt says has come."""
        receipt = self.receipt
        return receipt is not None and receipt.last_seq == self.last_seq and receipt.counts == dict(self.received)

    async def cancel(self) -> None:
        """Ask the server to end the run; its `agent_cancelled` comes as an event."""
        await self._send({"type": "cancel_run", "run_id": self.run_id})

    async def provide_input(self, input_id: str, value: Any) -> None:
        """Answer an `input_required`."""
        await self._send({"type": "provide_input", "run_id": self.run_id, "input_id": input_id, "value": value})

    def _take(self, envelope: ReceivedEnvelope) -> bool:
        """Take one envelope; `False` where something before it is missing.

        So it is too for joined deltas of which a part came before: their text cannot be cut apart, and resuming gives
        them singly.
        """
        first = envelope.first_seq if envelope.first_seq is not UNSET else envelope.seq
        if envelope.seq <= self.last_seq:
            return True
        if first != self.last_seq + 1:
            return False
        self.received[envelope.type.value] += envelope.seq - self.last_seq
        self.last_seq = envelope.seq
        if envelope.type in TERMINAL_TYPES:
            self.terminal = envelope
        if not self._watched:
            self._queue.put_nowait(envelope)
        return True

    def _ack(self) -> dict[str, Any] | None:
        if self.last_seq == self._acked:
            return None
        self._acked = self.last_seq
        return {"type": "ack", "run_id": self.run_id, "seq": self.last_seq, "count": sum(self.received.values())}

    def _fail(self, error: ClientError) -> None:
        self._queue.put_nowait(error)
