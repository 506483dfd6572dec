"""What became of each run, as each tells it: client, wire, log, trace, incidents, alerts."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from mutants.proxy import Crossing
from mutants.rows import Mutant
from mutants.told import Labels
from support.wire import Frame
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedTrace


class Story(Struct):
    """What became of one user's run, from everybody's point of view."""

    user_id: str
    mutant: Mutant | None
    mark: str
    run_id: str
    crossing: Crossing
    processed: list[Frame]
    client_error: str
    settled: bool
    durable: list[Frame] = []
    acked_seq: int = 0
    trace: RecordedTrace = RecordedTrace(())
    incidents: list[dict[str, Any]] = []
    told: set[Labels] = set()
    done: bool = False
    named: str = ""


class Evening(Struct):
    """Everything that came of the matrix. `counters` are the server's at the end, by name and labels' values."""

    stories: list[Story]
    controls: list[Story]
    crossings: dict[str, Crossing]
    counters: dict[tuple[str, ...], float]
    problems: list[dict[str, Any]]
    monitored: bool
    seconds: float


def traces_of(receiver: OtlpReceiver, runs: Iterable[str]) -> dict[str, RecordedTrace]:
    """What was received of each run: of every trace that holds a span of it, but for replays after its end."""
    by_trace: dict[str, list[Any]] = {}
    of_runs: dict[str, set[str]] = {run_id: set() for run_id in runs}
    for span in receiver.spans:
        by_trace.setdefault(span.trace_id, []).append(span)
        run_id = span.attributes.get("tracewire.run.id")
        if run_id in of_runs:
            of_runs[run_id].add(span.trace_id)
    return {
        run_id: RecordedTrace(
            span
            for trace_id in sorted(trace_ids)
            if not any(one.name == "send replay" and not one.parent_id for one in by_trace[trace_id])
            for span in by_trace[trace_id]
        )
        for run_id, trace_ids in of_runs.items()
    }
