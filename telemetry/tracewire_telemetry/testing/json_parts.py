"""The parts of a JSON trace, read with care: each says where it is wrong."""

import base64
import binascii
import re
from typing import Any, Final

TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
_HEX: Final = re.compile(r"^[0-9a-fA-F]+$")


class TraceFormatError(ValueError):
    """What was read is no trace; the message says where it is wrong, and what was expected."""


def named(value: Any, names: tuple[str, ...], prefix: str, where: str) -> str:
    """The value as one of these names: given as a name, with the enumeration's prefix or without, or as its number."""
    if isinstance(value, str) and value.removeprefix(prefix).lower() in names:
        return value.removeprefix(prefix).lower()
    try:
        return names[int(value)]
    except (IndexError, TypeError, ValueError):
        raise TraceFormatError(f"{where} is {value!r}, must be one of {', '.join(names)}") from None


def id_of(value: Any, size: int, where: str, *, required: bool = True) -> str:
    """An id as lower-case hex; empty where there need be none."""
    if not value and not required:
        return ""
    text = str(value or "")
    if _HEX.match(text) and len(text) <= 2 * size:  # leading zeros are left out by some
        found = text.lower().zfill(2 * size)
    else:
        try:
            found = base64.b64decode(text, validate=True).hex()
        except (binascii.Error, ValueError):
            found = ""
    if len(found) != 2 * size:
        raise TraceFormatError(f"{where} is {value!r}, must be {2 * size} hex digits (or {size} bytes in base64)")
    return "" if not required and not found.strip("0") else found


def time_of(value: Any, where: str, unit: str = "nanoseconds") -> int:
    """A time in the unit of the format, which may write it as a text."""
    return number_of(value, where, f"Unix {unit}")


def number_of(value: Any, where: str, what: str = "a whole number") -> int:
    """A whole number, which may be written as a text."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise TraceFormatError(f"{where} is {value!r}, must be {what}") from None


def object_of(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise TraceFormatError(f"{where}: must be an object, found {value!r}")
    return value


def list_of(owner: Any, name: str, where: str) -> list[Any]:
    """The owner's list of that name; an absent one is empty."""
    value = object_of(owner, where).get(name) or []
    if not isinstance(value, list):
        raise TraceFormatError(f"{where}: {name} must be a list, found {value!r}")
    return value
