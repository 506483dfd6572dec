"""The operations of the public port, one by one, as `/schema` tells of them.

What a route answers besides its model (refusals, streams, headers) is not in its signature. A test holds this table to
the routes that the server has, and another what comes to what it says.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from tracewire.gateway.event_stream import MEDIA_TYPE
from tracewire.gateway.incidents import PAGE_INCIDENTS, PAGE_INCIDENTS_MAX, IncidentPage
from tracewire.gateway.reading import SEQ_MAX
from tracewire.gateway.runs import (
    PAGE_EVENTS_MAX,
    PAGE_RUNS_MAX,
    AgentView,
    EventPage,
    RunPage,
    RunRequest,
    RunStarted,
    RunView,
)
from tracewire.gateway.schema import Schema
from tracewire.gateway.tickets import TicketView
from tracewire.runs.service import ID_CHARACTERS_MAX
from tracewire_telemetry.stamps import LedgerReport
from tracewire_telemetry.vocabulary import LINKS, MISSING_TYPES, IncidentState, RejectCode, ResumeOutcome

JSON: Final = "application/json"
REFERENCE: Final = "#/components/schemas/{name}"


class Operation(Struct, frozen=True):
    """One method of one path. `answers` are the responses that are no refusals, `refusals` the codes of the others."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    answers: Mapping[int, Schema]
    refusals: tuple[RejectCode | ResumeOutcome, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: Schema | None = None
    description: str = ""
    public: bool = False


def _model(cls: type) -> Schema:
    return {"$ref": REFERENCE.format(name=cls.__name__)}


def _answer(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, "content": {JSON: {"schema": schema}}, **more}


def _filter(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _integer(name: str, description: str, default: int, low: int, high: int) -> Schema:
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return {"name": name, "in": "query", "description": description, "schema": schema}


_RUN_ID: Final[Schema] = {
    "name": "run_id",
    "in": "path",
    "required": True,
    "description": "The run's id. Another user's run does not exist.",
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The request id: the same again is answered with the same run. Without one, each request is new.",
    "schema": {"type": "string", "minLength": 1, "maxLength": ID_CHARACTERS_MAX},
}
_LAST_EVENT_ID: Final[Schema] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "For a stream: the seq of the last event that came. Counts before `after`.",
    "schema": {"type": "integer", "minimum": 0, "maximum": SEQ_MAX},
}
_BEFORE: Final[Schema] = {
    "name": "before",
    "in": "query",
    "description": "The `next` of the page before.",
    "schema": {"type": "string"},
}
_LOCATION: Final[Schema] = {"headers": {"Location": {"description": "The run.", "schema": {"type": "string"}}}}
_STREAM: Final = (
    "`id` is the seq, `event` the type, `data` the envelope. The stream begins after `Last-Event-ID` or `after`, and "
    "ends with the run's terminal event. A comment comes every heartbeat."
)
_LOG: Final = RejectCode.LOG_UNAVAILABLE
_NOT_FOUND: Final = RejectCode.UNKNOWN_RUN
_READINESS: Final[Schema] = {
    "type": "object",
    "required": ["ready", "reasons"],
    "properties": {
        "ready": {"type": "boolean"},
        "reasons": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

OPERATIONS: Final = (
    Operation(
        "get", "/agents", "listAgents", "runs", "The agents that can be asked, the default first",
        {200: _answer("The agents.", {"type": "array", "items": _model(AgentView)})},
    ),
    Operation(
        "post", "/runs", "startRun", "runs", "Start a run",
        {
            202: _answer("The run is accepted, durable, and about to begin.", _model(RunStarted), **_LOCATION),
            200: _answer("The run that this `Idempotency-Key` started before.", _model(RunStarted), **_LOCATION),
        },
        (RejectCode.MALFORMED, RejectCode.INVALID_INPUT, RejectCode.UNKNOWN_AGENT, RejectCode.REQUEST_ID_REUSED,
         RejectCode.TOO_MANY_RUNS, RejectCode.RATE_LIMITED, RejectCode.DRAINING, _LOG),
        (_IDEMPOTENCY_KEY,),
        {"required": True, "content": {JSON: {"schema": _model(RunRequest), "examples": {
            "sample": {"summary": "Ask the analyst", "value": {"input": "what is missing in the sample recording?"}},
            "recording": {
                "summary": "Ask about a recording",
                "value": {"agent": "analyst", "input": {"question": "what failed?", "recording_id": "sample"}},
            },
        }}}},
        "Its events go to the user's sockets, and to whoever reads them from `/runs/{run_id}/events`.",
    ),
    Operation(
        "get", "/runs", "listRuns", "runs", "Your runs, newest first",
        {200: _answer("A page of runs.", _model(RunPage))},
        (RejectCode.MALFORMED, _LOG),
        (_integer("limit", "Runs a page.", 20, 1, PAGE_RUNS_MAX), _BEFORE),
    ),
    Operation(
        "get", "/runs/{run_id}", "getRun", "runs", "One run",
        {200: _answer("The run.", _model(RunView))},
        (_NOT_FOUND, _LOG), (_RUN_ID,),
    ),
    Operation(
        "delete", "/runs/{run_id}", "cancelRun", "runs", "Cancel a run",
        {
            202: _answer("The run is being cancelled; its terminal event says when it has ended.", _model(RunView)),
            200: _answer("The run was cancelled before.", _model(RunView)),
        },
        (_NOT_FOUND, RejectCode.RUN_ENDED, _LOG), (_RUN_ID,),
    ),
    Operation(
        "get", "/runs/{run_id}/events", "readEvents", "runs", "A run's events: a page of them, or a stream",
        {
            200: {
                "description": "A page of JSON; or, where `Accept` asks for `text/event-stream`, a stream.",
                "content": {
                    JSON: {"schema": _model(EventPage)},
                    MEDIA_TYPE: {
                        "schema": {"type": "string", "description": _STREAM},
                        "example": 'retry: 2000\n\nid: 1\nevent: agent_started\ndata: {"type":"agent_started",...}\n\n',
                    },
                },
            },
            204: {"description": "A stream was asked for, and the run has ended with no event after that one."},
        },
        (RejectCode.MALFORMED, _NOT_FOUND, RejectCode.ACK_AHEAD, RejectCode.RATE_LIMITED, RejectCode.NOT_READY,
         RejectCode.DRAINING, _LOG, ResumeOutcome.EXPIRED),
        (_RUN_ID, _integer("after", "The seq after which to begin.", 0, 0, SEQ_MAX),
         _integer("limit", "Events a page.", PAGE_EVENTS_MAX, 1, PAGE_EVENTS_MAX), _LAST_EVENT_ID),
    ),
    Operation(
        "get", "/runs/{run_id}/ledger", "readLedger", "runs", "What each event of a run has crossed, and when",
        {200: _answer("The ledger, live or as it was settled.", _model(LedgerReport))},
        (_NOT_FOUND, _LOG, ResumeOutcome.EXPIRED), (_RUN_ID,),
    ),
    Operation(
        "get", "/incidents", "listIncidents", "runs", "Your incidents, newest first: what is or was missing, and where",
        {200: _answer("A page of incidents.", _model(IncidentPage))},
        (RejectCode.MALFORMED, _LOG),
        (
            _filter("run", "Those of this run.", {"type": "string"}),
            _filter("link", "Those at this link.", {"type": "string", "enum": [link.value for link in LINKS]}),
            _filter("type", "Those whose first event has it.", {"type": "string", "enum": list(MISSING_TYPES)}),
            _filter("state", "Open ones, or those that ended so.",
                    {"type": "string", "enum": [state.value for state in IncidentState]}),
            _filter("since", "Those that were opened then or later.", {"type": "string", "format": "date-time"}),
            _integer("limit", "Incidents a page.", PAGE_INCIDENTS, 1, PAGE_INCIDENTS_MAX),
            _filter("before", "`next` of the page before.", {"type": "string"}),
        ),
    ),
    Operation(
        "post", "/recordings", "keepRecording", "recordings", "Hand in a recording for the analyst",
        {201: _answer("The recording is kept.", {
            "type": "object",
            "required": ["recording_id", "bytes"],
            "properties": {"recording_id": {"type": "string"}, "bytes": {"type": "integer"}},
        })},
        (RejectCode.INVALID_INPUT,),
        ({"name": "name", "in": "query", "description": "What answers call it.",
          "schema": {"type": "string", "default": "recording"}},),
        {"required": True, "description": "A browser's HAR, or a JSONL file of frames, of any content type.",
         "content": {"*/*": {"schema": {}}}},
    ),
    Operation(
        "post", "/tickets", "issueTicket", "sign-in", "A ticket for one socket, in exchange for your token",
        {201: _answer("The ticket, to be offered as subprotocol `bearer.<ticket>`.", _model(TicketView))},
        (RejectCode.RATE_LIMITED,),
    ),
    Operation(
        "get", "/live", "isLive", "health", "Whether the process answers",
        {200: _answer("It does.", {"type": "object", "properties": {"live": {"const": True}}})}, public=True,
    ),
    Operation(
        "get", "/ready", "isReady", "health", "Whether the server takes new work",
        {200: _answer("It does.", _READINESS), 503: _answer("It does not, and why.", _READINESS)}, public=True,
    ),
    Operation(
        "get", "/schema/openapi.json", "readOpenapi", "schema", "This document",
        {200: _answer("OpenAPI 3.1.", {"type": "object"})}, public=True,
    ),
    Operation(
        "get", "/schema/frames.json", "readFrames", "schema", "The frames of the socket, as JSON Schema",
        {200: _answer("JSON Schema 2020-12.", {"type": "object"})}, public=True,
    ),
)  # fmt: skip
