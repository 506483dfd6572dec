"""The events of a Tracewire run with the links that each crossed, rebuilt from each witness: client, trace, metrics."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from tracewire_telemetry.catalog import EVENTS, Attribute
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.testing.waiting import OPERATIONS
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, EVENT_TYPES, LINKS, TERMINAL_TYPES

FIVE: Final = tuple(event_type.value for event_type in CRITICAL_TYPES)
"""The five critical event types, as a good run shows them."""
LINK_NAMES: Final = tuple(link.value for link in LINKS)
EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)
TERMINAL_NAMES: Final = frozenset(event_type.value for event_type in TERMINAL_TYPES)


class CrossedEvent(Struct, frozen=True):
    """One event as a witness has it: whose, its place in its run (0 where it got none), and the links it crossed."""

    user_id: str
    run_id: str
    seq: int
    event_type: str
    links: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether it crossed all five links."""
        return self.links == LINK_NAMES


class ClientRecord(Struct, frozen=True):
    """What a client has to say of one run: the frames that it received of it, as JSON has them, in the order in which
    they came, and the newest seq that it acked.
    """

    user_id: str
    run_id: str
    frames: Sequence[Mapping[str, Any]]
    acked_seq: int


def events_received(client: ClientRecord) -> list[CrossedEvent]:
    """The run's events by what its client received: what came has crossed `socket`, what was acked `client`.

    An event that came twice is there twice; one in joined deltas (`first_seq`) is there for itself.
    """
    found = []
    for frame in client.frames:
        if frame.get("type") in EVENT_NAMES and frame.get("run_id") == client.run_id:
            for seq in range(frame.get("first_seq", frame["seq"]), frame["seq"] + 1):
                crossed = LINK_NAMES if seq <= client.acked_seq else LINK_NAMES[:-1]
                found.append(CrossedEvent(client.user_id, client.run_id, seq, frame["type"], crossed))
    return found


def events_traced(trace: Iterable[RecordedSpan]) -> list[CrossedEvent]:
    """The events by what a run's trace says, in the order of their seqs.

    An event has crossed a link whose span is there without an error, and with any of them `engine`, where it began.
    What was read back in a replay has crossed the socket, and the client where that was settled.
    """
    whole = trace if isinstance(trace, RecordedTrace) else RecordedTrace(trace)
    crossed: defaultdict[int, set[str]] = defaultdict(set)
    types: dict[int, str] = {}
    owners: dict[int, tuple[str, str]] = {}
    unsequenced: list[CrossedEvent] = []
    for span in whole:
        operation, _, what = span.name.partition(" ")
        if operation not in OPERATIONS:
            continue
        owner = (_said(span, Attribute.USER_ID), _said(span, Attribute.RUN_ID))
        if what != "replay" and not span.attributes.get(Attribute.EVENT_SEQ):
            unsequenced.append(CrossedEvent(*owner, 0, what, _before_error(span)))
            continue
        first = span.attributes.get(Attribute.EVENT_FIRST_SEQ) or span.attributes.get(Attribute.EVENT_SEQ, 0)
        for seq in range(first, span.attributes.get(Attribute.EVENT_LAST_SEQ, first) + 1):
            owners.setdefault(seq, owner)
            if what != "replay":
                types[seq] = what
            if span.status != "error":
                crossed[seq] |= {"engine", OPERATIONS[operation]}
    return unsequenced + [
        CrossedEvent(*owners[seq], seq, types.get(seq, "?"), tuple(link for link in LINK_NAMES if link in crossed[seq]))
        for seq in sorted(owners)
    ]


def events_counted(before: str, after: str) -> Counter[tuple[str, str]]:
    """How many events crossed each link between two scrapes of `/metrics`, by (event type, link).

    Raises:
        ValueError: a scrape has no `tracewire_events_total`, or a counter went down: the server was started anew.
    """
    counts, earlier = _event_counts(after, "the scrape after"), _event_counts(before, "the scrape before")
    found: Counter[tuple[str, str]] = Counter()
    for key, value in counts.items():
        if value < earlier.get(key, 0):
            raise ValueError(f"the counter of {key[0]} at {key[1]} went down: the server was started anew in between")
        found[key] = value - earlier.get(key, 0)
    return +found


def crossings(events: Iterable[CrossedEvent]) -> Counter[tuple[str, str]]:
    """How many events crossed each link, by (event type, link)."""
    return Counter((event.event_type, link) for event in events for link in event.links)


def _event_counts(scrape: str, what: str) -> dict[tuple[str, str], int]:
    found = {
        (sample.labels["event_type"], sample.labels["link"]): int(sample.value)
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if sample.name == EVENTS.full_name
    }
    if not found:
        raise ValueError(f"{what} has no {EVENTS.full_name}: is it the /metrics of a Tracewire server's ops port?")
    return found


def _said(span: RecordedSpan, key: Attribute) -> str:
    return str(span.attributes.get(key, ""))


def _before_error(span: RecordedSpan) -> tuple[str, ...]:
    """The links before the one at which the span says that the event is missing."""
    link = span.attributes.get(Attribute.LINK, LINK_NAMES[0])
    return LINK_NAMES[: LINK_NAMES.index(link)] if link in LINK_NAMES else ()
