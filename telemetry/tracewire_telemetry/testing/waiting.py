"""Why a run's trace is not whole: what it says itself, and what the run's ledger says."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.vocabulary import LINKS, TERMINAL_TYPES

OPERATIONS: Final = {"create": "bridge", "process": "emitter", "send": "socket", "settle": "client"}
"""The link that each operation of the chain's spans shows."""
_TOLD_MAX: Final = 20


def whats_missing(trace: RecordedTrace, ledger: Mapping[str, Any] | None) -> list[str]:
    """Lines that say what of a run's trace is here, which links of which event are not, and who has not acked."""
    said = [_spans_here(trace), *_events_here(trace)]
    if ledger is not None:
        said += _by_ledger(ledger)
    elif not len(trace):
        said.append(
            "a trace leaves when its run is settled: is the run ended, and did its client ack every event up to the "
            "last? Pass `ledger=` to be told"
        )
    return said[:_TOLD_MAX]


def _spans_here(trace: RecordedTrace) -> str:
    if not len(trace):
        return "no span of it was recorded"
    names = Counter(span.name for span in trace)
    here = f"{len(trace)} spans are here: {', '.join(sorted(names))}"
    roots = [span for span in trace if not span.parent_id]
    if not roots:
        return f"its root is missing; {here}"
    if len(roots) > 1:
        return f"it has {len(roots)} roots; {here}"
    counted = roots[0].attributes.get("tracewire.trace.span_count")
    return f"its root counts {counted} spans; {here}"


def _events_here(trace: RecordedTrace) -> Iterator[str]:
    """Each event of which a link's span is not here although spans of other links are."""
    links: defaultdict[int, set[str]] = defaultdict(set)
    types: dict[int, str] = {}
    for span in trace:
        seq = span.attributes.get("tracewire.event.seq")
        operation = span.name.partition(" ")[0]
        if seq and operation in OPERATIONS:
            links[seq].add(OPERATIONS[operation])
            types[seq] = str(span.attributes.get("tracewire.event.type"))
    for seq in sorted(links):
        absent = [link for link in OPERATIONS.values() if link not in links[seq]]
        if absent:
            yield f"event {seq} {types[seq]}: no span of {', '.join(absent)}"
    if links:
        gaps = sorted(set(range(1, max(links))) - links.keys() - _within_bursts(trace))
        yield from (f"event {seq}: no span at all" for seq in gaps)


def _within_bursts(trace: RecordedTrace) -> set[int]:
    def burst(span: RecordedSpan) -> range:
        first, last = (span.attributes.get(f"tracewire.event.{end}_seq", 0) for end in ("first", "last"))
        return range(first, last + 1)

    return {seq for span in trace for seq in burst(span)}


def _by_ledger(ledger: Mapping[str, Any]) -> Iterator[str]:
    """What the server's ledger of the run says it still waits for."""
    user, events = ledger["user_id"], ledger["events"]
    followers = ledger.get("sockets", 0)
    outcome = ledger["outcome"]
    state = f"ended as {outcome}" if outcome else "is still open: no terminal event was emitted"
    yield f"the run of user {user}, agent {ledger['agent']}, {state}; sockets that follow it: {followers}"
    for row in events:
        absent = [link.value for link in LINKS if row.get(link.value) is None]
        if absent:
            who = f": user {user} has not acked it" if absent == ["client"] else ""
            yield f"event {row['seq']} {row['type']} has not crossed {', '.join(absent)}{who}"
    for event_type in ledger.get("waiting", ()):
        yield f"{event_type} was emitted and waits at the bridge"
    for lost in ledger.get("missing", ()):
        yield f"MISSING at {lost['link']}: {lost['event_type']} {lost['seq'] or ''}".rstrip()
    if ledger.get("settled"):
        yield "the run is settled: its trace should have left. Is it sampled, and does the server export to here?"
    elif not any(row["type"] in TERMINAL_TYPES for row in events):
        yield f"the newest event is {events[-1]['type'] if events else 'none'}"
