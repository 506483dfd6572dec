"""The ops port: metrics, health, ledgers of all users, revocations. It names users, so it is for operators alone."""

import secrets
from collections.abc import Sequence
from typing import Any

from litestar import Controller, Litestar, Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from tracewire.gateway.auth import AuthenticationError
from tracewire.gateway.problems import EXCEPTION_HANDLERS
from tracewire.gateway.protocol import find_token
from tracewire.gateway.reading import read_body
from tracewire.gateway.revocation import Revocation
from tracewire.gateway.revoking import Revoker
from tracewire.gateway.runs import HttpRuns, shared
from tracewire.readiness import Readiness
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.stamps import LedgerReport


@get("/live", sync_to_thread=False)
def live() -> dict[str, bool]:
    """200 for as long as the process answers."""
    return {"live": True}


@get("/ready", sync_to_thread=False)
def ready(state: State) -> Response[dict[str, Any]]:
    """200 while the server takes new work; otherwise 503, with every step that does not hold and why."""
    readiness: Readiness = state["readiness"]
    body = {"ready": readiness.ready, "reasons": readiness.reasons}
    return Response(body, status_code=200 if readiness.ready else 503)


@get("/metrics", sync_to_thread=False)
def metrics(request: Request[Any, Any, Any], state: State) -> Response[bytes]:
    """What Prometheus scrapes: text, or OpenMetrics with exemplars where the scraper asks for it."""
    require_operator(request, state)
    shown: Metrics = state["metrics"]
    body, content_type = shown.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


@get("/runs/{run_id:str}/ledger")
async def ledger(request: Request[Any, Any, Any], state: State, run_id: FromPath[str]) -> LedgerReport:
    """What each event of any user's run has crossed, and when."""
    require_operator(request, state)
    return await shared(state).ledger(run_id, None)


class RevocationRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /revocations`: a user, or the id (`jti`) of one token. `expires_at` (Unix seconds) is when it
    may be forgotten, for instance the token's own expiry.
    """

    user_id: str | None = None
    token_id: str | None = None
    expires_at: float | None = None


class RevocationPage(Struct, frozen=True):
    """The revocations in force."""

    revocations: list[Revocation]


class RevocationsController(Controller):
    """`/revocations`: whose tokens hold no more. Effective at once, on open sockets too."""

    path = "/revocations"

    @post(status_code=201)
    async def revoke(self, request: Request[Any, Any, Any], state: State) -> Revocation:
        """Revoke every token of a user that was issued up to now, or one token."""
        require_operator(request, state)
        # A page that the operator looks at elsewhere can post to loopback, but no JSON without asking first.
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(status_code=415, detail="send it as application/json")
        asked = await read_body(request, RevocationRequest)
        revoker: Revoker = state["revoker"]
        try:
            return await revoker.revoke(user_id=asked.user_id, token_id=asked.token_id, expires_at=asked.expires_at)
        except OSError as error:
            raise _not_kept("it is in force, but a restart would forget it", error) from error

    @get()
    async def page(self, request: Request[Any, Any, Any], state: State) -> RevocationPage:
        """Those in force."""
        require_operator(request, state)
        revoker: Revoker = state["revoker"]
        return RevocationPage(list(revoker.revocations))

    @delete("/{revocation_id:str}", status_code=204)
    async def restore(self, request: Request[Any, Any, Any], state: State, revocation_id: FromPath[str]) -> None:
        """Take one back: the tokens hold again, as long as their time lasts."""
        require_operator(request, state)
        revoker: Revoker = state["revoker"]
        try:
            found = await revoker.restore(revocation_id)
        except OSError as error:
            raise _not_kept("it is taken back, but after a restart it would be there again", error) from error
        if not found:
            raise NotFoundException


def _not_kept(what: str, error: OSError) -> HTTPException:
    return HTTPException(status_code=503, detail=f"{what}: {error.strerror or error}; mend that, and do it again")


def require_operator(request: Request[Any, Any, Any], state: State) -> None:
    """Refuse who does not bring the ops token, where one is set."""
    expected: str = state["ops_token"]
    token = find_token(request.headers.get("authorization"), ()) or ""
    if expected and not secrets.compare_digest(token.encode(), expected.encode()):
        raise AuthenticationError("the ops port needs its bearer token (TRACEWIRE_OPS_TOKEN)")


def ops_app(
    http_runs: HttpRuns,
    metrics_: Metrics,
    readiness: Readiness,
    revoker: Revoker,
    *,
    token: str,
    further: Sequence[HTTPRouteHandler] = (),
) -> Litestar:
    """The application of the ops port; `further` are routes of other modules that build on this one."""
    return Litestar(
        [live, ready, metrics, ledger, RevocationsController, *further],
        state=State(
            {
                "http_runs": http_runs,
                "metrics": metrics_,
                "readiness": readiness,
                "revoker": revoker,
                "ops_token": token,
            }
        ),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
        logging_config=None,
    )
