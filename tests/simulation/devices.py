"""The clients of a schedule: our own, and bare ones that speak the wire themselves. Both lose their memory at times.

What the caller of a device saw of a run in one life of the device is a `Sighting`.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from websockets.exceptions import ConnectionClosed

from simulation.virtual_loop import Process
from tracewire.client import Client, ClientError, ConnectionFailedError, RequestRejectedError
from tracewire.events import ReceivedEnvelope, decode_envelope
from tracewire_telemetry.vocabulary import EVENT_TYPES, TERMINAL_TYPES

if TYPE_CHECKING:
    from simulation.world import World

EVENT_NAMES = frozenset(event_type.value for event_type in EVENT_TYPES)


class Plan(msgspec.Struct):
    """One run that a device starts: when, and what its agent does."""

    request_id: str
    start_seconds: float
    steps: list[str]
    cancel_seconds: float | None = None


class Sighting(msgspec.Struct):
    """What one life of a device saw of one run. The last life must see all of it; `whole` says that it thinks so."""

    user_id: str
    run_id: str
    life: str
    envelopes: list[ReceivedEnvelope]
    whole: bool = False


class Device:
    """One client of one user, over all its lives."""

    kind = ""

    def __init__(self, world: "World", user_id: str, number: int, plans: list[Plan]) -> None:
        self.world = world
        self.user_id = user_id
        self.name = f"{self.kind} {user_id}/{number}"
        self.plans = plans
        self.lives = 0
        self.process: Process
        self.sightings: dict[str, Sighting] = {}

    def be_born(self) -> None:
        """Begin a life that knows nothing of those before."""
        self.lives += 1
        self.process = Process(f"{self.name}.{self.lives}")
        self.sightings = {}
        self.world.device_of[self.process] = self
        self.process.context.run(self.forget_everything)
        self.world.loop.create_task(self.live(), context=self.process.context)

    def die(self) -> None:
        """End this life without a word; the next one begins when it is told to."""
        self.process.kill()
        for wire in self.world.wires:
            if wire.client.process is self.process:
                wire.break_(server_notices=self.world.random.choice((0.0, 0.001, 0.3)), client_notices=0.0)

    def sighting(self, run_id: str) -> Sighting:
        """What this life has seen of the run, up to now."""
        if run_id not in self.sightings:
            seen = self.sightings[run_id] = Sighting(self.user_id, run_id, self.process.name, [])
            self.world.sightings.append(seen)
        return self.sightings[run_id]

    @property
    def content(self) -> bool:
        """Whether it has the whole of everything that it waits for."""
        return len(self.sightings) >= len(self.plans) and all(seen.whole for seen in self.sightings.values())

    def forget_everything(self) -> None:
        """A new life has an empty memory."""

    async def live(self) -> None:
        """What the device does, until it dies or the schedule is over."""
        raise NotImplementedError


class OfficialDevice(Device):
    """The Python client and its caller."""

    kind = "official"

    async def live(self) -> None:
        while True:
            try:
                async with Client("ws://simulated/ws", self.user_id) as client:
                    await asyncio.gather(*(self._follow(client, plan) for plan in self.plans))
                    await asyncio.Event().wait()
            except ConnectionFailedError as error:
                self.world.tell("client gave up", self.process.name, str(error))
                self.sightings = {}
                await asyncio.sleep(0.1)

    async def _follow(self, client: Client, plan: Plan) -> None:
        if self.lives == 1:
            await asyncio.sleep(plan.start_seconds)
        while True:
            try:
                run = await client.start_run({"steps": plan.steps}, request_id=plan.request_id)
                break
            except RequestRejectedError as error:
                self.world.refused(self, error.code, str(error))
                await asyncio.sleep(0.1)
        seen = self.sighting(run.run_id)
        cancelling = None
        if plan.cancel_seconds is not None:
            cancelling = asyncio.create_task(self._cancel(run, plan.cancel_seconds))
        try:
            async for envelope in run:
                self.world.tell("seen", self.process.name, run.run_id, envelope.seq, envelope.type.value)
                seen.envelopes.append(envelope)
        except ConnectionFailedError:
            raise
        except ClientError as error:
            self.world.say_wrong(f"{self.process.name}: run {run.run_id} was lost to its caller: {error}")
            return
        seen.whole = True
        if not run.receipt_agrees:
            self.world.say_wrong(
                f"{self.process.name}: the receipt of run {run.run_id} says {run.receipt}, came {dict(run.received)}"
            )
        if cancelling is not None:
            cancelling.cancel()

    async def _cancel(self, run: Any, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await run.cancel()


class BareDevice(Device):
    """A client in another language: it does what wire.md says, and no more. `acks`: every so many events; 0: never.
    A `restless` one asks again for what follows over the socket that follows.
    """

    kind = "bare"

    def __init__(
        self, world: "World", user_id: str, number: int, plans: list[Plan], *, acks: int, restless: bool
    ) -> None:
        super().__init__(world, user_id, number, plans)
        self.acks = acks
        self.restless = restless
        self.mute = False

    def forget_everything(self) -> None:
        self.last: dict[str, int] = {}
        self.acked: dict[str, int] = {}
        self.accepted: set[str] = set()
        self.socket: Any = None

    @property
    def content(self) -> bool:
        return all(plan.request_id in self.accepted for plan in self.plans) and super().content

    async def live(self) -> None:
        world, subprotocols = self.world, (self.world.random.choice(("tracewire.v1", "tracewire.v1.lines")),)
        while True:
            try:
                self.socket = await world.connect("", subprotocols=subprotocols)
                async for message in self.socket:
                    for line in message.split("\n"):
                        await self._take(line.encode())
            except (OSError, ConnectionClosed):
                await asyncio.sleep(world.random.choice((0.0, 0.01, 0.2)))

    async def _send(self, **frame: Any) -> None:
        await self.socket.send(msgspec.json.encode(frame))

    async def _take(self, line: bytes) -> None:
        frame: dict[str, Any] = msgspec.json.decode(line)
        kind = frame["type"]
        if kind in EVENT_NAMES:
            await self._take_event(decode_envelope(line))
        elif kind == "ready":
            for run in frame["runs"]:
                self.last.setdefault(run["run_id"], 0)
            if not self.mute:
                await self._resume()
            for plan in self.plans:
                if plan.request_id not in self.accepted:
                    await self._send(type="start_run", request_id=plan.request_id, input={"steps": plan.steps})
            await self.ack_again()
        elif kind == "run_accepted":
            self.accepted.add(frame["request_id"])
            self.last.setdefault(frame["run_id"], 0)
            self.sighting(frame["run_id"])
        elif kind == "ping":
            await self._send(type="pong", id=frame["id"])
        elif kind == "rejected":
            self.world.refused(self, frame["code"], frame["message"])
            if frame["frame"] == "start_run":
                await self.socket.close()  # and tries again over the next one
        elif kind == "resumed" and not frame["recovered"]:
            self.world.say_wrong(f"{self.process.name}: run {frame['run_id']} is {frame['reason']}")

    async def _take_event(self, envelope: ReceivedEnvelope) -> None:
        run_id, last = envelope.run_id, self.last.setdefault(envelope.run_id, 0)
        first = envelope.seq if envelope.first_seq is UNSET else envelope.first_seq
        if envelope.seq <= last:
            return
        if first > last + 1:
            await self._send(type="resume", runs={run_id: last})
            return
        self.world.tell("seen", self.process.name, run_id, envelope.seq, envelope.type.value)
        seen = self.sighting(run_id)
        seen.envelopes.append(envelope)
        self.last[run_id] = envelope.seq
        seen.whole = envelope.type in TERMINAL_TYPES
        if self.restless and self.world.random.random() < 0.2:
            await self._send(type="resume", runs={run_id: envelope.seq})
        due = seen.whole or envelope.seq - self.acked.get(run_id, 0) >= self.acks
        if self.acks and due and not self.mute:
            await self._ack(run_id)

    async def _resume(self) -> None:
        known = {run_id: seq for run_id, seq in self.last.items() if not self.sighting(run_id).whole}
        if known:
            await self._send(type="resume", runs=known)

    async def _ack(self, run_id: str) -> None:
        seq = self.acked[run_id] = self.last[run_id]
        await self._send(type="ack", run_id=run_id, seq=seq, count=seq)

    async def ack_again(self) -> None:
        """Ack the runs that it has whole: a connection may have taken the ack with it, or its caller was at a halt."""
        for run_id, seq in self.last.items():
            if seq and self.acks and not self.mute and self.sighting(run_id).whole:
                await self._ack(run_id)

    def speak_again(self) -> None:
        """The halt is over."""
        self.mute = False
        if self.process.alive:
            self.world.loop.create_task(self._speak(), context=self.process.context)

    async def _speak(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._resume()
                await self.ack_again()
