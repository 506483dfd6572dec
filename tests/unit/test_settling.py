"""Runs that are settled: many that end at once do not wait for a commit each."""

import asyncio

from opentelemetry.sdk.resources import Resource

from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import Outcome
from tracewire_telemetry.watch import Watch
from unit.ledgers import OPENED_UNIX_NS, identity_of, ns

WAIT_SECONDS = 10.0
RUNS = 20


async def test_the_stamps_of_runs_that_end_at_once_are_on_their_way_to_the_log_together() -> None:
    """A log that answers none before it has all would wait for ever, were they stored one after the other."""
    metrics = Metrics(version="1", agents=["five"])
    tracing = RunTracing(Resource({}), version="1", share=1.0, recording=False, dropped=metrics.spans_dropped)
    watch = Watch(metrics, tracing, None, deadlines=LinkDeadlines())
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
