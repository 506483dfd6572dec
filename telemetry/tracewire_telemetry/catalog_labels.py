"""The labels of the metrics, declared once: what each says, and each of its values.

A closed set has a series for each value from the start. An open one is filled at start-up, or comes and goes; what
bounds it is said with it. A set that leaves out a member of its enumeration does not import.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from tracewire_telemetry.catalog_specs import LabelSpec
from tracewire_telemetry.vocabulary import (
    EVENT_TYPES,
    LINKS,
    NEXT,
    CloseCode,
    EventType,
    ExpiryReason,
    Link,
    Origin,
    Outcome,
    RejectCode,
    ResumeOutcome,
    SpanDropReason,
    ToolStatus,
    Verdict,
)


def _meanings(members: Iterable[Enum], said: Mapping[Enum, str]) -> Mapping[str, str]:
    """The values with their meanings, in the order of the members.

    Raises:
        ValueError: a member is not said, or something else is.
    """
    expected = list(members)
    if set(expected) != set(said):
        raise ValueError(f"said of {sorted(map(str, said))}, declared {sorted(map(str, expected))}")
    return {str(member.value): said[member] for member in expected}


_LINKS: Final = _meanings(
    LINKS,
    {
        Link.ENGINE: "the agent has emitted it",
        Link.BRIDGE: "it has its seq",
        Link.EMITTER: "it is durable",
        Link.SOCKET: "it is written to a socket of its user",
        Link.CLIENT: "its user's client has acked it",
    },
)
_TYPES: Final = _meanings(
    EVENT_TYPES,
    {
        EventType.AGENT_STARTED: "the run has begun",
        EventType.AGENT_THINKING: "a thought of the agent",
        EventType.TOOL_EXECUTING: "a tool call begins",
        EventType.TOOL_COMPLETED: "a tool call is over, however it ended",
        EventType.AGENT_DELTA: "a piece of streamed text",
        EventType.INPUT_REQUIRED: "the agent asks its user",
        EventType.AGENT_COMPLETED: "terminal: the run has its answer",
        EventType.AGENT_ERROR: "terminal: the run failed",
        EventType.AGENT_CANCELLED: "terminal: the run was cancelled",
    },
)

LINK: Final = LabelSpec("link", "The link of the chain, in its order.", _LINKS)
LINK_STAMPED: Final = LabelSpec(
    "link",
    "The link without the stamp; never the client, whose lost ack is covered by the next.",
    {name: meaning for name, meaning in _LINKS.items() if name != Link.CLIENT},
)
LINK_MISSED: Final = LabelSpec("link", "The first link that had not taken the event by its deadline.", _LINKS)
EVENT_TYPE: Final = LabelSpec("event_type", "The event's type.", _TYPES)
COUNTED_TYPE: Final = LabelSpec(
    "event_type",
    "The event's type; deltas are given no verdict.",
    {name: meaning for name, meaning in _TYPES.items() if name != EventType.AGENT_DELTA},
)
MISSING_TYPE: Final = LabelSpec(
    "event_type",
    "The type of what is missing.",
    {**_TYPES, NEXT: "whatever would have come: the agent fell silent"},
)
VERDICT: Final = LabelSpec(
    "verdict",
    "What became of the event's delivery.",
    _meanings(
        Verdict,
        {
            Verdict.IN_TIME: "acked within 2 s",
            Verdict.LATE: "acked after that",
            Verdict.MISSING: "a link had not taken it by its deadline",
            Verdict.NO_SOCKET: "durable, and no socket of its user followed the run: outside the objective",
        },
    ),
)
ORIGIN: Final = LabelSpec(
    "origin",
    "Who started the run.",
    _meanings(Origin, {Origin.USER: "a user", Origin.CANARY: "a canary or a probe, outside the objective"}),
)
OUTCOME: Final = LabelSpec(
    "outcome",
    "How the run ended: completed, cancelled, or the code of its agent_error.",
    _meanings(
        Outcome,
        {
            Outcome.COMPLETED: "it has its answer",
            Outcome.CANCELLED: "its user, or a drain, stopped it",
            Outcome.AGENT_EXCEPTION: "the agent raised",
            Outcome.TIMEOUT: "it passed its deadline",
            Outcome.WORKER_LOST: "the server ended under it; the next start closed it",
            Outcome.NOT_SERIALIZABLE: "the agent gave what JSON cannot hold",
            Outcome.CONTRACT_BROKEN: "the agent did what the bridge cannot repair",
            Outcome.LOG_UNAVAILABLE: "the event log took no writes",
        },
    ),
)
RESUME_OUTCOME: Final = LabelSpec(
    "outcome",
    "What came of one run of a resume.",
    _meanings(
        ResumeOutcome,
        {
            ResumeOutcome.RECOVERED: "everything after the seq that was named, then live",
            ResumeOutcome.EXPIRED: "a part of it is kept no longer",
            ResumeOutcome.UNKNOWN_RUN: "its user has no such run, or no longer",
        },
    ),
)
TOOL_STATUS: Final = LabelSpec(
    "status",
    "How the tool call ended.",
    _meanings(
        ToolStatus,
        {
            ToolStatus.OK: "it gave a result",
            ToolStatus.ERROR: "it raised",
            ToolStatus.TIMEOUT: "it passed its deadline",
            ToolStatus.CANCELLED: "its run ended before it did",
        },
    ),
)
REJECT_CODE: Final = LabelSpec(
    "code",
    "Why a frame or a request was refused.",
    _meanings(
        RejectCode,
        {
            RejectCode.MALFORMED: "no JSON of the shape that its type asks for",
            RejectCode.UNKNOWN_FRAME: "of a type that does not exist",
            RejectCode.NOT_READY: "before `ready`, or while the server starts",
            RejectCode.UNAUTHENTICATED: "no token, or one that does not hold",
            RejectCode.FORBIDDEN: "not this user's to do",
            RejectCode.UNKNOWN_AGENT: "an agent that is not served",
            RejectCode.UNKNOWN_RUN: "a run that this user does not have",
            RejectCode.INVALID_INPUT: "an input that the agent or the question does not take",
            RejectCode.RUN_ENDED: "of a run that has ended",
            RejectCode.ACK_AHEAD: "an ack of events that were not sent",
            RejectCode.REQUEST_ID_REUSED: "a request id that stands for another run",
            RejectCode.TOO_MANY_RUNS: "past the limit of open runs",
            RejectCode.RATE_LIMITED: "past the limit of frames, starts or sign-ins",
            RejectCode.DRAINING: "the server takes no new work: it is stopping",
            RejectCode.LOG_UNAVAILABLE: "the event log takes no writes",
        },
    ),
)
CLOSE_CODE: Final = LabelSpec(
    "code",
    "The code of the close; 4000 to 4499 ask the client to come back.",
    _meanings(
        [code for code in CloseCode if code is not CloseCode.NORMAL],  # which the server never closes with
        {
            CloseCode.PROTOCOL_ERROR: "a frame against RFC 6455",
            CloseCode.INVALID_TEXT: "text that is no UTF-8",
            CloseCode.TOO_BIG: "a frame over the limit",
            CloseCode.INTERNAL: "a defect of the server; its log has the exception",
            CloseCode.DRAINING: "the server is stopping",
            CloseCode.TOO_SLOW: "its outbox was full or too old",
            CloseCode.SILENT: "no sign of life",
            CloseCode.RESYNC: "it is to come back and resume: an event had not reached it",
            CloseCode.UNAVAILABLE: "the event log takes no writes, or the signing keys cannot be had",
            CloseCode.UNAUTHENTICATED: "no token in time, or one that does not hold, or was revoked",
            CloseCode.TOKEN_EXPIRED: "its token ran out",
            CloseCode.ORIGIN_REFUSED: "a page of an origin that is not on the list",
            CloseCode.PROTOCOL: "too many malformed or unknown frames",
            CloseCode.TOO_MANY_SOCKETS: "past the limit of sockets",
        },
    ),
)
EXPIRY_REASON: Final = LabelSpec(
    "reason",
    "Why the run was removed from the log.",
    _meanings(
        ExpiryReason,
        {
            ExpiryReason.AGE: "it ended longer ago than runs are kept",
            ExpiryReason.SIZE: "the log was over its size, and it had ended first",
        },
    ),
)
DROP_REASON: Final = LabelSpec(
    "reason",
    "Why the spans were not exported; whole runs, but for run_limit and late.",
    _meanings(
        SpanDropReason,
        {
            SpanDropReason.QUEUE_FULL: "the exporter is slower than the runs",
            SpanDropReason.EXPORT_FAILED: "the receiver refused them, or was not there",
            SpanDropReason.RUN_LIMIT: "past the first 2,000 spans of a run, by design",
            SpanDropReason.LATE: "an agent's own span that ended after its trace had left",
            SpanDropReason.SHUTDOWN: "the server stopped before they were sent",
        },
    ),
)
PROBE_RESULT: Final = LabelSpec(
    "result",
    "Whether the probe went the whole way.",
    {"ok": "all five links, in order, with its receipt", "broken": "it did not"},
)
AGENT: Final = LabelSpec(
    "agent", "The agent's name; `other` for one that was not known at start.", bound="agents served"
)
TOOL: Final = LabelSpec("tool", "The tool's name, as agents declare their tools; else `other`.", bound="tools declared")
USER_ID: Final = LabelSpec(
    "user_id",
    "The user, by id or by its hash (`TRACEWIRE_METRICS_USER_ID`); ids over 128 printable characters are hashed.",
    bound="series there at once: `TRACEWIRE_MISSING_USERS_NAMED_MAX` (200)",
)
VERSION: Final = LabelSpec("version", "Tracewire's version.", bound="one value")
PYTHON: Final = LabelSpec("python", "Python's version.", bound="one value")
