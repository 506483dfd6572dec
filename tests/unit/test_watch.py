"""The watch: what it declares at which moment of a virtual clock, and what it does with a settled run, once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from opentelemetry.sdk.resources import Resource
from structlog.testing import CapturingLogger

from tracewire_telemetry import incidents, settling
from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.stamps import decode_stamps
from tracewire_telemetry.testing.recorder import InProcessRecorder
from tracewire_telemetry.vocabulary import EventType, Outcome
from tracewire_telemetry.watch import TICK_SECONDS, OpenRun, Watch
from unit.ledgers import OPENED_UNIX_NS, identity_of, ns

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
WAIT_SECONDS = 10.0


class Watched:
    """A watch with its metrics, its exported traces, the stamps that it stored and the records that it logged."""

    def __init__(self, log: CapturingLogger, *, deadlines: LinkDeadlines | None = None) -> None:
        self.metrics = Metrics(version="1", agents=["five"])
        self.recorder = InProcessRecorder()
        self.queue = TraceQueue(self.recorder, self.metrics, bytes_max=10_000_000)
        tracing = RunTracing(Resource({}), version="1", share=1.0, recording=True, dropped=self.metrics.spans_dropped)
        self.watch = Watch(self.metrics, tracing, self.queue, deadlines=deadlines or LinkDeadlines())
        self.stored: dict[str, bytes] = {}
        self.failing = False
        self.storing = asyncio.Event()
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.log = log

    async def store(self, run_id: str, stamps: bytes) -> None:
        """What the event log does with stamps."""
        self.storing.set()
        await self.may_store.wait()
        if self.failing:
            raise OSError("disk full")
        assert run_id not in self.stored
        self.stored[run_id] = stamps

    def open(self, run_id: str = "run", *, at_ms: float = 0, required: tuple[EventType, ...] = ()) -> OpenRun:
        """Accept a run."""
        identity = identity_of(run_id, required=required, trace_id=hash(run_id) & ((1 << 64) - 1) or 1)
        return self.watch.open(identity, (), now=ns(at_ms), unix_ns=OPENED_UNIX_NS)

    def value(self, name: str, **labels: str) -> float | None:
        """One metric."""
        return self.metrics.registry.get_sample_value(f"tracewire_{name}", labels)

    def records(self, event: str) -> list[dict[str, object]]:
        """What was logged under this name."""
        return [call.kwargs for call in self.log.calls if call.kwargs["event"] == event]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """Where the watch logs to: a list."""
    capturing = CapturingLogger()
    bound = structlog.wrap_logger(capturing, processors=[lambda logger, name, event: ((), event)])
    for module in (incidents, settling):
        monkeypatch.setattr(module, "_log", bound)
    return capturing


@pytest.fixture
async def watched(log: CapturingLogger) -> AsyncIterator[Watched]:
    """A watch that settles; its clock is the test's."""
    made = Watched(log)
    made.watch.start(made.store)
    yield made
    await asyncio.wait_for(made.watch.close(), WAIT_SECONDS)
    made.queue.close(WAIT_SECONDS)


async def settled(watched: Watched) -> None:
    """Wait until every run that can be settled is."""
    await asyncio.wait_for(watched.watch.settling.idle.wait(), WAIT_SECONDS)


def durable(run: OpenRun, event_type: EventType, at_ms: float) -> int:
    """Stamp engine, bridge and emitter."""
    seq = run.ledger.sequenced(run.ledger.emitted(event_type, ns(at_ms)), ns(at_ms))
    run.ledger.committed(seq, ns(at_ms))
    return seq


async def test_an_overdue_event_is_counted_and_logged_once(watched: Watched) -> None:
    """At the tick that passes its deadline, and at no other; with user, run, trace, type, seq and link."""
    run = watched.open()
    durable(run, STARTED, 0)
    run.ledger.sequenced(run.ledger.emitted(THINKING, ns(500)), ns(500))
    labels = {"event_type": "agent_thinking", "link": "emitter"}
    seen = []
    for at_ms in (250, 1_000, 2_499, 2_500, 3_500, 60_000):
        watched.watch.tick(ns(at_ms))
        seen.append(watched.value("events_missing_total", **labels))
    assert seen == [0, 0, 0, 1, 1, 1]
    (record,) = watched.records("incident_opened")
    trace_id = f"{run.ledger.identity.trace_id:032x}"
    assert {
        "event": "incident_opened",
        "incident_id": record["incident_id"],
        "user_id": "ada",
        "run_id": "run",
        "trace_id": trace_id,
        "event_type": "agent_thinking",
        "first_seq": 2,
        "last_seq": 2,
        "count": 1,
        "link": "emitter",
        "origin": "user",
    } == record


async def test_a_deadline_is_met_at_the_first_tick_after_it_whatever_was_stamped_since_the_last_look(
    watched: Watched,
) -> None:
    """An event emitted right after a look is due a second later, not at the run's next long deadline."""
    run = watched.open()
    socket = run.ledger.attached(ns(0), acking=True)
    run.ledger.written(socket, durable(run, STARTED, 0), ns(0))
    watched.watch.tick(ns(1_000))
    run.ledger.emitted(THINKING, ns(1_001))
    watched.watch.tick(ns(2_000))
    assert watched.value("events_missing_total", event_type="agent_thinking", link="bridge") == 0
    watched.watch.tick(ns(2_251))
    assert watched.value("events_missing_total", event_type="agent_thinking", link="bridge") == 1


async def test_each_run_is_looked_at_on_its_own(watched: Watched) -> None:
    """Of 50 runs, each opened 100 ms after the other, those are overdue whose second has passed."""
    for number in range(50):
        run = watched.open(f"run-{number}", at_ms=number * 100)
        run.ledger.emitted(STARTED, ns(number * 100))
    for at_ms in range(0, 3_100, 50):
        watched.watch.tick(ns(at_ms))
    assert watched.value("events_missing_total", event_type="agent_started", link="bridge") == 21


async def test_types_that_a_completed_run_owed_are_counted_at_its_end(watched: Watched) -> None:
    """Once, at the engine; one that was emitted, and is missing further on, is not owed by the engine."""
    run = watched.open(required=(STARTED, THINKING))
    run.ledger.emitted(STARTED, ns(0))
    watched.watch.tick(ns(1_000))
    durable(run, COMPLETED, 1_500)
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    assert (
        watched.value("events_missing_total", event_type="agent_started", link="bridge"),
        watched.value("events_missing_total", event_type="agent_started", link="engine"),
        watched.value("events_missing_total", event_type="agent_thinking", link="engine"),
    ) == (1, 0, 1)
    assert len(watched.records("incident_opened")) == 2


async def test_a_settled_run_leaves_its_metrics_its_spans_and_its_stamps_once(watched: Watched) -> None:
    """And is watched no more; a later ack or detach does nothing."""
    run = watched.open()
    socket = run.attached(acking=True)
    for event_type in (STARTED, COMPLETED):
        seq = durable(run, event_type, 0)
        run.ledger.written(socket, seq, ns(0))
    run.ended(Outcome.COMPLETED)
    assert list(watched.watch.runs) == ["run"]
    run.ledger.acknowledged(socket, 2, ns(5))
    watched.watch.consider(run)
    assert watched.watch.runs == {}
    await settled(watched)
    run.acknowledged(socket, 2)
    run.detached(socket)
    await settled(watched)
    stamps = decode_stamps(watched.stored["run"])
    assert (stamps.settled, stamps.outcome, len(stamps.types)) == (True, Outcome.COMPLETED, 2)
    assert watched.queue.flush(WAIT_SECONDS)
    trace = watched.recorder.trace_of_run("run")
    assert (len(trace), trace.complete) == (9, True)
    assert (
        watched.value("events_total", link="client", event_type="agent_started"),
        watched.value("deliveries_total", event_type="agent_completed", verdict="in_time", origin="user"),
        watched.value("runs_total", agent="five", outcome="completed"),
    ) == (1, 1, 1)
    (record,) = watched.records("run_settled")
    assert tuple(record[key] for key in ("agent", "outcome", "events", "pending", "missing")) == (
        "five",
        Outcome.COMPLETED,
        2,
        0,
        0,
    )


async def test_a_settled_run_drops_no_span(watched: Watched) -> None:
    """An alert stands on this counter: a healthy run leaves it at 0 for every reason."""
    run = watched.open()
    durable(run, COMPLETED, 0)
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    dropped = [sample.value for family in watched.metrics.registry.collect() if family.name == "tracewire_spans_dropped"
               for sample in family.samples if sample.name.endswith("_total")]  # fmt: skip
    assert sum(dropped) == 0


async def test_a_run_is_settled_by_the_deadline_of_its_last_event(watched: Watched) -> None:
    """No ack comes, and no socket goes: it is missing, has 30 s to come after all, and the tick settles the run."""
    run = watched.open()
    socket = run.ledger.attached(ns(0), acking=True)
    run.ledger.written(socket, durable(run, COMPLETED, 0), ns(0))
    run.ledger.ended(Outcome.COMPLETED, ns(0))
    watched.watch.run_ended(run)
    seen = []
    for at_ms in (9_999, 10_000, 39_999, 40_000):
        watched.watch.tick(ns(at_ms))
        seen.append((len(watched.records("incident_opened")), list(watched.watch.runs)))
    assert seen == [(0, ["run"]), (1, ["run"]), (1, ["run"]), (1, [])]
    assert [record["state"] for record in watched.records("incident_ended")] == ["lost"]


async def test_a_run_is_settled_when_its_last_socket_goes(watched: Watched) -> None:
    """What it did not ack is pending, and stored so."""
    run = watched.open()
    socket = run.attached(acking=True)
    run.ledger.written(socket, durable(run, COMPLETED, 0), ns(0))
    run.ended(Outcome.COMPLETED)
    run.detached(socket)
    await settled(watched)
    assert {"run"} == set(watched.stored)
    assert watched.value("deliveries_total", event_type="agent_completed", verdict="no_socket", origin="user") == 1


async def test_a_run_is_settled_also_when_its_stamps_cannot_be_stored(watched: Watched) -> None:
    """The log may be gone: this is said, and the trace leaves all the same."""
    watched.failing = True
    run = watched.open()
    durable(run, COMPLETED, 0)
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    assert [(r["run_id"], r["error"]) for r in watched.records("stamps_not_stored")] == [("run", "disk full")]
    assert watched.queue.flush(WAIT_SECONDS)
    assert watched.recorder.trace_of_run("run").complete


async def test_closing_settles_what_can_be_settled(log: CapturingLogger) -> None:
    """Runs that ended just before have their stamps stored when `close` returns."""
    watched = Watched(log)
    watched.watch.start(watched.store)
    for number in range(5):
        run = watched.open(f"run-{number}")
        durable(run, COMPLETED, 0)
        run.ended(Outcome.CANCELLED)
    await asyncio.wait_for(watched.watch.close(), WAIT_SECONDS)
    watched.queue.close(WAIT_SECONDS)
    assert {f"run-{number}" for number in range(5)} == set(watched.stored)


async def test_the_gauges_count_open_runs_and_their_events(watched: Watched) -> None:
    """A run that ended and waits for acks has open events, and is no open run."""
    ended, running = watched.open("ended"), watched.open("running")
    ended.ledger.attached(ns(0), acking=True)
    durable(ended, COMPLETED, 0)
    ended.ended(Outcome.COMPLETED)
    durable(running, STARTED, 0)
    durable(running, THINKING, 0)
    assert (watched.watch.open_count, watched.watch.events_open) == (1, 3)


async def test_the_oldest_open_run_is_one_that_awaits_no_input(watched: Watched) -> None:
    """A user may take an hour over an answer: only the run of ten minutes counts, and none once it has ended."""
    now = time.monotonic_ns()
    waiting, running = (
        watched.watch.open(identity_of(run_id), (), now=now - minutes * 60 * 10**9, unix_ns=OPENED_UNIX_NS)
        for run_id, minutes in (("waiting", 60), ("running", 10))
    )
    waiting.awaiting_input = True
    assert 600 <= watched.watch.oldest_seconds < 700
    running.ended(Outcome.CANCELLED)
    assert watched.watch.oldest_seconds == 0.0


async def test_a_scrape_counts_the_events_of_open_runs(watched: Watched) -> None:
    """And settling them later counts nothing twice."""
    run = watched.open()
    durable(run, COMPLETED, 0)
    watched.watch.flush_open_runs()
    watched.watch.flush_open_runs()
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    assert watched.value("events_total", link="emitter", event_type="agent_completed") == 1


async def test_the_stored_stamps_are_json(watched: Watched) -> None:
    """For whoever opens the log by hand."""
    run = watched.open()
    durable(run, COMPLETED, 0)
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    assert json.loads(watched.stored["run"])["run_id"] == "run"


async def test_a_trace_leaves_after_the_stamps_are_stored(watched: Watched) -> None:
    """A crash between the two finds the stamps, and does not export the run again; the ledger answers meanwhile."""
    watched.may_store.clear()
    run = watched.open()
    durable(run, COMPLETED, 0)
    run.ended(Outcome.COMPLETED)
    async with asyncio.timeout(WAIT_SECONDS):
        await watched.storing.wait()
    assert watched.queue.flush(WAIT_SECONDS)
    assert [] == watched.recorder.spans
    assert ({}, {"run": run}) == (watched.watch.runs, watched.watch.settling.runs)
    watched.may_store.set()
    await settled(watched)
    assert watched.queue.flush(WAIT_SECONDS)
    assert watched.recorder.trace_of_run("run").complete
    assert {} == watched.watch.settling.runs


async def test_a_run_that_owes_its_end_is_settled_when_the_log_has_it(watched: Watched) -> None:
    """Its trace holds the terminal event that came into the log past the run's stations, and ends no sooner."""
    run = watched.open()
    durable(run, STARTED, 0)
    run.ended(Outcome.LOG_UNAVAILABLE, durable=False)
    assert {"run": run} == watched.watch.runs
    run.logged_past_stations(2, [EventType.AGENT_ERROR])
    run.ended_past_stations(Outcome.LOG_UNAVAILABLE)
    await settled(watched)
    assert watched.queue.flush(WAIT_SECONDS)
    trace = watched.recorder.trace_of_run("run")
    assert trace.complete
    assert ["create agent_started", "create agent_error"] == [s.name for s in trace if s.name.startswith("create")]
    assert max(span.end_ns for span in trace) == trace.root.end_ns


async def test_a_link_with_a_shorter_deadline_than_the_one_before_it_is_watched_as_closely(
    log: CapturingLogger,
) -> None:
    """The log is given a tenth of the bridge's time: whatever is stamped between two looks is due at the next."""
    watched = Watched(log, deadlines=LinkDeadlines(bridge_seconds=1, emitter_seconds=0.1))
    watched.watch.start(watched.store)
    run = watched.open()
    ordinal = run.ledger.emitted(STARTED, ns(0))
    watched.watch.tick(ns(100))
    run.ledger.sequenced(ordinal, ns(150))
    watched.watch.tick(ns(250))
    assert [record["link"] for record in watched.records("incident_opened")] == ["emitter"]
    await asyncio.wait_for(watched.watch.close(), WAIT_SECONDS)
    watched.queue.close(WAIT_SECONDS)


async def test_a_stall_in_the_turn_after_a_tick_is_nobodys_fault(log: CapturingLogger) -> None:
    """The watch gives the loop its turn between two looks: what blocks there makes nothing late either."""
    watched = Watched(log, deadlines=LinkDeadlines(bridge_seconds=0.5))
    watch, loop = watched.watch, asyncio.get_running_loop()
    run = watch.open(identity_of(), (), now=time.monotonic_ns(), unix_ns=time.time_ns())
    tick, sequenced = watch.tick, loop.create_future()

    def sequence(ordinal: int) -> None:
        sequenced.set_result(run.ledger.sequenced(ordinal, time.monotonic_ns()))

    def block() -> None:
        ordinal = run.ledger.emitted(STARTED, time.monotonic_ns())
        began = time.monotonic()
        while time.monotonic() - began < 0.6:
            pass
        loop.call_later(TICK_SECONDS + 0.02, sequence, ordinal)

    def tick_and_be_blocked(now: int, **limits: int) -> bool:
        watch.tick = tick  # type: ignore[method-assign] # once
        loop.call_soon(block)
        return tick(now, **limits)

    watch.tick = tick_and_be_blocked  # type: ignore[method-assign] # what shares the loop comes next
    watch.start(watched.store)
    await sequenced
    await watch.close()
    assert watched.records("incident_opened") == []
