"""What a server holds: every object that is reached from it through Tracewire's own instances; then what modules hold.

Instances of other libraries are found, not entered: what two servers must not share is looked for among them too.
"""

import ast
import enum
import functools
import importlib
import inspect
import pkgutil
from collections import deque
from collections.abc import Iterator
from types import BuiltinMethodType, CellType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Final

import click
import msgspec

OURS: Final = ("tracewire", "tracewire_telemetry")
_ATOMS: Final = (type(None), str, bytes, int, float, complex, bool, type, ModuleType, enum.Enum, range)
_CONTAINERS: Final = (list, tuple, set, frozenset, deque)


def reachable(root: object) -> dict[int, object]:
    """Every object that is reached from `root`, by identity; atoms left out. The objects are kept alive by it."""
    found: dict[int, object] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in found or isinstance(value, _ATOMS):
            continue
        found[id(value)] = value
        waiting.extend(_parts(value))
    return found


def is_ours(value: object) -> bool:
    """Whether the object is an instance of a class of Tracewire's."""
    return type(value).__module__.partition(".")[0] in OURS


def is_immutable(value: object) -> bool:
    """Whether nothing can be stored in the object, nor in what it holds: sharing it shares no state."""
    if isinstance(value, (*_ATOMS, FunctionType, BuiltinMethodType)):
        return True
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_immutable, value))
    if isinstance(value, MappingProxyType):
        return all(map(is_immutable, value.values()))
    frozen = isinstance(value, msgspec.Struct) and value.__struct_config__.frozen
    return frozen and all(is_immutable(getattr(value, name)) for name in value.__struct_fields__)  # type: ignore[attr-defined] # a struct has them


def _parts(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            yield from value.keys()
            yield from value.values()
        case _ if isinstance(value, _CONTAINERS):
            yield from value
        case FunctionType():
            yield from (cell.cell_contents for cell in value.__closure__ or () if _filled(cell))
            yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        case MethodType():
            yield value.__self__
        case functools.partial():
            yield from (value.func, *value.args, *value.keywords.values())
        case _ if is_ours(value):
            yield from getattr(value, "__dict__", {}).values()
            names = (name for owner in type(value).__mro__ for name in _slots(owner))
            yield from (getattr(value, name) for name in names if hasattr(value, name))


def _slots(owner: type) -> tuple[str, ...]:
    slots = vars(owner).get("__slots__", ())
    return (
        (slots,) if isinstance(slots, str) else tuple(name for name in slots if name not in ("__weakref__", "__dict__"))
    )


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 # an empty cell raises
    except ValueError:
        return False
    return True


# What modules hold.


def product_modules() -> list[ModuleType]:
    """Every module that a server can import."""
    found = [
        importlib.import_module(entry.name)
        for name in OURS
        for entry in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}.")
        if ".testing" not in entry.name
    ]
    assert len(found) > 50
    return found


def module_instances() -> list[str]:
    """Each name at the top of a module that stands for an instance of ours that can change; commands are none."""
    return [
        f"{module.__name__}.{name}"
        for module in product_modules()
        for name, value in vars(module).items()
        if is_ours(value) and not is_immutable(value) and not isinstance(value, click.Command)
    ]


def class_state() -> list[str]:
    """Each class attribute that can change, and would be every instance's."""
    return [
        f"{value.__module__}.{value.__qualname__}.{name}"
        for module in product_modules()
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and not issubclass(value, (tuple, enum.Enum))
        for name, attribute in vars(value).items()
        if isinstance(attribute, (dict, list, set)) and not name.startswith("__")
    ]


def module_tables() -> dict[str, Any]:
    """Each dictionary, list and set at the top of a module, by its name."""
    return {
        f"{module.__name__}.{name}": value
        for module in product_modules()
        for name, value in vars(module).items()
        if type(value) in (dict, list, set) and not name.startswith("__")
    }


def environment_readers() -> set[str]:
    """The modules that ask for the process's environment."""
    return {
        module.__name__
        for module in product_modules()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    }
