"""The composition root: builds the whole chain once, in the order in which its parts need each other, and takes it
down in the other.

A start that cannot succeed names every failed dependency at once. `ready` is said when the last step holds.
"""

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import IO, Any, Final

import structlog

from tracewire.agents.analyst import REQUIRED_TYPES, TOOL_NAMES, build_analyst
from tracewire.agents.drill import drill_agents
from tracewire.canary import Canaries
from tracewire.delivery.connections import Connections
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.drills import Drills
from tracewire.engine.agent import AgentRegistry, AgentSpec, load_agent
from tracewire.engine.drilled_engine import execution_factory
from tracewire.engine.execution_engine import ExecutionEngine
from tracewire.engine.loop_watchdog import LoopWatchdog
from tracewire.errors import EventLogError, StartupError
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.gateway.closing import SocketKeeper, drain_sockets
from tracewire.gateway.drills import drill_routes
from tracewire.gateway.http_edge import HttpBounds
from tracewire.gateway.incidents import all_incidents
from tracewire.gateway.methods import EveryMethod
from tracewire.gateway.ops import ops_app
from tracewire.gateway.public import public_app
from tracewire.gateway.revoking import Revoker
from tracewire.gateway.runs import HttpRuns
from tracewire.gateway.sign_in import SignIn
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire.holding import hold_folder, hold_ports
from tracewire.observing import telemetry_options
from tracewire.readiness import Readiness
from tracewire.runs.incidents import adopt_incidents
from tracewire.runs.recordings import RecordingStore
from tracewire.runs.recovered_traces import RecoveredTraces
from tracewire.runs.recovery import close_lost_runs
from tracewire.runs.retention import Retention
from tracewire.runs.service import RunService
from tracewire.serving import AppServer, ended, url_of
from tracewire.settings import Settings
from tracewire_telemetry import catalog
from tracewire_telemetry.export import TraceExporter, exporter_from_environment
from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.sdk import Telemetry
from tracewire_telemetry.vocabulary import Outcome

VERSION: Final = version("tracewire")
HEALTH_SECONDS: Final = 1.0
FILE_THREADS: Final = 2
RETRY_AFTER_DRAIN_SECONDS: Final = 2.0
DRAIN_ACKS_SECONDS: Final = 1.0
"""How long the acks of the last events are waited for before the sockets are closed."""
UNTRACED_PATHS: Final = "/ws$,/live$,/ready$"
_STEPS: Final = ("settings", "event log", "agents", "factories", "sockets")
_log = structlog.get_logger("tracewire.main")


class Server:
    """One Tracewire server: every station, both ports. `start`, then `stop`; a stopped one is not started again.

    Args:
        settings: checked settings (`load_settings`).
        agents: further agents, beside those that the settings name.
        exporter: takes the traces; without it, what the standard `OTEL_*` variables in `environ` say.
        environ: where those variables are looked up; the process's environment by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agents: Iterable[AgentSpec] = (),
        exporter: TraceExporter | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.readiness = Readiness(_STEPS)
        self.connections = Connections()
        self.emitters = UserEmitterFactory()
        self.drills = Drills() if settings.drills else None
        self.factory = execution_factory(self.drills)
        self.agents = AgentRegistry()
        self.log: SqliteEventLog
        self.telemetry: Telemetry
        self.engine: ExecutionEngine
        self.runs: RunService
        self.gateway: SocketGateway
        self._sign_in = SignIn(settings)
        self._extra_agents = tuple(agents)
        self._exporter = exporter
        self._environ = os.environ if environ is None else environ
        self._lock: IO[str] | None = None
        self._sockets: list[socket.socket] = []
        self._servers: list[tuple[AppServer, asyncio.Task[None]]] = []
        self._closers: list[Callable[[], Any]] = []
        self._health_task: asyncio.Task[None] | None = None
        self._lost_at_start = 0

    # Start.

    async def start(self) -> None:
        """Bring everything up, in order; both ports answer when this returns.

        Raises:
            StartupError: names every dependency that failed. Nothing is left behind.
        """
        try:
            await self._acquire()
            await self._compose()
            self._lost_at_start = await close_lost_runs(self.log, self.telemetry.metrics)
            await adopt_incidents(self.log, self.telemetry.watch)
            recovered_traces = RecoveredTraces(self.log, self.telemetry.recovery)
            self._closers.append(recovered_traces.close)
            await recovered_traces.start()
            await self._listen()
        except EventLogError as error:
            await self._release()
            raise StartupError([f"event log in {self.settings.data_dir}: {error}"]) from error
        except BaseException:
            await self._release()
            raise
        for step in _STEPS:
            self.readiness.passed(step)
        _log.info("ready", url=self.url, ops_url=self.ops_url, version=VERSION, data_dir=self.settings.data_dir)
        self.canaries.start(self.ws_url)

    async def _acquire(self) -> None:
        """Everything that can fail for reasons outside the program, all of it tried, every failure named."""
        failures: list[str] = []
        failures += self._acquire_agents()
        failures += self._acquire_exporter()
        self._sockets, port_failures = hold_ports(self.settings)
        failures += port_failures
        folder_failures: Sequence[str] = ()
        try:
            self._lock = hold_folder(self.settings.data_path)
        except StartupError as error:
            folder_failures = error.failures
        failures += folder_failures
        self._closers.append(self._sign_in.close)
        failures += await self._sign_in.open(folder_usable=not folder_failures)
        if not folder_failures:
            failures += await self._acquire_log()
        if failures:
            raise StartupError(failures)

    def _acquire_agents(self) -> list[str]:
        failures: list[str] = []
        specs: list[AgentSpec] = []
        for reference in self.settings.agents:
            try:
                specs.append(load_agent(reference))
            except StartupError as error:
                failures += error.failures
        # The analyst is the default; it comes first, and is built when the log is there.
        self._loaded = [*specs, *self._extra_agents, *drill_agents(allowed=self.drills is not None)]
        names = Counter(["analyst", *(spec.name for spec in self._loaded)])
        failures += [
            f"agent {name!r}: there are two of that name; give one another with @agent"
            for name, count in names.items()
            if count > 1
        ]
        return failures

    def _acquire_exporter(self) -> list[str]:
        if self._exporter is not None:
            return []
        try:
            self._exporter = exporter_from_environment(self._environ)
        except ValueError as error:
            return [str(error)]
        return []

    async def _acquire_log(self) -> list[str]:
        self.log = SqliteEventLog(
            self.settings.data_path,
            commit_retry_seconds=self.settings.commit_retry_seconds,
            observe_commit=lambda seconds: self.telemetry.metrics.committed(seconds),
        )
        try:
            await self.log.open()
        except EventLogError as error:
            return [f"event log in {self.settings.data_dir}: {error}"]
        self._closers.append(self.log.close)
        return []

    async def _compose(self) -> None:
        """Build the stations, each from those behind it."""
        settings = self.settings
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, "tracewire-files")
        self._agent_threads = ThreadPoolExecutor(settings.agent_threads_max, "tracewire-agent")
        self.recordings = RecordingStore(
            settings.data_path, bytes_max=settings.recording_bytes_max, per_user_max=settings.recordings_per_user_max
        )
        analyst = build_analyst(self.log, self.recordings)
        self.agents.register(
            AgentSpec(
                "analyst",
                analyst,
                tuple(REQUIRED_TYPES),
                tuple(TOOL_NAMES),
                description="Finds what is missing in recordings of agent sockets, and in your own runs",
            )
        )
        for spec in self._loaded:
            self.agents.register(spec)
        self.telemetry = Telemetry(
            telemetry_options(settings, VERSION), self._exporter, agents=self.agents.names, tools=self.agents.tools
        )
        metrics, watch = self.telemetry.metrics, self.telemetry.watch
        self._closers.append(self.telemetry.close)
        watch.start(self.log.store_stamps, self.log.store_incidents)
        self.emitters.configure(log=self.log, connections=self.connections, watch=watch, health=self.readiness)
        self.factory.configure(
            settings=settings,
            emitters=self.emitters,
            agents=self.agents,
            watch=watch,
            metrics=metrics,
            health=self.readiness,
            threads=self._agent_threads,
        )
        self.engine = ExecutionEngine(
            self.factory, runs_max=settings.runs_max, runs_per_user_max=settings.runs_per_user_max
        )
        self.runs = RunService(settings, self.log, self.engine, self.agents, self.connections, watch, self.readiness)
        self.gateway = SocketGateway(
            settings,
            self._sign_in.authenticator,
            self.runs,
            self.log,
            self.connections,
            self.agents.names,
            self.readiness,
            self.telemetry,
        )
        self._closers.append(self.runs.close)
        self._retention = Retention(
            settings, self.log, self.recordings, metrics, watched=watch.runs.__contains__, threads=self._file_threads
        )
        self._closers.append(self._retention.stop)
        self._keeper = SocketKeeper(self.gateway)
        self._watchdog = LoopWatchdog(limit_seconds=settings.loop_blocked_seconds)
        self._http_runs = HttpRuns(self._sign_in.authenticator, self.runs, self.log, self.agents)
        self.canaries = Canaries(settings, self._sign_in.authenticator, self.telemetry)
        self._publish_gauges()

    async def _listen(self) -> None:
        """Ops first, so that a start that hangs can be looked at."""
        settings = self.settings
        revoker = Revoker(self._sign_in.revocations, self.gateway, self._file_threads)
        ops = ops_app(
            self._http_runs, self.telemetry.metrics, self.readiness, revoker,
            token=settings.ops_token, further=[all_incidents, *drill_routes(self.drills, settings, self.ws_url)],
        )  # fmt: skip
        public = self.telemetry.instrument(
            EveryMethod(
                public_app(self.gateway, self._http_runs, self.recordings, self._file_threads, version=VERSION)
            ),
            excluded_paths=UNTRACED_PATHS,
        )
        public_socket, ops_socket = self._sockets
        bounds = HttpBounds(settings.request_head_seconds, settings.request_seconds, self.telemetry.metrics.rejected)
        for app, bound in ((ops, ops_socket), (public, public_socket)):
            server = AppServer(
                app,
                bounds=bounds,
                frame_bytes_max=settings.frame_bytes_max,
                heartbeat_seconds=settings.heartbeat_seconds,
                stop_seconds=1,
            )
            task = asyncio.create_task(server.serve(sockets=[bound]))
            self._servers.append((server, task))
            while not server.started:
                await asyncio.sleep(0)
                if task.done():
                    task.result()
        self._keeper.start()
        self._watchdog.start()
        self._retention.start()
        self._health_task = asyncio.create_task(self._watch_health())

    def _publish_gauges(self) -> None:
        metrics, log, connections = self.telemetry.metrics, self.log, self.connections
        deadline_ns = int(self.settings.client_deadline_seconds * NS_PER_SECOND)
        metrics.gauge(catalog.CONNECTIONS, lambda: connections.count)
        metrics.gauge(catalog.OUTBOX_BYTES, lambda: connections.outbox_bytes)
        metrics.gauge(catalog.UNACKNOWLEDGING, lambda: connections.unacknowledging(deadline_ns))
        metrics.gauge(catalog.EVENTLOG_OLDEST_UNCOMMITTED, lambda: log.oldest_uncommitted_seconds)
        metrics.gauge(catalog.EVENTLOG_BYTES, lambda: log.bytes_on_disk)
        metrics.gauge(catalog.RUNS_LOST_AT_START, lambda: self._lost_at_start)
        metrics.gauge(catalog.READY, lambda: float(self.readiness.ready))

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            why = await self.log.health()
            if why is None:
                if "event log" in self.readiness.reasons:
                    _log.info("event_log_back")
                self.readiness.passed("event log")
            else:
                self._log_failed(why)

    def _log_failed(self, why: str) -> None:
        """Durable before delivered, with a dead log, would leave every client waiting on a healthy socket."""
        if "event log" not in self.readiness.reasons:
            _log.error("event_log_failed", why=why, open_runs=self.engine.open_count)
        self.readiness.failed("event log", why)
        self.engine.stop_all(Outcome.LOG_UNAVAILABLE, f"the event log failed: {why}")
        for session in list(self.gateway.sessions):
            session.unavailable()

    # What is up.

    @property
    def url(self) -> str:
        """The public port, as a base URL."""
        return url_of(self.settings.host, self._sockets[0])

    @property
    def ws_url(self) -> str:
        """The socket's endpoint."""
        return f"ws{self.url.removeprefix('http')}/ws"

    @property
    def ops_url(self) -> str:
        """The ops port, as a base URL."""
        return url_of(self.settings.ops_host, self._sockets[1])

    # Stop.

    async def stop(self) -> None:
        """Take everything down without cutting anything off: runs get their grace period, sockets their last frame."""
        if self.readiness.draining:
            return
        self.readiness.drain()
        _log.info("draining", open_runs=self.engine.open_count, sockets=len(self.gateway.sessions))
        await self.canaries.stop()
        for session in list(self.gateway.sessions):
            session.drain(RETRY_AFTER_DRAIN_SECONDS)
        await self.engine.drain(self.settings.drain_grace_seconds)
        await self.telemetry.watch.wait_for_acks(DRAIN_ACKS_SECONDS)
        await drain_sockets(self.gateway.sessions, retry_after_seconds=RETRY_AFTER_DRAIN_SECONDS)
        await self._release()
        _log.info("stopped")

    async def _release(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.gather(self._health_task, return_exceptions=True)
            await self._keeper.stop()
            self._watchdog.stop()
        # The public port first; the ops port last, so that what goes on in between can be looked at.
        for server, task in reversed(self._servers[1:]):
            await ended(server, task)
        while self._closers:
            await self._closers.pop()()
        for server, task in self._servers[:1]:
            await ended(server, task)
        for bound in self._sockets:
            bound.close()
        for name in ("_file_threads", "_agent_threads"):
            threads = getattr(self, name, None)
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
        if self._lock is not None:
            self._lock.close()


@contextlib.asynccontextmanager
async def running(settings: Settings, **arguments: Any) -> AsyncIterator[Server]:
    """A started `Server`, stopped on the way out: for embedding, and for tests."""
    server = Server(settings, **arguments)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
