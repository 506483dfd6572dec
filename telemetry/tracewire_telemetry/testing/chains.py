"""The chain of a Tracewire run in one line: its events, in order, each across all five links."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.conversations import TracewireRun
from tracewire_telemetry.testing.patterns import Repeated, SpanPattern, any_number, meets, span
from tracewire_telemetry.testing.runs import LINK_NAMES, CrossedEvent, events_traced
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.testing.trees import some


@runtime_checkable
class HasTrace(Protocol):
    """A run that knows its trace."""

    @property
    def trace(self) -> RecordedTrace:
        """Its whole trace."""
        ...


def some_events(event_type: str, *, at_least: int = 0, at_most: int | None = None) -> Repeated:
    """Any number of events of a type, one after the other: deltas, thoughts."""
    return any_number(span(event_type), at_least=at_least, at_most=at_most)


def assert_chain(
    run: HasTrace | Iterable[RecordedSpan],
    events: Sequence[str | Repeated],
    *,
    user_id: str | None = None,
    outcome: str = "completed",
) -> list[CrossedEvent]:
    """The run's trace is whole, and shows exactly these events, in order, each across all five links up to the ack.

    Args:
        run: a run that knows its trace, or the trace.
        events: the types, in order; `some_events` for those of which there may be several.
        user_id: whose run it must be, on every span.
        outcome: how it must have ended: `completed`, `cancelled`, or the code of its `agent_error`.

    Returns:
        The events, with the links that each crossed.

    Raises:
        AssertionError: it does not, or is empty; names the event and the link.
    """
    __tracebackhide__ = True
    trace = some(run.trace if isinstance(run, HasTrace) else run)
    found = events_traced(trace)
    said = [*_broken_links(found), *_order_problems(found, events), *_root_problems(trace, outcome)]
    if said and isinstance(run, TracewireRun) and run.error:
        said.append(f"its client was told {run.error}")
    said += trace.problems()
    if not trace.complete:
        said.append("the trace is cut: its root does not count as many spans as are here")
    for name, key, wanted in (("user", Attribute.USER_ID, user_id), ("run", Attribute.RUN_ID, _run_of(trace))):
        if wanted is not None:
            said += _others(trace, name, key, wanted)
    said += [f"tool {_tool(s)} ended with {_status(s)}" for s in trace if _is_bad_tool(s) and outcome == "completed"]
    if said:
        table = chain_table(found)
        raise AssertionError("\n".join(["\n  ".join([f"the chain of run {_run_of(trace)} is broken", *said]), *table]))
    return found


def chain_table(events: Iterable[CrossedEvent]) -> list[str]:
    """The events as lines, each with the links that it crossed."""
    header = f"  {'seq':>4}  {'event':<18}" + "".join(f"{link:<9}" for link in LINK_NAMES)
    rows = [
        f"  {event.seq or '-':>4}  {event.event_type:<18}"
        + "".join(f"{'yes' if link in event.links else 'NO':<9}" for link in LINK_NAMES)
        for event in events
    ]
    return ["", header.rstrip(), *(row.rstrip() for row in rows)]


def _broken_links(events: Iterable[CrossedEvent]) -> list[str]:
    said = []
    for event in events:
        if not event.whole:
            first = next(link for link in LINK_NAMES if link not in event.links)
            how = "its client did not ack it" if first == "client" else f"it did not cross {first}"
            said.append(f"event {event.seq or '(no seq)'} {event.event_type} is lost at {first}: {how}")
    return said


def _order_problems(events: Sequence[CrossedEvent], expected: Sequence[str | Repeated]) -> list[str]:
    types = [event.event_type for event in events if event.seq]
    if _fits(types, expected):
        seqs = [event.seq for event in events if event.seq]
        return [] if seqs == list(range(1, len(seqs) + 1)) else [f"the seqs are {seqs}, must be 1 to {len(seqs)}"]
    wanted = [item if isinstance(item, str) else f"{item.pattern.title} × n" for item in expected]
    absent = [item for item in expected if isinstance(item, str) and item not in types]
    said = [f"{item} is not there: it was never emitted, or never sequenced" for item in dict.fromkeys(absent)]
    return [*said, f"the events are {', '.join(types) or 'none'}; must be {', '.join(wanted)}"]


def _fits(types: Sequence[str], expected: Sequence[str | Repeated]) -> bool:
    """Whether the types are as expected, by the sets of positions that can be reached."""
    reached = {0}
    for item in expected:
        pattern: SpanPattern | str = item.pattern if isinstance(item, Repeated) else item
        name = pattern if isinstance(pattern, str) else pattern.name
        least, most = (1, 1) if isinstance(item, str) else (item.least, item.most)
        following: set[int] = set()
        for start in reached:
            count = 0
            while True:
                if count >= least:
                    following.add(start + count)
                if (most is not None and count == most) or start + count == len(types):
                    break
                if not meets(name, types[start + count]):
                    break
                count += 1
        reached = following
    return len(types) in reached


def _root_problems(trace: RecordedTrace, outcome: str) -> list[str]:
    roots = [span for span in trace if not span.parent_id]
    if len(roots) != 1:
        return [f"it has {len(roots)} roots: {[root.name for root in roots]}"]
    attributes: Mapping[str, Any] = roots[0].attributes
    said = []
    if (ended := attributes.get(Attribute.RUN_OUTCOME)) != outcome:
        said.append(f"the run ended as {ended}, must end as {outcome}")
    if pending := attributes.get(Attribute.EVENTS_PENDING):
        said.append(f"{pending} events are pending: no socket of the user followed the run to its end")
    elif attributes.get(Attribute.CHAIN_COMPLETE) is not True:
        said.append("the server itself says that the chain is not complete")
    if lost := attributes.get(Attribute.STAMPS_LOST):
        said.append(f"{lost} stamps were lost")
    return said


def _others(trace: RecordedTrace, name: str, key: Attribute, wanted: str) -> list[str]:
    """The chain's spans that are of another user or run: one by one, unless all are."""
    own = [found for found in trace if found.scope == "tracewire"]
    wrong = [(found.name, found.attributes.get(key)) for found in own if found.attributes.get(key) != wanted]
    if len(wrong) == len(own) > 1 and len({value for _, value in wrong}) == 1:
        return [f"all {len(own)} spans are of {name} {wrong[0][1]!r}, must be of {wanted!r}"]
    return [f"{span_name} is of {name} {value!r}, must be of {wanted!r}" for span_name, value in wrong]


def _run_of(trace: RecordedTrace) -> str | None:
    found = [str(run) for s in trace if not s.parent_id and (run := s.attributes.get(Attribute.RUN_ID))]
    found += [str(run) for s in trace if (run := s.attributes.get(Attribute.RUN_ID))]
    return found[0] if found else None


def _is_bad_tool(found: RecordedSpan) -> bool:
    return found.name.startswith("execute_tool ") and _status(found) not in ("ok", "None")


def _status(found: RecordedSpan) -> str:
    return str(found.attributes.get(Attribute.TOOL_STATUS))


def _tool(found: RecordedSpan) -> str:
    return f"{found.attributes.get(Attribute.TOOL_NAME)} ({found.attributes.get(Attribute.TOOL_CALL_ID)})"
