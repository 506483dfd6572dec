"""The exact tree of a trace: held against what was expected, and where it differs the two side by side."""

from collections.abc import Iterable, Sequence
from typing import Final

from tracewire_telemetry.testing.matching import DIFFERENT, EXTRA, MISSING, SAME, Matcher, Row, span_line
from tracewire_telemetry.testing.patterns import SpanPattern
from tracewire_telemetry.testing.recording import Recording
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

COLUMN_CHARACTERS_MAX: Final = 64
ROWS_MAX: Final = 60
PROBLEMS_MAX: Final = 40
_CONTEXT_ROWS: Final = 2


def some(trace: Iterable[RecordedSpan]) -> RecordedTrace:
    """The trace, which must hold something.

    Raises:
        AssertionError: it is empty: a check of nothing would always pass.
        TypeError: it is a recording, or several traces.
    """
    __tracebackhide__ = True
    if isinstance(trace, Recording):
        raise TypeError("a recorder is no trace: wait for one, as in trace = trace_recorder.wait_for_trace()")
    spans = tuple(trace)
    if any(isinstance(found, RecordedTrace) for found in spans):
        raise TypeError(f"these are {len(spans)} traces: give one, as in [trace] = read_traces(…)")
    whole = trace if isinstance(trace, RecordedTrace) else RecordedTrace(spans)
    if not len(whole):
        raise AssertionError(
            "the recording is empty: no span was recorded. Does the program export to this recorder, and has what is "
            "to be looked at ended?"
        )
    return whole


def assert_whole(trace: Iterable[RecordedSpan], *, remote_parent: bool = False) -> None:
    """A trace that is one tree: one root, no orphan, no span id twice, nothing that starts before its parent or ends
    before it starts, and as many spans as a Tracewire root counts.

    Args:
        trace: a trace, or spans.
        remote_parent: whether the root may hang under a span of another program, which the recording does not hold.

    Raises:
        AssertionError: it is not, or it is empty; every breach is named.
    """
    __tracebackhide__ = True
    whole = some(trace)
    said = whole.problems()
    roots = top_spans(whole, remote_parent=remote_parent)
    if remote_parent and len(roots) == 1:
        said = [problem for problem in said if not problem.startswith(f"{roots[0].name} is an orphan")]
    if len(roots) != 1:
        said.append(f"it has {len(roots)} roots: {[root.name for root in roots]}")
    for root in roots:
        counted = root.attributes.get("tracewire.trace.span_count")
        if counted is not None and counted != len(whole):
            said.append(f"its root counts {counted} spans, {len(whole)} are here")
    if said:
        raise AssertionError("\n  ".join(["the trace is not one whole tree", *said]))


def top_spans(trace: RecordedTrace, *, remote_parent: bool = False) -> list[RecordedSpan]:
    """The roots, by start; with `remote_parent` also spans whose parent is not here."""
    tops = [span for span in trace if not span.parent_id] + (trace.orphans if remote_parent else [])
    return sorted(tops, key=lambda found: found.start_ns)


def assert_tree(
    trace: Iterable[RecordedSpan], *expected: SpanPattern, partial: bool = False, remote_parent: bool = False
) -> None:
    """A trace that is exactly this tree (`patterns.span`): every span of it, and none beyond it.

    Args:
        trace: a trace, or spans.
        expected: the root; or several, where the spans are of several traces.
        partial: whether spans that are not named may stand beside those that are, anywhere; and the expected root need
            not be the trace's.
        remote_parent: as in `assert_whole`.

    Raises:
        AssertionError: it is not, or it is empty; shows the two trees side by side and names every difference.
    """
    __tracebackhide__ = True
    if not expected:
        raise ValueError("assert_tree needs the tree that is expected: assert_tree(trace, span(…))")
    whole = some(trace)
    matcher = Matcher(whole, partial=partial)
    tops = top_spans(whole, remote_parent=remote_parent)
    if partial:
        absent = [pattern for pattern in expected if not any(matcher.matches(pattern, found) for found in whole)]
        if absent:
            rows = [row for pattern in absent for row in matcher.rows([pattern], _closest(pattern, whole) or tops)]
            raise AssertionError(side_by_side(rows, whole))
    elif not matcher.matches_all(expected, tops):
        rows = list(matcher.rows(expected, tops))
        raise AssertionError(side_by_side(rows, whole))
    if not partial and len(expected) == 1:
        assert_whole(whole, remote_parent=remote_parent)


def _closest(pattern: SpanPattern, trace: RecordedTrace) -> list[RecordedSpan]:
    """The first span that has the name."""
    return sorted((found for found in trace if pattern.takes_name(found.name)), key=lambda s: s.start_ns)[:1]


def side_by_side(rows: Sequence[Row], trace: RecordedTrace) -> str:
    """The two trees in two columns, then every difference in words."""
    said = [problem for row in rows for problem in _in_words(row)]
    said += [
        f"orphan: {span_line(span)}, whose parent {span.parent_id} was not recorded, stands under nothing"
        for span in trace.orphans
    ]
    said = said or ["the spans are there, in another order or number than expected"]
    shown = _worth_showing(rows)
    width = min(COLUMN_CHARACTERS_MAX, max((2 * row.depth + len(row.expected) for row in rows), default=0))
    width = max(width, len("expected"))
    lines = [f"  {'expected':<{width}} │ actual", f"  {'─' * width}─┼─{'─' * min(width, 40)}"]
    before = -1
    for index in shown:
        if index != before + 1:
            lines.append(f"  {'…':<{width}} │ …")
        row, before = rows[index], index
        left, right = _cut("  " * row.depth + row.expected, width), "  " * row.depth + row.actual
        lines.append(f"{row.marker} {left if row.expected else '':<{width}} │ {right if row.actual else ''}".rstrip())
    left_out = len(said) - PROBLEMS_MAX
    said = said[:PROBLEMS_MAX] + ([f"… and {left_out} more"] if left_out > 0 else [])
    return "\n".join(["the trace is not the tree that was expected", *said, "", *lines])


def _worth_showing(rows: Sequence[Row]) -> list[int]:
    """All rows where they are few; else those that differ, with what is above and around them."""
    if len(rows) <= ROWS_MAX:
        return list(range(len(rows)))
    keep: set[int] = set()
    for index in [i for i, row in enumerate(rows) if row.marker != SAME][: ROWS_MAX // 2]:
        keep |= set(range(max(0, index - _CONTEXT_ROWS), min(len(rows), index + _CONTEXT_ROWS + 1)))
        depth = rows[index].depth
        for above in range(index, -1, -1):
            if rows[above].depth < depth:
                depth = rows[above].depth
                keep.add(above)
    return sorted(keep)


def _in_words(row: Row) -> list[str]:
    under = f" under {row.parent}" if row.parent else ""
    if row.marker == MISSING:
        return [f"missing: {row.expected}{under}"]
    if row.marker == EXTRA:
        return [f"not expected: {row.actual}{under}"]
    if row.marker == DIFFERENT:
        return [f"different: {row.actual}{under}: {problem}" for problem in row.problems]
    return []


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
