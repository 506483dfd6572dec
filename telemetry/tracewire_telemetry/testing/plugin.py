"""The pytest plugin: fixtures and options of the trace kit. It imports nothing of its own until a fixture is used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tracewire_telemetry.testing.golden import GoldenTraces
    from tracewire_telemetry.testing.recorder import InProcessRecorder, OtlpReceiver
    from tracewire_telemetry.testing.served import ServedAgent

_WRITTEN = pytest.StashKey[list[Path]]()
_OUTPUT = "tracewire_golden_traces_written"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of golden traces."""
    group = parser.getgroup("tracewire", "golden traces")
    group.addoption("--update-traces", action="store_true", help="keep traces that differ as the new golden traces")
    group.addoption("--trace-budgets", action="store_true", help="hold the shares of time that tests give to spans")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is written yet."""
    config.stash[_WRITTEN] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist wrote."""
    written = getattr(node, "workeroutput", {}).get(_OUTPUT, [])
    node.config.stash[_WRITTEN] += [Path(path) for path in written]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells what it wrote."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = [str(path) for path in session.config.stash[_WRITTEN]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which golden traces were written: they are to be reviewed."""
    written = config.stash[_WRITTEN]
    if written:
        terminalreporter.section("golden traces written: review them")
        for path in sorted(set(written)):
            shown = path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path
            terminalreporter.line(str(shown))


@pytest.fixture
def trace_recorder() -> "Iterator[InProcessRecorder]":
    """Records the spans of a program in this process: give it `trace_recorder.provider()`, or it as an exporter."""
    from tracewire_telemetry.testing.recorder import InProcessRecorder

    recorder = InProcessRecorder()
    yield recorder
    recorder.shutdown()


@pytest.fixture
def otlp_receiver() -> "Iterator[OtlpReceiver]":
    """Receives the spans of a program in another process: start it with `otlp_receiver.environment`."""
    from tracewire_telemetry.testing.recorder import OtlpReceiver

    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def golden_trace(request: pytest.FixtureRequest) -> "GoldenTraces":
    """Holds a trace against the golden one: `golden_trace(trace)`, kept in `<test file>.traces/<test>.txt`."""
    from tracewire_telemetry.testing.golden import GoldenTraces

    path: Path = request.path
    name = request.node.nodeid.partition("::")[2] or request.node.name
    return GoldenTraces(
        path.with_name(f"{path.stem}.traces"),
        name,
        update=bool(request.config.getoption("--update-traces")),
        with_budgets=bool(request.config.getoption("--trace-budgets")),
        written=request.config.stash[_WRITTEN],
    )


@pytest.fixture
def tracewire_agent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Callable[..., AbstractContextManager[ServedAgent]]":
    """Serves an agent of one's own: `with tracewire_agent("module:name") as served: run = served.run("ada", "…")`.

    The module is looked for in the folder of the project (pytest's root). Keywords are the server's variables, as
    `TRACEWIRE_TOOL_DEADLINE_SECONDS="1"`.
    """
    from tracewire_telemetry.testing.served import ServedAgent

    def serve(agent: str, *, cwd: Path | None = None, **environ: str) -> ServedAgent:
        folder = tmp_path_factory.mktemp("tracewire") / "data"
        return ServedAgent(agent, folder, cwd=cwd or request.config.rootpath, environ=environ)

    return serve
