"""Ranges of sequence numbers, both ends included. A range may be as long as it likes: none is ever counted out."""

import itertools
from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merged(spans: Iterable[Range]) -> list[Range]:
    """The spans as the fewest ranges, in order."""
    ranges: list[Range] = []
    for first, last in sorted(spans):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return ranges


def holes(ranges: Sequence[Range]) -> list[Range]:
    """What lies between merged ranges."""
    return [(left[1] + 1, right[0] - 1) for left, right in itertools.pairwise(ranges)]


def common(left: Sequence[Range], right: Sequence[Range]) -> list[Range]:
    """What two lists of merged ranges share, in one pass over both."""
    shared: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first <= last:
            shared.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return shared


def size(ranges: Iterable[Range]) -> int:
    """How many numbers the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def written(ranges: Iterable[Range]) -> str:
    """The ranges in words: `4, 7–9`."""
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in ranges)
