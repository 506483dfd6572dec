"""A pytest plugin that enforces `no_skip`: a run of the tests that leaves such a test out fails, and says which.

Left out is a test that was skipped, expected to fail, deselected (by its marker, `--deselect`, `--last-failed`), or not
collected (its file ignored or renamed, a skip of the whole module). Only who asks for a subset by name may leave tests
out: by paths or node ids, then those inside are owed, or by `-k`, then those that were selected. A run that collected
nothing fails likewise.

What is owed is read from the sources, not from what pytest collected: otherwise a test that is never collected would be
owed by nobody. And it is read from a list, a file for people to review (ini option `no_skip_list`): a test that was
renamed, deleted, or robbed of its marker or of some of its parameters is in no source any more, but in the list. One
that has the marker and is not in the list fails the run as well, so that the list stays whole.

It works under pytest-xdist too: workers tell what they deselected, and reports carry their markers.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

MARKER: Final = "no_skip"
LIST: Final = "no_skip_list"
_DESELECTED: Final = "tracewire_no_skip_deselected"
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the list is."""
    parser.addini(
        LIST, "file with the node ids of the tests that must not be left out, a line each, from the root folder"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch this run."""
    config.addinivalue_line("markers", f"{MARKER}: a run that leaves this test out fails")
    config.pluginmanager.register(NoSkip(config), "tracewire-no-skip")


class NoSkip:
    """What became of the tests of one run that must not be left out."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._listed: tuple[str, ...] | None = None
        self._ran: set[str] = set()
        self._left_out: dict[str, str] = {}
        self._deselected: list[str] = []
        self._said: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what is left out of what was collected."""
        if not self._config.option.keyword:
            self._deselected += [item.nodeid for item in items if item.get_closest_marker(MARKER) is not None]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what ran, and what only looks as if it had."""
        if MARKER not in report.keywords:
            if report.nodeid in self._list:
                self._left_out[report.nodeid] = f"is not marked {MARKER} any more"
            return
        if hasattr(report, "wasxfail"):
            self._left_out[report.nodeid] = "is expected to fail"
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._left_out[report.nodeid] = f"was skipped ({why.removeprefix('Skipped: ')})"
        elif report.when == "call" or report.failed:
            self._ran.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of pytest-xdist deselected."""
        self._deselected += getattr(node, "workeroutput", {}).get(_DESELECTED, [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if a test was left out, or if there was none."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_DESELECTED] = self._deselected
            return
        if self._config.option.collectonly:
            return
        self._left_out |= dict.fromkeys(self._deselected, "was deselected")
        if not (session.shouldstop or session.shouldfail):
            for nodeid in self._owed():
                if not self._known(nodeid):
                    self._left_out[nodeid] = "was not collected"
            for nodeid in self._listed_and_owed():
                if nodeid not in self._ran and not self._left_out.keys() & {nodeid, nodeid.partition("[")[0]}:
                    self._left_out[nodeid] = f"was not collected, and is in {self._config.getini(LIST)}"
            if self._config.getini(LIST):
                unlisted = self._ran.difference(self._list)
                self._left_out |= dict.fromkeys(unlisted, f"is marked {MARKER}, and not in {self._config.getini(LIST)}")
        self._said = [f"{nodeid} {why}" for nodeid, why in sorted(self._left_out.items())]
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            self._said.append("nothing was run: no test was collected")
        if self._said and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which, and what it takes."""
        if self._said:
            terminalreporter.section("tests that must not be left out", red=True)
            for line in self._said:
                terminalreporter.line(line)

    @property
    def _list(self) -> tuple[str, ...]:
        """The node ids of the list, none where there is none; read once.

        Raises:
            pytest.UsageError: it cannot be read.
        """
        if self._listed is None:
            name = self._config.getini(LIST)
            try:
                text = (self._config.rootpath / name).read_text(encoding="utf-8") if name else ""
            except OSError as error:
                raise pytest.UsageError(f"{LIST}: {error}") from error
            self._listed = tuple(line for line in text.splitlines() if line and not line.startswith("#"))
        return self._listed

    def _listed_and_owed(self) -> Iterator[str]:
        """The tests of the list that this run owes by what it was asked for."""
        if self._config.option.keyword:
            return
        if self._config.args_source is not pytest.Config.ArgsSource.ARGS:  # a folder that is gone is passed over then
            yield from self._list
            return
        asked_for = [(path, *_named(argument)) for argument, path in _arguments(self._config)]
        for nodeid in self._list:
            file, _, names = nodeid.partition("::")
            path = self._config.rootpath / file
            for asked_path, asked_names, parameters in asked_for:
                inside = path == asked_path or path.is_relative_to(asked_path)
                asked = asked_names + parameters
                if inside and (not asked or names == asked or names.startswith((f"{asked}::", f"{asked}["))):
                    yield nodeid
                    break

    def _known(self, nodeid: str) -> bool:
        noted = (*self._ran, *self._left_out)
        return any(name == nodeid or name.startswith(f"{nodeid}[") for name in noted)

    def _owed(self) -> Iterator[str]:
        """The node ids, without parameters, that this run owes by what it was asked for."""
        if self._config.option.keyword:
            return
        for path, names in _asked_for(self._config):
            for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
                for name in marked_tests(file):
                    if not names or name == names or name.startswith(f"{names}::"):
                        yield f"{_relative(file, self._config.rootpath)}::{name}"


def marked_tests(file: Path) -> list[str]:
    """The tests of a source file that carry the marker, as node ids after the file's own."""
    source = file.read_text(encoding="utf-8", errors="replace")
    if MARKER not in source:
        return []
    try:
        module = ast.parse(source)
    except SyntaxError:
        return []  # pytest itself fails to collect it, and says so
    return list(_marked(module.body, marked=_module_marked(module.body)))


def _marked(body: Iterable[ast.stmt], *, marked: bool, prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, _Function) and node.name.startswith("test"):
            if marked or _names_marker(node.decorator_list):
                yield prefix + node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inside = marked or _names_marker(node.decorator_list) or _module_marked(node.body)
            yield from _marked(node.body, marked=inside, prefix=f"{prefix}{node.name}::")


def _module_marked(body: Iterable[ast.stmt]) -> bool:
    """Whether `pytestmark` of a module or a class names the marker."""
    return any(
        _names_marker([node.value])
        for node in body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
    )


def _names_marker(expressions: Iterable[ast.expr]) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == MARKER
        for expression in expressions
        for node in ast.walk(expression)
    )


def _asked_for(config: pytest.Config) -> Iterator[tuple[Path, str]]:
    """Each path of this run with the part of a node id after it, parameters left out."""
    for argument, path in _arguments(config):
        yield path, _named(argument)[0]


def _arguments(config: pytest.Config) -> Iterator[tuple[str, Path]]:
    """What this run was asked for, each with its path."""
    for argument in config.args:
        yield argument, (config.invocation_params.dir / argument.partition("::")[0]).resolve()


def _named(argument: str) -> tuple[str, str]:
    """The part of a node id after its path: names, and parameters in brackets."""
    names, bracket, parameters = argument.partition("::")[2].partition("[")
    return names, bracket + parameters


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
