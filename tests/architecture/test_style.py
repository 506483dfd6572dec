"""What the style asks of every file, held as tests: see ARCHITECTURE.md for why."""

import ast
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec
import pytest

from tracewire_telemetry.catalog import Attribute

ROOT: Final = Path(__file__).resolve().parents[2]
APP: Final = ROOT / "app" / "tracewire"
TELEMETRY: Final = ROOT / "telemetry" / "tracewire_telemetry"
TESTS: Final = ROOT / "tests"
SOURCES: Final = sorted([*APP.rglob("*.py"), *TELEMETRY.rglob("*.py")])
MEASURING: Final = frozenset({"benchmarks", "soak"})
TEST_FILES: Final = sorted(path for path in TESTS.rglob("*.py") if MEASURING.isdisjoint(path.parts))
"""Without the benchmarks and the soak: they go on over a time, and pytest does not collect them."""
LINES_MAX: Final = 400
SPEAKS_TO_A_TERMINAL: Final = ("app/tracewire/cli.py", "app/tracewire/demo.py")
VAGUE_NAMES: Final = frozenset({"utils", "util", "helpers", "helper", "common", "base", "misc"})
FOLDERS_OF_A_MACHINE: Final = ("work", "root", "home", "Users")
REGISTRY_HOSTS: Final = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("anaconda", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("gcr", "io"),
    )
)
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}(?: \\)?$")


def named(path: Path) -> str:
    """The path as people read it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def tracked() -> dict[str, str]:
    """The text of every file that belongs to the project, as git sees it: those that it ignores are left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    found: dict[str, str] = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file():
            found[name] = path.read_bytes().decode("utf-8", errors="replace")
    return found


def test_there_is_something_to_look_at() -> None:
    """A check of no files would always pass."""
    assert len(SOURCES) > 50
    assert len(TEST_FILES) > 10
    assert {"pyproject.toml", "requirements.lock", "app/tracewire/main.py"} <= set(tracked())


def test_a_module_opens_with_what_it_is_for() -> None:
    """Who follows the path of an event learns from the first lines what enters, what leaves, and who is next."""
    assert [named(path) for path in SOURCES if not ast.get_docstring(tree(path))] == []


def test_a_module_is_no_longer_than_400_lines() -> None:
    """What is longer holds more than one thing."""
    lines = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}


def module_of(path: Path) -> ModuleType:
    """The file as it is imported."""
    parts = path.relative_to(path.parents[len(path.relative_to(ROOT).parts) - 2]).with_suffix("").parts
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


@cache
def ports() -> tuple[type, ...]:
    """The protocols of the project."""
    found = {
        value for path in SOURCES for value in vars(module_of(path)).values() if getattr(value, "_is_protocol", False)
    }
    return tuple(port for port in found if port.__module__.startswith("tracewire"))


def said_by_a_port(owner: type, name: str) -> bool:
    """Whether the class has every member of a port that says what this member promises."""
    return any(
        inspect.getdoc(vars(port).get(name)) is not None
        and all(hasattr(owner, member) for member in vars(port) if not member.startswith("_"))
        for port in ports()
        if port is not owner and name in vars(port)
    )


def holds_fields_alone(value: type) -> bool:
    """Whether the class is a record: a struct that declares nothing but its fields."""
    own = {name for name in vars(value) if not name.startswith("_")}
    return issubclass(value, msgspec.Struct) and own <= {*value.__struct_fields__, "type"}


def silent_definitions(module: ModuleType) -> Iterator[str]:
    """Public classes, functions and methods of this module without a docstring of their own or an inherited one."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value) and not inspect.getdoc(value):
            yield name
        if inspect.isclass(value):
            if not value.__doc__ and not holds_fields_alone(value):
                yield name
            for member, found in vars(value).items():
                method = isinstance(found, property | staticmethod | classmethod) or inspect.isfunction(found)
                if method and not member.startswith("_") and not inspect.getdoc(getattr(value, member)):
                    if isinstance(found, property) and inspect.getdoc(found):
                        continue
                    if not said_by_a_port(value, member):
                        yield f"{name}.{member}"


def test_what_others_may_use_says_what_it_promises() -> None:
    """Every public class, function and method has a docstring; a method's may be that of the port or base class which
    it fulfils, and a record of fields alone needs none.
    """
    silent = [f"{named(path)}: {name}" for path in SOURCES for name in silent_definitions(module_of(path))]
    assert silent == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    """What is in `utils` cannot be found by its name."""
    vague = [named(path) for path in SOURCES if VAGUE_NAMES & {path.stem, *path.relative_to(ROOT).parent.parts}]
    assert vague == []


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call in the file."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def test_only_what_speaks_to_a_terminal_prints() -> None:
    """Everything else logs: a line on standard output is nobody's record."""
    printing = [
        f"{named(path)}:{call.lineno}"
        for path in SOURCES
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "print" and named(path) not in SPEAKS_TO_A_TERMINAL
    ]
    assert printing == []


def test_no_attribute_of_a_span_is_named_outside_the_telemetry() -> None:
    """The catalogue declares them once; a link's telemetry is one line that calls a verb."""
    declared = {attribute.value for attribute in Attribute}
    keys = [
        f"{named(path)}:{key.lineno} {key.value}"
        for path in APP.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
        and isinstance(key.value, str)
        and (key.value in declared or key.value.startswith("tracewire."))
    ]
    setters = [
        f"{named(path)}:{call.lineno}"
        for path in APP.rglob("*.py")
        for call in calls(path)
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("set_attribute", "set_attributes", "add_event")
    ]
    assert (keys, setters) == ([], [])


def dotted(node: ast.expr) -> str:
    """The name by which something is called, as in `asyncio.sleep`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def sleeping(call: ast.Call) -> bool:
    """Whether the call lets time pass; `asyncio.sleep(0)` gives the loop a turn, and passes none."""
    function = dotted(call.func)
    if function not in ("time.sleep", "asyncio.sleep", "sleep", "anyio.sleep", "trio.sleep"):
        return False
    turn = len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    return not (turn and function != "time.sleep")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("time.sleep(0.1)", True),
        ("time.sleep(0)", True),
        ("asyncio.sleep(1)", True),
        ("asyncio.sleep(delay)", True),
        ("sleep(2)", True),
        ("asyncio.sleep(0)", False),
        ("event.wait(5)", False),
    ],
)
def test_the_search_for_sleeps_finds_them(code: str, expected: bool) -> None:
    """It would be of no use otherwise."""
    (statement,) = ast.parse(code).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    assert expected is sleeping(statement.value)


def test_no_test_sleeps() -> None:
    """A test waits for what it waits for: an event, a condition, a future; or it sets the clock. In the simulation
    time is virtual: there a sleep passes none.
    """
    found = [
        f"{named(path)}:{call.lineno} {ast.unparse(call)}"
        for path in TEST_FILES
        if "simulation" not in path.parts
        for call in calls(path)
        if sleeping(call)
    ]
    assert found == []


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """Where it stands in what is tracked."""
    return [
        f"{name}:{number}"
        for name, text in tracked().items()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_folder_of_one_machine() -> None:
    """It would be wrong on every other."""
    # The slash first: a search that begins with what may not stand before it looks twice at every character.
    folders = re.compile(rf"/(?<![\w.~$}}/-]/)(?:{'|'.join(FOLDERS_OF_A_MACHINE)})/")
    assert lines_with(folders) == []


def test_no_file_names_the_host_of_a_package_registry() -> None:
    """Where packages come from is the business of whoever installs them."""
    hosts = re.compile("|".join(re.escape(host) for host in REGISTRY_HOSTS))
    assert lines_with(hosts) == []


def locks() -> list[Path]:
    """Every lock of Python packages."""
    return sorted([*ROOT.glob("requirements*.lock"), *ROOT.glob("examples/*/requirements.lock")])


@pytest.mark.parametrize("path", locks(), ids=named)
def test_the_lock_pins_every_package_by_hash_and_by_no_address(path: Path) -> None:
    """Each entry has an exact version and at least one hash, and nothing but them."""
    entries: dict[str, int] = {}
    current = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line.startswith(" "):
            assert _HASH.match(line.strip()), line
            entries[current] += 1
            continue
        pinned = re.match(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z0-9,-]+\])?==[0-9][\w.+!]*(?: ; .+)? \\$", line)
        assert pinned, line
        current = pinned[1]
        assert current not in entries
        entries[current] = 0
    assert len(entries) > 20
    assert [name for name, hashes in entries.items() if not hashes] == []
    assert "://" not in path.read_text(encoding="utf-8")


def test_there_is_a_lock() -> None:
    """Otherwise the test above would look at nothing."""
    assert "requirements.lock" in {path.name for path in locks()}
