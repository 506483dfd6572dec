"""The HTTP routes as an OpenAPI 3.1 document, made from the classes that read and write them."""

from collections import defaultdict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from tracewire.gateway.incidents import IncidentPage, IncidentView
from tracewire.gateway.operations import JSON, OPERATIONS, REFERENCE, Operation
from tracewire.gateway.problems import PROBLEM_TYPE, STATUS, Problem
from tracewire.gateway.runs import AgentView, EventPage, RunPage, RunRequest, RunStarted, RunView
from tracewire.gateway.schema import Schema, components, frames_schema, within
from tracewire.gateway.tickets import TicketView
from tracewire_telemetry.stamps import LedgerReport
from tracewire_telemetry.vocabulary import RejectCode, ResumeOutcome

VERSION: Final = "3.1.1"
SECURITY: Final = "bearer"
TAGS: Final = {
    "runs": "Runs, their events and their agents.",
    "recordings": "What the analyst looks at.",
    "sign-in": "For clients that cannot bring a token to the handshake.",
    "health": "For whoever keeps the server running.",
    "schema": "What this page is made of.",
}
_MODELS: Final = (
    AgentView, EventPage, IncidentPage, IncidentView, LedgerReport, Problem, RunPage, RunRequest, RunStarted, RunView,
    TicketView,
)  # fmt: skip
_RETRY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def openapi_document(version: str) -> Schema:
    """The document of a server of this version."""
    paths: dict[str, Schema] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method] = _operation(operation)
    return {
        "openapi": VERSION,
        "info": {
            "title": "Tracewire",
            "version": version,
            "description": "Agents whose every event can be proven to have arrived. Live events and acks go over the "
            "WebSocket at `/ws`, whose frames are described by `/schema/frames.json`; what is here starts runs and "
            "reads what came of them. A refusal is a problem document (RFC 9457) whose `code` is the socket's.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{SECURITY: []}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                SECURITY: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`tracewire token --user NAME` prints one in development; never in a URL.",
                }
            },
        },
    }


def _schemas() -> dict[str, Schema]:
    schemas = components(_MODELS, REFERENCE)
    # The log's bytes are passed on as they are, so the class does not say what they hold.
    schemas["EventPage"]["properties"]["events"] = {
        "type": "array",
        "items": {"$ref": REFERENCE.format(name="Envelope")},
    }
    envelopes: dict[str, Schema] = within(frames_schema(), "Envelope", REFERENCE)
    return dict(sorted((envelopes | schemas).items()))


def _operation(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {str(status): answer for status, answer in operation.answers.items()} | _refusals(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = operation.body
    if operation.public:
        described["security"] = []
    return described


def _refusals(operation: Operation) -> dict[str, Schema]:
    """The refusals by status, each with its codes."""
    by_status: dict[int, list[RejectCode | ResumeOutcome]] = defaultdict(list)
    for status, code in _codes(operation):
        if code not in by_status[status]:
            by_status[status].append(code)
    return {str(status): _refusal(status, codes) for status, codes in sorted(by_status.items())}


def _codes(operation: Operation) -> Iterator[tuple[int, RejectCode | ResumeOutcome]]:
    for code in operation.refusals:
        yield STATUS[code], code
    if operation.body is not None:
        yield 413, RejectCode.INVALID_INPUT
        if JSON in operation.body["content"]:
            yield 415, RejectCode.MALFORMED
    if not operation.public:
        yield 401, RejectCode.UNAUTHENTICATED
        yield 503, RejectCode.NOT_READY


def _refusal(status: int, codes: list[RejectCode | ResumeOutcome]) -> Schema:
    title = HTTPStatus(status).phrase
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": codes[0].value,
        "detail": "what was wrong, and what to do",
    }
    refusal: Schema = {
        "description": f"{title}: " + ", ".join(f"`{code.value}`" for code in codes),
        "content": {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(name="Problem")}, "example": example}},
    }
    if status == HTTPStatus.UNAUTHORIZED:
        refusal["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status in _RETRY:
        refusal["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return refusal
