"""The socket's edge: handshake, sign-in, `ready`, then frames in both directions until it closes.

Enters: WebSocket handshakes and client frames. Leaves: runs started, acks, and what connections write. Next:
`RunService`; on the way back, `Connection` writes to the transport that is handed to it here.
"""

import asyncio
import time
from typing import Any, assert_never

import structlog
import uuid_utils
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect
from msgspec import UNSET

from tracewire.delivery.connections import Connection, Connections
from tracewire.delivery.outbox import Outbox
from tracewire.delivery.replay import catch_up
from tracewire.errors import EventLogError, LogUnavailableError, RejectedError
from tracewire.eventlog import EventLog
from tracewire.events import EVENT_BYTES_MAX
from tracewire.gateway import frames
from tracewire.gateway.auth import AuthenticationError, Authenticator, Principal
from tracewire.gateway.frames import BadFrameError, ClientFrame, ServerFrame, decode_frame, encode_frame
from tracewire.gateway.protocol import (
    SUBPROTOCOL_LINES,
    BadFrames,
    ConnectionState,
    choose_subprotocol,
    find_token,
    origin_allowed,
)
from tracewire.gateway.transport import EXTENSION, SocketTransport
from tracewire.readiness import Readiness
from tracewire.runs.run import state_of
from tracewire.runs.service import AcceptedRun, RunService, StartRun
from tracewire.settings import Settings
from tracewire_telemetry.sdk import Telemetry
from tracewire_telemetry.vocabulary import CloseCode, RejectCode, ResumeOutcome

_log = structlog.get_logger("tracewire.gateway")


class SocketGateway:
    """What every socket of the server shares. `sessions` are the sockets that are accepted and not yet gone."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        runs: RunService,
        log: EventLog,
        connections: Connections,
        agents: tuple[str, ...],
        readiness: Readiness,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.authenticator = authenticator
        self.runs = runs
        self.log = log
        self.connections = connections
        self.agents = agents
        self.readiness = readiness
        self.telemetry = telemetry
        self.metrics = telemetry.metrics
        self.sessions: set[SocketSession] = set()

    async def serve(self, socket: WebSocket[Any, Any, Any]) -> None:
        """Serve one handshake, and the socket that comes of it, to its end. It lets no exception out."""
        if not self.readiness.ready or len(self.sessions) >= self.settings.sockets_max:
            await self._refuse(socket)
            return
        session = SocketSession(self, socket)
        self.sessions.add(session)
        try:
            await session.run()
        except WebSocketDisconnect:
            pass  # the peer went while something was being sent
        except Exception:  # noqa: BLE001 # Litestar would close with 4500, which is never ours
            _log.exception("socket_failed", connection_id=session.id)
            session.close(CloseCode.INTERNAL)
        finally:
            session.gone()
            self.sessions.discard(session)

    async def _refuse(self, socket: WebSocket[Any, Any, Any]) -> None:
        reasons = self.readiness.reasons or {
            "sockets": f"{self.settings.sockets_max} sockets are open, the most it takes"
        }
        code = RejectCode.DRAINING if self.readiness.draining else RejectCode.NOT_READY
        self.metrics.rejected(code)
        body = f"not ready: {'; '.join(reasons.values())}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"2")]
        await socket.receive()
        start: Any = {"type": "websocket.http.response.start", "status": 503, "headers": headers}
        end: Any = {"type": "websocket.http.response.body", "body": body}
        await socket.send(start)
        await socket.send(end)


class SocketSession:
    """One socket from its handshake to its end."""

    def __init__(self, gateway: SocketGateway, socket: WebSocket[Any, Any, Any]) -> None:
        self.id = str(uuid_utils.uuid7())
        self.state = ConnectionState.CONNECTING
        self.principal: Principal | None = None
        self.connection: Connection | None = None
        self.last_ping_ns = time.monotonic_ns()
        self.transport = SocketTransport(socket.scope["extensions"][EXTENSION])  # type: ignore[index,arg-type] # set by SocketProtocol
        self._gateway = gateway
        self._socket = socket
        self._started_unix_ns = time.time_ns()
        self._subprotocol = choose_subprotocol(socket.scope["subprotocols"])
        self._bad_frames = BadFrames(gateway.settings.bad_frames_per_minute_max)
        self._pings = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshake_span: Any = None

    # The way in.

    async def run(self) -> None:
        """Accept, sign in, become ready, and read frames until the end."""
        settings, headers = self._gateway.settings, self._socket.headers
        await self._socket.accept(subprotocols=self._subprotocol)
        origin, host = headers.get("origin"), headers.get("host")
        if not origin_allowed(origin, host, settings.allowed_origins, development=settings.development):
            _log.info("origin_refused", connection_id=self.id, origin=origin)
            self.close(CloseCode.ORIGIN_REFUSED)
            return
        token = find_token(headers.get("authorization"), self._socket.scope["subprotocols"])
        if token is not None:
            self._sign_in(token)
        try:
            async with asyncio.timeout(settings.authenticate_seconds):
                while self.principal is None and self.state is ConnectionState.CONNECTING:
                    if not await self._receive():
                        return
        except TimeoutError:
            self.close(CloseCode.UNAUTHENTICATED)
        if self.principal is not None and self.state is ConnectionState.AUTHENTICATED:
            await self._become_ready(self.principal)
        while await self._receive():
            pass

    def _sign_in(self, token: str) -> None:
        try:
            self.principal = self._gateway.authenticator.verify(token)
        except AuthenticationError as error:
            _log.info("sign_in_refused", connection_id=self.id, why=str(error))
            self._gateway.metrics.rejected(RejectCode.UNAUTHENTICATED)
            self.close(error.close_code)
            return
        if len(self._gateway.connections.of(self.principal.user_id)) >= self._gateway.settings.sockets_per_user_max:
            _log.info("too_many_sockets", connection_id=self.id, user_id=self.principal.user_id)
            self.close(CloseCode.TOO_MANY_SOCKETS)
            return
        self.state = ConnectionState.AUTHENTICATED

    async def _become_ready(self, principal: Principal) -> None:
        gateway, settings = self._gateway, self._gateway.settings
        connection = self.connection = Connection(
            self.id,
            principal.user_id,
            self.transport,
            Outbox(bytes_max=settings.outbox_bytes_max, age_seconds=settings.outbox_age_seconds),
            lines=self._subprotocol == SUBPROTOCOL_LINES,
            metrics=gateway.metrics,
        )
        self.transport.notify(connection.on_writable)
        # Attached before the runs are listed: a run that is accepted meanwhile is followed, not lost between the two.
        gateway.connections.attach(connection)
        listed = await gateway.log.unfinished(principal.user_id, limit=settings.ready_runs_max + 1)
        runs = [run for run in listed if run.run_id not in connection.follows]
        self._handshake_span = gateway.telemetry.handshake(principal.user_id, self.id, self._started_unix_ns)
        self.state = ConnectionState.READY
        connection.open(
            encode_frame(
                frames.Ready(
                    self.id,
                    principal.user_id,
                    settings.heartbeat_seconds,
                    {
                        "frame_bytes": settings.frame_bytes_max,
                        "event_bytes": EVENT_BYTES_MAX,
                        "runs_per_user": settings.runs_per_user_max,
                        "sockets_per_user": settings.sockets_per_user_max,
                    },
                    gateway.agents,
                    [
                        frames.RunListing(
                            run.run_id,
                            run.request_id,
                            run.agent,
                            state_of(run, awaiting_input=self._awaits_input(run.run_id)).value,
                            run.last_seq,
                            run.acked_seq,
                        )
                        for run in runs[: settings.ready_runs_max]
                    ],
                    len(listed) > settings.ready_runs_max,
                )
            )
        )
        _log.info("socket_ready", connection_id=self.id, user_id=principal.user_id)

    def _awaits_input(self, run_id: str) -> bool:
        run = self.connection and self._gateway.runs.open_run(self.connection.user_id, run_id)
        return bool(run and run.awaiting_input)

    # Frames.

    async def _receive(self) -> bool:
        """Read and handle one frame; whether there can be another."""
        message: Any = await self._socket.receive()
        if message["type"] != "websocket.receive":
            return False
        text = message.get("text")
        try:
            if text is None:
                raise BadFrameError(RejectCode.MALFORMED, "frames are JSON text, not binary", frames._Any())
            frame = decode_frame(text)
        except BadFrameError as error:
            self._reject(error.frame, error, request_id=error.request_id, run_id=error.run_id)
            if self._bad_frames.count(time.monotonic_ns()):
                self.close(CloseCode.PROTOCOL)
            return True
        kind = frame.__struct_config__.tag
        request_id = getattr(frame, "request_id", None)
        run_id = getattr(frame, "run_id", None)
        try:
            await self._handle(frame)
        except RejectedError as error:
            self._reject(str(kind), error, request_id=request_id, run_id=run_id)
        except LogUnavailableError as error:
            refusal = RejectedError(RejectCode.LOG_UNAVAILABLE, str(error), retry_after_seconds=5)
            self._reject(str(kind), refusal, request_id=request_id, run_id=run_id)
        return True

    async def _handle(self, frame: ClientFrame) -> None:
        if isinstance(frame, frames.Authenticate):
            self._authenticate(frame)
            return
        connection = self.connection
        if connection is None or self.state is not ConnectionState.READY:
            raise RejectedError(RejectCode.NOT_READY, "wait for `ready` before any frame but `authenticate`")
        runs, user_id = self._gateway.runs, connection.user_id
        match frame:
            case frames.Ack():
                await self._ack(connection, frame)
            case frames.StartRunFrame():
                await self._start_run(connection, frame)
            case frames.CancelRun():
                await runs.cancel(user_id, frame.run_id)
            case frames.ProvideInput():
                await runs.provide_input(user_id, frame.run_id, frame.input_id, frame.value)
            case frames.Resume():
                for run_id, last_seq in frame.runs.items():
                    await self._resume(connection, run_id, last_seq)
            case frames.Pong():
                pass  # that it came at all is the sign of life
            case _:
                assert_never(frame)

    def _authenticate(self, frame: frames.Authenticate) -> None:
        if self.principal is None:
            self._sign_in(frame.token)
            return
        try:
            renewed = self._gateway.authenticator.verify(frame.token)
        except AuthenticationError as error:
            raise RejectedError(RejectCode.UNAUTHENTICATED, str(error)) from None
        if renewed.user_id != self.principal.user_id:
            raise RejectedError(RejectCode.FORBIDDEN, "the token is another user's; open a socket of its own for it")
        self.principal = renewed
        self._send(frames.Authenticated(renewed.expires_at))

    async def _start_run(self, connection: Connection, frame: frames.StartRunFrame) -> None:
        request = StartRun(frame.request_id, frame.input, frame.agent, frame.thread_id, frame.traceparent)
        accepted = await self._gateway.runs.accept(connection.user_id, request, handshake=self._handshake_span)
        announcement = encode_frame(announce(accepted))
        if accepted.created:
            self._gateway.runs.start(accepted, lambda follower: follower.send(announcement))
            return
        connection.send(announcement)
        if accepted.context.run_id not in connection.follows:
            self._follow_from(connection, accepted.context.run_id, 1)

    async def _ack(self, connection: Connection, frame: frames.Ack) -> None:
        followed = connection.follows.get(frame.run_id)
        run = followed.run if followed is not None else None
        if run is None or run.ledger.settled_ns:
            summary = await self._gateway.runs.find(connection.user_id, frame.run_id)
            last_seq = summary.last_seq
            run = self._gateway.runs.open_run(connection.user_id, frame.run_id)
        else:
            last_seq = run.ledger.committed_count
        if frame.seq > last_seq:
            raise RejectedError(RejectCode.ACK_AHEAD, f"run {frame.run_id} has {last_seq} events; ack at most that")
        connection.has_acked = True
        if frame.count is not None and frame.count != frame.seq:
            _log.warning(
                "ack_count_differs", user_id=connection.user_id, run_id=frame.run_id, seq=frame.seq, count=frame.count
            )
        if frame.seq:
            self._gateway.log.ack(frame.run_id, frame.seq)
        if run is not None:
            run.acknowledged(followed.socket if followed is not None else 0, frame.seq)

    async def _resume(self, connection: Connection, run_id: str, last_seq: int) -> None:
        try:
            run = await self._gateway.runs.find(connection.user_id, run_id)
        except RejectedError:
            self._gateway.metrics.resumed(ResumeOutcome.UNKNOWN_RUN)
            self._send(frames.Resumed(run_id, False, None, 0, 0, reason=ResumeOutcome.UNKNOWN_RUN.value))
            return
        if last_seq > run.last_seq:
            self._reject(
                "resume",
                RejectedError(
                    RejectCode.ACK_AHEAD, f"run {run_id} has {run.last_seq} events; resume after at most that"
                ),
                run_id=run_id,
            )
            return
        connection.has_acked = True
        self._gateway.metrics.resumed(ResumeOutcome.RECOVERED)
        state = state_of(run, awaiting_input=self._awaits_input(run_id))
        self._send(frames.Resumed(run_id, True, state.value, last_seq + 1, run.last_seq))
        socket = self._follow_from(connection, run_id, last_seq + 1)
        if last_seq:
            self._gateway.log.ack(run_id, last_seq)
            open_run = self._gateway.runs.open_run(connection.user_id, run_id)
            if open_run is not None:
                open_run.acknowledged(socket, last_seq)

    def _follow_from(self, connection: Connection, run_id: str, seq: int) -> int:
        run = self._gateway.runs.open_run(connection.user_id, run_id)
        followed = connection.follow(run_id, run, next_seq=seq, live=False)
        task = asyncio.create_task(self._catch_up(connection, run_id, followed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return followed.socket

    async def _catch_up(self, connection: Connection, run_id: str, followed: Any) -> None:
        try:
            await catch_up(connection, self._gateway.log, run_id, followed)
        except EventLogError as error:
            _log.error("replay_failed", user_id=connection.user_id, run_id=run_id, error=str(error))
            self._send(frames.Unavailable(RejectCode.LOG_UNAVAILABLE.value))
            self.close(CloseCode.UNAVAILABLE)

    # The way out.

    def ping(self, now: int) -> None:
        """Send a heartbeat, by which a client notices a dead server."""
        self.last_ping_ns = now
        self._pings += 1
        self._send(frames.Ping(self._pings))

    def drain(self, retry_after_seconds: float) -> None:
        """Tell the client that the server is about to stop."""
        if self.state is ConnectionState.READY:
            self._send(frames.Draining(retry_after_seconds))
            self.state = ConnectionState.DRAINING

    def close(self, code: CloseCode) -> None:
        """Close the socket with this code."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        if self.connection is not None:
            self.connection.close(code)
        else:
            self._gateway.metrics.closed(code)
            self.transport.close(code)

    def gone(self) -> None:
        """The socket is no more: nothing is followed, nothing is read back."""
        self.state = ConnectionState.CLOSED
        for task in self._tasks:
            task.cancel()
        if self.connection is not None:
            self._gateway.connections.detach(self.connection)
            _log.info("socket_gone", connection_id=self.id, user_id=self.connection.user_id)

    def _reject(
        self, frame: str | None, error: RejectedError, *, request_id: str | None = None, run_id: str | None = None
    ) -> None:
        self._gateway.metrics.rejected(error.reject_code)
        _log.info("frame_rejected", connection_id=self.id, frame=frame and frame[:64], code=error.code)
        self._send(
            frames.Rejected(
                frame and frame[:128],
                error.reject_code,
                str(error),
                request_id[:128] if request_id is not None else UNSET,
                run_id[:128] if run_id is not None else UNSET,
                error.retry_after_seconds if error.retry_after_seconds is not None else UNSET,
            )
        )

    def _send(self, frame: ServerFrame) -> None:
        body = encode_frame(frame)
        if self.connection is not None:
            self.connection.send(body)
        else:
            self.transport.write_text(body)


def announce(accepted: AcceptedRun) -> frames.RunAccepted:
    """The `run_accepted` of a run."""
    context = accepted.context
    return frames.RunAccepted(context.request_id, context.run_id, context.thread_id)
