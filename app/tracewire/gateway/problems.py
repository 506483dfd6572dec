"""Refusals over HTTP: problem documents (RFC 9457) with the codes of the wire."""

import math
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import Struct

from tracewire.errors import EventsExpiredError, LogUnavailableError, RejectedError
from tracewire.gateway.auth import AuthenticationError
from tracewire.gateway.keys import KeysUnavailableError
from tracewire.gateway.methods import allowed
from tracewire_telemetry.vocabulary import RejectCode, ResumeOutcome

PROBLEM_TYPE = "application/problem+json"
STATUS: dict[RejectCode | ResumeOutcome, int] = {
    RejectCode.MALFORMED: 400,
    RejectCode.UNKNOWN_FRAME: 400,
    RejectCode.INVALID_INPUT: 400,
    RejectCode.UNAUTHENTICATED: 401,
    RejectCode.FORBIDDEN: 403,
    RejectCode.UNKNOWN_AGENT: 404,
    RejectCode.UNKNOWN_RUN: 404,
    RejectCode.RUN_ENDED: 409,
    RejectCode.ACK_AHEAD: 409,
    RejectCode.REQUEST_ID_REUSED: 409,
    RejectCode.TOO_MANY_RUNS: 429,
    RejectCode.RATE_LIMITED: 429,
    RejectCode.NOT_READY: 503,
    RejectCode.DRAINING: 503,
    RejectCode.LOG_UNAVAILABLE: 503,
    ResumeOutcome.EXPIRED: 410,
}
"""The status of each code. `expired` is what a resume is answered with on a socket, and no refusal there."""
HTTP_CODES = {
    404: RejectCode.UNKNOWN_FRAME,
    405: RejectCode.UNKNOWN_FRAME,
    413: RejectCode.INVALID_INPUT,
    503: RejectCode.NOT_READY,
}
"""The codes of what the framework refuses before any of ours looks at it; `malformed` for all else. A request that no
route takes is to HTTP what an unknown frame is to a socket.
"""
DETAILS = {
    405: "this path does not take this method; `Allow` says which it takes",
    413: "the body is larger than this path takes",
}
DETAIL_CHARACTERS_MAX = 1_000
_log = structlog.get_logger("tracewire.gateway")


class Problem(Struct, frozen=True):
    """Why a request was refused (RFC 9457). `code` is the wire's, for programs; `detail` is for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response[Problem]:
    """A problem document."""
    document = Problem("about:blank", HTTPStatus(status).phrase, status, code, detail[:DETAIL_CHARACTERS_MAX])
    return Response(document, status_code=status, media_type=PROBLEM_TYPE, headers=headers)


def refuse(
    request: Request[Any, Any, Any],
    code: RejectCode,
    detail: str,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    """A refusal: counted, logged, and told."""
    status = STATUS[code] if status is None else status
    metrics = request.app.state.get("metrics")
    if metrics is not None:
        metrics.rejected(code)
    _log.info("request_refused", method=request.method, route=_route(request), status=status, code=code.value)
    return problem(status, code.value, detail, headers)


def _route(request: Request[Any, Any, Any]) -> str | None:
    """The pattern that the path fits. The path itself may hold anything, a token too."""
    return request.scope.get("path_template") or None


def rejected(request: Request[Any, Any, Any], error: RejectedError) -> Response[Problem]:
    """A refusal of the core."""
    wait = error.retry_after_seconds
    headers = {"Retry-After": str(max(1, math.ceil(wait)))} if wait is not None else None
    return refuse(request, error.reject_code, str(error), headers=headers)


def unauthenticated(request: Request[Any, Any, Any], error: AuthenticationError) -> Response[Problem]:
    """A token is missing or does not hold."""
    headers = {"WWW-Authenticate": 'Bearer realm="tracewire"'}
    return refuse(request, RejectCode.UNAUTHENTICATED, str(error), headers=headers)


def keys_unavailable(request: Request[Any, Any, Any], error: KeysUnavailableError) -> Response[Problem]:
    """Whether a token holds cannot be told now."""
    headers = {"Retry-After": str(math.ceil(error.retry_after_seconds))}
    return refuse(request, RejectCode.NOT_READY, str(error), headers=headers)


def log_unavailable(request: Request[Any, Any, Any], error: LogUnavailableError) -> Response[Problem]:
    """The event log cannot answer."""
    return refuse(request, RejectCode.LOG_UNAVAILABLE, str(error), headers={"Retry-After": "5"})


def expired(request: Request[Any, Any, Any], error: EventsExpiredError) -> Response[Problem]:
    """Events that were asked for are no longer kept: there is no part of them, and no use in asking again."""
    metrics = request.app.state.get("metrics")
    if metrics is not None:
        metrics.resumed(ResumeOutcome.EXPIRED)
    _log.info("request_expired", method=request.method, route=_route(request), first_seq=error.first_seq)
    return problem(STATUS[ResumeOutcome.EXPIRED], error.code, str(error))


def http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """What the framework itself refuses: an unknown path, a method, a body that does not fit."""
    status = error.status_code
    code = HTTP_CODES.get(status, RejectCode.MALFORMED)
    said = _said(error)
    detail = said
    if said == HTTPStatus(status).phrase:
        detail = _nothing_here(request) if status == HTTPStatus.NOT_FOUND else DETAILS.get(status, said)
    headers = {name.title(): value for name, value in (error.headers or {}).items()}
    if "Allow" in headers:
        headers["Allow"] = allowed(set(headers["Allow"].split(", ")))
    return refuse(request, code, detail, status=status, headers=headers)


def _nothing_here(request: Request[Any, Any, Any]) -> str:
    """Where to look instead: the ops port has no `/schema`, and few paths."""
    paths = sorted({route.path_format for route in request.app.routes})
    there_is = "/schema lists what there is" if "/schema" in paths else f"there are {', '.join(paths)}"
    return f"there is nothing at this path; {there_is}"


def _said(error: HTTPException) -> str:
    """What is wrong with which part of a request, as the framework tells it."""
    if not isinstance(error.extra, list):
        return error.detail
    parts = [part for part in error.extra if isinstance(part, dict)]
    return "; ".join(f"{part.get('key', 'the request')}: {part.get('message', 'wrong')}" for part in parts)


def too_deep(request: Request[Any, Any, Any], _: RecursionError) -> Response[Problem]:
    """A body that nests deeper than the interpreter follows."""
    return refuse(request, RejectCode.MALFORMED, "the body is nested too deeply")


def internal(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """A defect of ours."""
    _log.error("request_failed", method=request.method, route=_route(request), exc_info=error)
    return problem(500, "internal", "internal error; the server's log has the details")


EXCEPTION_HANDLERS: dict[Any, Any] = {
    RejectedError: rejected,
    AuthenticationError: unauthenticated,
    KeysUnavailableError: keys_unavailable,
    EventsExpiredError: expired,
    LogUnavailableError: log_unavailable,
    HTTPException: http_exception,
    RecursionError: too_deep,
    Exception: internal,
}
