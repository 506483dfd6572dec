"""How an answer says things: numbers with their nouns, times, places, and names that a file has brought along."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.investigation import Findings

NAME_CHARACTERS_MAX: Final = 64
"""Of a longer name the beginning is shown."""


class Section(Struct, frozen=True):
    """One part of an answer. `headline` says it in a sentence, `items` show where; `problems` is 0 if all is well."""

    headline: str
    items: tuple[str, ...] = ()
    problems: int = 0


def number_of(count: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sentence(parts: Sequence[str]) -> str:
    """The parts as one sentence, or nothing."""
    if not parts:
        return ""
    *others, last = parts
    joined = f"{', '.join(others)} and {last}" if others else last
    return f"{joined[0].upper()}{joined[1:]}."


def seconds(value: float) -> str:
    """A duration as a person would say it."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def moment(value: float | None) -> str:
    """A time of day of the epoch, or nothing: some recordings count from an arbitrary start."""
    if value is None or not 1e9 < value < 1e11:
        return "–"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")


def code(name: str | None) -> str:
    """A name from a file, so that it can break neither a line nor a table nor the Markdown."""
    printable = "".join(character if character.isprintable() else " " for character in name or "?")
    shown = printable.replace("`", "'").replace("|", "¦").strip() or "?"
    return f"`{shown[:NAME_CHARACTERS_MAX]}{'…' if len(shown) > NAME_CHARACTERS_MAX else ''}`"


def at(findings: Findings, frame: Frame) -> str:
    """Where a frame is and what it is: `line 31 (`tool_executing`, seq 5)`."""
    cited = findings.reading.cite(frame)
    number = f", seq {frame.seq}" if frame.seq is not None and cited != f"seq {frame.seq}" else ""
    return f"{cited} ({code(frame.name)}{number})"
