"""Runs that are settled: many that end at once do not wait for a commit each, and none leaves anything behind."""

import asyncio
import time

import pytest
from opentelemetry.sdk.resources import Resource

from tracewire_telemetry import watch as watch_module
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import EventType, Outcome
from tracewire_telemetry.watch import Watch
from unit.ledgers import MS, OPENED_UNIX_NS, identity_of, ns

WAIT_SECONDS = 10.0
RUNS = 20


def watch_of(metrics: Metrics) -> Watch:
    """A watch that exports nothing."""
    tracing = RunTracing(Resource({}), version="1", share=1.0, recording=False, dropped=metrics.spans_dropped)
    return Watch(metrics, tracing, None, deadlines=LinkDeadlines())


async def keep(run_id: str, stamps: bytes) -> None:
    """What the log does with stamps, for nothing."""


async def test_the_stamps_of_runs_that_end_at_once_are_on_their_way_to_the_log_together() -> None:
    """A log that answers none before it has all would wait for ever, were they stored one after the other."""
    watch = watch_of(Metrics(version="1", agents=["five"]))
    storing: set[str] = set()
    all_storing = asyncio.Event()

    async def store(run_id: str, stamps: bytes) -> None:
        storing.add(run_id)
        if len(storing) == RUNS:
            all_storing.set()
        await all_storing.wait()

    watch.start(store)
    names = {f"run-{number}" for number in range(RUNS)}
    for number, name in enumerate(sorted(names), start=1):
        run = watch.open(identity_of(name, trace_id=number), (), now=ns(0), unix_ns=OPENED_UNIX_NS)
        run.ended(Outcome.CANCELLED)
    try:
        await asyncio.wait_for(watch.settling.idle.wait(), WAIT_SECONDS)
    finally:
        all_storing.set()
        await asyncio.wait_for(watch.close(), WAIT_SECONDS)
    assert (names, {}) == (storing, watch.settling.runs)


async def test_settled_runs_are_forgotten_however_long_their_agents_might_have_been_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many runs with a deadline of an hour hardly a look is kept, and the one that is open is still looked at."""
    monkeypatch.setattr(watch_module, "STALE_LOOKS_MAX", 50)
    metrics = Metrics(version="1", agents=["five"])
    watch = watch_of(metrics)
    watch.start(keep)
    now = time.monotonic_ns()  # the watch ticks by it, too
    patient = EngineDeadlines(3_600, 3_600, 3_600)
    left = watch.open(identity_of("left", trace_id=1), (), now=now, unix_ns=OPENED_UNIX_NS, engine=patient)
    try:
        for number in range(2, 100):
            identity = identity_of(f"run-{number}", trace_id=number)
            watch.open(identity, (), now=now, unix_ns=OPENED_UNIX_NS, engine=patient).ended(Outcome.CANCELLED)
        await asyncio.wait_for(watch.settling.idle.wait(), WAIT_SECONDS)
        left.ledger.sequenced(left.ledger.emitted(EventType.AGENT_STARTED, now), now)
        watch.tick(now + 1)
        assert len(watch._heap) <= 2
        watch.tick(now + 2_500 * MS)
        labels = {"event_type": "agent_started", "link": "emitter"}
        assert 1 == metrics.registry.get_sample_value("tracewire_events_missing_total", labels)
    finally:
        watch.runs.pop("left")
        await asyncio.wait_for(watch.close(), WAIT_SECONDS)
