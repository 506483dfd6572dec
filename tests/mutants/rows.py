"""The rows of the matrix: what is done to which event where, told by the id of the user to whose run it is done."""

import itertools
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from support.servers import FIVE

SEPARATOR: Final = "--"
DONE: Final = ("drop", "repeat", "reorder", "delay")
HOPS: Final = ("bridge", "emitter", "socket", "client", "ack")
"""The ways between two stations, by where each leads: engine to bridge, bridge to emitter, emitter to socket, socket to
client, and the client's ack back to the server.
"""
LINKS: Final = ("engine", "bridge", "emitter", "socket", "client")
OPERATIONS: Final = ("create", "process", "send", "settle")
CHECKS: Final = ("L1", "L2", "L3", "L4", "L5", "L6")
REORDERED: Final = {
    **{first: (first, second) for first, second in itertools.pairwise(FIVE)},
    FIVE[-1]: (FIVE[-2], FIVE[-1]),
}
"""Which event is held until which other one has passed it; the last changes places with the one before."""


class Mutant(Struct, frozen=True):
    """One row. `where` is a hop, a link, an operation of the trace or a wiring check, as `what` wants it."""

    what: str
    where: str
    event_type: str

    @property
    def user_id(self) -> str:
        """The user whom it befalls."""
        return SEPARATOR.join((self.what, self.where, self.event_type))

    @property
    def victim(self) -> str:
        """Another user, for those rows that need one."""
        return f"victim-of-{self.user_id}"


def mutant_of(user_id: str) -> Mutant | None:
    """The row of this user; `None` for everybody else."""
    parts = user_id.split(SEPARATOR)
    return Mutant(*parts) if len(parts) == 3 and not parts[0].startswith("victim-of-") else None


def named(what: str, where: str, event_type: str) -> str:
    """The user of a row."""
    return Mutant(what, where, event_type).user_id


def all_rows() -> list[Mutant]:
    """The matrix."""
    return [Mutant(*row) for row in _rows()]


def _rows() -> Iterator[tuple[str, str, str]]:
    for what in DONE:
        yield from ((what, hop, event_type) for hop in HOPS for event_type in FIVE)
    # A link that stamps and claims, and passes nothing on; one that passes on and does not stamp; a stamp of a link
    # that was not crossed.
    for what in ("lie", "unstamped"):
        yield from ((what, link, event_type) for link in LINKS for event_type in FIVE)
    yield from (("forge", link, event_type) for link in LINKS[1:] for event_type in FIVE)
    # Telemetry that is lost while the event arrives.
    yield from (("unspanned", operation, event_type) for operation in OPERATIONS for event_type in FIVE)
    yield "untraced", "trace", "all"
    # The wiring.
    yield from (("unwired", check, "run") for check in CHECKS)
    # The wrong user.
    yield "bound", "emitter", "stranger"
    yield from (("leak", "socket", event_type) for event_type in FIVE)
    yield from (("astray", "socket", event_type) for event_type in FIVE)
    yield from (("foreign", operation, "tool_executing") for operation in OPERATIONS)
    # The wrong parent.
    for what in ("adopted", "orphan"):
        yield from ((what, operation, event_type) for operation in OPERATIONS for event_type in FIVE)
    yield from (("context", "envelope", event_type) for event_type in FIVE)
    # Times out of order.
    for what in ("early", "backwards"):
        yield from ((what, operation, event_type) for operation in OPERATIONS for event_type in FIVE)
    yield from (("overtaken", "settle", event_type) for event_type in FIVE[:-1])
    yield from (("clock", "envelope", event_type) for event_type in FIVE[1:])
    # Two traces for one run.
    yield from (("strayed", operation, "tool_completed") for operation in OPERATIONS)
    yield "doubled", "trace", "all"


def short_rows() -> list[Mutant]:
    """One row of each deed and place, each of another type of event than the one before where there is a choice."""
    places: dict[tuple[str, str], list[Mutant]] = {}
    for row in all_rows():
        places.setdefault((row.what, row.where), []).append(row)
    return [rows[number % len(rows)] for number, rows in enumerate(places.values())]
