"""One schedule: servers, devices and faults, all drawn from a seed, run to the end and looked at.

`run_schedule(seed)` says what was wrong, if anything was. The same seed gives the same steps, in any process.
"""

import asyncio
import contextlib
import gc
import itertools
import random as global_random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import structlog
import uuid_utils
from msgspec import Struct

from simulation import faults, incidents, invariants
from simulation.devices import BareDevice, Device, OfficialDevice, Plan, Sighting
from simulation.memory_log import Disk
from simulation.network import Weather, Wire
from simulation.server import SimulatedServer
from simulation.virtual_loop import EPOCH_NS, NS_PER_SECOND, START_NS, HungError, VirtualLoop, _process
from tracewire import client_connection
from tracewire.gateway import sockets
from tracewire_telemetry.vocabulary import CloseCode

SECONDS_MAX = 120.0
"""Virtual seconds after which a schedule hangs: fifty times what one takes."""
POLL_SECONDS = 0.02
SAID_BY_THE_WAY = frozenset({"log_unavailable", "run_ended", "not_ready", "unknown_run"})
"""Refusals that a fault explains: a full disk, a cancel that came too late."""

NEVER_CLOSED_WITH = frozenset({CloseCode.INTERNAL, CloseCode.PROTOCOL})
"""Closes by which the server says that it went wrong, or that a client of ours did."""


SILENT_NS_MIN = int(min(deadlines.silence_seconds for deadlines in incidents.DEADLINES) * NS_PER_SECOND)


class Result(Struct):
    """What came of one schedule. `wrong` is empty where every invariant holds; `happened` counts its faults."""

    seed: int
    wrong: list[str]
    steps: int
    events: int
    trace: list[str]
    happened: Counter[str]


class World:
    """Everything of one schedule."""

    def __init__(self, seed: int, *, tracing: bool) -> None:
        self.random = Random(seed)
        self.loop = VirtualLoop()
        self.disk = Disk()
        self.weather = Weather()
        self.wires: list[Wire] = []
        self.devices: list[Device] = []
        self.device_of: dict[Any, Device] = {}
        self.sightings: list[Sighting] = []
        self.server: SimulatedServer
        self.servers = 0
        self.calm = True
        self.happened: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.trace: list[str] = []
        self._tracing = tracing
        self.truth = incidents.Truth(self.loop, self.disk, self.wires, self.say_wrong)
        self._written = invariants.Written(self.disk, self.truth)
        self.disk.on_ack = self._ack_kept

    # What the parts tell.

    def tell(self, *what: object) -> None:
        """A line of the trace."""
        if self._tracing:
            self.trace.append(f"{(self.loop.now_ns - START_NS) / 1e6:10.3f} ms  {' '.join(map(str, what))}")

    def say_wrong(self, what: str) -> None:
        """An invariant does not hold."""
        self.tell("WRONG", what)
        self.wrong.append(what)

    def refused(self, device: Device, code: str, message: str) -> None:
        """The server refused a frame of this device."""
        self.tell("refused", device.process.name, code, message)
        if code not in SAID_BY_THE_WAY:
            self.say_wrong(f"{device.process.name} was refused: {code}: {message}")

    def _ack_kept(self, run_id: str, seq: int) -> None:
        self.tell("ack kept", run_id, seq)
        for problem in self._written.look_at_ack(run_id, seq):
            self.say_wrong(problem)

    def _frame_written(self, wire: Wire, body: bytes) -> None:
        if self._tracing:
            for line in body.split(b"\n"):
                self.tell("written", wire.number, line[:140].decode())
        for problem in self._written.look(wire, body):
            self.say_wrong(problem)

    def _closed_by_server(self, wire: Wire, code: CloseCode) -> None:
        self.tell("closed", wire.number, code.value)
        self.happened[f"closed with {code.value}"] += 1
        if code in NEVER_CLOSED_WITH:
            self.say_wrong(f"socket {wire.number} was closed with {code.value} ({code.reason})")
        watch = self.server.watch
        connection = watch.connection_of(wire)
        if code is CloseCode.RESYNC and not (connection and watch.judged.blames(set(connection.follows))):
            self.say_wrong(f"socket {wire.number} was closed with {code.value}, and nothing that it follows is missing")
        if code is CloseCode.SILENT and self.loop.now_ns - wire.server.last_life_ns < SILENT_NS_MIN:
            self.say_wrong(f"socket {wire.number} was closed with {code.value}, and was not silent")

    def settled_too_early(self, run_id: str) -> None:
        """A run was settled as one whose user is away, while a socket of theirs follows it."""
        self.say_wrong(f"run {run_id} was settled with events that a socket is still owed")

    # Servers and sockets.

    def start_server(self) -> None:
        """Begin a life of the server."""
        self.servers += 1
        self.tell("server", self.servers, "starts")
        self.server = SimulatedServer(
            self.disk, self.random, self.servers, self._planned, self.truth, self.settled_too_early
        )
        self.loop.create_task(self.server.start(), context=self.server.process.context)

    def crash(self) -> None:
        """End it between two steps, and begin the next life some time later."""
        if not self.server.process.alive:
            return
        self.tell("server", self.servers, "crashes")
        self.server.process.kill()
        self.happened["crashes"] += 1
        self.disk.full = False
        for wire in self.wires:
            if wire.server.process is self.server.process:
                wire.break_(server_notices=None, client_notices=self.random.choice((0.0, 0.001, 0.1)))
        self.loop.call_later(self.random.choice((0.001, 0.05, 0.4)), self.start_server)

    async def connect(self, _url: str, *, subprotocols: Any = (), **_: Any) -> Any:
        """What `websockets.connect` does, for the device that calls it."""
        device = self.device_of[_process.get()]
        await asyncio.sleep(self.random.choice((0.0, 0.0001, 0.003)))
        server = self.server
        if not (server.process.alive and server.listening and server.readiness.ready):
            raise ConnectionRefusedError
        wire = Wire(
            self.loop,
            self.random,
            self.weather,
            len(self.wires) + 1,
            device.user_id,
            server.process,
            device.process,
            lines="tracewire.v1.lines" in subprotocols,
            tell=self.tell,
            on_written=self._frame_written,
            on_closed=self._closed_by_server,
            on_come=self.truth.came,
        )
        self.wires.append(wire)
        self.tell("connected", wire.number, device.process.name)
        self.loop.create_task(sockets.serve_socket(server.gateway, wire.server), context=server.process.context)
        return wire.client

    async def _planned(self, ctx: Any) -> str:
        for step in ctx.input["steps"]:
            match step[0]:
                case "t":
                    await ctx.thinking("a thought")
                case "d":
                    for piece in range(int(step[1:])):
                        await ctx.delta(f"piece {piece} ")
                case "w":
                    await asyncio.sleep(float(step[1:]))
                case "c":
                    async with ctx.tool("search", {"q": 1}) as call:
                        await ctx.thinking("inside")
                        call.result = 1
                case "e":
                    with contextlib.suppress(ValueError):
                        async with ctx.tool("search"):
                            raise ValueError("not found")
                case "g":
                    await asyncio.gather(ctx.thinking("one"), ctx.delta("two"), ctx.thinking("three"))
                case "b":
                    await ctx.thinking("b" * 900)
                case "x":
                    raise RuntimeError("the agent failed")
        return "done"

    # The schedule.

    def draw(self) -> None:
        """Draw users, devices, runs and weather."""
        random = self.random
        numbers = itertools.count(1)
        for user_id in ("ada", "bob")[: random.choice((1, 1, 2))]:
            plans = [faults.draw_plan(random, f"request-{next(numbers)}") for _ in range(random.choice((1, 1, 2)))]
            for number in range(random.choice((1, 2))):
                mine = plans if number == 0 else []
                if number and random.random() < 0.3:  # the same request from two devices is one run
                    later = random.choice((0.0, 0.001, 0.03))
                    mine = [Plan(plans[0].request_id, plans[0].start_seconds + later, plans[0].steps)]
                if random.random() < 0.6:
                    self.devices.append(OfficialDevice(self, user_id, number, mine))
                else:
                    acks = random.choice((1, 3)) if number == 0 else random.choice((0, 1, 3))
                    self.devices.append(
                        BareDevice(self, user_id, number, mine, acks=acks, restless=random.random() < 0.4)
                    )

    async def run(self) -> None:
        """The schedule, to its end."""
        self.start_server()
        for device in self.devices:
            device.be_born()
        await faults.cause(self)
        self.tell("faults are over")
        while not self._at_rest() and not self.wrong:
            await asyncio.sleep(POLL_SECONDS)

    def _at_rest(self) -> bool:
        server = self.server
        return (
            server.process.alive
            and server.listening
            and all(device.content for device in self.devices)
            and all(run.outcome is not None for run in self.disk.runs.values())
            and not server.watch.runs
            and server.watch.settling.idle.is_set()
            and not server.watch.judged.unfinished(self.disk)
        )

    def waits_for(self) -> str:
        """Who is not at rest, for people."""
        waiting = [device.process.name for device in self.devices if not device.content]
        open_runs = [run_id for run_id, run in self.disk.runs.items() if run.outcome is None]
        watch = self.server.watch
        return (
            f"waiting: {waiting}, runs open: {open_runs}, not settled: {sorted(watch.runs)}, "
            f"incidents without an end: {watch.judged.unfinished(self.disk)}"
        )

    def judge(self) -> None:
        """Look at everything when all is at rest."""
        for run in self.disk.runs.values():
            self.wrong.extend(invariants.problems_of_run(run))
        current = {id(seen) for device in self.devices for seen in device.sightings.values()}
        for seen in self.sightings:
            self.wrong.extend(invariants.problems_of_sighting(seen, self.disk, last_life=id(seen) in current))
        watch = self.server.watch
        for ledger in watch.ledgers:
            self.wrong.extend(invariants.problems_of_ledger(ledger, calm=self.calm))
        self.wrong.extend(
            invariants.problems_of_counts(self.server.counts(), watch.ledgers, refused=self.disk.refused > 0)
        )
        unkept = [ledger.identity.run_id for ledger in watch.ledgers if ledger.identity.run_id not in self.disk.stamps]
        if unkept and not self.disk.refused:
            self.wrong.append(f"the stamps of {unkept} were not kept")
        self.wrong.extend(incidents.problems_of_incidents(watch.judged, self.disk, watch.ledgers))
        self.wrong.extend(self.loop.failures)


def run_schedule(seed: int, *, tracing: bool = False) -> Result:
    """Run the schedule of this seed."""
    world = World(seed, tracing=tracing)
    with _deterministic(world, seed):
        world.draw()
        try:
            world.loop.run(world.run(), seconds_max=SECONDS_MAX)
        except HungError as error:
            world.say_wrong(f"it hangs: {error}; {world.waits_for()}")
        else:
            if not world.wrong:
                world.judge()
    world.happened["events called missing"] += world.truth.declared
    for incident in world.disk.incidents.values():
        world.happened[f"incidents at {incident.link.value} {incident.state.value}"] += 1
    events = sum(len(run.bodies) for run in world.disk.runs.values())
    return Result(seed, world.wrong, world.loop.steps, events, world.trace, world.happened)


@contextlib.contextmanager
def _deterministic(world: World, seed: int) -> Iterator[None]:
    """Clocks, ids and randomness are the schedule's, as is the way out to the network; afterwards all is as before."""
    loop, ids = world.loop, itertools.count(1)

    def note(_logger: object, _method: str, event: dict[str, Any]) -> Any:
        world.tell("log", event)
        raise structlog.DropEvent

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (time, "monotonic_ns", lambda: loop.now_ns),
        (time, "monotonic", loop.time),
        (time, "time_ns", lambda: EPOCH_NS + loop.now_ns),
        (time, "time", lambda: (EPOCH_NS + loop.now_ns) / 1e9),
        (uuid_utils, "uuid7", lambda: f"id-{next(ids):06d}"),
        (client_connection, "connect", lambda url, **options: _Connecting(world, url, options)),
        (sockets, "SocketTransport", lambda transport: transport),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    state, was_configured, logging = global_random.getstate(), structlog.is_configured(), structlog.get_config()
    level = 0 if world._tracing else 50
    structlog.configure(processors=[note], wrapper_class=structlog.make_filtering_bound_logger(level))
    global_random.seed(seed)
    collected = gc.isenabled()
    gc.disable()  # a fifth of the time; a schedule is small, and over soon
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        if collected:
            gc.enable()
        global_random.setstate(state)
        if was_configured:
            structlog.configure(**logging)
        else:
            structlog.reset_defaults()


class _Connecting:
    """`async with connect(...) as socket`."""

    def __init__(self, world: World, url: str, options: dict[str, Any]) -> None:
        self._coming = (world, url, options)
        self._socket: Any = None

    async def __aenter__(self) -> Any:
        world, url, options = self._coming
        self._socket = await world.connect(url, **options)
        return self._socket

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
