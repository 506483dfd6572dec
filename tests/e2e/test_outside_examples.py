"""The trace kit as other people have it: two projects outside this one, each in a fresh environment with the wheel.

Each is broken in turn: the failure's text must let one read the cause.
"""

from pathlib import Path

import pytest

from support.fresh_project import FreshProject, build_wheel

pytestmark = pytest.mark.timeout(900)  # the first run installs what the locks name

AGENT_LINES_MAX = 10


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What would be published."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> FreshProject:
    """Somebody's own Tracewire agent."""
    return FreshProject("agent", tmp_path_factory.mktemp("outside"), wheel)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> FreshProject:
    """A small web service in another framework, without Tracewire."""
    return FreshProject("web", tmp_path_factory.mktemp("outside"), wheel)


def test_somebodys_agent_is_tested_in_ten_lines(agent: FreshProject) -> None:
    """The example passes with nothing of the sources in reach; its test is ten lines."""
    source = (agent.folder / "tests" / "test_kettle_agent.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= AGENT_LINES_MAX
    code, said = agent.run("-c", "import tracewire_telemetry as found; print(found.__file__)")
    assert (code, "site-packages" in said) == (0, True), said
    code, said = agent.test()
    assert (code, "2 passed" in said) == (0, True), said


def test_a_tool_that_never_completes_can_be_read_off_the_failure(agent: FreshProject, tmp_path: Path) -> None:
    """The text names the run, the tool with its arguments, what came and what did not."""
    broken = agent.copy(tmp_path)
    broken.change(
        "kettle_agent.py", "    return STOCK", "    await __import__('asyncio').Event().wait()\n    return STOCK"
    )
    broken.change("tests/test_kettle_agent.py", '"red")', '"red", timeout_seconds=5)')
    code, said = broken.test("--tb=short", "tests/test_kettle_agent.py")
    print(said)
    assert code == 1
    for part in (
        "did not end within 5 s",
        "the client received: agent_started, agent_thinking, tool_executing",
        'tool stock (call_1) was called with {"colour": "red"} and has not completed',
        "the run of user ada, agent kettles, is still open: no terminal event was emitted",
        "the newest event is tool_executing",
    ):
        assert part in said, f"{part!r} is not in:\n{said}"


def test_a_web_service_of_another_framework_is_tested(web: FreshProject) -> None:
    """Exact trees, order, secrets and a golden trace, over Flask's own instrumentation."""
    code, said = web.test()
    assert (code, "2 passed" in said) == (0, True), said


def test_a_missing_child_span_can_be_read_off_the_failure(web: FreshProject, tmp_path: Path) -> None:
    """The text names the span that is missing and what it stood under, and shows the two trees side by side."""
    broken = web.copy(tmp_path)
    broken.change(
        "shop.py",
        '        with tracer.start_as_current_span("add tax") as tax:\n'
        '            tax.set_attribute("shop.rate", 0.2)\n'
        '            return {"colour": colour, "price": round(price * 1.2)}\n',
        '        return {"colour": colour, "price": round(price * 1.2)}\n',
    )
    code, said = broken.test("--tb=short")
    print(said)
    assert code == 1
    assert "missing: add tax [internal] under GET /kettles/<colour>" in said
    [line] = [line for line in said.splitlines() if "│" in line and "add tax" in line]
    assert line.split("│")[1].strip() == ""
    assert "1 failed, 1 passed" in said


def test_a_trace_from_production_becomes_a_golden_test_with_one_command(web: FreshProject, tmp_path: Path) -> None:
    """An export as Tempo gives it: what is written runs, passes, fails when a span is missing, and holds no address."""
    project = web.copy(tmp_path)
    command = ("-m", "tracewire_telemetry.testing", "golden", "production/trace.json", "--out", "tests")
    code, said = project.run(*command, "--call", "journeys:look_at_a_red_kettle")
    assert code == 0, said
    [golden] = project.folder.glob("tests/test_get_kettles_colour.traces/*.txt")
    text = golden.read_text(encoding="utf-8")
    assert "shop.example" not in text
    assert "203.0.113.9" not in text
    code, said = project.test("tests/test_get_kettles_colour.py")
    assert (code, "1 passed" in said) == (0, True), said
    project.change("shop.py", 'as_current_span("add tax")', 'as_current_span("add duty")')
    code, said = project.test("tests/test_get_kettles_colour.py", "--tb=short")
    assert code == 1
    assert "missing under GET /kettles/<colour> [server]: add tax [internal]" in said
    assert "-  add tax [internal]" in said
    assert "+  add duty [internal]" in said


def test_the_plugin_is_there_once_however_often_it_is_named(web: FreshProject, tmp_path: Path) -> None:
    """By its entry point, by `-p`, in a `conftest.py`: one plugin, and no complaint."""
    project = web.copy(tmp_path)
    (project.folder / "conftest.py").write_text('pytest_plugins = ["tracewire_telemetry.testing.plugin"]\n')
    code, said = project.test("-p", "tracewire_telemetry.testing.plugin", "--collect-only", "--trace-budgets")
    assert (code, "2 tests collected" in said) == (0, True), said
