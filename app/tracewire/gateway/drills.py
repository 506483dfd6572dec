"""`/drills` on the ops port: arm a fire drill, and see what became of it. Refused where the server allows none."""

import time
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from tracewire.drills import AGENT, USER, Drill, Drills, DrillState
from tracewire.errors import RejectedError
from tracewire.gateway.auth import SigningError, sign_token
from tracewire.gateway.ops import require_operator
from tracewire.gateway.reading import read_body
from tracewire.settings import Settings
from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, LINKS, EventType, Link, RejectCode

TOKEN_SECONDS: Final = 600
"""How long the drill's token holds: longer than a drill takes, the way back after a lost socket included."""
NOT_ALLOWED: Final = (
    "this server allows no drills: start it with `tracewire serve --drills` (TRACEWIRE_DRILLS=true), and try again"
)


class DrillRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /drills`: one of the five critical types, and the link that is to lose it."""

    event: str
    link: str


class DrillView(Struct, frozen=True, kw_only=True):
    """A drill. Times are RFC 3339, UTC; `noticed_at` is when the event had been declared missing."""

    drill_id: str
    event: EventType
    link: Link
    state: DrillState
    run_id: str | None
    lost_at: str | None
    noticed_at: str | None


class ArmedDrill(DrillView, frozen=True, kw_only=True):
    """A drill that is armed for the run that `user_id` starts at `ws_url`, of `agent`, with `drill_id` as request id.

    `token` signs that user in, for ten minutes; `null` where the server's tokens are signed elsewhere.
    """

    user_id: str
    agent: str
    ws_url: str
    token: str | None


def drill_routes(drills: Drills | None, settings: Settings, ws_url: str) -> list[HTTPRouteHandler]:
    """The routes, of a server that allows these drills, or (`None`) none."""

    @post("/drills", status_code=201)
    async def arm(request: Request[Any, Any, Any], state: State) -> ArmedDrill:
        require_operator(request, state)
        allowed = _require(drills)
        # As for revocations: a foreign page can post to loopback, but no JSON without asking first.
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(status_code=415, detail="send it as application/json")
        asked = await read_body(request, DrillRequest)
        if asked.event not in CRITICAL_TYPES:
            raise _must_be("event", CRITICAL_TYPES, asked.event)
        if asked.link not in LINKS:
            raise _must_be("link", LINKS, asked.link)
        try:
            token = sign_token(settings, USER, ttl_seconds=TOKEN_SECONDS)
        except SigningError:
            token = None
        drill = allowed.arm(EventType(asked.event), Link(asked.link), time.monotonic_ns())
        return ArmedDrill(**_shown(drill), user_id=USER, agent=AGENT, ws_url=ws_url, token=token)

    @get("/drills/{drill_id:str}")
    async def show(request: Request[Any, Any, Any], state: State, drill_id: FromPath[str]) -> DrillView:
        require_operator(request, state)
        drill = _require(drills).find(drill_id)
        if drill is None:
            raise NotFoundException(detail="there is no such drill, or a newer one was armed")
        return DrillView(**_shown(drill))

    return [arm, show]


def _require(drills: Drills | None) -> Drills:
    if drills is None:
        raise RejectedError(RejectCode.FORBIDDEN, NOT_ALLOWED)
    return drills


def _must_be(name: str, values: tuple[str, ...], given: str) -> RejectedError:
    return RejectedError(RejectCode.MALFORMED, f"{name} must be one of {', '.join(values)}, not {given[:64]!r}")


def _shown(drill: Drill) -> dict[str, Any]:
    return {
        "drill_id": drill.drill_id,
        "event": drill.event_type,
        "link": drill.link,
        "state": drill.state(time.monotonic_ns()),
        "run_id": drill.ledger.identity.run_id if drill.ledger is not None else None,
        "lost_at": _moment(drill.lost_unix_ns),
        "noticed_at": _moment(drill.noticed_unix_ns),
    }


def _moment(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    moment = datetime.fromtimestamp(unix_ns / NS_PER_SECOND, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
