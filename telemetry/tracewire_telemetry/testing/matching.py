"""Whether spans are as a pattern has them, and how the two lie beside each other where they are not."""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from tracewire_telemetry.testing.patterns import Expected, InAnyOrder, Repeated, SpanPattern
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

SAME: Final = " "
DIFFERENT: Final = "≠"
MISSING: Final = "-"
EXTRA: Final = "+"
_PAIR_COST: Final = 0.5


class Row(Struct, frozen=True):
    """One line of the two trees side by side: what was expected, what was found, and what of it differs."""

    depth: int
    marker: str
    expected: str
    actual: str
    parent: str
    problems: tuple[str, ...] = ()


class Matcher:
    """Holds the spans of one trace against patterns. With `partial`, children that no pattern names are passed over."""

    def __init__(self, trace: RecordedTrace, *, partial: bool) -> None:
        self._trace = trace
        self._partial = partial
        self._known: dict[tuple[int, str], bool] = {}
        self._children: dict[str, list[RecordedSpan]] = {}

    def matches(self, pattern: SpanPattern, found: RecordedSpan) -> bool:
        """Whether the span and all that stands under it are as the pattern has them."""
        key = (id(pattern), found.span_id)
        if key not in self._known:
            self._known[key] = not pattern.mismatches(found) and (
                pattern.children is None or self.matches_all(pattern.children, self.children(found))
            )
        return self._known[key]

    def matches_all(self, items: Sequence[Expected], spans: Sequence[RecordedSpan]) -> bool:
        """Whether siblings, in the order of their start, are as the items have them."""

        def ends(item: int, position: int) -> Iterator[int]:
            starts = range(position, len(spans) + 1) if self._partial else (position,)
            return (end for at in starts for end in self._ends(items[item], spans, at))

        if not items:
            return self._partial or not spans
        # Not by recursion: there may be more siblings than calls can be within each other.
        ways, tried = [ends(0, 0)], {(0, 0)}
        while ways:
            end = next(ways[-1], None)
            if end is None:
                ways.pop()
            elif len(ways) == len(items):
                if self._partial or end == len(spans):
                    return True
            elif (len(ways), end) not in tried:
                tried.add((len(ways), end))
                ways.append(ends(len(ways), end))
        return False

    def children(self, found: RecordedSpan) -> list[RecordedSpan]:
        """The span's children, by start."""
        if found.span_id not in self._children:
            self._children[found.span_id] = self._trace.children(found)
        return self._children[found.span_id]

    def _ends(self, item: Expected, spans: Sequence[RecordedSpan], position: int) -> Iterator[int]:
        """Where the spans that this item takes from here on may end."""
        if isinstance(item, SpanPattern):
            if position < len(spans) and self.matches(item, spans[position]):
                yield position + 1
        elif isinstance(item, Repeated):
            if item.least == 0:
                yield position
            most = len(spans) if item.most is None else item.most
            for count, found in enumerate(islice(spans, position, position + most), 1):
                if not self.matches(item.pattern, found):
                    return
                if count >= item.least:
                    yield position + count
        else:
            fewest, most = sum(map(_least, item.items)), sum(map(_most, item.items))
            for end in range(min(len(spans), position + most), position + fewest - 1, -1):
                if self._shares_out(item.items, spans[position:end]):
                    yield end

    def _shares_out(self, items: Sequence[SpanPattern | Repeated], spans: Sequence[RecordedSpan]) -> bool:
        """Whether each of these spans can be given to an item so that each item has as many as it must."""
        patterns = [item.pattern if isinstance(item, Repeated) else item for item in items]
        fits = [[self.matches(pattern, found) for found in spans] for pattern in patterns]
        owed = [i for i, item in enumerate(items) for _ in range(_least(item))]
        # What a pattern without a limit takes needs no place of its own.
        unlimited = [row for row, item in zip(fits, items, strict=True) if _most(item) >= len(spans)]
        needing = [j for j in range(len(spans)) if not any(row[j] for row in unlimited)]
        places = [i for i, item in enumerate(items) if _most(item) < len(spans) for _ in range(_most(item))]
        # Where one way covers all that is owed and another all the spans, there is one that covers both.
        return _covered(len(owed), len(spans), lambda place, j: fits[owed[place]][j]) and _covered(
            len(needing), len(places), lambda j, place: fits[places[place]][needing[j]]
        )

    # Side by side.

    def rows(
        self, items: Sequence[Expected], spans: Sequence[RecordedSpan], depth: int = 0, parent: str = ""
    ) -> Iterator[Row]:
        """The siblings beside what was expected of them, as they fit best, each with what stands under it."""
        wanted = list(self._flat(items, spans))
        for pattern, must, found in self._aligned(wanted, spans):
            if pattern is not None and found is not None:
                yield from self._pair(pattern, found, depth, parent)
            elif pattern is not None and must:
                yield from _missing(pattern, depth, parent)
            elif found is not None and not self._partial:
                yield from self._extra(found, depth, parent)

    def _pair(self, pattern: SpanPattern, found: RecordedSpan, depth: int, parent: str) -> Iterator[Row]:
        problems = tuple(pattern.mismatches(found))
        yield Row(depth, DIFFERENT if problems else SAME, wanted_line(pattern), span_line(found), parent, problems)
        if pattern.children is not None:
            yield from self.rows(pattern.children, self.children(found), depth + 1, found.name)

    def _extra(self, found: RecordedSpan, depth: int, parent: str) -> Iterator[Row]:
        yield Row(depth, EXTRA, "", span_line(found), parent)
        for child in self.children(found):
            yield from self._extra(child, depth + 1, found.name)

    def _flat(self, items: Sequence[Expected], spans: Sequence[RecordedSpan]) -> Iterator[tuple[SpanPattern, bool]]:
        """Single patterns for the items, each with whether it must be there, parallel parts in the order found."""
        for item in items:
            if isinstance(item, InAnyOrder):
                left = list(self._flat(item.items, spans))
                for found in spans:
                    fitting = [p for p in left if self.matches(p[0], found)]
                    fitting = fitting or [p for p in left if p[0].takes_name(found.name)]
                    if fitting:
                        left.remove(fitting[0])
                        yield fitting[0]
                yield from left
            elif isinstance(item, Repeated):
                alike = sum(item.pattern.takes_name(found.name) for found in spans)
                count = max(item.least, alike if item.most is None else min(alike, item.most))
                yield from ((item.pattern, number < item.least) for number in range(count))
            else:
                yield item, True

    def _aligned(
        self, wanted: Sequence[tuple[SpanPattern, bool]], spans: Sequence[RecordedSpan]
    ) -> list[tuple[SpanPattern | None, bool, RecordedSpan | None]]:
        """The cheapest way to lay the two sequences beside each other, without crossing."""
        alike = 0
        while alike < min(len(wanted), len(spans)) and self.matches(wanted[alike][0], spans[alike]):
            alike += 1
        same: list[tuple[SpanPattern | None, bool, RecordedSpan | None]] = [
            (pattern, must, found) for (pattern, must), found in zip(wanted[:alike], spans[:alike], strict=True)
        ]
        return same + self._laid_out(wanted[alike:], spans[alike:])

    def _laid_out(
        self, wanted: Sequence[tuple[SpanPattern, bool]], spans: Sequence[RecordedSpan]
    ) -> list[tuple[SpanPattern | None, bool, RecordedSpan | None]]:
        rows, columns = len(wanted), len(spans)
        cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
        for i in range(rows, -1, -1):
            for j in range(columns, -1, -1):
                if i < rows or j < columns:
                    cost[i][j] = min(step[0] for step in self._steps(wanted, spans, cost, i, j))
        path: list[tuple[SpanPattern | None, bool, RecordedSpan | None]] = []
        i = j = 0
        while i < rows or j < columns:
            _, down, right = min(self._steps(wanted, spans, cost, i, j), key=lambda step: step[0])
            pattern, must = wanted[i] if down else (None, False)
            path.append((pattern, must, spans[j] if right else None))
            i, j = i + down, j + right
        return path

    def _steps(
        self,
        wanted: Sequence[tuple[SpanPattern, bool]],
        spans: Sequence[RecordedSpan],
        cost: Sequence[Sequence[float]],
        i: int,
        j: int,
    ) -> Iterator[tuple[float, int, int]]:
        if i < len(wanted) and j < len(spans) and wanted[i][0].takes_name(spans[j].name):
            fits = self.matches(wanted[i][0], spans[j])
            yield cost[i + 1][j + 1] + (0.0 if fits else _PAIR_COST), 1, 1
        if i < len(wanted):
            yield cost[i + 1][j] + (1.0 if wanted[i][1] else 0.0), 1, 0
        if j < len(spans):
            yield cost[i][j + 1] + (0.0 if self._partial else 1.0), 0, 1


def _least(item: SpanPattern | Repeated) -> int:
    return item.least if isinstance(item, Repeated) else 1


def _most(item: SpanPattern | Repeated) -> int:
    if isinstance(item, SpanPattern):
        return 1
    return sys.maxsize if item.most is None else item.most


def _covered(lefts: int, rights: int, fits: Callable[[int, int], bool]) -> bool:
    """Whether each on the left can be given one of its own on the right (augmenting paths)."""
    taken: dict[int, int] = {}

    def give(left: int, tried: set[int]) -> bool:
        for right in range(rights):
            if right not in tried and fits(left, right):
                tried.add(right)
                if right not in taken or give(taken[right], tried):
                    taken[right] = left
                    return True
        return False

    return lefts <= rights and all(give(left, set()) for left in range(lefts))


def _missing(pattern: SpanPattern, depth: int, parent: str) -> Iterator[Row]:
    yield Row(depth, MISSING, wanted_line(pattern), "", parent)
    for item in pattern.children or ():
        for inner in item.items if isinstance(item, InAnyOrder) else (item,):
            if isinstance(inner, SpanPattern):
                yield from _missing(inner, depth + 1, pattern.title)
            elif inner.least:
                yield from _missing(inner.pattern, depth + 1, pattern.title)


def wanted_line(pattern: SpanPattern) -> str:
    """A pattern on one line: name, kind, and the status where it is said and more than `unset`."""
    status = pattern.status if pattern.status not in (None, "unset") else ""
    return " ".join(part for part in (pattern.title, f"[{pattern.kind}]" if pattern.kind else "", status) if part)


def span_line(found: RecordedSpan) -> str:
    """A span on one line, in the same way."""
    return " ".join(
        part for part in (found.name, f"[{found.kind}]", "" if found.status == "unset" else found.status) if part
    )
