"""The Agent port: what an agent is, how one is declared, loaded and found.

A plain function of one argument is an agent. `@agent(...)` says more about it; nothing else is needed.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from tracewire.errors import AgentLoadError
from tracewire.settings import Settings
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, EventType

AgentFunction = Callable[..., Any]
_F = TypeVar("_F", bound=AgentFunction)
_DECLARED = "__tracewire_agent__"


class AgentDeadlines(Struct, frozen=True):
    """Deadlines of an agent's runs in seconds; `None` takes the server's setting."""

    start_seconds: float | None = None
    tool_seconds: float | None = None
    run_seconds: float | None = None
    idle_seconds: float | None = None

    def filled(self, settings: Settings) -> "Deadlines":
        """These, with the server's settings where nothing is said."""
        return Deadlines(
            start_seconds=_either(self.start_seconds, settings.start_deadline_seconds),
            tool_seconds=_either(self.tool_seconds, settings.tool_deadline_seconds),
            run_seconds=_either(self.run_seconds, settings.run_deadline_seconds),
            idle_seconds=_either(self.idle_seconds, settings.idle_deadline_seconds),
        )


class Deadlines(Struct, frozen=True):
    """Deadlines of a run in seconds: the tool's ends the tool, the run's ends the run."""

    start_seconds: float
    tool_seconds: float
    run_seconds: float
    idle_seconds: float


class AgentSpec(Struct, frozen=True):
    """An agent as the server knows it.

    `requires` are the types that a completed run owes; `tools` are the names that metrics know from the start.
    """

    name: str
    function: AgentFunction
    requires: tuple[EventType, ...] = ()
    tools: tuple[str, ...] = ()
    deadlines: AgentDeadlines = AgentDeadlines()
    description: str = ""

    @property
    def threaded(self) -> bool:
        """Whether it is a plain `def`, which runs in a thread."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        call = getattr(function, "__call__", None)  # noqa: B004 # an object's own method, which may be async
        return not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call))


def agent(
    *,
    name: str | None = None,
    requires: Iterable[str] = (),
    tools: Iterable[str] = (),
    start_seconds: float | None = None,
    tool_seconds: float | None = None,
    run_seconds: float | None = None,
    idle_seconds: float | None = None,
) -> Callable[[_F], _F]:
    """Declare an agent's name, the event types that its runs owe, its tools and its deadlines in seconds.

    Raises:
        ValueError: `requires` names a type that does not exist.
    """
    required = tuple(EventType(event_type) for event_type in requires)
    deadlines = AgentDeadlines(start_seconds, tool_seconds, run_seconds, idle_seconds)

    def declare(function: _F) -> _F:
        setattr(function, _DECLARED, (name, required, tuple(tools), deadlines))
        return function

    return declare


def spec_of(function: AgentFunction) -> AgentSpec:
    """The function as an agent.

    Raises:
        AgentLoadError: it does not take exactly one argument, the context.
    """
    declared = getattr(function, _DECLARED, (None, (), (), AgentDeadlines()))
    own_name = getattr(function, "__name__", type(function).__name__)
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        raise AgentLoadError([f"agent {own_name}: must be callable with one argument, the context ({error})"]) from None
    except ValueError as error:
        raise AgentLoadError([f"agent {own_name}: is no function of one argument, the context ({error})"]) from None
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise AgentLoadError(
            [f"agent {own_name}: is a generator; stream with `await ctx.delta(text)` and return the answer"]
        )
    name, requires, tools, deadlines = declared
    doc = (inspect.getdoc(function) or "").partition("\n")[0]
    return AgentSpec(name or own_name, function, requires, tools, deadlines, doc)


def load_agent(reference: str) -> AgentSpec:
    """The agent that `module:name` stands for. The working folder is searched last.

    Raises:
        AgentLoadError: the reference is malformed, the module does not import, or what it holds is no agent.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise AgentLoadError([f"agent {reference!r}: must have the form module:name, as in my_agents:support"])
    if module_name.endswith(".py"):
        raise AgentLoadError([f"agent {reference!r}: a module is named without .py: {module_name[:-3]}:{attribute}"])
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a module can raise anything while it is imported; it is named
        raise AgentLoadError([f"agent {reference!r}: {type(error).__name__}: {error}"]) from error
    if not callable(found):
        raise AgentLoadError([f"agent {reference!r}: is a {type(found).__name__}, not a function"])
    return spec_of(found)


class AgentRegistry:
    """The agents of a server, by name; the first is the default."""

    def __init__(self, specs: Iterable[AgentSpec] = ()) -> None:
        self._specs: dict[str, AgentSpec] = {}
        for spec in specs:
            self.register(spec)

    def register(self, spec: AgentSpec) -> None:
        """Add an agent.

        Raises:
            AgentLoadError: the name is taken.
        """
        if spec.name in self._specs:
            raise AgentLoadError([f"agent {spec.name!r}: there are two of that name; give one another with @agent"])
        self._specs[spec.name] = spec

    def get(self, name: str | None) -> AgentSpec | None:
        """The agent of that name, the default for `None`; `None` where there is none."""
        if name is None:
            return next(iter(self._specs.values()), None)
        return self._specs.get(name)

    def __iter__(self) -> Iterator[AgentSpec]:
        return iter(self._specs.values())

    def __len__(self) -> int:
        return len(self._specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, the default first."""
        return tuple(self._specs)

    @property
    def tools(self) -> frozenset[str]:
        """Every tool that an agent declares."""
        return frozenset(tool for spec in self for tool in spec.tools)


ALL_CRITICAL = CRITICAL_TYPES
"""For `requires`: all five critical types."""


def _either(value: float | None, default: float) -> float:
    return default if value is None else value
