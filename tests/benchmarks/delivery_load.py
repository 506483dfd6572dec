"""The clients of the delivery benchmark: they read frames by hand, and look at each event's seq, and at its time."""

import asyncio
import base64
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from tests.benchmarks.load import WrongDeliveryError
from tests.support.raw_socket import TEXT, frame
from tests.support.servers import ServerProcess

PLAIN, LINES = "tracewire.v1", "tracewire.v1.lines"
_OPCODE_PING, _PONG = 0x9, 0xA


def start_frame(agent: str, input_value: Any) -> bytes:
    """A `start_run`, as bytes of the wire."""
    request_id = os.urandom(8).hex()
    return text_frame({"type": "start_run", "request_id": request_id, "agent": agent, "input": input_value})


def text_frame(value: dict[str, Any]) -> bytes:
    """A frame of a client, as bytes of the wire."""
    return frame(TEXT, json.dumps(value).encode())


def peak_bytes(server: ServerProcess) -> int:
    """The most memory that the server ever held."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class SeqClient(asyncio.Protocol):
    """Holds each event's seq against the one that is due. `ready` and `done` are awaited by whoever drives it.

    `run_id` and `last_seq` outlive a connection: `missed` of another client resumes there.
    """

    def __init__(self, request: bytes, run_id: str = "", last_seq: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.run_id = run_id
        self.last_seq = last_seq
        self.until_seq = 0
        self._request = request
        self._upgraded = False
        self._rest = b""
        self._transport: asyncio.Transport

    def send(self, value: dict[str, Any]) -> None:
        """Send one frame."""
        self._transport.write(text_frame(value))

    def close(self) -> None:
        """Leave without a goodbye."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost after event {self.last_seq}: {error}")

    def _fail(self, why: str) -> None:
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(WrongDeliveryError(why))
                future.exception()  # who closes a client that is not done has not failed to look

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position = 0
        if not self._upgraded:
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = data
                return
            if b" 101 " not in head:
                self._fail(head.decode("latin-1"))
            self._upgraded = True
            position = len(head) + 4
        while len(data) - position >= 2:
            size, begin = data[position + 1], position + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(data[position + 2 : begin])
            if begin + size > len(data):
                break
            self._take_frame(data[position] & 0x0F, data[begin : begin + size])
            position = begin + size
        self._rest = data[position:]

    def _take_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _OPCODE_PING:
            self._transport.write(frame(_PONG, payload))
        elif opcode == TEXT:
            for line in payload.split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        if self.run_id and line.startswith(b'{"type":"agent_'):
            before, _, rest = line.partition(b'"seq":')
            seq = int(rest[: rest.index(b",")])
            if seq != self.last_seq + 1:
                self._fail(f"event {self.last_seq + 1} was due, {seq} came")
            self.last_seq = seq
            self.took(line)
            if seq == self.until_seq or before.startswith(b'{"type":"agent_completed"'):
                self.send({"type": "ack", "run_id": self.run_id, "seq": seq, "count": seq})
                if not self.done.done():
                    self.done.set_result(None)
            return
        value = json.loads(line)
        match value["type"]:
            case "ready":
                self.ready.set_result(None)
            case "run_accepted":
                self.run_id = value["run_id"]
            case "ping":
                self.send({"type": "pong", "id": value["id"]})
            case "resumed" if value["recovered"]:
                self.until_seq = value["last_seq"]
            case other:
                self._fail(f"{other} came: {value}")

    def took(self, line: bytes) -> None:
        """An event came, in its order."""


class PacedClient(SeqClient):
    """Notes how long each event of a paced run took from the time that it bears to here."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.delays_ms: list[float] = []

    def start(self, events: int, pause_seconds: float) -> None:
        """Start a run whose events come one each `pause_seconds`."""
        self._transport.write(start_frame("paced", {"events": events, "pause_seconds": pause_seconds}))

    def took(self, line: bytes) -> None:
        now = time.time()
        at = line.index(b'"time":"') + 8
        sent = datetime.fromisoformat(line[at : line.index(b'"', at)].decode()).timestamp()
        self.delays_ms.append((now - sent) * 1000)


def upgrade(url: str, token: str, subprotocol: str) -> bytes:
    """The handshake."""
    parts = urlsplit(url)
    return (
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


async def connect_paced(url: str, token: str) -> PacedClient:
    """A client whose server has said `ready`."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: PacedClient(upgrade(url, token, PLAIN)), parts.hostname, parts.port
    )
    await client.ready
    return client


async def connect_seq(
    url: str, token: str, *, subprotocol: str = LINES, run_id: str = "", last_seq: int = 0
) -> SeqClient:
    """A client whose server has said `ready`, and which has had the run's events up to `last_seq`."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: SeqClient(upgrade(url, token, subprotocol), run_id, last_seq), parts.hostname, parts.port
    )
    await client.ready
    return client
