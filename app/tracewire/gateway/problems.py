"""Refusals over HTTP: problem documents (RFC 9457) with the codes of the wire."""

from http import HTTPStatus
from typing import Any

import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from tracewire.errors import LogUnavailableError, RejectedError
from tracewire.gateway.auth import AuthenticationError
from tracewire_telemetry.vocabulary import RejectCode

PROBLEM_TYPE = "application/problem+json"
STATUS = {
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
}
_log = structlog.get_logger("tracewire.gateway")


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response[dict[str, Any]]:
    """A problem document."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return Response(document, status_code=status, media_type=PROBLEM_TYPE, headers=headers)


def rejected(_: Request[Any, Any, Any], error: RejectedError) -> Response[dict[str, Any]]:
    """A refusal of the core."""
    wait = error.retry_after_seconds
    headers = {"Retry-After": str(max(1, round(wait)))} if wait is not None else None
    return problem(STATUS[error.reject_code], error.code, str(error), headers)


def unauthenticated(_: Request[Any, Any, Any], error: AuthenticationError) -> Response[dict[str, Any]]:
    """A token is missing or does not hold."""
    return problem(401, error.code, str(error), {"WWW-Authenticate": 'Bearer realm="tracewire"'})


def log_unavailable(_: Request[Any, Any, Any], error: LogUnavailableError) -> Response[dict[str, Any]]:
    """The event log cannot answer."""
    return problem(503, RejectCode.LOG_UNAVAILABLE.value, str(error), {"Retry-After": "5"})


def http_exception(_: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """What Litestar itself refuses: an unknown path, a body that does not fit."""
    extra = f" ({error.extra})" if error.extra else ""
    code = (
        RejectCode.MALFORMED.value
        if error.status_code == 400
        else HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    )
    return problem(error.status_code, code, f"{error.detail}{extra}", dict(error.headers or {}))


def internal(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """A defect of ours."""
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, "internal", "internal error; the server's log has the details")


EXCEPTION_HANDLERS: dict[Any, Any] = {
    RejectedError: rejected,
    AuthenticationError: unauthenticated,
    LogUnavailableError: log_unavailable,
    HTTPException: http_exception,
    Exception: internal,
}
JSON = MediaType.JSON
