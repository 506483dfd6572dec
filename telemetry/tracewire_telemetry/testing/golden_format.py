"""A trace as a text that people review: one line a span, its attributes under it, parallel parts marked as such.

invoke_agent shop [internal]
    · service.name = "tracewire"
    · gen_ai.agent.name = "shop"
  in any order:
    execute_tool price [internal]
    execute_tool stock [internal]
"""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.matching import span_line
from tracewire_telemetry.testing.normalising import Normaliser
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

HEADER: Final = "# A golden trace, format 1: reviewed like code; `pytest --update-traces` writes it anew."
PARALLEL: Final = "in any order:"
_INDENT: Final = "  "
_NOTE: Final = "· "


class GoldenFormatError(ValueError):
    """A golden file that cannot be read; the message names the line."""


class Node(Struct):
    """One span of a golden trace: its line, its attributes as lines, what stands under it.

    `group` is the number of the parallel part that it belongs to among its siblings, 0 for none; `place` its place in
    such a part before the text decides: the seq of a Tracewire event. `start_ns`, `end_ns` and `place` are 0 where the
    node was read from a file.
    """

    line: str
    notes: list[str]
    children: "list[Node]"
    group: int = 0
    start_ns: int = 0
    end_ns: int = 0
    place: int = 0

    def canonical(self) -> str:
        """The text of the node and all under it, whatever the order of siblings."""
        inner = sorted(child.canonical() for child in self.children)
        return "\n".join([self.line, *self.notes, "{", *inner, "}"])


def nodes_of(trace: RecordedTrace, tops: Sequence[RecordedSpan], normaliser: Normaliser) -> list[Node]:
    """The trace as nodes, siblings by start, those that overlap in time as parallel."""

    def node(span: RecordedSpan, parent: RecordedSpan | None) -> Node:
        service, above = (
            span.resource.get("service.name", ""),
            parent.resource.get("service.name", "") if parent else "",
        )
        notes = [f'service.name = "{normaliser.text(str(service))}"'] if service != above else []
        if span.scope != (parent.scope if parent else ""):
            notes.append(f'scope = "{normaliser.text(span.scope)}"')
        if span.status_message:
            notes.append(f'status says "{normaliser.text(span.status_message)}"')
        own, above_it = normaliser.attributes(span), normaliser.attributes(parent) if parent else {}
        same = [key for key, value in own.items() if above_it.get(key) == value]
        notes += [f"{key} = {value}" for key, value in own.items() if key not in same]
        notes += [f"as above: {', '.join(same)}"] if same else []
        notes += [f"links = {len(span.links)}"] if span.links else []
        notes += [f"event {normaliser.text(event.name)}" for event in span.events]
        children = _grouped(node(child, span) for child in trace.children(span))
        place = int(span.attributes.get(Attribute.EVENT_SEQ, sys.maxsize))
        return Node(_escaped(normaliser.text(span_line(span))), notes, children, 0, span.start_ns, span.end_ns, place)

    return _grouped(node(top, None) for top in tops)


def _escaped(line: str) -> str:
    """The line so that it is not taken for a note, a remark or the mark of a parallel part."""
    return "\\" + line if line.startswith((" ", "#", "·")) or line == PARALLEL else line


def _grouped(siblings: Iterable[Node]) -> list[Node]:
    """The siblings with those that overlap in time numbered as one parallel part, sorted within it by their text."""
    clusters: list[list[Node]] = []
    until = 0
    for sibling in siblings:
        if clusters and sibling.start_ns < until:
            clusters[-1].append(sibling)
        else:
            clusters.append([sibling])
        until = max(until, sibling.end_ns)
    found: list[Node] = []
    for number, cluster in enumerate(clusters, 1):
        if len(cluster) > 1:
            for sibling in cluster:
                sibling.group = number
            cluster.sort(key=lambda node: (node.place, node.canonical()))
        found += cluster
    return found


def text_of(nodes: Sequence[Node], *, header: bool = True) -> str:
    """The nodes as a text."""
    return "\n".join([*([HEADER, ""] if header else []), *_lines(nodes, 0)]) + "\n"


def _lines(nodes: Sequence[Node], depth: int) -> Iterator[str]:
    for group, members in itertools.groupby(nodes, key=lambda node: node.group):
        inner = depth + 1 if group else depth
        if group:
            yield _INDENT * depth + PARALLEL
        for node in members:
            yield _INDENT * inner + node.line
            yield from (_INDENT * (inner + 2) + _NOTE + note for note in node.notes)
            yield from _lines(node.children, inner + 1)


def parsed(text: str, where: str = "the golden trace") -> list[Node]:
    """The nodes of a text.

    Raises:
        GoldenFormatError: it is not of the format; the message names the line.
    """
    __tracebackhide__ = True
    tops: list[Node] = []
    open_lists: list[tuple[int, list[Node], int]] = [(0, tops, 0)]  # the depth, where its nodes go, their group
    groups = itertools.count(1)
    last: Node | None = None
    for number, line in enumerate(text.split("\n"), 1):
        content = line.lstrip(" ")
        if not content or content.startswith("#"):
            continue
        if content.startswith(_NOTE):
            if last is None:
                raise GoldenFormatError(f"{where}, line {number}: an attribute before any span")
            last.notes.append(content.removeprefix(_NOTE))
            continue
        depth, odd = divmod(len(line) - len(content), len(_INDENT))
        while open_lists[-1][0] > depth:
            open_lists.pop()
        if odd or open_lists[-1][0] != depth:
            raise GoldenFormatError(f"{where}, line {number}: is indented by {len(line) - len(content)}: {content}")
        _, siblings, group = open_lists[-1]
        if content == PARALLEL:
            open_lists.append((depth + 1, siblings, next(groups)))
            last = None
        else:
            last = Node(content, [], [], group)
            siblings.append(last)
            open_lists.append((depth + 1, last.children, 0))
    if not tops:
        raise GoldenFormatError(f"{where}: holds no span")
    return tops
