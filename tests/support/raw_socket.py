"""A WebSocket by hand on a TCP connection: it sends exactly the bytes that it is given, right or wrong.

A library's client would refuse to send what RFC 6455 forbids; what the server answers to that is what the tests look
at.
"""

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
WAIT_SECONDS: Final = 15.0
KEY: Final = base64.b64encode(bytes(range(16))).decode()
ACCEPT: Final = "Bz3qJYTGdOe8gUSpLosEdiLKDrk="
"""What RFC 6455, 4.2.2 has a server answer to `KEY`."""
_MASK: Final = b"\x17\xa2\x5c\xe1"


def mask(payload: bytes, key: bytes = _MASK) -> bytes:
    """The payload, masked or unmasked (RFC 6455, 5.3)."""
    length = len(payload)
    pad = key * (length // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad[:length], "big")).to_bytes(length, "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
    declared: int | None = None,
) -> bytes:
    """One frame (RFC 6455, 5.2).

    Args:
        opcode: 0 to 15.
        payload: as it is before masking.
        fin: whether it is the last fragment.
        reserved: the three reserved bits, 0 to 7.
        masked: as a client must.
        length_bytes: 0, 2 or 8: how the length is written; by default as short as it can be.
        declared: the length that the frame says it has; by default its own.
    """
    length = len(payload) if declared is None else declared
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    head = struct.pack("!BB", fin << 7 | reserved << 4 | opcode, masked << 7 | short)
    head += {0: b"", 2: struct.pack("!H", length & 0xFFFF), 8: struct.pack("!Q", length)}[length_bytes]
    return head + (_MASK + mask(payload) if masked else payload)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A close with this code and reason."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Received(NamedTuple):
    """One frame of the server."""

    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def close_code(self) -> int | None:
        """The code of a close; 1005 where it has none."""
        if self.opcode != CLOSE:
            return None
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005  # type: ignore[no-any-return]


class RawSocket:
    """A TCP connection to a server, and what the server sends over it as frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send these bytes, in one piece where TCP allows."""
        self.writer.write(data)

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """Send these bytes so that the server reads no more than `size` of them at once, as far as that can be had."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(0)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers (names in lower case) of an HTTP answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(status.split()[1]), headers

    async def read_frame(self) -> Received | None:
        """The server's next frame; `None` where the connection ended, by a reset too.

        Raises:
            AssertionError: the server itself breaks RFC 6455: it masks, sets reserved bits, or stops within a frame.
        """
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                first = await self.reader.read(1)
                if not first:
                    return None
                second = await self.reader.readexactly(1)
                length = second[0]
                if length in (126, 127):
                    size = 2 if length == 126 else 8
                    length = int.from_bytes(await self.reader.readexactly(size), "big")
                assert not second[0] & 0x80, "a server must not mask"
                assert not first[0] & 0x70, "no extension was agreed on"
                return Received(first[0] & 0x0F, await self.reader.readexactly(length), bool(first[0] & 0x80))
            except ConnectionResetError:
                return None
            except asyncio.IncompleteReadError as error:
                raise AssertionError("the connection ended within a frame") from error

    async def read_to_end(self) -> list[Received]:
        """Every further frame of the server until the connection ends."""
        found = []
        while (received := await self.read_frame()) is not None:
            found.append(received)
        return found

    def abort(self) -> None:
        """Cut the connection without a word."""
        self.writer.transport.abort()


def handshake(
    host: str, path: str = "/ws", *, method: str = "GET", version: str = "1.1", **changes: str | None
) -> bytes:
    """An opening handshake (RFC 6455, 4.1). `changes` replace headers, `_` for `-`; `None` leaves one out."""
    headers: dict[str, str | None] = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    by_name = {name.lower(): name for name in headers}
    for name, value in changes.items():
        dashed = name.replace("_", "-")
        headers[by_name.get(dashed.lower(), dashed)] = value
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1")


@asynccontextmanager
async def tcp_to(url: str) -> AsyncIterator[RawSocket]:
    """A TCP connection to the server of this URL; cut at the end if it is still there."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def raw_socket(url: str, token: str | None = None, **changes: str | None) -> AsyncIterator[RawSocket]:
    """A WebSocket whose handshake was accepted; with a token the server's `ready` has been read."""
    headers: Mapping[str, str | None] = changes | ({"Authorization": f"Bearer {token}"} if token else {})
    async with tcp_to(url) as socket:
        socket.send(handshake(urlsplit(url).netloc, **headers))  # type: ignore[arg-type] # `method` is not among them
        status, answered = await socket.read_head()
        assert (status, answered.get("sec-websocket-accept")) == (101, ACCEPT)
        if token:
            ready = await socket.read_frame()
            assert ready is not None
            assert b'"type":"ready"' in ready.payload
        yield socket
