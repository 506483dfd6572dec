"""The WebSocket below the protocol: uvicorn's, with what ASGI alone cannot do.

ASGI's `send` neither writes without a task, nor tells when the peer takes more again, nor cuts a peer off; a server
that cannot do the last keeps the memory of a client that has stopped reading for as long as TCP waits.
"""

import asyncio
import contextlib
import socket
import time
from asyncio.transports import BaseTransport
from collections.abc import Callable
from typing import Any, Final, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode as StandardCode
from websockets.frames import Frame
from websockets.http11 import Request

from tracewire.gateway.progress import Progress
from tracewire_telemetry.vocabulary import CloseCode

EXTENSION: Final = "tracewire.socket"
"""Where the ASGI scope's extensions hold the connection's `SocketProtocol`."""
HTTP_EXTENSION: Final = "tracewire.transport"
"""Where those of a request hold its connection's transport."""
TCP_USER_TIMEOUT_MS: Final = 5_000
"""A peer that acknowledges nothing on TCP for so long is gone: measured 4.9 s against never with data queued."""
NOT_SENT_LOW_WATER_BYTES: Final = 64 * 1024
"""A client that reads nothing then swallows 256 KB of kernel memory instead of 4 MB."""
SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the kernel holds of a peer that reads nothing (it doubles this for its own records), where it would grow it to
4 MB. 128 KiB a round trip is more than any run streams.
"""
RECEIVE_BUFFER_BYTES: Final = 32 * 1024
"""What the loop reads in one turn: 256 KB of the smallest frames hold up every other socket for half a second."""
CLOSE_TIMEOUT_SECONDS: Final = 2.0
CONTROL_BYTES_MAX: Final = 125
"""What a ping, a pong or a close may hold (RFC 6455, 5.5)."""
UNREAD_BYTES_MAX: Final = 512 * 1024
"""Who sends pings and takes no pongs is cut off at so much. Events leave it alone: they wait for a writable socket."""
VERSION: Final = "13"
_VIOLATIONS: Final = {
    code.value: code for code in (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_TEXT, CloseCode.TOO_BIG)
}


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection. It hands itself to the application in the scope's extensions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_TIMEOUT_SECONDS
        # The parser counts a control frame between the fragments of a message as if it were part of it.
        self.conn.max_message_size = self.config.ws_max_size + CONTROL_BYTES_MAX
        self.last_life_ns = time.monotonic_ns()
        self.on_writable: Callable[[], None] | None = None
        self.violation: CloseCode | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """A connection was upgraded."""
        super().connection_made(transport)
        limit_kernel_buffers(transport)

    def handle_connect(self, event: Request) -> None:
        """The handshake was read: the application starts at the loop's next turn."""
        if any(version != VERSION for version in event.headers.get_all("Sec-WebSocket-Version")):
            self._refuse_version()
            return
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][EXTENSION] = self

    def _refuse_version(self) -> None:
        """Say which version is spoken (RFC 6455, 4.4). uvicorn's answer is a 400 that does not."""
        refusal = self.conn.reject(426, f"This server speaks version {VERSION} of the WebSocket protocol.\n")
        refusal.headers["Sec-WebSocket-Version"] = VERSION
        refusal.headers["Upgrade"] = "websocket"
        self.conn.send_response(refusal)
        self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Anything from the peer is a sign of life, a pong of the protocol too.

        What is whole counts, also where a violation follows in the same segment: how TCP cuts the stream must not
        decide whether a run is started.
        """
        self.last_life_ns = time.monotonic_ns()
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def handle_text(self, event: Frame) -> None:
        """A message of text begins."""
        self._begin(event, "text")

    def handle_bytes(self, event: Frame) -> None:
        """A message of bytes begins."""
        self._begin(event, "bytes")

    def _begin(self, event: Frame, kind: Literal["text", "bytes"]) -> None:
        self.curr_msg_data_type = kind
        self.frames = [event.data if event.fin else bytearray(event.data)]  # type: ignore[list-item] # it only reads them
        if event.fin:
            self.send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        """A message goes on. It is kept as one: a list of its fragments, of which any may be empty, has no bound."""
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """A message is whole: within the limit, and UTF-8 where it is text, or the connection fails."""
        if self.close_sent:
            self.frames = []
        elif len(self.frames[0]) > self.config.ws_max_size:
            self._fail(StandardCode.MESSAGE_TOO_BIG, f"over {self.config.ws_max_size} bytes")
        elif self.curr_msg_data_type == "text" and not _is_utf8(self.frames[0]):
            self._fail(StandardCode.INVALID_DATA, "a text that is not UTF-8")
        else:
            super().send_receive_event_to_app()

    def _fail(self, code: StandardCode, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_ping(self) -> None:
        """The pong is ready: send it, unless those before it are not even read, or the connection has failed."""
        if self.close_sent:
            return
        if self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.transport.abort()
            return
        super().handle_ping()

    def handle_close(self, event: Frame) -> None:
        """The peer closes, or answers our close."""
        received = self.conn.close_rcvd
        if self.close_sent or not self.handshake_complete or received is None:
            super().handle_close(event)
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": received.code, "reason": received.reason})
        self._write_last()

    def handle_parser_exception(self) -> None:
        """The peer broke the protocol, and a close with the reason is ready."""
        if self.close_sent:
            return
        sent = self.conn.close_sent
        if sent is None:  # the handshake itself: there is nothing to close
            self.transport.close()
            return
        self.violation = _VIOLATIONS.get(sent.code, CloseCode.PROTOCOL_ERROR)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        self._write_last()

    def _write_last(self) -> None:
        """Write the close and end our side.

        uvicorn closes the connection at once. What the peer is still sending would then be answered with a reset, which
        takes the close from under its eyes; so it is read, and thrown away, until the peer has closed too.
        """
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. It hands its transport to the application in the scope's extensions."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        extensions: dict[str, Any] = {HTTP_EXTENSION: self.transport}
        self.scope["extensions"] = extensions

    def handle_websocket_upgrade(self) -> None:
        """The request asks for a WebSocket. uvicorn passes it on as HTTP/1.1 whatever it was, and leaves one that its
        WebSocket parser does not take (another method, a body) open without an answer.
        """
        if self.parser.get_http_version() != "1.1":
            self.send_400_response("a WebSocket's handshake is HTTP/1.1")
            return
        super().handle_websocket_upgrade()
        upgraded = self.transport.get_protocol()
        if isinstance(upgraded, SocketProtocol) and upgraded.conn.handshake_exc is not None:
            self.send_400_response("this is no WebSocket's handshake")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def limit_kernel_buffers(transport: BaseTransport) -> None:
    """Have the kernel hold little of what a slow peer has not taken, and let go of a peer that is gone."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    for name, value in (("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT_MS), ("TCP_NOTSENT_LOWAT", NOT_SENT_LOW_WATER_BYTES)):
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):  # a platform that knows the option and does not take it
                raw.setsockopt(socket.IPPROTO_TCP, option, value)


class SocketTransport:
    """A `SocketProtocol` as connections write to it."""

    __slots__ = ("_progress", "_protocol")

    def __init__(self, protocol: SocketProtocol) -> None:
        self._protocol = protocol
        self._progress = Progress()

    @property
    def writable(self) -> bool:
        """Whether the write buffer takes more."""
        return self._protocol.writable.is_set()

    @property
    def last_life_ns(self) -> int:
        """When the peer last gave a sign of life, monotonic nanoseconds."""
        return self._protocol.last_life_ns

    def stuck_ns(self, now: int) -> int:
        """For how long, as far as this was asked, the peer has taken nothing of what waits for it."""
        return self._progress.stuck_ns(self._protocol.transport.get_write_buffer_size(), now)

    @property
    def violation(self) -> CloseCode | None:
        """The code with which the peer was closed for breaking the protocol."""
        return self._protocol.violation

    def notify(self, on_writable: Callable[[], None]) -> None:
        """Call this whenever the write buffer has drained."""
        self._protocol.on_writable = on_writable

    def write_text(self, body: bytes) -> None:
        """Write one text frame; a connection that is closing swallows it."""
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected:
            return
        try:
            protocol.conn.send_text(body)
        except InvalidState:
            return
        data = b"".join(protocol.conn.data_to_send())
        self._progress.written += len(data)
        protocol.transport.write(data)

    def ping(self) -> None:
        """Send a ping of the protocol, which every client answers by itself; a closing connection swallows it."""
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected:
            return
        try:
            protocol.conn.send_ping(b"")
        except InvalidState:
            return
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))

    def close(self, code: CloseCode) -> None:
        """Send the close, and abort the connection if it is not answered in `CLOSE_TIMEOUT_SECONDS`."""
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected:
            return
        try:
            protocol.conn.send_close(code.value, code.reason)
        except InvalidState:
            return
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))
        protocol.close_sent = True
        protocol.queue.put_nowait({"type": "websocket.disconnect", "code": code.value, "reason": code.reason})
        if protocol.read_paused:
            protocol.read_paused = False
            protocol.transport.resume_reading()
        loop = asyncio.get_running_loop()
        protocol.close_timer = loop.call_later(CLOSE_TIMEOUT_SECONDS, protocol.transport.abort)

    def abort(self) -> None:
        """Let go of the connection at once."""
        self._protocol.transport.abort()
