"""Three witnesses of the same runs: what clients received, what the traces say, what the metrics counted.

Each is rebuilt into events with the links that they crossed (`runs`), and they must agree on every event at every link.
Where they do not, the one that stands alone against the other two is named.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from tracewire_telemetry.testing.runs import (
    LINK_NAMES,
    ClientRecord,
    CrossedEvent,
    crossings,
    events_counted,
    events_received,
    events_traced,
)
from tracewire_telemetry.testing.spans import RecordedSpan

CLIENT: Final = "the client"
TRACE: Final = "the trace"
METRICS: Final = "the metrics"
_TOLD_MAX: Final = 30
_Counts = Mapping[tuple[str, str], int]


class Disagreement(Struct, frozen=True, order=True):
    """One thing on which the witnesses differ.

    `user_id`, `run_id` and `seq` are empty and 0 where only the metrics differ, which know neither user nor run.
    `witness` is the one that stands alone; empty where that cannot be told.
    """

    user_id: str
    run_id: str
    seq: int
    event_type: str
    link: str
    witness: str
    message: str

    def __str__(self) -> str:
        whose = f"user {self.user_id}, run {self.run_id}, event {self.seq or '(no seq)'} " if self.run_id else ""
        alone = f"{self.witness} differs: " if self.witness else ""
        return f"{whose}{self.event_type} at {self.link}: {alone}{self.message}"


class Agreement(Struct, frozen=True):
    """What the three agree on. `crossings` counts events at links."""

    users: int
    runs: int
    events: int
    crossings: int


class DisagreementError(AssertionError):
    """The witnesses do not agree; `disagreements` says on what."""

    def __init__(self, disagreements: Sequence[Disagreement]) -> None:
        self.disagreements = tuple(disagreements)
        more = len(disagreements) - _TOLD_MAX
        told = [str(found) for found in disagreements[:_TOLD_MAX]] + ([f"… and {more} more"] if more > 0 else [])
        super().__init__("\n  ".join([f"the witnesses disagree on {len(disagreements)} points", *told]))


def assert_witnesses_agree(
    clients: Iterable[ClientRecord],
    traces: Iterable[Iterable[RecordedSpan]],
    *,
    metrics_before: str,
    metrics_after: str,
) -> Agreement:
    """Clients, traces and metrics tell of exactly the same events, each at exactly the same links.

    Args:
        clients: one record for each run, by what its client received and acked.
        traces: the runs' traces.
        metrics_before: a scrape of `/metrics` before the first run was started.
        metrics_after: one after the last was settled. No other run may be open in between.

    Raises:
        DisagreementError: they do not; names user, run, event, link, and the witness that differs.
        AssertionError: a witness has nothing to say: an agreement on nothing would always hold.
    """
    __tracebackhide__ = True
    by_client = [event for record in clients for event in events_received(record)]
    by_trace = [event for trace in traces for event in events_traced(trace)]
    counted = events_counted(metrics_before, metrics_after)
    for witness, found in ((CLIENT, by_client), (TRACE, by_trace), (METRICS, counted)):
        if not found:
            raise AssertionError(f"{witness} tells of no event: an agreement on nothing would always hold")
    disagreements = [*_compared(by_client, by_trace, counted), *_counted(by_client, by_trace, counted)]
    if disagreements:
        raise DisagreementError(sorted(disagreements))
    return Agreement(
        users=len({event.user_id for event in by_client}),
        runs=len({event.run_id for event in by_client}),
        events=len(by_client),
        crossings=counted.total(),
    )


def _compared(
    by_client: Sequence[CrossedEvent], by_trace: Sequence[CrossedEvent], counted: _Counts
) -> Iterator[Disagreement]:
    """What clients and traces do not both say, event by event."""
    tallies = (crossings(by_client), crossings(by_trace))
    ours, theirs = Counter(_points(by_client)), Counter(_points(by_trace))
    owners = {event.run_id: event.user_id for event in by_trace}
    for user_id, run_id, seq, event_type, link in sorted((ours - theirs) | (theirs - ours)):
        point = (user_id, run_id, seq, event_type, link)
        received, traced = ours[point], theirs[point]
        told = f"{CLIENT} tells of it {_times(received)}, {TRACE} {_times(traced)}"
        if run_id in owners and owners[run_id] != user_id and not traced:
            told += f", which has the run as user {owners[run_id]}'s"
        alone = _alone((event_type, link), tallies, counted)
        told += f"; of all such events at {link} {_sums(tallies, counted, (event_type, link))}"
        yield Disagreement(user_id, run_id, seq, event_type, link, alone, told)


def _counted(
    by_client: Sequence[CrossedEvent], by_trace: Sequence[CrossedEvent], counted: _Counts
) -> Iterator[Disagreement]:
    """Where clients and traces agree, and the metrics do not."""
    tallies = (crossings(by_client), crossings(by_trace))
    runs = {event.run_id: event.user_id for event in by_client}
    only = next(iter(runs.items())) if len(runs) == 1 else None
    for key in sorted(tallies[0].keys() | tallies[1].keys() | counted.keys(), key=_in_order):
        if tallies[0][key] == tallies[1][key] != counted.get(key, 0):
            told = f"{_sums(tallies, counted, key)}; metrics know no runs: it is one of {len(runs)}"
            if only is not None:
                told = _sums(tallies, counted, key)
            run_id, user_id = only or ("", "")
            yield Disagreement(user_id, run_id, 0, key[0], key[1], METRICS, told)


def _points(events: Iterable[CrossedEvent]) -> Iterator[tuple[str, str, int, str, str]]:
    for event in events:
        for link in event.links:
            yield event.user_id, event.run_id, event.seq, event.event_type, link


def _alone(key: tuple[str, str], tallies: tuple[_Counts, _Counts], counted: _Counts) -> str:
    """Which witness stands alone, by what each counts of such events at this link."""
    received, traced, metered = tallies[0].get(key, 0), tallies[1].get(key, 0), counted.get(key, 0)
    if metered == traced != received:
        return CLIENT
    if metered == received != traced:
        return TRACE
    return ""


def _sums(tallies: tuple[_Counts, _Counts], counted: _Counts, key: tuple[str, str]) -> str:
    received, traced, metered = tallies[0].get(key, 0), tallies[1].get(key, 0), counted.get(key, 0)
    return f"clients received {received}, traces have {traced}, metrics counted {metered}"


def _times(count: int) -> str:
    return {0: "not at all", 1: "once"}.get(count, f"{count} times")


def _in_order(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], LINK_NAMES.index(key[1]) if key[1] in LINK_NAMES else len(LINK_NAMES)
