"""The ops port: metrics, health and the ledgers of all users. It names users, so it is for operators alone."""

import secrets
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.params import FromPath

from tracewire.gateway.auth import AuthenticationError
from tracewire.gateway.problems import EXCEPTION_HANDLERS
from tracewire.gateway.protocol import find_token
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


def require_operator(request: Request[Any, Any, Any], state: State) -> None:
    """Refuse who does not bring the ops token, where one is set."""
    expected: str = state["ops_token"]
    token = find_token(request.headers.get("authorization"), ()) or ""
    if expected and not secrets.compare_digest(token.encode(), expected.encode()):
        raise AuthenticationError("the ops port needs its bearer token (TRACEWIRE_OPS_TOKEN)")


def ops_app(http_runs: HttpRuns, metrics_: Metrics, readiness: Readiness, *, token: str) -> Litestar:
    """The application of the ops port."""
    return Litestar(
        [live, ready, metrics, ledger],
        state=State({"http_runs": http_runs, "metrics": metrics_, "readiness": readiness, "ops_token": token}),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
        logging_config=None,
    )
