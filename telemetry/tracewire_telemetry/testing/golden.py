"""Golden traces: a trace held against the one that was kept, as a text, next to the test.

Ids, times, addresses and secrets are normalised away (`normalising`). Siblings of which the golden trace says no order,
or that overlapped, may come in any; the others must not run in the opposite one.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tracewire_telemetry.testing.checks import assert_shares
from tracewire_telemetry.testing.golden_format import GoldenFormatError, Node, nodes_of, parsed, text_of
from tracewire_telemetry.testing.normalising import Normaliser
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.testing.trees import assert_whole, some, top_spans


def golden_text(
    trace: Iterable[RecordedSpan],
    *,
    varies: Iterable[str] = (),
    leave_out: Iterable[str] = (),
    replace: Mapping[str, str] | None = None,
    remote_parent: bool = False,
) -> str:
    """The trace as its golden text; the arguments are those of `GoldenTraces`.

    Raises:
        AssertionError: it is empty, or no whole tree: what was cut off would be kept as right.
    """
    __tracebackhide__ = True
    return text_of(_nodes(trace, varies, leave_out, replace, remote_parent=remote_parent))


def assert_golden(
    trace: Iterable[RecordedSpan],
    golden: str,
    *,
    where: str = "the golden trace",
    varies: Iterable[str] = (),
    leave_out: Iterable[str] = (),
    replace: Mapping[str, str] | None = None,
    remote_parent: bool = False,
) -> None:
    """The trace is as the golden text has it.

    Raises:
        AssertionError: it is not, or is empty, or no whole tree; the message holds a diff.
        GoldenFormatError: the golden text cannot be read.
    """
    __tracebackhide__ = True
    expected = parsed(golden, where)
    actual = _nodes(trace, varies, leave_out, replace, remote_parent=remote_parent)
    problems = list(_compared(expected, actual, "the trace"))
    if problems:
        _arrange(expected, actual)
        wanted, found = (text_of(_ungrouped(nodes), header=False) for nodes in (expected, actual))
        diff = list(difflib.unified_diff(wanted.splitlines(), found.splitlines(), where, "this run", lineterm="", n=4))
        said = [f"the trace is not as in {where}; `pytest --update-traces` keeps it as it is now", *problems[:20]]
        raise AssertionError("\n".join(["\n  ".join(said), "", *diff]))


class GoldenTraces:
    """Golden traces of one test, one file a name. Call it with a trace; made by the `golden_trace` fixture.

    Args:
        folder: where the files are.
        name: what the file is called where the call gives no other.
        update: whether a trace that differs is kept, instead of being an error.
        with_budgets: whether `budgets` are held.
        written: is told of each file that was written.
    """

    def __init__(
        self, folder: Path, name: str, *, update: bool, with_budgets: bool, written: list[Path] | None = None
    ) -> None:
        self._folder = folder
        self._name = name
        self._update = update
        self._with_budgets = with_budgets
        self._written = written if written is not None else []

    def path(self, name: str | None = None) -> Path:
        """The file of the trace of this name."""
        return self._folder / f"{file_name(name or self._name)}.txt"

    def __call__(
        self,
        trace: Iterable[RecordedSpan],
        name: str | None = None,
        *,
        varies: Iterable[str] = (),
        leave_out: Iterable[str] = (),
        replace: Mapping[str, str] | None = None,
        budgets: Mapping[str, float] | None = None,
        remote_parent: bool = False,
    ) -> None:
        """Hold the trace against its golden file.

        Args:
            trace: a trace, or spans of one.
            name: which golden trace, where a test has several.
            varies: further attributes, as globs, of which only that they are there counts.
            leave_out: attributes, as globs, that do not count at all.
            replace: by regular expression what stands in its place, in names and texts.
            budgets: by span name the largest share (0 to 1) of the root's duration; held with `--trace-budgets`.
            remote_parent: whether the root may hang under a span of another program.

        Raises:
            AssertionError: it differs; or there is no golden trace yet.
        """
        __tracebackhide__ = True
        whole, path = some(trace), self.path(name)
        if budgets and self._with_budgets:
            assert_shares(whole, budgets)
        options = {"varies": tuple(varies), "leave_out": tuple(leave_out), "replace": replace}
        text = golden_text(whole, **options, remote_parent=remote_parent)  # type: ignore[arg-type] # as above
        try:
            if not path.is_file():
                raise AssertionError(f"there is no golden trace {path}: `pytest --update-traces` writes it")
            golden = path.read_text(encoding="utf-8")
            assert_golden(whole, golden, where=path.name, **options, remote_parent=remote_parent)  # type: ignore[arg-type]
        except (AssertionError, GoldenFormatError):
            if not self._update:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            self._written.append(path)


def file_name(name: str) -> str:
    """The name as a file can be called; of names that differ in what a file cannot hold, each has its own."""
    readable = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "trace"
    told_apart = re.fullmatch(r"[\w.:\[\]-]+", name) is not None
    return readable if told_apart else f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _nodes(
    trace: Iterable[RecordedSpan],
    varies: Iterable[str],
    leave_out: Iterable[str],
    replace: Mapping[str, str] | None,
    *,
    remote_parent: bool,
) -> list[Node]:
    __tracebackhide__ = True
    whole: RecordedTrace = some(trace)
    assert_whole(whole, remote_parent=remote_parent)
    normaliser = Normaliser(whole, varies=varies, leave_out=leave_out, replace=replace)
    return nodes_of(whole, top_spans(whole, remote_parent=remote_parent), normaliser)


def _compared(expected: Sequence[Node], actual: Sequence[Node], under: str) -> Iterator[str]:
    """What differs among siblings and under them, in words."""
    pairs = _paired(expected, actual)
    wanted, found = (Counter(node.line for node in nodes) for nodes in (expected, actual))
    yield from (f"missing under {under}: {line}{_times(n)}" for line, n in (wanted - found).items())
    yield from (f"not in the golden trace, under {under}: {line}{_times(n)}" for line, n in (found - wanted).items())
    for golden, now in pairs:
        yield from (f"{now.line}: lacks {note}" for note in golden.notes if note not in now.notes)
        yield from (f"{now.line}: has {note}" for note in now.notes if note not in golden.notes)
        yield from _compared(golden.children, now.children, now.line)
    yield from _reversed(pairs, under)


def _reversed(pairs: Sequence[tuple[Node, Node]], under: str) -> Iterator[str]:
    """Siblings that ran after others which they come before in the golden trace, and not as its parallel parts."""
    position = {id(now): index for index, (_, now) in enumerate(pairs)}
    group = {id(now): golden.group for golden, now in pairs}
    by_start = sorted((now for _, now in pairs), key=lambda node: node.start_ns)
    by_end = sorted(by_start, key=lambda node: node.end_ns, reverse=True)
    latest: dict[int, Node] = {}  # by group, of those that ended, the one that is last in the golden trace
    for now in by_start:
        while by_end and by_end[-1].end_ns <= now.start_ns:
            ended = by_end.pop()
            if ended is not now:
                latest[group[id(ended)]] = max(
                    latest.get(group[id(ended)], ended), ended, key=lambda node: position[id(node)]
                )
        wrongly = [
            before
            for number, before in latest.items()
            if position[id(before)] > position[id(now)] and (not number or number != group[id(now)])
        ]
        if wrongly:
            before = max(wrongly, key=lambda node: position[id(node)])
            yield f"under {under} {now.line} ran after {before.line}, must run before it"


def _paired(expected: Sequence[Node], actual: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Golden siblings with those of this run that they are: with the same text, else with the same line; in golden
    order.
    """
    left = sorted(actual, key=lambda node: node.start_ns)
    found: dict[int, Node] = {}
    for same in (Node.canonical, _line):
        texts: dict[str, list[Node]] = {}
        for node in left:
            texts.setdefault(same(node), []).append(node)
        for index, golden in enumerate(expected):
            alike = texts.get(same(golden))
            if index not in found and alike:
                found[index] = alike.pop(0)
        taken = set(map(id, found.values()))
        left = [node for node in left if id(node) not in taken]
    return [(expected[index], found[index]) for index in sorted(found)]


def _line(node: Node) -> str:
    return node.line


def _arrange(expected: Sequence[Node], actual: list[Node]) -> None:
    """Put this run's siblings into the golden order where that is no difference, so that a diff shows what is one."""
    pairs = _paired(expected, actual)
    position: dict[int, float] = {id(now): float(index) for index, (_, now) in enumerate(pairs)}
    before = -1.0
    for node in sorted(actual, key=lambda node: node.start_ns):
        before = position.setdefault(id(node), before + 0.5)
    actual.sort(key=lambda node: position[id(node)])
    for golden, now in pairs:
        _arrange(golden.children, now.children)


def _ungrouped(nodes: Sequence[Node]) -> list[Node]:
    return [Node(node.line, node.notes, _ungrouped(node.children)) for node in nodes]


def _times(count: int) -> str:
    return f" (× {count})" if count > 1 else ""
