"""The pytest plugin: what it costs to have it, its fixtures and options, in projects made for the purpose."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracewire_telemetry.testing as kit

pytest_plugins = ["pytester"]

PLUGIN = "tracewire_telemetry.testing.plugin"
ENTRY = "tracewire_telemetry.testing.entry"
USES = """
    def test_shop(trace_recorder, golden_trace):
        tracer = trace_recorder.provider({"service.name": "shop"}).get_tracer("shop")
        with tracer.start_as_current_span("GET /"):
            with tracer.start_as_current_span("query"):
                pass
        golden_trace(trace_recorder.wait_for_trace(), budgets={"query": 0.0})
"""
MAY_BE_IMPORTED = frozenset(
    {
        "tracewire_telemetry",
        "tracewire_telemetry.testing",
        "tracewire_telemetry.testing.entry",
        "tracewire_telemetry.testing.plugin",
    }
)


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading every installed plugin anew would take each of the runs below a second."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def imported_by(code: str) -> set[str]:
    """The modules that this code imports, beyond those of pytest and of Python itself."""
    script = f"import pytest, sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    return {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}


def test_having_the_plugin_imports_nothing_but_itself() -> None:
    """Neither OpenTelemetry nor the rest of the telemetry: every run of pytest in such an environment has it."""
    assert imported_by(f"import {ENTRY}, {PLUGIN}") == MAY_BE_IMPORTED


def test_the_names_that_testers_use_are_all_there() -> None:
    """Each is imported when it is asked for, and only such are promised."""
    promised = [name for name in dir(kit) if name in kit._HOME_OF]
    assert len(promised) > 25
    assert [name for name in promised if not hasattr(kit, name)] == []
    with pytest.raises(AttributeError, match="has no 'assert_nothing'"):
        _ = kit.assert_nothing
    assert "opentelemetry" not in imported_by("import tracewire_telemetry.testing")


def run(pytester: pytest.Pytester, *arguments: str) -> tuple[int, str]:
    """The exit code of a run with the plugin, and what it said."""
    result = pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *arguments)
    return int(result.ret), "\n".join(result.outlines)


def test_a_golden_trace_stands_next_to_its_test(pytester: pytest.Pytester) -> None:
    """It is asked for, written, named at the end of the run, held, and shown as a diff."""
    pytester.makepyfile(test_shop=USES)
    code, said = run(pytester)
    assert (code, "`pytest --update-traces` writes it" in said) == (1, True)
    code, said = run(pytester, "--update-traces")
    golden = Path("test_shop.traces", "test_shop.txt")
    assert (code, f"review them\n{golden}" in said.replace("=", "").replace(" \n", "\n")) == (0, True), said
    assert "GET / [internal]" in (pytester.path / golden).read_text()
    code, said = run(pytester)
    assert (code, "golden traces written" in said) == (0, False)
    pytester.makepyfile(test_shop=USES.replace('"query"):', '"scan"):'))
    code, said = run(pytester)
    assert (code, "-  query [internal]" in said, "+  scan [internal]" in said) == (1, True, True), said


def test_budgets_are_held_by_an_option(pytester: pytest.Pytester) -> None:
    """Off by default."""
    pytester.makepyfile(test_shop=USES)
    assert run(pytester, "--update-traces")[0] == 0
    code, said = run(pytester, "--trace-budgets")
    assert (code, "may take 0%" in said) == (1, True)


def test_each_parametrised_test_has_a_golden_trace_of_its_own(pytester: pytest.Pytester) -> None:
    """Classes and parameters are part of the name."""
    pytester.makepyfile(
        test_many="""
        import pytest
        class TestShop:
            @pytest.mark.parametrize("n", ["a/b", "a b", "ab"])
            def test_it(self, trace_recorder, golden_trace, n):
                with trace_recorder.provider().get_tracer("t").start_as_current_span(n):
                    pass
                golden_trace(trace_recorder.wait_for_trace())
        """
    )
    assert run(pytester, "--update-traces")[0] == 0
    written = sorted(path.name for path in (pytester.path / "test_many.traces").iterdir())
    assert [name[:21] for name in written] == [
        "TestShop-test_it-a-b-",
        "TestShop-test_it-a-b-",
        "TestShop-test_it-ab.t",
    ]
    assert len(set(written)) == 3
    assert run(pytester)[0] == 0


def test_a_program_in_another_process_is_received(pytester: pytest.Pytester) -> None:
    """By the environment that the receiver gives."""
    pytester.makepyfile(
        shop="""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        with provider.get_tracer("shop").start_as_current_span("GET /"):
            pass
        provider.shutdown()
        """,
        test_shop="""
        import os, subprocess, sys
        from tracewire_telemetry.testing import assert_tree, span
        def test_it(otlp_receiver):
            subprocess.run([sys.executable, "shop.py"], check=True, env=os.environ | otlp_receiver.environment)
            assert_tree(otlp_receiver.wait_for_trace(), span("GET /", kind="internal", scope="shop"))
        """,
    )
    code, said = run(pytester)
    assert code == 0, said


@pytest.mark.parametrize("named", [["-p", PLUGIN, "-p", ENTRY], ["-p", ENTRY, "-p", PLUGIN], ["-p", ENTRY]])
def test_the_plugin_is_there_once_however_often_it_is_named(pytester: pytest.Pytester, named: list[str]) -> None:
    """As where it is installed, and named by a project's `conftest.py` besides."""
    pytester.makeconftest(f'pytest_plugins = ["{PLUGIN}"]')
    pytester.makepyfile(test_shop=USES)
    done = pytester.runpytest_subprocess(*named, "-p", "no:cacheprovider", "--update-traces", "-W", "error")
    assert done.ret == 0, done.outlines


def test_the_command_writes_a_test_that_fails_until_it_says_how_the_program_is_run(pytester: pytest.Pytester) -> None:
    """Never skipped, never passing on nothing; with `--call` it passes."""
    pytester.makepyfile(
        shop="""
        def run(provider):
            with provider.get_tracer("shop").start_as_current_span("GET /"):
                pass
        """
    )
    named = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    times = {"startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    root = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "GET /", "kind": 1, **times}
    scoped = [{"scope": {"name": "shop"}, "spans": [root]}]
    document = {"resourceSpans": [{"resource": named, "scopeSpans": scoped}]}
    (pytester.path / "trace.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "tracewire_telemetry.testing", "golden", "trace.json", "--out", "tests"]
    done = pytester.run(*command)
    assert (done.ret, "until then the test fails" in done.stdout.str()) == (0, True), done.errlines
    code, said = run(pytester, "tests")
    assert (code, "say here how your program is run" in said) == (1, True)
    refused = pytester.run(*command)
    assert (refused.ret, "there already" in refused.stderr.str()) == (1, True)
    assert pytester.run(*command, "--force", "--call", "shop:run").ret == 0
    done = pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider", "--rootdir=.", "-c", os.devnull,
                                         "-o", "pythonpath=.", "tests")  # fmt: skip
    assert done.ret == 0, done.outlines


GUIDE = Path(kit.__file__).with_name("README.md")


def test_every_name_in_the_guide_is_there() -> None:
    """Its code compiles, what it imports exists, its fixtures and options are those of the plugin."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 5
    imported = {
        alias.name
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module == "tracewire_telemetry.testing"
        for alias in node.names
    }
    said = imported | set(re.findall(r"`(assert_\w+|read_traces|some_events)", text))
    assert [name for name in sorted(said) if not hasattr(kit, name)] == []
    source = Path(kit.__file__).with_name("plugin.py").read_text(encoding="utf-8")
    taken = {
        name for block in blocks for line in re.findall(r"def test_\w+\((.*?)\)", block) for name in line.split(", ")
    }
    assert [name for name in sorted(taken - {"trace"}) if f"def {name}(" not in source] == []
    assert [option for option in set(re.findall(r"pytest (--[\w-]+)", text)) if f'"{option}"' not in source] == []


def test_what_the_guide_shows_of_a_recorder_runs(pytester: pytest.Pytester) -> None:
    """Its first example, as it stands there."""
    first = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    pytester.makepyfile(test_guide=first)
    assert run(pytester)[0] == 0
