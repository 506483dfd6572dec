"""Three witnesses of the same runs: what clients received, what the traces say, what the metrics counted.

Each is rebuilt into events with the links that they crossed (`runs`), and they must agree on every event at every link.
Where they do not, the one that stands alone against the other two is named. A client can say of an event that it did
not get only that it did not cross the socket: on one that the trace too calls lost before that, they agree.
"""

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
SOCKET: Final = "socket"
_TOLD_MAX: Final = 30
_WHOSE: Final = "whose"
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
    """What the three agree on: `crossings` are of events at links, `lost` events did not cross all five."""

    users: int
    runs: int
    events: int
    crossings: int
    lost: int


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
    credited = by_client + _known_to_be_lost(by_client, by_trace)
    tallies = (crossings(credited), crossings(by_trace))
    disagreements = [*_compared(credited, by_trace, tallies, counted), *_counted(by_client, tallies, counted)]
    if disagreements:
        raise DisagreementError(sorted(disagreements))
    return Agreement(
        users=len({event.user_id for event in credited}),
        runs=len({event.run_id for event in credited}),
        events=len(credited),
        crossings=counted.total(),
        lost=sum(not event.whole for event in credited),
    )


def _known_to_be_lost(by_client: Sequence[CrossedEvent], by_trace: Sequence[CrossedEvent]) -> list[CrossedEvent]:
    """What no client got and the trace itself says did not cross the socket: on that the two agree."""
    received = {(event.run_id, event.seq) for event in by_client}
    return [event for event in by_trace if SOCKET not in event.links and (event.run_id, event.seq) not in received]


def _compared(
    by_client: Sequence[CrossedEvent],
    by_trace: Sequence[CrossedEvent],
    tallies: tuple[_Counts, _Counts],
    counted: _Counts,
) -> Iterator[Disagreement]:
    """What clients and traces do not both say, event by event."""
    ours, theirs = _by_place(by_client), _by_place(by_trace)
    strangers: set[str] = set()
    for place in sorted(ours.keys() | theirs.keys()):
        received, traced = ours.get(place, []), theirs.get(place, [])
        one = (received or traced)[0]
        for link, told in _differences(received, traced):
            if link == _WHOSE:
                if one.run_id in strangers:
                    continue  # said of its first event
                strangers.add(one.run_id)
            at = LINK_NAMES[0] if link == _WHOSE else link
            key = (one.event_type, at)
            told = f"{told}; of all such events at {at} {_sums(tallies, counted, key)}"
            alone = TRACE if link == _WHOSE else _alone(key, tallies, counted)
            yield Disagreement(one.user_id, one.run_id, one.seq, one.event_type, at, alone, told)


def _differences(received: Sequence[CrossedEvent], traced: Sequence[CrossedEvent]) -> Iterator[tuple[str, str]]:
    """The links at which the two differ about one event, each with what they say."""
    if not received:
        crossed = ", ".join(traced[0].links)
        yield SOCKET, f"{CLIENT} did not receive it, {TRACE} says that it crossed {crossed}"
    elif not traced:
        yield LINK_NAMES[1], f"{CLIENT} received it, {TRACE} has no span of it"
    elif len(received) != len(traced):
        yield SOCKET, f"{CLIENT} received it {len(received)} times, {TRACE} has it {len(traced)} times"
    elif received[0].event_type != traced[0].event_type:
        yield SOCKET, f"{CLIENT} received it as {received[0].event_type}, {TRACE} has {traced[0].event_type}"
    elif received[0].user_id != traced[0].user_id:
        yield _WHOSE, f"{CLIENT} has the run as user {received[0].user_id}'s, {TRACE} as user {traced[0].user_id}'s"
    else:
        for link in LINK_NAMES:
            if (link in received[0].links) != (link in traced[0].links):
                says, denies = (CLIENT, TRACE) if link in received[0].links else (TRACE, CLIENT)
                yield link, f"{says} says that it crossed, {denies} does not"


def _counted(
    by_client: Sequence[CrossedEvent], tallies: tuple[_Counts, _Counts], counted: _Counts
) -> Iterator[Disagreement]:
    """Where clients and traces agree, and the metrics do not."""
    runs = {event.run_id: event.user_id for event in by_client}
    run_id, user_id = next(iter(runs.items())) if len(runs) == 1 else ("", "")
    for key in sorted(tallies[0].keys() | tallies[1].keys() | counted.keys(), key=_in_order):
        if tallies[0].get(key, 0) == tallies[1].get(key, 0) != counted.get(key, 0):
            told = _sums(tallies, counted, key)
            if not run_id:
                told += f"; metrics know no runs: it is one of {len(runs)}"
            yield Disagreement(user_id, run_id, 0, key[0], key[1], METRICS, told)


def _by_place(events: Iterable[CrossedEvent]) -> dict[tuple[str, int, str], list[CrossedEvent]]:
    """The events by run and seq; those that never got a seq, by their type."""
    found: dict[tuple[str, int, str], list[CrossedEvent]] = {}
    for event in events:
        found.setdefault((event.run_id, event.seq, "" if event.seq else event.event_type), []).append(event)
    return found


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


def _in_order(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], LINK_NAMES.index(key[1]) if key[1] in LINK_NAMES else len(LINK_NAMES)
