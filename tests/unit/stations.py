"""The stations of one run of Ada's, wired as the factory wires them, over a log in memory and in virtual time.

A scenario waits for nothing: where nothing is ready the clock jumps, and what can never happen any more is an error at
once.
"""

import asyncio
import functools
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from random import Random
from typing import Any, Final

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from simulation.memory_log import Disk, MemoryLog, StoredRun
from simulation.virtual_loop import EPOCH_NS, VirtualLoop
from tracewire.delivery.connections import Connections
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.engine.agent import AgentRegistry, Deadlines, spec_of
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import RunResult
from tracewire.eventlog import RunRecord, Turn
from tracewire.events import Event
from tracewire.readiness import Readiness
from tracewire.settings import Settings
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import EventType
from tracewire_telemetry.watch import Watch
from unit.ledgers import identity_of
from unit.sockets import Socket

IDS: Final = UserExecutionContext("ada", "run", "thread", "request")
TOOL_SECONDS: Final = 7.0
RUN_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 2.0
SECONDS_MAX: Final = 100_000.0
THREADS: Final = ThreadPoolExecutor(1, "of-the-stations")


def in_virtual_time(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The scenario as a test of which no step takes real time; nothing of it may fail unseen."""

    @functools.wraps(scenario)
    def test(*args: Any, **kwargs: Any) -> None:
        loop = VirtualLoop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic_ns", lambda: loop.now_ns)
            patch.setattr(time, "time_ns", lambda: EPOCH_NS + loop.now_ns)
            loop.run(scenario(*args, **kwargs), seconds_max=SECONDS_MAX)
        assert [] == loop.failures

    return test


async def after(seconds: float) -> None:
    """So much virtual time has passed."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "real time is nothing that a test waits for"
    passed: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, lambda: passed.done() or passed.set_result(None))
    await passed


async def idle(_: Any) -> None:
    """An agent for tests that need none."""


class Stations:
    """Engine, bridge and emitter of one accepted run; `sockets` of Ada's follow it."""

    def __init__(
        self,
        function: Callable[[Any], Any] = idle,
        *,
        sockets: int = 1,
        tool_seconds: float = TOOL_SECONDS,
        run_seconds: float = RUN_SECONDS,
        threads: Executor = THREADS,
    ) -> None:
        function.__name__ = "agent_of_the_test"
        self.spec = spec_of(function)
        self.deadlines = Deadlines(1.0, tool_seconds, run_seconds, 1_000_000.0)
        self.metrics = Metrics(version="1", agents=("agent_of_the_test",), tools=("look",))
        tracing = RunTracing(Resource({}), version="1", share=1.0, recording=True, dropped=self.metrics.spans_dropped)
        self.watch = Watch(self.metrics, tracing, None, deadlines=LinkDeadlines())
        self.run = self.watch.open(
            identity_of(agent="agent_of_the_test"), (), now=time.monotonic_ns(), unix_ns=time.time_ns()
        )
        self.ledger = self.run.ledger
        self.disk = Disk()
        self.stored = self.disk.runs["run"] = StoredRun(
            RunRecord("run", "ada", "request", "thread", "agent_of_the_test", None, "0", "0", 0)
        )
        self.connections = Connections()
        self.sockets = [self.follow(number) for number in range(sockets)]
        self.factory = ExecutionFactory()
        self._wire(threads)
        self.engine = self.factory.create_user_engine(IDS)
        self.bridge = self.engine.bridge
        self.emitter = self.bridge.emitter

    def _wire(self, threads: Executor) -> None:
        emitters, agents = UserEmitterFactory(), AgentRegistry([self.spec])
        self.log = MemoryLog(self.disk, Random(1))
        health = Readiness()
        emitters.configure(log=self.log, connections=self.connections, watch=self.watch, health=health)
        self.factory.configure(
            settings=Settings(cancel_grace_seconds=GRACE_SECONDS),
            emitters=emitters,
            agents=agents,
            watch=self.watch,
            metrics=self.metrics,
            health=health,
            threads=threads,
        )

    def follow(self, number: int, user_id: str = "ada") -> Socket:
        """One more ready socket of this user's, following the run."""
        socket = Socket(user_id, connection_id=f"{user_id} {number}")
        self.connections.attach(socket.connection)
        socket.connection.follow("run", self.run)
        return socket

    # What a test does.

    def stamp(self, event_type: EventType) -> int:
        """What the engine stamps before it hands an event to the bridge."""
        return self.ledger.emitted(event_type, time.monotonic_ns())

    async def emit(self, *events: Event) -> list[EmitOutcome]:
        """Hand these to the bridge, one after the other."""
        return [await self.bridge.emit(event, self.stamp(event.type)) for event in events]

    async def run_agent(self, input_value: Any = None, history: Sequence[Turn] = ()) -> RunResult:
        """The run, from its beginning to its end."""
        return await self.engine.run(self.spec, self.deadlines, input_value, history)

    def begin(self, input_value: Any = None) -> "asyncio.Task[RunResult]":
        """The run in a task of its own."""
        return asyncio.get_running_loop().create_task(self.run_agent(input_value))

    # What came of it.

    @property
    def events(self) -> list[dict[str, Any]]:
        """The envelopes that the log holds."""
        return [json.loads(body) for body in self.stored.bodies]

    @property
    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Their types and data."""
        return [(event["type"], event["data"]) for event in self.events]

    @property
    def types(self) -> list[str]:
        """Their types."""
        return [event["type"] for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        """The data of the last one."""
        data: dict[str, Any] = self.events[-1]["data"]
        return data

    def value(self, name: str, **labels: str) -> float | None:
        """One metric."""
        return self.metrics.registry.get_sample_value(f"tracewire_{name}", labels)

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans of the run, which has ended, by name."""
        return {span.name: span for span in self.run.spans.finish()}
