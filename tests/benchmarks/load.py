"""The clients: cheap enough that the server is what is measured, strict enough that a wrong delivery is a failure.

Each is a socket of one user that follows the wire by hand: it reads frames out of the bytes, holds every envelope
against the one that must come next, and acks. Enters: bytes of the server. Leaves: `start_run` and acks.
"""

import asyncio
import base64
import json
import os
from typing import Any, cast
from urllib.parse import urlsplit

SUBPROTOCOLS = ("tracewire.v1", "tracewire.v1.lines")
AGENT = "steady"
_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A
_UNMASKED = bytes(4)
"""A masking key of zeros: valid, and it spares the client the masking. The server unmasks all the same."""


class WrongDeliveryError(Exception):
    """What came is not what the wire promises."""


class LoadClient(asyncio.Protocol):
    """One user's socket and one run. `ready` and `done` are awaited by whoever drives it.

    `received` counts events. With `keep`, `frames` holds what came, in order.
    """

    def __init__(self, token: str, path: str, host: str, subprotocol: str, ack_events: int, *, keep: bool) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.received = 0
        self.frames: list[bytes] = []
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {subprotocol}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        self._subprotocol = subprotocol
        self._lines = subprotocol == SUBPROTOCOLS[1]
        self._ack_events = ack_events
        self._keep = keep
        self._upgraded = False
        self._rest = b""
        self._events = 0
        self._acked = 0
        self._run_id = ""
        self._failure: WrongDeliveryError | None = None
        self._expected = b""
        self._transport: asyncio.Transport

    def start_run(self, request_id: str, events: int) -> None:
        """Start the run, which must have this many events."""
        self._events = events
        start = {"type": "start_run", "request_id": request_id, "agent": AGENT, "input": {"events": events}}
        self._send(json.dumps(start).encode())

    def check(self) -> None:
        """Nothing has gone wrong, after the run's end neither.

        Raises:
            WrongDeliveryError: what has.
        """
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but does not derive from it
        self._transport.write(self._request.encode())

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(WrongDeliveryError(f"the connection was lost after {self.received} events: {error}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._read(self._rest + data if self._rest else data)
        except WrongDeliveryError as error:
            self._fail(error)
            self._transport.abort()

    def _fail(self, error: WrongDeliveryError) -> None:
        self._failure = self._failure or error
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(error)

    # What comes.

    def _read(self, data: bytes) -> None:
        position = 0
        if not self._upgraded:
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = data
                return
            self._check_upgrade(head.decode("latin-1"))
            position = len(head) + len(found)
        end = len(data)
        while end - position >= 2:
            size = data[position + 1]
            begin = position + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                if begin > end:
                    break
                size = int.from_bytes(data[position + 2 : begin])
            if begin + size > end:
                break
            self._take_frame(data[position], data[begin : begin + size])
            position = begin + size
        self._rest = data[position:]

    def _check_upgrade(self, head: str) -> None:
        status, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if " 101 " not in status or headers.get("sec-websocket-protocol") != self._subprotocol:
            raise WrongDeliveryError(f"the handshake was answered {status!r} {headers}")
        self._upgraded = True

    def _take_frame(self, first_byte: int, payload: bytes) -> None:
        if first_byte == _TEXT:
            for text in payload.split(b"\n") if self._lines else (payload,):
                self._take(text)
        elif first_byte == _PING:
            self._write(_PONG, payload)
        elif first_byte == _CLOSE:
            raise WrongDeliveryError(f"the server closed the socket: {payload!r}")
        else:
            raise WrongDeliveryError(f"a frame begins with {first_byte:#x}")

    def _take(self, text: bytes) -> None:
        if self._keep:
            self.frames.append(text)
        if self._run_id and text.startswith(b"%s%d," % (self._expected, self.received + 1)):
            event_type, seq = "agent_thinking", self.received + 1
        else:
            frame = json.loads(text)
            if "seq" not in frame:
                self._take_control(frame)
                return
            event_type, seq = self._take_envelope(frame)
        self.received = seq
        if event_type == "agent_completed" or seq - self._acked >= self._ack_events:
            self._acked = seq
            self._send(b'{"type":"ack","run_id":"%s","seq":%d,"count":%d}' % (self._run_id.encode(), seq, seq))

    def _take_control(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "ready" if not self.ready.done():
                self.ready.set_result(None)
            case "run_accepted" if not self._run_id:
                self._run_id = frame["run_id"]
                self._expected = b'{"type":"agent_thinking","run_id":"%s","seq":' % self._run_id.encode()
            case "ping":
                self._send(json.dumps({"type": "pong", "id": frame["id"]}).encode())
            case _:
                raise WrongDeliveryError(f"unexpected: {frame}")

    def _take_envelope(self, frame: dict[str, Any]) -> tuple[str, int]:
        event_type, seq = frame["type"], frame["seq"]
        due = {1: "agent_started", self._events: "agent_completed"}.get(self.received + 1, "agent_thinking")
        if (event_type, seq, frame["run_id"]) != (due, self.received + 1, self._run_id):
            raise WrongDeliveryError(f"{due} with seq {self.received + 1} of run {self._run_id} was due; {frame} came")
        if event_type == "agent_completed":
            counts = {"agent_started": 1, "agent_thinking": self._events - 2, "agent_completed": 1}
            if frame["data"]["receipt"] != {"last_seq": self._events, "counts": counts}:
                raise WrongDeliveryError(f"{self._events} events came; the receipt says {frame['data']['receipt']}")
            self.done.set_result(None)
        return event_type, seq

    # What goes.

    def _send(self, text: bytes) -> None:
        self._write(_TEXT, text)

    def _write(self, first_byte: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes((first_byte, 0x80 | size)) if size < 126 else bytes((first_byte, 0xFE)) + size.to_bytes(2)
        self._transport.write(head + _UNMASKED + payload)


async def connect(url: str, token: str, subprotocol: str, ack_events: int, *, keep: bool = False) -> LoadClient:
    """A client whose server has said `ready`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: LoadClient(token, parts.path, parts.netloc, subprotocol, ack_events, keep=keep),
        parts.hostname,
        parts.port,
    )
    await client.ready
    return client
