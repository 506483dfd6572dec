"""One life of the simulated server: the real stations, composed as `main.py` does, over a log in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from opentelemetry.sdk.resources import Resource

from simulation.incidents import DEADLINES, JudgedIncidents, Truth
from simulation.memory_log import Disk, MemoryLog
from simulation.network import Wire
from simulation.virtual_loop import EPOCH_NS, NS_PER_SECOND, Process
from tracewire.delivery.connection import Connection
from tracewire.delivery.connections import Connections
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.engine.agent import AgentRegistry, AgentSpec
from tracewire.engine.execution_engine import ExecutionEngine
from tracewire.engine.factory import ExecutionFactory
from tracewire.gateway.auth import Principal
from tracewire.gateway.closing import SocketKeeper
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire.readiness import Readiness
from tracewire.runs.incidents import adopt_incidents
from tracewire.runs.recovery import close_lost_runs
from tracewire.runs.service import RunService
from tracewire.settings import Settings
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.replayed import ReplayTracing
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import Outcome
from tracewire_telemetry.watch import OpenRun, Watch

HEARTBEAT_SECONDS = (0.5, 0.5, 1_000.0)
"""With a heartbeat, silent sockets are found; without one, nothing covers up a wake-up that was lost."""
OUTBOX_AGE_SECONDS = (0.3, 0.3, 3.0)
"""With the last a slow client is not cut off before the socket's deadline, as settings that fit would have it."""
METRICS = Metrics(version="simulation", agents=("planned",), tools=("search",))
TRACING = RunTracing(Resource({}), version="simulation", share=1.0, recording=False, dropped=METRICS.spans_dropped)
REPLAYS = ReplayTracing(Resource({}), None, version="simulation", share=1.0)
THREADS = ThreadPoolExecutor(1, "never-used")


class _Telemetry:
    """Nothing is exported; the metrics are those of all schedules, since making them costs more than a schedule."""

    metrics = METRICS
    replays = REPLAYS

    def handshake(self, user_id: str, connection_id: str, started_unix_ns: int) -> None:
        """Handshakes have no span here."""


class _Authenticator:
    """A token is the user's id: who may sign in is not what is looked at here."""

    async def authenticate(self, token: str) -> Principal:
        """Signs anybody in."""
        await asyncio.sleep(0)
        return Principal(token, EPOCH_NS // NS_PER_SECOND + 10**6)

    def check(self, principal: Principal, unix_now: float) -> None:
        """Nobody's token expires."""


class _InOrder(dict[Any, None]):
    """A set that is iterated in the order in which it was filled, not by where its members lie in memory."""

    def add(self, member: Any) -> None:
        """As a set's."""
        self[member] = None

    def discard(self, member: Any) -> None:
        """As a set's."""
        self.pop(member, None)


class KeepingWatch(Watch):
    """The watch, with every ledger that it ever opened kept to be looked at, and each early settlement told."""

    def __init__(
        self,
        connections: Connections,
        random: Random,
        truth: Truth,
        on_early: Callable[[str], None],
    ) -> None:
        super().__init__(METRICS, TRACING, None, deadlines=random.choice(DEADLINES))
        self.incidents = self.judged = JudgedIncidents(self, truth, METRICS, self.origins)
        self.ledgers: list[RunLedger] = []
        self._connections = connections
        self._on_early = on_early

    def open(self, *args: Any, **kwargs: Any) -> OpenRun:
        """As `Watch.open`."""
        run = super().open(*args, **kwargs)
        self.ledgers.append(run.ledger)
        return run

    def consider(self, run: OpenRun, now: int | None = None) -> None:
        """As `Watch.consider`; what it settles without the user must not be followed when the step is over."""
        was_settled = run.ledger.settled_ns
        super().consider(run, now)
        if run.ledger.settled_ns and not was_settled and not run.owes_end and run.ledger.pending:
            asyncio.get_running_loop().call_soon(self._look_for_followers, run)

    def connection_of(self, wire: Wire) -> Connection | None:
        """The ready connection that writes to this wire."""
        connections = self._connections.of(wire.user_id)
        return next((connection for connection in connections if connection._transport is wire.server), None)

    def follows(self, wire: Wire, run_id: str) -> bool:
        """Whether a ready socket over this wire follows the run."""
        connection = self.connection_of(wire)
        return connection is not None and run_id in connection.follows

    def _look_for_followers(self, run: OpenRun) -> None:
        identity = run.ledger.identity
        for connection in self._connections.of(identity.user_id):
            followed = connection.follows.get(identity.run_id)
            if followed is not None and followed.run is run and not connection.closed:
                self._on_early(identity.run_id)


class SimulatedServer:
    """`start` it in its process. A killed one is never used again."""

    def __init__(
        self,
        disk: Disk,
        random: Random,
        number: int,
        agent: Callable[..., Awaitable[Any]],
        truth: Truth,
        on_early: Callable[[str], None],
    ) -> None:
        self.process = Process(f"server {number}")
        self.settings = Settings(
            outbox_age_seconds=random.choice(OUTBOX_AGE_SECONDS),
            heartbeat_seconds=random.choice(HEARTBEAT_SECONDS),
            cancel_grace_seconds=0.05,
        )
        self.listening = False
        self.counted = [[list(row) for row in METRICS.events]]
        self.process.context.run(self._compose, disk, random, agent, truth, on_early)

    def _compose(
        self,
        disk: Disk,
        random: Random,
        agent: Callable[..., Awaitable[Any]],
        truth: Truth,
        on_early: Callable[[str], None],
    ) -> None:
        self.log = MemoryLog(disk, random)
        self.readiness = Readiness()
        self.connections = Connections()
        self.watch = KeepingWatch(self.connections, random, truth, on_early)
        agents = AgentRegistry()
        agents.register(AgentSpec("planned", agent, (), ("search",)))
        emitters, factory = UserEmitterFactory(), ExecutionFactory()
        emitters.configure(log=self.log, connections=self.connections, watch=self.watch, health=self.readiness)
        factory.configure(
            settings=self.settings,
            emitters=emitters,
            agents=agents,
            watch=self.watch,
            metrics=METRICS,
            health=self.readiness,
            threads=THREADS,
        )
        self.engine = ExecutionEngine(factory, runs_max=100, runs_per_user_max=self.settings.runs_per_user_max)
        self.runs = RunService(
            self.settings, self.log, self.engine, agents, self.connections, self.watch, self.readiness
        )
        self.gateway = SocketGateway(
            self.settings,
            _Authenticator(),
            self.runs,
            self.log,
            self.connections,
            agents.names,
            self.readiness,
            _Telemetry(),
        )
        self.gateway.sessions = _InOrder()
        self.keeper = SocketKeeper(self.gateway)

    async def start(self) -> None:
        """Recover, then listen, in the order of `main.py`. To be awaited in the server's own process."""
        self.watch.start(self.log.store_stamps, self.log.store_incidents)
        await close_lost_runs(self.log, METRICS)
        await adopt_incidents(self.log, self.watch)
        self.keeper.start()
        self.listening = True

    def counts(self) -> list[int]:
        """Events that crossed each link in this life, as the metrics have them."""
        return [sum(now) - sum(before) for now, before in zip(METRICS.events, self.counted[0], strict=True)]

    def fill_disk(self, disk: Disk) -> None:
        """The log takes nothing: what the health check of `main.py` does then."""
        disk.full = True
        self.readiness.failed("event log", "the disk is full")
        self.engine.stop_all(Outcome.LOG_UNAVAILABLE, "the event log takes nothing")
        for session in list(self.gateway.sessions):
            session.unavailable()

    def free_disk(self, disk: Disk) -> None:
        """It takes writes again."""
        disk.full = False
        self.readiness.passed("event log")
