"""What must come of each row: which link the suites' checks name, what heals, and the incident.

`link` of an incident is the first link that has not taken the event, by its stamps: a station that lies has stamped,
and the next one is named. Where the user is told at once, by an `agent_error` that says why, nothing is missing that
anybody waits for, and no incident is opened.
"""

from typing import Final

from msgspec import Struct

from mutants.rows import REORDERED, Mutant
from support.servers import FIVE

LAST: Final = FIVE[-1]
NOTHING: Final = ""
RESUMED: Final = "resumed"
CLOSED: Final = "closed 4003"
COVERED: Final = "acked with the next"
ONCE: Final = "taken once"
_NEXT: Final = {"engine": "bridge", "bridge": "emitter", "emitter": "socket", "socket": "client", "client": "client"}


class Expected(Struct, frozen=True):
    """What must come of one row.

    Attributes:
        check: the first wiring check that the suites' checks name; empty where they are to find nothing.
        seen_in: where it must be seen at least.
        healed: what mended it; empty where the user lacks something for good, or lacked nothing.
        incident: link, type and state; `None` where there is to be none, and no alert.
    """

    check: str
    seen_in: tuple[str, ...] = ()
    healed: str = ""
    incident: tuple[str, str, str] | None = None


def expected(row: Mutant) -> Expected:
    """What must come of this row."""
    match row.what:
        case "drop":
            return _dropped(row)
        case "repeat":
            return _repeated(row)
        case "reorder":
            return _reordered(row)
        case "delay":
            return _delayed(row)
        case "lie":
            return _lied(row.where, row.event_type)
        case "forge":
            return _forged(row)
        case "unstamped":
            return _unstamped(row)
        case "unwired":
            return Expected(row.where, ("payload", "trace"))
        case "bound":
            return Expected("L4", ("payload", "trace"))
        case "leak":
            return Expected("L4", ("payload",))
        case "astray":
            return Expected("L4", ("payload",), RESUMED, ("socket", row.event_type, "healed"))
        case "clock":
            return Expected("L5", ("payload",))
        case _:  # what befalls the trace alone
            return Expected("L6" if row.where in ("send", "settle") else "L5", ("trace",))


def _dropped(row: Mutant) -> Expected:
    lost, last = row.event_type, row.event_type == LAST
    match row.where:
        case "bridge":
            return Expected("L5", ("payload", "trace"), incident=("bridge", lost, "lost"))
        case "emitter":
            return Expected("L5", ("payload", "trace"))  # the bridge notices at once, and ends the run
        case "socket":
            return Expected("L6", ("trace",), RESUMED, ("socket", lost, "healed"))
        case "client":
            # Any later event shows the gap to the client, before anybody is to blame; behind the last there is none.
            return Expected("L6", ("trace",), RESUMED, ("client", lost, "healed") if last else None)
        case _:
            if last:
                return Expected("L6", ("trace",), CLOSED, ("client", lost, "healed"))
            return Expected(NOTHING, healed=COVERED)


def _repeated(row: Mutant) -> Expected:
    if row.where in ("bridge", "emitter") and row.event_type != LAST:
        return Expected("L5", ("payload", "trace"))  # refused loudly: the run ends
    return Expected("L6", ("wire",), ONCE) if row.where == "client" else Expected(NOTHING, healed=ONCE)


def _reordered(row: Mutant) -> Expected:
    held, _ = REORDERED[row.event_type]
    match row.where:
        case "bridge":
            # Where the tool is closed by the run's end, only its result tells.
            traced = () if held == "tool_completed" else ("trace",)
            return Expected("L5", ("payload", *traced))
        case "emitter":
            return Expected("L5", ("payload", "trace"))
        case "socket":
            return Expected("L6", ("trace",), RESUMED, ("socket", held, "healed"))
        case "client":
            return Expected("L6", ("trace", "wire"), RESUMED)
        case _:
            return Expected(NOTHING, healed=COVERED)


def _delayed(row: Mutant) -> Expected:
    link = "client" if row.where == "ack" else row.where
    incident = (link, row.event_type, "healed")
    match row.where:
        case "bridge" | "emitter":
            return Expected("L5", ("trace",), f"healed at {link}", incident)
        case "ack":
            return Expected("L6", ("trace",), CLOSED, incident)
        case _:
            return Expected("L6", ("trace",), RESUMED, incident)


def _lied(link: str, event_type: str) -> Expected:
    """A link that stamps, reports success and passes nothing on."""
    named = _NEXT[link]
    match link:
        case "engine" | "bridge":
            return Expected("L5", ("payload", "trace"), incident=(named, event_type, "lost"))
        case "emitter":
            return Expected("L6", ("trace",), RESUMED, (named, event_type, "healed"))
        case "socket":
            last = event_type == LAST
            return Expected("L6", ("trace",), RESUMED, (named, event_type, "healed") if last else None)
        case _:
            return Expected("L6", ("trace",), incident=(named, event_type, "lost"))


def _forged(row: Mutant) -> Expected:
    """A stamp of a link that was not crossed, made by the one before it."""
    last = row.event_type == LAST
    match row.where:
        case "emitter":
            # The log refuses what comes next, and the run ends; behind the last event nothing comes next.
            return Expected("L5", ("payload", "trace"), incident=("socket", row.event_type, "lost") if last else None)
        case "client":
            # To the server all is well. Only the client knows better, by a later event if there is one.
            return Expected("L6", ("payload",)) if last else Expected("L6", ("trace",), RESUMED)
        case _:
            return _lied(row.where, row.event_type)


def _unstamped(row: Mutant) -> Expected:
    """A link that passes on and does not stamp: telemetry is lost, and no event."""
    if row.where != "client":
        return Expected("L6" if row.where == "socket" else "L5", ("trace",))
    if row.event_type != LAST:
        return Expected(NOTHING, healed=COVERED)
    # Nothing comes after the last ack: to the ledger it is as if the client had not sent it.
    return Expected("L6", ("trace",), incident=("client", row.event_type, "user_gone"))
