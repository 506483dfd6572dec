"""The HTTP connection below ASGI: uvicorn's, with bounds on what a peer may send before any of our code sees it.

uvicorn waits for ever for the rest of a request, and keeps whatever comes of its head; a WebSocket handshake with a
line that its parser does not take gets no answer at all.
"""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from msgspec import Struct

from tracewire.gateway.transport import CLOSE_TIMEOUT_SECONDS, HttpProtocol
from tracewire_telemetry.vocabulary import RejectCode

HEAD_BYTES_MAX: Final = 64 * 1024
LINE_BYTES_MAX: Final = 8 * 1024
"""Length of a header or of the request's target. The WebSocket parser takes 8192 with the line's end."""
HEADERS_MAX: Final = 100
_LINE_OVERHEAD_BYTES: Final = 64
"""What else a line may hold: method, version, colon, line end."""
_log = structlog.get_logger("tracewire.gateway")


class HttpBounds(Struct, frozen=True):
    """How long a request may take to arrive: its head, and all of it. `refused` is told of each that did not."""

    head_seconds: float
    request_seconds: float
    refused: Callable[[RejectCode], None]


class BoundedHttpProtocol(HttpProtocol):
    """One HTTP connection whose requests arrive in time and in size, or are answered 408, 431 or 400."""

    def __init__(self, *args: Any, bounds: HttpBounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._head_bytes = 0
        self._in_head = True
        self._timers: list[asyncio.TimerHandle] = []
        self._status = HTTPStatus.BAD_REQUEST
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A peer has connected: its first request is due."""
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has gone."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came; after a refusal it is thrown away."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self._refused:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins: the first of the connection, or one after another."""
        super().on_message_begin()
        if not self._in_head:
            self._head_bytes = 1
            self._expect_request()

    def on_headers_complete(self) -> None:
        """The head is there."""
        longest = max([len(self.url), *(len(name) + len(value) for name, value in self.headers)])
        if longest > LINE_BYTES_MAX - _LINE_OVERHEAD_BYTES or len(self.headers) > HEADERS_MAX:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("the head is too large")  # the parser stops, and asks for `send_400_response`
        self._in_head = False
        self._timers.pop(0).cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._stop_timers()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The handshake is there; the connection is a WebSocket's from now on."""
        self._stop_timers()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request that we take, and close."""
        self._refuse(_DETAILS[self._status])

    def _expect_request(self) -> None:
        self._stop_timers()
        self._in_head = True
        loop, bounds = asyncio.get_running_loop(), self._bounds
        self._timers = [
            loop.call_later(bounds.head_seconds, self._too_slow),
            loop.call_later(bounds.request_seconds, self._too_slow),
        ]

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if not self._head_bytes or (not self._in_head and self.cycle.response_started):
            self.transport.close()  # nothing came, or it is answered already: nobody waits for more
            return
        self._status = HTTPStatus.REQUEST_TIMEOUT
        self._refuse(_DETAILS[self._status])

    def _refuse(self, detail: str) -> None:
        status, self._refused = self._status, True
        self._stop_timers()
        if self._in_head:  # otherwise the application hears that the peer has gone, and counts that
            self._bounds.refused(RejectCode.MALFORMED)
        _log.info("connection_refused", status=status.value, why=detail)
        document = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "code": RejectCode.MALFORMED.value,
            "detail": detail,
        }
        body = json.dumps(document).encode()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status.value, status.phrase.encode(), len(body), body)
        )
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Closed at once, the connection would be reset by what the peer is still sending, and the answer lost with it.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timers = [asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, self.transport.abort)]


_DETAILS: Final = {
    HTTPStatus.BAD_REQUEST: "this is no HTTP request",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not arrive in time",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the head of a request has at most {HEADERS_MAX} headers, each of at "
    f"most {LINE_BYTES_MAX - _LINE_OVERHEAD_BYTES} bytes",
}
