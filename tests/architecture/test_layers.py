"""What the import contracts of pyproject.toml cannot say: what is pure, what is optional, that nothing is global."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
APP: Final = ROOT / "app" / "tracewire"
TELEMETRY: Final = ROOT / "telemetry" / "tracewire_telemetry"
SOURCES: Final = sorted([*APP.rglob("*.py"), *TELEMETRY.rglob("*.py")])
PURE: Final = (
    "app/tracewire/bridge/contract.py",
    "app/tracewire/delivery/outbox.py",
    "app/tracewire/engine/context.py",
    "app/tracewire/errors.py",
    "app/tracewire/gateway/frames.py",
    "app/tracewire/gateway/protocol.py",
    "app/tracewire/readiness.py",
    "app/tracewire/runs/run.py",
    "telemetry/tracewire_telemetry/catalog.py",
    "telemetry/tracewire_telemetry/ledger.py",
    "telemetry/tracewire_telemetry/stamps.py",
    "telemetry/tracewire_telemetry/vocabulary.py",
)
IMPURE_MODULES: Final = frozenset(
    {
        "asyncio",
        "concurrent",
        "logging",
        "os",
        "random",
        "secrets",
        "selectors",
        "socket",
        "structlog",
        "threading",
        "time",
    }
)
GLOBAL_SETTERS: Final = frozenset(
    {"set_tracer_provider", "set_meter_provider", "set_logger_provider", "set_global_textmap", "set_event_loop_policy"}
)
OPTIONAL: Final = frozenset({"pydantic_ai", "nats", "openai", "anthropic", "langchain", "langgraph", "ag_ui"})


def named(path: Path) -> str:
    """The path as people read it."""
    return path.relative_to(ROOT).as_posix()


def imports(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """The top-level packages that are imported, and in which line."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno


@cache
def tree(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("name", PURE)
def test_what_decides_is_pure(name: str) -> None:
    """No await, no clock, no randomness, no I/O: it is told what it needs, and can be held against an oracle."""
    nodes = list(ast.walk(tree(ROOT / name)))
    impure = [found for found, _ in imports(iter(nodes)) if found in IMPURE_MODULES]
    waiting = [type(node).__name__ for node in nodes if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    clock = [
        ast.unparse(node.func)
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("datetime.now", "datetime.utcnow", "open", "print")
    ]
    assert (impure, waiting, clock) == ([], [], [])


def test_nothing_global_is_set() -> None:
    """Providers are injected: two servers of a process, or a host program's own tracing, do not meet."""
    found = [
        f"{named(path)}:{node.lineno} {ast.unparse(node.func)}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) in GLOBAL_SETTERS
    ]
    registry = [
        f"{named(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "REGISTRY" for alias in node.names)
    ]
    assert (found, registry) == ([], [])


def test_what_is_optional_is_imported_where_it_is_used() -> None:
    """An agent framework or a client of another log costs nobody a start who does not use it."""
    found = [
        f"{named(path)}:{line} {name}"
        for path in SOURCES
        for name, line in imports(iter(tree(path).body))
        if name in OPTIONAL
    ]
    assert found == []


def test_the_server_does_not_import_what_is_for_tests() -> None:
    """The recorders, the test plugin and pytest itself are for those who test."""
    product = [path for path in SOURCES if "testing" not in path.relative_to(ROOT).parts]
    recorders = [
        f"{named(path)}:{node.lineno} {node.module}"
        for path in product
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and "testing" in (node.module or "").split(".")
    ]
    frameworks = [
        f"{named(path)}:{line} {name}"
        for path in product
        for name, line in imports(ast.walk(tree(path)))
        if name in ("pytest", "hypothesis", "unittest")
    ]
    assert (recorders, frameworks) == ([], [])


def test_every_library_that_is_imported_is_declared() -> None:
    """What happens to be installed because another library needs it may be gone tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [wanted for group in project.get("optional-dependencies", {}).values() for wanted in group]
    declared = {
        re.split(r"[ \[<>=!~;]", wanted, maxsplit=1)[0].lower().replace("_", "-")
        for wanted in [*project["dependencies"], *extras]
    }
    distributions = packages_distributions()
    undeclared = set()
    for path in SOURCES:
        for name, line in imports(ast.walk(tree(path))):
            if name in sys.stdlib_module_names or name in (
                "tracewire",
                "tracewire_telemetry",
                "opentelemetry",
                "pytest",
            ):
                continue
            providers = {found.lower().replace("_", "-") for found in distributions.get(name, [name])}
            if not providers & declared:
                undeclared.add(f"{named(path)}:{line} {name}")
    assert set() == undeclared


def test_the_pure_modules_are_there() -> None:
    """A file that was moved is still looked at."""
    assert [name for name in PURE if not (ROOT / name).is_file()] == []
