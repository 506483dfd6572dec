"""A run's events as server-sent events (SSE), for who reads over plain HTTP: from the log, then live.

Enters: `GET /runs/{id}/events` that accepts `text/event-stream`. Leaves: each envelope as the log holds it, once and in
order. Next: nobody: such a reader cannot ack, so its chain ends at the socket. It resumes by `Last-Event-ID`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
import uuid_utils
from litestar import Request, Response
from litestar.response.base import ASGIResponse
from msgspec import Struct

from tracewire.delivery.connection import Connection
from tracewire.delivery.outbox import Outbox
from tracewire.delivery.replay import catch_up
from tracewire.errors import EventLogError, EventsExpiredError, RejectedError
from tracewire.eventlog import RunSummary
from tracewire.gateway.auth import Principal
from tracewire.gateway.reading import SEQ_MAX, integer_of
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire.gateway.transport import CLOSE_TIMEOUT_SECONDS, HTTP_EXTENSION, limit_kernel_buffers
from tracewire_telemetry.replayed import ReplayedRun
from tracewire_telemetry.vocabulary import TERMINAL_TYPES, CloseCode, RejectCode

MEDIA_TYPE: Final = "text/event-stream"
RETRY_SECONDS: Final = 2.0
"""How long a reader is asked to wait before it comes back."""
UNSENT_BYTES_MAX: Final = 32 * 1024
"""Bytes taken from the outbox and not yet taken by the peer, past which the outbox is left to fill."""
HEADERS: Final = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"vary", b"Accept"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects a response before it passes it on would hold every event
)
_TERMINAL: Final = frozenset(event_type.value for event_type in TERMINAL_TYPES)
_log = structlog.get_logger("tracewire.gateway")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def wants_stream(request: Request[Any, Any, Any]) -> bool:
    """Whether the request asks for SSE."""
    return MEDIA_TYPE in request.headers.get("accept", "").lower()


class _Head(Struct):
    type: str
    seq: int = 0


_head = msgspec.json.Decoder(_Head)


class StreamTransport:
    """One SSE response as a connection writes to it: an envelope becomes an event, any other text is sent as it is."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._ended = False
        self._stuck_since_ns = 0

    @property
    def writable(self) -> bool:
        """Whether the peer has taken enough of what was written before."""
        return self._unsent_bytes < UNSENT_BYTES_MAX and not self._ended

    @property
    def last_life_ns(self) -> int:
        """When the peer last took what it was sent, monotonic nanoseconds."""
        return self._stuck_since_ns or time.monotonic_ns()

    def stuck_ns(self, now: int) -> int:
        """For how long the peer has taken nothing of what waits for it."""
        return now - self._stuck_since_ns if self._stuck_since_ns else 0

    def write_text(self, body: bytes) -> None:
        """Write one envelope, or a field or comment of SSE; after the terminal event, and after a close, nothing."""
        if self._ended:
            return
        if body.startswith(b"{"):
            head = _head.decode(body)
            if not head.seq:
                return  # a frame that is no event is for sockets alone
            body = b"id: %d\nevent: %b\ndata: %b\n\n" % (head.seq, head.type.encode(), body)
            self._ended = head.type in _TERMINAL
        self._unsent.append(body)
        self._unsent_bytes += len(body)
        self._wake.set()

    def ping(self) -> None:
        """Send a comment; nobody answers it, but a connection that is gone is found out."""
        self.write_text(b": ping\n\n")

    def close(self, code: CloseCode) -> None:
        """End the stream, saying why in a comment; a peer that does not take the end in time is let go of."""
        self.write_text(f": closed {code.reason}\n\n".encode())
        self.end()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, self.abort)

    def end(self) -> None:
        """Take nothing more."""
        self._ended = True
        self._wake.set()

    def abort(self) -> None:
        """Let go of a connection that does not take what it is sent; any other one may carry further requests."""
        if self._stuck_since_ns:
            self._transport.abort()

    async def unsent(self) -> bytes:
        """Wait for what is to be sent next; empty at the end."""
        while not self._unsent and not self._ended:
            self._wake.clear()
            await self._wake.wait()
        body = b"".join(self._unsent)
        self._unsent.clear()
        self._stuck_since_ns = time.monotonic_ns()
        return body

    def taken(self, body: bytes) -> None:
        """What `unsent` gave last was taken."""
        self._unsent_bytes -= len(body)
        self._stuck_since_ns = 0


class EventStream:
    """One reader of one run, from its request to the run's terminal event. The server keeps it as it keeps sockets:
    its limits, heartbeats, expiry and drain are theirs.
    """

    def __init__(self, gateway: SocketGateway, principal: Principal, run: RunSummary, after_seq: int) -> None:
        self.id = str(uuid_utils.uuid7())
        self.principal = principal
        self.last_ping_ns = time.monotonic_ns()
        self.connection: Connection
        self.transport: StreamTransport
        self._gateway = gateway
        self._run = run
        self._after_seq = after_seq
        self._draining = False

    def respond(self, scope: Any) -> "Callable[[Receive, Send], Awaitable[None]]":
        """Attach the reader; what is returned serves it to its end.

        Raises:
            RejectedError: the server, or this user, has as many connections as it takes.
        """
        gateway, settings, user_id = self._gateway, self._gateway.settings, self.principal.user_id
        if not gateway.readiness.ready or len(gateway.sessions) >= settings.sockets_max:
            code = RejectCode.DRAINING if gateway.readiness.draining else RejectCode.NOT_READY
            raise RejectedError(code, "the server takes no further streams now", retry_after_seconds=RETRY_SECONDS)
        if len(gateway.connections.of(user_id)) >= settings.sockets_per_user_max:
            raise RejectedError(
                RejectCode.RATE_LIMITED,
                f"you have {settings.sockets_per_user_max} sockets and streams open; close one",
                retry_after_seconds=RETRY_SECONDS,
            )
        underneath: asyncio.Transport = scope["extensions"][HTTP_EXTENSION]
        limit_kernel_buffers(underneath)
        self.transport = StreamTransport(underneath)
        self.connection = Connection(
            self.id,
            user_id,
            self.transport,
            Outbox(bytes_max=settings.outbox_bytes_max, age_seconds=settings.outbox_age_seconds),
            lines=False,
            metrics=gateway.metrics,
            reader=True,
        )
        gateway.sessions.add(self)
        gateway.connections.attach(self.connection)
        return self._serve

    async def _serve(self, receive: Receive, send: Send) -> None:
        connection = self.connection
        connection.open(b"retry: %d\n\n" % (RETRY_SECONDS * 1000))
        tasks = [asyncio.create_task(self._read_log()), asyncio.create_task(self._await_departure(receive))]
        _log.info("stream_opened", connection_id=self.id, user_id=connection.user_id, run_id=self._run.run_id)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            while body := await self.transport.unsent():
                await send({"type": "http.response.body", "body": body, "more_body": True})
                self.transport.taken(body)
                connection.on_writable()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            self.transport.taken(body)
        finally:
            self.transport.end()
            for task in tasks:
                task.cancel()
            self._gateway.connections.detach(connection)
            self._gateway.sessions.discard(self)
            _log.info("stream_gone", connection_id=self.id, user_id=connection.user_id, run_id=self._run.run_id)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_log(self) -> None:
        run_id = self._run.run_id
        run = self._gateway.runs.open_run(self.principal.user_id, run_id)
        followed = self.connection.follow(run_id, run, next_seq=self._after_seq + 1, live=False)
        followed.seen_seq = self._run.last_seq
        try:
            await catch_up(self.connection, self._gateway.log, run_id, followed)
        except EventsExpiredError as error:
            _log.info("replay_expired", user_id=self.principal.user_id, run_id=run_id, error=str(error))
            self.close(CloseCode.RESYNC)  # its reader comes back, and is told then
        except EventLogError as error:
            _log.error("replay_failed", user_id=self.principal.user_id, run_id=run_id, error=str(error))
            self.close(CloseCode.UNAVAILABLE)
        finally:
            if followed.replay is not None:
                run_ids = (self._run.trace_id, self._run.root_span_id)
                replayed = ReplayedRun(run_id, self._run.user_id, *run_ids)
                self._gateway.telemetry.replays.replayed(replayed, followed.replay)

    async def _await_departure(self, receive: Receive) -> None:
        """Detach a reader that goes at once: nothing more is queued for it, and its run does not wait for it."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gateway.connections.detach(self.connection)
        self.transport.end()

    # What the server asks of each of its connections.

    def ping(self, now: int) -> None:
        """Send a comment, by which reader and proxies see that the stream is alive."""
        self.last_ping_ns = now
        self.connection.send(b": ping\n\n")

    def drain(self, retry_after_seconds: float) -> None:
        """Tell the reader when to come back."""
        if not self._draining:
            self._draining = True
            self.connection.send(b"retry: %d\n\n" % (retry_after_seconds * 1000))

    def close(self, code: CloseCode) -> None:
        """End the stream before the run has ended; its reader comes back and resumes, if its token lets it."""
        self.connection.close(code)

    def unavailable(self) -> None:
        """End the stream: the log takes nothing, and its reader comes back when it does."""
        self.close(CloseCode.UNAVAILABLE)


def stream_events(
    gateway: SocketGateway, request: Request[Any, Any, Any], principal: Principal, run: RunSummary, after_seq: int
) -> Response[Any]:
    """Answer a request with the run's events after `Last-Event-ID`, or after `after_seq` where it has none.

    204 where the run has ended and there are none: an `EventSource` would otherwise come back for ever.

    Raises:
        RejectedError: `malformed`, or `ack_ahead` where the reader claims events that the run does not have.
        EventsExpiredError: the events after that one are no longer all kept.
    """
    last_id = request.headers.get("last-event-id") or None
    after_seq = integer_of("Last-Event-ID", last_id, after_seq, low=0, high=SEQ_MAX)
    if after_seq > run.last_seq:
        raise RejectedError(
            RejectCode.ACK_AHEAD, f"run {run.run_id} has {run.last_seq} events; resume after at most that"
        )
    if after_seq + 1 < run.first_seq:
        raise EventsExpiredError(run.run_id, run.first_seq)
    if not run.open and after_seq == run.last_seq:
        return Response(None, status_code=204, headers={"Vary": "Accept"})
    return StreamResponse(EventStream(gateway, principal, run, after_seq))


class StreamResponse(Response[None]):
    """What a route handler returns to answer with a stream."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(None, media_type=MEDIA_TYPE)
        self._stream = stream

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The response as it is sent."""
        return _StreamedResponse(self._stream)


class _StreamedResponse(ASGIResponse):
    def __init__(self, stream: EventStream) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        self._stream = stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._stream.respond(scope)(receive, send)
