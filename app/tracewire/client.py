"""The Python client: starts runs over a socket and gives every event once and in order.

    async with Client("ws://127.0.0.1:8000/ws", token) as client:
        run = await client.start_run("what is missing in the sample recording?")
        async for envelope in run:
            print(envelope.seq, envelope.type, envelope.data)
        assert run.receipt_agrees

It acks from the receive path (after 16 events or 100 ms, and at once at the end), drops what it has had already,
resumes where it sees a gap or loses its connection, and holds the receipt of the terminal event against what came.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple, Self

import msgspec
import uuid_utils
from msgspec import UNSET, Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from tracewire.errors import TracewireError
from tracewire.events import Receipt, ReceivedEnvelope, decode_envelope
from tracewire_telemetry.vocabulary import EVENT_TYPES, TERMINAL_TYPES

SUBPROTOCOLS: Final = (Subprotocol("tracewire.v1.lines"), Subprotocol("tracewire.v1"))
ACK_EVENTS: Final = 16
ACK_SECONDS: Final = 0.1
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 10.0
READY_SECONDS: Final = 15.0
_EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)
_NO_RECONNECT: Final = frozenset({1002, 1003, 1007, 1008, 1009})


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
    """The server refused a frame; `code` is the wire's, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class _Peek(Struct, frozen=True):
    type: str
    run_id: str | None = None
    request_id: str | None = None


class _Start(NamedTuple):
    """A `start_run` that is not answered yet."""

    frame: dict[str, Any]
    accepted: "asyncio.Future[ClientRun]"


_peek = msgspec.json.Decoder(_Peek)
_encode = msgspec.json.Encoder().encode


class ClientRun:
    """One run as this client sees it: an async iterator of its envelopes, in order, once each, up to the terminal one.

    `received` counts the events by type; `last_seq` is the newest that came without a gap before it.
    """

    def __init__(self, client: "Client", run_id: str, request_id: str, thread_id: str | None) -> None:
        self.run_id = run_id
        self.request_id = request_id
        self.thread_id = thread_id
        self.received: Counter[str] = Counter()
        self.last_seq = 0
        self.terminal: ReceivedEnvelope | None = None
        self._client = client
        self._queue: asyncio.Queue[ReceivedEnvelope | ClientError] = asyncio.Queue()
        self._acked = 0
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
        await self._client._send({"type": "cancel_run", "run_id": self.run_id})

    async def provide_input(self, input_id: str, value: Any) -> None:
        """Answer an `input_required`."""
        await self._client._send({"type": "provide_input", "run_id": self.run_id, "input_id": input_id, "value": value})

    def _take(self, envelope: ReceivedEnvelope) -> bool:
        """Take one envelope; `False` where something before it is missing."""
        first = envelope.first_seq if envelope.first_seq is not UNSET else envelope.seq
        if envelope.seq <= self.last_seq:
            return True
        if first > self.last_seq + 1:
            return False
        self.received[envelope.type.value] += envelope.seq - self.last_seq
        self.last_seq = envelope.seq
        if envelope.type in TERMINAL_TYPES:
            self.terminal = envelope
        self._queue.put_nowait(envelope)
        return True

    def _ack(self) -> dict[str, Any] | None:
        if self.last_seq == self._acked:
            return None
        self._acked = self.last_seq
        return {"type": "ack", "run_id": self.run_id, "seq": self.last_seq, "count": sum(self.received.values())}

    def _fail(self, error: ClientError) -> None:
        self._queue.put_nowait(error)


class Client:
    """One user's connection. Use it as an async context manager: it is ready inside.

    Args:
        url: the server's socket, as in `ws://127.0.0.1:8000/ws`.
        token: the user's token, or a function that gives a fresh one for every connection.
        reconnect: whether a lost connection is made anew, with jittered backoff, and its runs resumed.
    """

    def __init__(self, url: str, token: str | Callable[[], str], *, reconnect: bool = True) -> None:
        self.url = url
        self.user_id = ""
        self.ready: dict[str, Any] = {}
        self._token = token
        self._reconnect = reconnect
        self._socket: ClientConnection | None = None
        self._is_ready = asyncio.Event()
        self._runs: dict[str, ClientRun] = {}
        self._starting: dict[str, _Start] = {}
        self._unacked = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._failure: ClientError | None = None

    async def __aenter__(self) -> Self:
        """Connect, and wait until the server says `ready`.

        Raises:
            ConnectionFailedError: it does not, within `READY_SECONDS`.
        """
        self._task = asyncio.create_task(self._stay_connected())
        ready = asyncio.create_task(self._is_ready.wait())
        try:
            await asyncio.wait({ready, self._task}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_ready.is_set():
                raise self._failure or ConnectionFailedError(f"{self.url}: not ready within {READY_SECONDS:g} s")
        except BaseException:
            await self.close()
            raise
        finally:
            ready.cancel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send the acks that are due, and close the connection."""
        if self._socket is not None and self._is_ready.is_set():
            with contextlib.suppress(ConnectionClosed):
                await self._send_acks()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._sends, return_exceptions=True)

    async def start_run(
        self,
        input_value: Any,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> ClientRun:
        """Start a run, and return when the server has accepted it, durably.

        The same `request_id` again gives the same run, also over another connection.

        Raises:
            RequestRejectedError: the server refused it.
            ConnectionFailedError: the connection is gone and is not made anew.
        """
        request_id = request_id or str(uuid_utils.uuid7())
        frame = {"type": "start_run", "request_id": request_id, "input": input_value}
        optional = {"agent": agent, "thread_id": thread_id, "traceparent": traceparent}
        frame |= {name: value for name, value in optional.items() if value is not None}
        await self._is_ready.wait()
        start = self._starting[request_id] = _Start(frame, asyncio.get_running_loop().create_future())
        try:
            with contextlib.suppress(ConnectionClosed):  # the next connection repeats it
                await self._send_now(frame)
            return await start.accepted
        finally:
            del self._starting[request_id]

    # The connection.

    async def _stay_connected(self) -> None:
        backoff = BACKOFF_SECONDS_MIN
        while True:
            try:
                await self._connect_once()
                backoff = BACKOFF_SECONDS_MIN
            except (OSError, InvalidHandshake, TimeoutError) as error:
                self._failure = ConnectionFailedError(f"{self.url}: {_why(error)}")
                fatal = isinstance(error, InvalidStatus) and error.response.status_code < 500
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else None
                reason = (error.rcvd.reason if error.rcvd else "") or "connection lost"
                self._failure = ConnectionFailedError(f"{self.url}: closed with {code or 1006} ({reason})", code)
                fatal = code is not None and (code >= 4500 or code in _NO_RECONNECT)
            else:
                fatal = False
            was_ready = bool(self.ready)
            self._is_ready.clear()
            if fatal or not self._reconnect or not was_ready:
                break
            await asyncio.sleep(random.uniform(0.5, 1.0) * backoff)  # noqa: S311 # jitter
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        failure = self._failure or ConnectionFailedError(f"{self.url}: the connection is gone")
        for run in self._runs.values():
            if run.terminal is None:
                run._fail(failure)
        for starting in self._starting.values():
            if not starting.accepted.done():
                starting.accepted.set_exception(failure)

    async def _connect_once(self) -> None:
        token = self._token() if callable(self._token) else self._token
        async with connect(
            self.url,
            additional_headers={"Authorization": f"Bearer {token}"},
            subprotocols=SUBPROTOCOLS,
            compression=None,
            max_size=None,
            open_timeout=READY_SECONDS,
        ) as socket:
            self._socket = socket
            async for message in socket:
                for line in (message if isinstance(message, bytes) else message.encode()).split(b"\n"):
                    await self._take(line)
            raise ConnectionClosed(socket.protocol.close_rcvd, socket.protocol.close_sent)

    # Frames in.

    async def _take(self, line: bytes) -> None:
        peeked = _peek.decode(line)
        if peeked.type in _EVENT_NAMES:
            await self._take_envelope(decode_envelope(line))
            return
        frame: dict[str, Any] = msgspec.json.decode(line)
        match peeked.type:
            case "ready":
                self.ready, self.user_id = frame, frame["user_id"]
                self._is_ready.set()
                await self._catch_up()
            case "run_accepted":
                self._accepted(frame)
            case "rejected":
                self._rejected(frame)
            case "ping":
                await self._send_now({"type": "pong", "id": frame["id"]})
            case _:
                pass  # `authenticated`, `draining`, `resumed`, and what later versions add

    async def _take_envelope(self, envelope: ReceivedEnvelope) -> None:
        run = self._runs.get(envelope.run_id)
        if run is None:
            return
        if not run._take(envelope):
            await self._send_acks()
            await self._send_now({"type": "resume", "runs": {run.run_id: run.last_seq}})
            return
        self._unacked += 1
        if envelope.type in TERMINAL_TYPES or self._unacked >= ACK_EVENTS:
            await self._send_acks()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._ack_soon)

    def _accepted(self, frame: dict[str, Any]) -> None:
        waiting = self._starting.get(frame["request_id"])
        if waiting is None or waiting.accepted.done():
            return
        run = ClientRun(self, frame["run_id"], frame["request_id"], frame["thread_id"])
        waiting.accepted.set_result(self._runs.setdefault(run.run_id, run))

    def _rejected(self, frame: dict[str, Any]) -> None:
        error = RequestRejectedError(frame["code"], frame["message"])
        waiting = self._starting.get(frame.get("request_id") or "")
        if waiting is not None and not waiting.accepted.done():
            waiting.accepted.set_exception(error)

    async def _catch_up(self) -> None:
        """After a reconnect: resume the runs that have not ended, and repeat the starts that were not answered."""
        open_runs = {run.run_id: run.last_seq for run in self._runs.values() if run.terminal is None}
        if open_runs:
            await self._send_now({"type": "resume", "runs": open_runs})
        for start in self._starting.values():
            if not start.accepted.done():
                await self._send_now(start.frame)

    # Frames out.

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._is_ready.wait()
        await self._send_now(frame)

    async def _send_now(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            await self._socket.send(_encode(frame), text=True)

    def _ack_soon(self) -> None:
        self._ack_timer = None
        task = asyncio.create_task(self._send_acks())
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _send_acks(self) -> None:
        self._unacked = 0
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        for run in list(self._runs.values()):
            frame = run._ack()
            if frame is not None:
                with contextlib.suppress(ConnectionClosed):  # the next connection's resume is an ack too
                    await self._send_now(frame)
            if run.terminal is not None and run._acked == run.last_seq:
                self._runs.pop(run.run_id, None)


def _why(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode(errors="replace").strip()
        return f"HTTP {error.response.status_code}{': ' + body if body else ''}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the server running?"
    return str(error) or type(error).__name__
