"""The network between the simulated server and its clients: ordered streams with delays, that can be cut anywhere.

A `Wire` is one WebSocket. Its server side is what `SocketSession` accepts and `Connection` writes to; its client side
is what the Python client's `connect` gives.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from simulation.virtual_loop import Process, VirtualLoop
from tracewire.gateway.progress import Progress
from tracewire.gateway.transport import EXTENSION
from tracewire_telemetry.vocabulary import CloseCode

DELAY_SECONDS = (0.0, 0.00002, 0.0002, 0.002, 0.02)
HIGH_WATER_BYTES = (300, 1_000, 4_000)
CLOSE_TIMEOUT_SECONDS = 0.3


class Weather(Struct):
    """How bad the network is: the share of messages that come twice, of acks that are overtaken, of long delays."""

    repeat: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0


class Wire:
    """One socket, both of its ends."""

    def __init__(
        self,
        loop: VirtualLoop,
        random: Random,
        weather: Weather,
        number: int,
        user_id: str,
        server: Process,
        client: Process,
        *,
        lines: bool,
        tell: Callable[..., None],
        on_written: Callable[["Wire", bytes], None],
        on_closed: Callable[["Wire", CloseCode], None],
        on_come: Callable[[str], None],
    ) -> None:
        self.number = number
        self.user_id = user_id
        self.cut = False
        self.stalled = False
        self.answers_pings = True
        self.weather = weather
        self.random = random
        self.server = ServerEnd(self, server, "tracewire.v1.lines" if lines else "tracewire.v1")
        self.client = ClientEnd(self, client)
        self.loop = loop
        self.tell = tell
        self.on_written = on_written
        self.on_closed = on_closed
        self.on_come = on_come
        self._arrival = {"up": 0.0, "down": 0.0, "ping": 0.0}
        self._late = 0.0
        self._held: list[Callable[[], None]] = []

    def delay(self) -> float:
        """How long one message takes."""
        if self.random.random() < self.weather.delay:
            return self.random.random() * 0.4
        return self.random.choice(DELAY_SECONDS)

    def carry(self, way: str, process: Process, deliver: Callable[[], None], *, overtaken: bool = False) -> None:
        """Bring a message to the other end, in order unless it may be `overtaken`."""
        arrival = self.loop.time() + self.delay()
        if overtaken:
            arrival += self.random.random() * 0.1
            self._late = max(self._late, arrival)
        else:
            arrival = self._arrival[way] = max(arrival, self._arrival[way])
        self.loop.call_at(arrival, self._arrive, way, process, deliver, context=process.context)

    def let_all_arrive(self) -> None:
        """What the client sends from now on arrives behind all that it sent before."""
        self._arrival["up"] = max(self._arrival["up"], self._late)

    def _arrive(self, way: str, process: Process, deliver: Callable[[], None]) -> None:
        if self.cut or not process.alive:
            return
        if way == "down" and (self.stalled or self._held):
            self._held.append(deliver)
        else:
            deliver()

    def unstall(self) -> None:
        """The client reads again."""
        self.stalled = False
        held, self._held = self._held, []
        for deliver in held:
            self.loop.call_soon(self._arrive, "down", self.client.process, deliver, context=self.client.process.context)

    def break_(self, *, server_notices: float | None, client_notices: float) -> None:
        """Lose the connection, with what is in flight. Each end notices when it does; the server perhaps never."""
        if self.cut:
            return
        self.cut = True
        self.tell("cut", self.number)
        if server_notices is not None:
            self.loop.call_later(server_notices, self.server.lose, context=self.server.process.context)
        self.loop.call_later(client_notices, self.client.lose, None, context=self.client.process.context)


class ServerEnd:
    """What `SocketSession` takes for Litestar's socket, and `Connection` for its transport."""

    violation = None

    def __init__(self, wire: Wire, process: Process, subprotocol: str) -> None:
        self.wire = wire
        self.process = process
        self.headers = {"authorization": f"Bearer {wire.user_id}"}
        self.scope: dict[str, Any] = {"extensions": {EXTENSION: self}, "subprotocols": [subprotocol]}
        self.writable = True
        self.last_life_ns = 0
        self._on_writable: Callable[[], None] = lambda: None
        self._unread = 0
        self._progress = Progress()
        self._high_water_bytes = wire.random.choice(HIGH_WATER_BYTES)
        self._closed = False
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})

    # As the session reads.

    async def accept(self, *, subprotocols: str | None) -> None:
        """The handshake is answered."""
        await self._inbox.get()
        self.last_life_ns = self.wire.loop.now_ns

    async def receive(self) -> dict[str, Any]:
        """The next message of the client, or the end."""
        return await self._inbox.get()

    async def send(self, message: dict[str, Any]) -> None:
        """The handshake is refused: a server that has just stopped being ready answers it with HTTP 503."""
        if message["type"] == "websocket.http.response.body":
            self.lose()
            self.wire.carry("down", self.wire.client.process, lambda: self.wire.client.lose(None))

    def take(self, text: str) -> None:
        """A frame of the client has come."""
        self._show_life()
        if not self._closed:
            self.wire.on_come(text)
            self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    def lose(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1005, "reason": ""})

    # As the connection writes.

    def notify(self, on_writable: Callable[[], None]) -> None:
        """Call this when the peer takes more."""
        self._on_writable = on_writable

    def write_text(self, body: bytes) -> None:
        """Write one frame."""
        if self._closed:
            return
        self.wire.on_written(self.wire, body)
        self._unread += len(body)
        self._progress.written += len(body)
        if self._unread > self._high_water_bytes:
            self.writable = False
        client = self.wire.client
        self.wire.carry("down", client.process, lambda: self._delivered(body))

    def _delivered(self, body: bytes) -> None:
        wire = self.wire
        wire.client.take(body)
        if wire.random.random() < wire.weather.repeat and b'"seq"' in body:
            events = b"\n".join([line for line in body.split(b"\n") if b'"seq"' in line])
            wire.tell("repeat", wire.number)
            wire.carry("down", wire.client.process, lambda: wire.client.take(events), overtaken=True)
        wire.loop.call_later(wire.delay(), self._taken, len(body), context=self.process.context)

    def _taken(self, size: int) -> None:
        self._unread -= size
        if not self.writable and self._unread <= self._high_water_bytes // 4 and not self.wire.cut:
            self.writable = True
            self._on_writable()

    def stuck_ns(self, now: int) -> int:
        """For how long the peer has taken nothing of what waits for it, as far as this was asked."""
        return self._progress.stuck_ns(self._unread, now)

    def ping(self) -> None:
        """Ask for a pong. A client's library answers by itself, where its network still works."""
        if self._closed:
            return
        wire = self.wire
        wire.tell("ping", wire.number)
        way = "ping" if wire.answers_pings else "down"
        wire.carry(way, wire.client.process, lambda: wire.carry("up", self.process, self._show_life))

    def _show_life(self) -> None:
        self.last_life_ns = self.wire.loop.now_ns

    def close(self, code: CloseCode) -> None:
        """Send the close behind what was written."""
        if self._closed:
            return
        self.wire.on_closed(self.wire, code)
        client = self.wire.client
        self.wire.carry("down", client.process, lambda: client.lose(code))
        self.lose()
        self.wire.loop.call_later(CLOSE_TIMEOUT_SECONDS, self.abort)

    def abort(self) -> None:
        """Let go of the connection at once."""
        self.wire.break_(server_notices=0.0, client_notices=self.wire.delay())


class ClientEnd:
    """What the Python client takes for its connection."""

    def __init__(self, wire: Wire, process: Process) -> None:
        self.wire = wire
        self.process = process
        self.transport = self
        self._close_rcvd: Close | None = None
        self._closed = False
        self._messages: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    def take(self, body: bytes) -> None:
        """A frame of the server has come."""
        if not self._closed:
            self._messages.append(body)
            self._arrived.set()

    def lose(self, code: CloseCode | None) -> None:
        """The server closed with this code, or the connection is gone."""
        if code is not None:
            self._close_rcvd = Close(code.value, code.reason)
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> "ClientEnd":
        return self

    async def __anext__(self) -> str:
        return (await self.recv()).decode()

    async def recv(self, *, decode: bool = False) -> bytes:
        """The next frame.

        Raises:
            ConnectionClosedError: there will be none.
        """
        assert not decode
        while not self._messages:
            if self._closed:
                raise ConnectionClosedError(self._close_rcvd, None)
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()

    async def send(self, body: bytes, *, text: bool = True) -> None:
        """Send one frame.

        Raises:
            ConnectionClosed: it is known that the connection is gone.
        """
        assert text
        if self._closed:
            raise ConnectionClosed(self._close_rcvd, None)
        wire, said = self.wire, body.decode()
        wire.tell("sent", wire.number, said)
        if said.startswith('{"type":"start_run"'):
            wire.let_all_arrive()  # who asks for a run again relies on its acks of it having come before
        ack = said.startswith('{"type":"ack"')
        times = 2 if (ack or '"resume"' in said) and wire.random.random() < wire.weather.repeat else 1
        for _ in range(times):
            overtaken = ack and wire.random.random() < wire.weather.reorder
            wire.carry("up", wire.server.process, lambda: wire.server.take(said), overtaken=overtaken)

    def abort(self) -> None:
        """Let go of the connection at once, as of its transport. What came before is read no more."""
        self._messages.clear()
        self.wire.break_(server_notices=self.wire.delay(), client_notices=0.0)

    async def close(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            self._arrived.set()
            self.wire.carry("up", self.wire.server.process, self.wire.server.lose)

    async def __aenter__(self) -> "ClientEnd":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
