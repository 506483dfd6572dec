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

from tracewire.delivery.connection import Connection
from tracewire.delivery.outbox import Outbox
from tracewire.errors import LogUnavailableError, RejectedError
from tracewire.events import EVENT_BYTES_MAX
from tracewire.gateway import frames, tickets
from tracewire.gateway.auth import AuthenticationError, Principal
from tracewire.gateway.frames import CLIENT_FRAMES, BadFrameError, ClientFrame, ServerFrame, decode_frame, encode_frame
from tracewire.gateway.keys import KeysUnavailableError
from tracewire.gateway.protocol import (
    SUBPROTOCOL_LINES,
    BadFrames,
    ConnectionState,
    choose_subprotocol,
    find_token,
    origin_allowed,
)
from tracewire.gateway.rates import FrameRate
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire.gateway.socket_runs import SocketRuns
from tracewire.gateway.transport import EXTENSION, SocketTransport
from tracewire_telemetry.vocabulary import CloseCode, RejectCode

_log = structlog.get_logger("tracewire.gateway")


async def serve_socket(gateway: SocketGateway, socket: WebSocket[Any, Any, Any]) -> None:
    """Serve one handshake, and the socket that comes of it, to its end. It lets no exception out."""
    if not gateway.readiness.ready:
        await _refuse(gateway, socket)
        return
    session = SocketSession(gateway, socket)
    gateway.sessions.add(session)
    try:
        await session.run()
    except WebSocketDisconnect:
        pass  # the peer went while something was being sent
    except Exception:  # noqa: BLE001 # Litestar would close with 4500, which is never ours
        _log.exception("socket_failed", connection_id=session.id)
        session.close(CloseCode.INTERNAL)
    finally:
        session.gone()
        gateway.sessions.discard(session)


async def _refuse(gateway: SocketGateway, socket: WebSocket[Any, Any, Any]) -> None:
    reasons = gateway.readiness.reasons
    code = RejectCode.DRAINING if gateway.readiness.draining else RejectCode.NOT_READY
    gateway.metrics.rejected(code)
    _log.info("handshake_refused", code=code.value, why=reasons)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"2")]
    await socket.receive()
    start: Any = {"type": "websocket.http.response.start", "status": 503, "headers": headers}
    end: Any = {
        "type": "websocket.http.response.body",
        "body": f"not ready: {'; '.join(reasons.values())}\n".encode(),
    }
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
        self._frame_rate = FrameRate(gateway.frame_allowances, gateway.settings.frames_per_second_max)
        self._pings = 0
        self._runs: SocketRuns | None = None

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
        if len(self._gateway.sessions) > settings.sockets_max:
            self._unavailable(f"{settings.sockets_max} sockets are open, the most it takes")
            return
        token = find_token(headers.get("authorization"), self._socket.scope["subprotocols"])
        if token is not None:
            await self._sign_in(token, by_handshake=True)
        elif self._gateway.awaiting_token >= settings.sockets_unauthenticated_max:
            self._unavailable(f"{settings.sockets_unauthenticated_max} sockets are yet to sign in, the most it takes")
        else:
            await self._await_token()
        if self.principal is not None and self.state is ConnectionState.AUTHENTICATED:
            await self._become_ready(self.principal)
        while await self._receive():
            pass

    async def _await_token(self) -> None:
        self._gateway.awaiting_token += 1
        try:
            async with asyncio.timeout(self._gateway.settings.authenticate_seconds):
                while self.principal is None and self.state is ConnectionState.CONNECTING:
                    if not await self._receive():
                        return
        except TimeoutError:
            self._refuse_token("no token came in time", CloseCode.UNAUTHENTICATED)
        finally:
            self._gateway.awaiting_token -= 1

    async def _sign_in(self, token: str, *, by_handshake: bool = False) -> None:
        gateway = self._gateway
        try:
            if by_handshake and token.startswith(tickets.PREFIX):
                principal = gateway.tickets.redeem(token)
                gateway.authenticator.check(principal, time.time())
            else:
                principal = await gateway.authenticator.authenticate(token)
        except AuthenticationError as error:
            self._refuse_token(str(error), error.close_code)
            return
        except KeysUnavailableError as error:
            self._unavailable(str(error))
            return
        self.principal = principal
        if len(gateway.connections.of(principal.user_id)) >= gateway.settings.sockets_per_user_max:
            _log.info("too_many_sockets", connection_id=self.id, user_id=principal.user_id)
            self.close(CloseCode.TOO_MANY_SOCKETS)
            return
        self.state = ConnectionState.AUTHENTICATED

    def _refuse_token(self, why: str, code: CloseCode) -> None:
        _log.info("sign_in_refused", connection_id=self.id, why=why)
        self._gateway.metrics.rejected(RejectCode.UNAUTHENTICATED)
        self.close(code)

    def _unavailable(self, why: str) -> None:
        """Turn a socket away that is to come back."""
        _log.info("socket_refused", connection_id=self.id, why=why)
        self._gateway.metrics.rejected(RejectCode.NOT_READY)
        self._send(frames.Unavailable(RejectCode.NOT_READY.value))
        self.close(CloseCode.UNAVAILABLE)

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
        if connection.closed:
            return  # revoked, expired or drained meanwhile
        unfollowed = [run for run in listed if run.run_id not in connection.follows]
        runs = self._runs = SocketRuns(
            connection,
            gateway.runs,
            gateway.log,
            gateway.telemetry,
            gateway.telemetry.handshake(principal.user_id, self.id, self._started_unix_ns),
            reject=lambda run_id, error: self._reject("resume", error, run_id=run_id),
            close=self.close,
        )
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
                    [runs.listing(run) for run in unfollowed[: settings.ready_runs_max]],
                    len(listed) > settings.ready_runs_max,
                )
            )
        )
        _log.info("socket_ready", connection_id=self.id, user_id=principal.user_id)

    # Frames.

    async def _receive(self) -> bool:
        """Read and handle one frame; whether there can be another."""
        message: Any = await self._socket.receive()
        if message["type"] != "websocket.receive":
            self._note_violation()
            return False
        if self.state is ConnectionState.CLOSED:
            return True  # what came after our close is read, and counts for nothing
        text = message.get("text")
        try:
            if text is None:
                raise BadFrameError(RejectCode.MALFORMED, "frames are JSON text, not binary", frames._Any())
            frame = decode_frame(text)
        except BadFrameError as error:
            self._reject(error.frame, error, request_id=error.request_id, run_id=error.run_id)
            if self._bad_frames.count(time.monotonic_ns()):
                self.close(CloseCode.PROTOCOL)
            await asyncio.sleep(0)  # many, sent at once, hold up their sender alone
            return True
        kind = frame.__struct_config__.tag
        request_id = getattr(frame, "request_id", None)
        run_id = getattr(frame, "run_id", None)
        try:
            await self._await_turn(frame)
            await self._handle(frame)
        except RejectedError as error:
            self._reject(str(kind), error, request_id=request_id, run_id=run_id)
            if self._frame_rate.flooding:
                self.close(CloseCode.PROTOCOL)
        except LogUnavailableError as error:
            refusal = RejectedError(RejectCode.LOG_UNAVAILABLE, str(error), retry_after_seconds=5)
            self._reject(str(kind), refusal, request_id=request_id, run_id=run_id)
        return True

    async def _await_turn(self, frame: ClientFrame) -> None:
        admit = self._frame_rate.admit
        while wait := admit(frame, self.connection, time.monotonic_ns()):
            await asyncio.sleep(wait)
            if self.state is ConnectionState.CLOSED:
                return

    async def _handle(self, frame: ClientFrame) -> None:
        if isinstance(frame, frames.Authenticate):
            await self._authenticate(frame)
            return
        connection, socket_runs = self.connection, self._runs
        # A draining socket still takes acks, answers and cancels; that it starts nothing new, `RunService` sees to.
        ready = self.state in (ConnectionState.READY, ConnectionState.DRAINING)
        if connection is None or socket_runs is None or not ready:
            raise RejectedError(RejectCode.NOT_READY, "wait for `ready` before any frame but `authenticate`")
        runs, user_id = self._gateway.runs, connection.user_id
        match frame:
            case frames.Ack():
                await socket_runs.ack(frame)
            case frames.StartRunFrame():
                await socket_runs.start(frame)
            case frames.CancelRun():
                await runs.cancel(user_id, frame.run_id)
            case frames.ProvideInput():
                await runs.provide_input(user_id, frame.run_id, frame.input_id, frame.value)
            case frames.Resume():
                for run_id, last_seq in frame.runs.items():
                    await socket_runs.resume(run_id, last_seq)
            case frames.Pong():
                pass  # that it came at all is the sign of life
            case _:
                assert_never(frame)

    def _note_violation(self) -> None:
        """Count a close that the layer below has sent: an oversize frame, bad UTF-8, a broken frame."""
        code = self.transport.violation
        if code is not None and self.state is not ConnectionState.CLOSED:
            _log.info("socket_violated_protocol", connection_id=self.id, code=code.value, why=code.reason)
            self._gateway.metrics.closed(code)

    async def _authenticate(self, frame: frames.Authenticate) -> None:
        if self.principal is None:
            await self._sign_in(frame.token)
            return
        try:
            renewed = await self._gateway.authenticator.authenticate(frame.token)
        except AuthenticationError as error:
            raise RejectedError(RejectCode.UNAUTHENTICATED, str(error)) from None
        except KeysUnavailableError as error:
            raise RejectedError(
                RejectCode.NOT_READY, str(error), retry_after_seconds=error.retry_after_seconds
            ) from None
        if renewed.user_id != self.principal.user_id:
            raise RejectedError(RejectCode.FORBIDDEN, "the token is another user's; open a socket of its own for it")
        self.principal = renewed
        self._send(frames.Authenticated(renewed.expires_at))

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

    def unavailable(self) -> None:
        """Tell the client that the log takes nothing, and close with 4004: it comes back when the server is ready."""
        if self.state is not ConnectionState.CLOSED:
            self._send(frames.Unavailable(RejectCode.LOG_UNAVAILABLE.value))
            self.close(CloseCode.UNAVAILABLE)

    def gone(self) -> None:
        """The socket is no more: nothing is followed, nothing is read back."""
        self.state = ConnectionState.CLOSED
        if self._runs is not None:
            self._runs.stop()
        if self.connection is not None:
            self._gateway.connections.detach(self.connection)
            _log.info("socket_gone", connection_id=self.id, user_id=self.connection.user_id)

    def _reject(
        self, frame: str | None, error: RejectedError, *, request_id: str | None = None, run_id: str | None = None
    ) -> None:
        self._gateway.metrics.rejected(error.reject_code)
        _log.info(
            "frame_rejected", connection_id=self.id, frame=frame if frame in CLIENT_FRAMES else None, code=error.code
        )
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
