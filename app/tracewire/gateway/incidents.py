"""`GET /incidents`: what is or was missing, and at which link: of all users on the ops port, one's own on the public.

Enters: filters, all of which must hold. Leaves: a page of incidents, newest first. A filter that does not exist is
refused: one that is misspelt would otherwise show everything.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

from litestar import Request, get
from litestar.datastructures import State
from msgspec import Struct

from tracewire.errors import RejectedError
from tracewire.eventlog import EventLog, IncidentQuery
from tracewire.gateway.ops import require_operator
from tracewire.gateway.reading import integer_of
from tracewire.gateway.runs import shared
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import MISSING_TYPES, IncidentState, Link, RejectCode

PAGE_INCIDENTS: Final = 100
PAGE_INCIDENTS_MAX: Final = 1_000
TEXT_CHARACTERS_MAX: Final = 1_024
_OWN_FILTERS: Final = ("run", "link", "type", "state", "since", "limit", "before")
_NS: Final = 1_000_000_000
_UNIX_NS_MAX: Final = (1 << 63) - 1
_Choice = TypeVar("_Choice", bound=StrEnum)


class IncidentView(Struct, frozen=True):
    """Events of a run that are, or were, missing at a link. `type` and `first_seq` are the first one's.

    `type` is `next` where the agent fell silent; a seq is `null` where the events never got one. `since` and `ended`
    are RFC 3339, UTC; `late_seconds` is how late the last of them came, where it is healed.
    """

    incident_id: str
    run_id: str
    user_id: str
    agent: str
    trace_id: str
    link: Link
    type: str
    first_seq: int | None
    last_seq: int | None
    count: int
    state: IncidentState
    since: str
    ended: str | None
    late_seconds: float | None


class IncidentPage(Struct, frozen=True):
    """Incidents, newest first. `next` goes into `before` for the next page; `null`: there is none."""

    incidents: list[IncidentView]
    next: str | None


@get("/incidents")
async def all_incidents(request: Request[Any, Any, Any], state: State) -> IncidentPage:
    """The incidents of all users, for operators."""
    require_operator(request, state)
    query = read_query(request.query_params, ("user", *_OWN_FILTERS))
    return await _page(shared(state).log, query)


@get("/incidents")
async def own_incidents(request: Request[Any, Any, Any], state: State) -> IncidentPage:
    """The incidents of the user who asks."""
    http = shared(state)
    user_id = await http.user_of(request)
    return await _page(http.log, read_query(request.query_params, _OWN_FILTERS, user_id=user_id))


async def _page(log: EventLog, query: IncidentQuery) -> IncidentPage:
    found = await log.incidents(query)
    shown = found[: query.limit - 1]
    following = shown[-1].incident_id if len(found) > len(shown) else None
    return IncidentPage([_view(incident) for incident in shown], following)


def read_query(params: Mapping[str, str], known: tuple[str, ...], *, user_id: str | None = None) -> IncidentQuery:
    """What the filters ask for, and one more than the page holds.

    Raises:
        RejectedError: `malformed`, saying which filter is wrong and what it must be.
    """
    for name in params:
        if name not in known:
            raise RejectedError(RejectCode.MALFORMED, f"there is no filter {name[:64]!r}; there are {', '.join(known)}")
    limit = integer_of("limit", params.get("limit"), PAGE_INCIDENTS, low=1, high=PAGE_INCIDENTS_MAX)
    event_type = params.get("type")
    if event_type is not None and event_type not in MISSING_TYPES:
        raise _must_be("type", MISSING_TYPES, event_type)
    return IncidentQuery(
        limit=limit + 1,
        before_id=_text(params, "before"),
        user_id=user_id if user_id is not None else _text(params, "user"),
        run_id=_text(params, "run"),
        link=_choice(params, "link", Link),
        event_type=event_type,
        state=_choice(params, "state", IncidentState),
        since_unix_ns=_moment(params.get("since")),
    )


def _text(params: Mapping[str, str], name: str) -> str | None:
    text = params.get(name)
    if text is not None and not 0 < len(text) <= TEXT_CHARACTERS_MAX:
        raise RejectedError(RejectCode.MALFORMED, f"{name} must have 1 to {TEXT_CHARACTERS_MAX} characters")
    return text


def _choice(params: Mapping[str, str], name: str, members: type[_Choice]) -> _Choice | None:
    text = params.get(name)
    if text is None:
        return None
    try:
        return members(text)
    except ValueError:
        raise _must_be(name, tuple(member.value for member in members), text) from None


def _must_be(name: str, values: tuple[str, ...], text: str) -> RejectedError:
    return RejectedError(RejectCode.MALFORMED, f"{name} must be one of {', '.join(values)}, not {text[:64]!r}")


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        # An unescaped plus of a query string arrives as a blank.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        if moment.tzinfo is None:
            raise ValueError
        # Nothing is older or newer than what the log can count; a number beyond it would break the query.
        return max(-_UNIX_NS_MAX, min(int(moment.timestamp() * _NS), _UNIX_NS_MAX))
    except (ValueError, OverflowError):
        raise RejectedError(
            RejectCode.MALFORMED,
            f"since must be a date and time with its offset (RFC 3339), as in 2026-01-31T12:00:00Z, not {text[:64]!r}",
        ) from None


def _view(incident: Incident) -> IncidentView:
    ended = incident.ended_unix_ns
    return IncidentView(
        incident.incident_id,
        incident.run_id,
        incident.user_id,
        incident.agent,
        incident.trace_id,
        incident.link,
        incident.event_type,
        incident.first_seq,
        incident.last_seq,
        incident.count,
        incident.state,
        _shown(incident.since_unix_ns),
        None if ended is None else _shown(ended),
        incident.late_seconds,
    )


def _shown(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / _NS, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
