"""How an agent is declared, loaded and found, and how each failure names what was wrong."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tracewire.engine.agent import (
    ALL_CRITICAL,
    AgentDeadlines,
    AgentRegistry,
    AgentSpec,
    Deadlines,
    agent,
    load_agent,
    spec_of,
)
from tracewire.errors import AgentLoadError
from tracewire.settings import Settings
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, EventType


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules into the working folder; what was imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


async def plain(ctx: Any) -> str:
    """Answers plainly.

    At length.
    """
    return "answer"


def threaded(ctx: Any) -> str:
    return "answer"


class Agents:
    """Agents may be methods and callable objects too."""

    def method(self, ctx: Any) -> str:
        return "answer"

    def __call__(self, ctx: Any) -> str:
        return "answer"


# --- declaring ------------------------------------------------------------------------------------------------------


def test_a_plain_function_is_an_agent_by_its_name() -> None:
    """Nothing required, no tools declared, the server's deadlines, described by its first line."""
    assert AgentSpec("plain", plain, (), (), AgentDeadlines(), "Answers plainly.") == spec_of(plain)


def test_the_decorator_says_more_and_leaves_the_function_as_it_was() -> None:
    """Name, required types, tools and deadlines."""

    async def function(ctx: Any) -> None: ...

    declared = agent(
        name="support",
        requires=["agent_thinking", EventType.TOOL_EXECUTING],
        tools=["search"],
        start_seconds=1,
        tool_seconds=2,
        run_seconds=3,
        idle_seconds=4,
    )(function)
    assert function is declared
    assert (
        AgentSpec(
            "support",
            function,
            (EventType.AGENT_THINKING, EventType.TOOL_EXECUTING),
            ("search",),
            AgentDeadlines(1, 2, 3, 4),
        )
        == spec_of(function)
    )  # fmt: skip


def test_the_decorator_refuses_a_type_that_does_not_exist() -> None:
    """At the declaration, not at the first run."""
    with pytest.raises(ValueError, match="agent_thinks"):
        agent(requires=["agent_thinks"])


def test_all_critical_types_can_be_required_at_once() -> None:
    """All five."""
    assert CRITICAL_TYPES == ALL_CRITICAL
    assert len(set(ALL_CRITICAL)) == 5


def test_a_plain_def_runs_in_a_thread_and_an_async_one_does_not() -> None:
    """A method and a callable object count as what they are."""
    assert [spec_of(function).threaded for function in (plain, threaded, Agents().method, Agents())] == [
        False,
        True,
        True,
        True,
    ]
    assert spec_of(Agents()).name == "Agents"


def test_deadlines_that_are_not_said_are_the_servers() -> None:
    """0 would be said; `None` is not."""
    server = Settings(
        start_deadline_seconds=5, tool_deadline_seconds=60, run_deadline_seconds=3_600, idle_deadline_seconds=60
    )
    assert Deadlines(5, 60, 3_600, 60) == AgentDeadlines().filled(server)
    assert Deadlines(5, 2, 3_600, 0) == AgentDeadlines(tool_seconds=2, idle_seconds=0).filled(server)


@pytest.mark.parametrize(
    "function", [lambda: None, lambda ctx, other: None, lambda *, ctx: None, dict, (7).__add__, range(3).__iter__]
)
def test_what_does_not_take_exactly_the_context_is_refused(function: Callable[..., Any]) -> None:
    """Also a built-in whose signature Python does not know."""
    if function == (7).__add__:
        assert spec_of(function).threaded
        return
    with pytest.raises(AgentLoadError, match="the context"):
        spec_of(function)


# --- loading --------------------------------------------------------------------------------------------------------


def test_an_agent_is_found_in_the_working_folder(folder: Callable[[str, str], None]) -> None:
    """Its own imports from there work too."""
    folder("tw_parts", "ANSWER = 'from parts'\n")
    folder("tw_agents", "import tw_parts\nasync def support(ctx):\n    return tw_parts.ANSWER\n")
    spec = load_agent("tw_agents:support")
    assert (spec.name, spec.function.__module__) == ("support", "tw_agents")


def test_an_agent_may_be_an_attribute_of_something_in_the_module(folder: Callable[[str, str], None]) -> None:
    """As in `module:team.support`."""
    folder("tw_agents", "class team:\n    @staticmethod\n    async def support(ctx): ...\n")
    assert load_agent("tw_agents:team.support").name == "support"


def test_the_working_folder_is_searched_last(folder: Callable[[str, str], None]) -> None:
    """A file there called like a library's module does not stand in for it, and is appended only once."""
    folder("colorsys", "def rgb_to_hsv(ctx):\n    return 'mine'\n")
    folder("tw_agents", "async def support(ctx): ...\n")
    sys.modules.pop("colorsys", None)
    load_agent("tw_agents:support")
    load_agent("tw_agents:support")
    here = str(Path.cwd())
    assert (1, here) == (sys.path.count(here), sys.path[-1])
    with pytest.raises(AgentLoadError, match="rgb_to_hsv"):
        load_agent("colorsys:rgb_to_hsv")


@pytest.mark.parametrize("reference", ["", "module", "module:", ":name", ":"])
def test_a_reference_of_another_form_is_refused_with_the_form(reference: str) -> None:
    """The message shows one that would do."""
    with pytest.raises(AgentLoadError, match="must have the form module:name, as in my_agents:support"):
        load_agent(reference)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("def support(ctx) return 1\n", "support", "SyntaxError"),
        ("import tw_not_there\n", "support", "ModuleNotFoundError: No module named 'tw_not_there'"),
        ("raise RuntimeError('no key')\n", "support", "RuntimeError: no key"),
        ("import sys\nsys.exit(3)\n", "support", "SystemExit: 3"),
        ("async def other(ctx): ...\n", "support", "AttributeError"),
        ("support = 'text'\n", "support", "is a str, not a function"),
        ("async def support(): ...\n", "support", "must be callable with one argument"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_cause(
    folder: Callable[[str, str], None], text: str, name: str, said: str
) -> None:
    """Whatever it raises while it is imported: one failure, which begins with the reference or the agent."""
    folder("tw_broken", text)
    with pytest.raises(AgentLoadError) as raised:
        load_agent(f"tw_broken:{name}")
    (failure,) = raised.value.failures
    assert said in failure
    assert failure.startswith(("agent 'tw_broken:support': ", "agent support: "))


def test_a_module_that_is_not_there_is_named() -> None:
    """With Python's own words."""
    with pytest.raises(AgentLoadError, match="No module named 'tw_nowhere'"):
        load_agent("tw_nowhere:support")


# --- the registry ---------------------------------------------------------------------------------------------------


def test_the_first_agent_is_the_default() -> None:
    """Names keep their order; an unknown one is none."""
    registry = AgentRegistry([spec_of(plain), spec_of(threaded)])
    assert registry.names == ("plain", "threaded")
    found = [registry.get(name) for name in (None, "threaded", "nobody", "")]
    assert [spec.name if spec else None for spec in found] == ["plain", "threaded", None, None]
    assert len(registry) == 2


def test_an_empty_registry_has_no_default() -> None:
    """Nothing is made up."""
    assert AgentRegistry().get(None) is None


def test_two_agents_of_one_name_are_refused() -> None:
    """The one that was there stays."""
    registry = AgentRegistry([spec_of(plain)])
    with pytest.raises(AgentLoadError, match=r"agent 'plain': there are two of that name"):
        registry.register(AgentSpec("plain", threaded))
    assert plain is next(iter(registry)).function


def test_the_tools_are_those_that_the_agents_declare() -> None:
    """Each once."""
    first, second = AgentSpec("a", plain, tools=("x", "y")), AgentSpec("b", plain, tools=("y", "z"))
    assert {"x", "y", "z"} == AgentRegistry([first, second]).tools
