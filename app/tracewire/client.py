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
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import msgspec
import uuid_utils
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from tracewire.client_run import ClientError, ClientRun, ConnectionFailedError, RequestRejectedError
from tracewire.events import ReceivedEnvelope, decode_envelope
from tracewire_telemetry.vocabulary import EVENT_TYPES, TERMINAL_TYPES

__all__ = ["Client", "ClientError", "ClientRun", "ConnectionFailedError", "RequestRejectedError"]

SUBPROTOCOLS: Final = (Subprotocol("tracewire.v1.lines"), Subprotocol("tracewire.v1"))
ACK_EVENTS: Final = 16
ACK_SECONDS: Final = 0.1
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 10.0
READY_SECONDS: Final = 15.0
_EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)
_NO_RECONNECT: Final = frozenset({1002, 1003, 1007, 1008, 1009})
_WHAT_TO_DO: Final = {
    4501: "the token is missing or does not hold; get one that this server accepts",
    4502: "the token has expired; get a new one",
    4503: "the server refuses pages of this origin",
    4505: "this user has as many sockets open as a user may have; close one",
    1011: "the server failed on this; its log says why",
}


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


class Client:
    """One user's connection. Use it as an async context manager: it is ready inside.

    Args:
        url: the server's socket, as in `ws://127.0.0.1:8000/ws`.
        token: the user's token, or a function that gives a fresh one for every connection.
        reconnect: whether a lost connection is made anew, with jittered backoff, and its runs resumed.
        attempts_max: after so many connections in a row over which no event came, it is given up; `None`: never.
        on_rejected: called with each refusal that no call waits for, as of a cancel that came too late.
        on_lost: called with the reason each time a connection is lost and will be made anew.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str],
        *,
        reconnect: bool = True,
        attempts_max: int | None = None,
        on_lost: Callable[[ConnectionFailedError], None] | None = None,
        on_rejected: Callable[[RequestRejectedError], None] | None = None,
    ) -> None:
        self.url = url
        self.user_id = ""
        self.ready: dict[str, Any] = {}
        self._token = token
        self._reconnect = reconnect
        self._attempts_max = attempts_max
        self._attempts = 0
        self._on_lost = on_lost
        self._on_rejected = on_rejected
        self._socket: ClientConnection | None = None
        self._is_ready = asyncio.Event()
        self._runs: dict[str, ClientRun] = {}
        self._starting: dict[str, _Start] = {}
        self._unacked = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._failure: ConnectionFailedError | None = None

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
        self._is_ready.clear()
        self._give_up(ConnectionFailedError(f"{self.url}: the client is closed"))

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
        await self._until_ready()
        if (earlier := self._starting.get(request_id)) is not None:
            return await asyncio.shield(earlier.accepted)
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
            except InvalidURI as error:
                self._failure = ConnectionFailedError(f"{error}; a socket's URL is as ws://127.0.0.1:8000/ws")
                fatal = True
            except (OSError, InvalidHandshake, TimeoutError) as error:
                self._failure = ConnectionFailedError(f"{self.url}: {_why(error)}")
                fatal = isinstance(error, InvalidStatus) and error.response.status_code < 500
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else None
                reason = (error.rcvd.reason if error.rcvd else "") or "connection lost"
                advice = f": {_WHAT_TO_DO[code]}" if code in _WHAT_TO_DO else ""
                self._failure = ConnectionFailedError(
                    f"{self.url}: closed with {code or 1006} ({reason}){advice}", code
                )
                fatal = code is not None and (code >= 4500 or code in _NO_RECONNECT)
            except Exception as error:  # noqa: BLE001 # what came is no frame: whoever waits for one must be told
                self._failure = ConnectionFailedError(f"{self.url}: {type(error).__name__}: {error}")
                fatal = True
            else:
                fatal = False
            was_ready = bool(self.ready)
            if self._is_ready.is_set():
                backoff = BACKOFF_SECONDS_MIN
            self._is_ready.clear()
            self._attempts += 1
            given_up = self._attempts_max is not None and self._attempts >= self._attempts_max
            if fatal or given_up or not self._reconnect or not was_ready:
                break
            if self._on_lost is not None and self._failure is not None:
                self._on_lost(self._failure)
            await asyncio.sleep(random.uniform(0.5, 1.0) * backoff)  # noqa: S311 # jitter
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        self._give_up(self._failure or ConnectionFailedError(f"{self.url}: the connection is gone"))

    def _give_up(self, failure: ConnectionFailedError) -> None:
        """Tell everybody who waits that nothing more will come."""
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
                await self._rejected(frame)
            case "resumed":
                if not frame["recovered"]:
                    self._lose(frame["run_id"], frame["reason"], "the server no longer has the run's events")
            case "ping":
                await self._send_now({"type": "pong", "id": frame["id"]})
            case _:
                pass  # `authenticated`, `draining`, and what later versions add

    async def _take_envelope(self, envelope: ReceivedEnvelope) -> None:
        run = self._runs.get(envelope.run_id)
        if run is None:
            return
        self._attempts = 0
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
        mine = waiting is not None and not waiting.accepted.done()
        run = ClientRun(self._send, frame["run_id"], frame["request_id"], frame["thread_id"], watched=not mine)
        run = self._runs.setdefault(run.run_id, run)
        if waiting is not None and mine:
            waiting.accepted.set_result(run)

    async def _rejected(self, frame: dict[str, Any]) -> None:
        if frame["frame"] == "resume":
            if "run_id" in frame:
                self._lose(frame["run_id"], frame["code"], frame["message"])
            elif self._socket is not None:  # for now: the next connection resumes, after its backoff
                await self._socket.close()
            return
        error = RequestRejectedError(frame["code"], frame["message"])
        waiting = self._starting.get(frame.get("request_id") or "")
        if waiting is not None and not waiting.accepted.done():
            waiting.accepted.set_exception(error)
        elif self._on_rejected is not None:
            self._on_rejected(error)

    def _lose(self, run_id: str, code: str, message: str) -> None:
        """Of this run nothing more will come: whoever waits for it must be told."""
        run = self._runs.pop(run_id, None)
        if run is not None and run.terminal is None:
            run._fail(RequestRejectedError(code, message))

    async def _catch_up(self) -> None:
        """After a reconnect: resume the runs that are not acked to their end, and repeat the starts that were not
        answered.
        """
        open_runs = {run.run_id: run.last_seq for run in self._runs.values()}
        if open_runs:
            await self._send_now({"type": "resume", "runs": open_runs})
        for start in self._starting.values():
            if not start.accepted.done():
                await self._send_now(start.frame)

    # Frames out.

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._until_ready()
        await self._send_now(frame)

    async def _until_ready(self) -> None:
        """Wait until there is a ready connection.

        Raises:
            ConnectionFailedError: there will be none: it is gone, and not made anew.
        """
        if not self._is_ready.is_set() and self._task is not None:
            ready = asyncio.create_task(self._is_ready.wait())
            await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        if not self._is_ready.is_set():
            raise self._failure or ConnectionFailedError(f"{self.url}: the client is closed")

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
                try:
                    await self._send_now(frame)
                except ConnectionClosed:
                    continue  # the next connection's resume is an ack too
            if run.terminal is not None and run._acked == run.last_seq:
                self._runs.pop(run.run_id, None)


def _why(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode(errors="replace").strip()
        return f"HTTP {error.response.status_code}{': ' + body if body else ''}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the server running?"
    return str(error) or type(error).__name__
