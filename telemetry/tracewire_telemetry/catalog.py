"""Every span, metric, label and attribute that Tracewire emits, declared once.

Code takes its names from here; a test holds what a real server emitted against it. The OpenTelemetry conventions for
generative AI and for messaging are still in development and change names: they are pinned here and nowhere else
(semantic conventions 1.37, GenAI and messaging).
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from tracewire_telemetry.vocabulary import (
    EVENT_TYPES,
    LINKS,
    MISSING_TYPES,
    CloseCode,
    EventType,
    ExpiryReason,
    Origin,
    Outcome,
    RejectCode,
    ResumeOutcome,
    SpanDropReason,
    ToolStatus,
    Verdict,
)

SCOPE: Final = "tracewire"

# Spans.


class Attribute(StrEnum):
    """The attributes of our spans. Those of the conventions first, ours after them."""

    OPERATION_NAME = "gen_ai.operation.name"
    AGENT_NAME = "gen_ai.agent.name"
    CONVERSATION_ID = "gen_ai.conversation.id"
    PROVIDER_NAME = "gen_ai.provider.name"
    TOOL_NAME = "gen_ai.tool.name"
    TOOL_CALL_ID = "gen_ai.tool.call.id"
    MESSAGING_SYSTEM = "messaging.system"
    MESSAGING_OPERATION_NAME = "messaging.operation.name"
    MESSAGING_OPERATION_TYPE = "messaging.operation.type"
    MESSAGING_MESSAGE_ID = "messaging.message.id"
    MESSAGING_BATCH_COUNT = "messaging.batch.message_count"
    MESSAGING_DESTINATION_NAME = "messaging.destination.name"
    USER_ID = "user.id"
    ERROR_TYPE = "error.type"
    RUN_ID = "tracewire.run.id"
    RUN_OUTCOME = "tracewire.run.outcome"
    EVENT_TYPE = "tracewire.event.type"
    EVENT_SEQ = "tracewire.event.seq"
    EVENT_FIRST_SEQ = "tracewire.event.first_seq"
    EVENT_LAST_SEQ = "tracewire.event.last_seq"
    LINK = "tracewire.link"
    SOCKET = "tracewire.socket"
    TOOL_STATUS = "tracewire.tool.status"
    SPAN_COUNT = "tracewire.trace.span_count"
    CHAIN_COMPLETE = "tracewire.chain.complete"
    EVENTS_PENDING = "tracewire.events.pending"
    DELIVERY_MAX_MS = "tracewire.delivery.max_ms"
    KEEP_REASON = "tracewire.keep.reason"
    RECOVERED = "tracewire.recovered"
    SPANS_DROPPED = "tracewire.spans.dropped"
    STAMPS_LOST = "tracewire.stamps.lost"
    CONNECTION_ID = "tracewire.connection.id"


EVENT_MISSING: Final = "event_missing"
"""`error.type` of the span of the link that did not take an event."""

SPANS_PER_RUN_MAX: Final = 2_000

# Metrics.


class MetricSpec(Struct, frozen=True):
    """One metric: its name without the prefix, what it says, and its labels with their closed sets of values.

    A label whose set is empty is filled at start-up (agents and tools that are known then). The series of a `passing`
    metric come and go; all others are there from the start.
    """

    name: str
    kind: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    passing: bool = False

    @property
    def full_name(self) -> str:
        """The name as Prometheus shows it."""
        return PREFIX + self.name

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return tuple(name for name, _ in self.labels)


PREFIX: Final = "tracewire_"
SECONDS_BUCKETS: Final = tuple(2.0**exponent for exponent in range(-16, 7))
RUN_SECONDS_BUCKETS: Final = tuple(2.0**exponent for exponent in range(-4, 13))
OTHER: Final = "other"

_LINK = ("link", tuple(link.value for link in LINKS))
_EVENT_TYPE = ("event_type", tuple(event_type.value for event_type in EVENT_TYPES))
_COUNTED_TYPE = (
    "event_type",
    tuple(event_type.value for event_type in EVENT_TYPES if event_type is not EventType.AGENT_DELTA),
)
_MISSING_TYPE = ("event_type", MISSING_TYPES)
_AGENT: tuple[str, tuple[str, ...]] = ("agent", ())
_TOOL: tuple[str, tuple[str, ...]] = ("tool", ())


def _values(members: type[StrEnum]) -> tuple[str, ...]:
    return tuple(member.value for member in members)


EVENTS = MetricSpec("events_total", "counter", "Events that crossed a link, once a link.", (_LINK, _EVENT_TYPE))
LINK_SECONDS = MetricSpec(
    "link_seconds",
    "histogram",
    "Time from the previous link to this one; at the engine, from the run's record to its first event.",
    (_LINK,),
)
DELIVERIES = MetricSpec(
    "deliveries_total",
    "counter",
    "Verdicts on events, deltas left out: acked within 2 s, later, never, or no socket followed the run.",
    (_COUNTED_TYPE, ("verdict", _values(Verdict)), ("origin", _values(Origin))),
)
DELIVERY_SECONDS = MetricSpec("delivery_seconds", "histogram", "Time of an event from the engine to its ack.")
EVENTS_MISSING = MetricSpec(
    "events_missing_total",
    "counter",
    "Events that a link had not taken by its deadline, by the first link that had not.",
    (_MISSING_TYPE, _LINK),
)
EVENTS_HEALED = MetricSpec(
    "events_healed_total", "counter", "Missing events that came after all, by the link that was late.", (_LINK,)
)
STAMPS_LOST = MetricSpec(
    "stamps_lost_total",
    "counter",
    "Events that crossed a link, as a later link shows, without a stamp there; at the socket also acked ones that no "
    "socket was given, as what is read over HTTP.",
    (_LINK,),
)
USER_EVENTS_MISSING = MetricSpec(
    "user_events_missing",
    "gauge",
    "Events that one user is missing now, by the incident's type and link; there only while that user is in violation.",
    (("user_id", ()), _MISSING_TYPE, _LINK),
    passing=True,
)
USERS_AFFECTED = MetricSpec("users_affected", "gauge", "Users in violation, whether a series names them or not.")
USER_SLOTS_OVERFLOW = MetricSpec(
    "user_slots_overflow", "gauge", "Series of user_events_missing that no slot is left for."
)
RUNS = MetricSpec("runs_total", "counter", "Runs that ended, by how.", (_AGENT, ("outcome", _values(Outcome))))
RUNS_OPEN = MetricSpec("runs_open", "gauge", "Runs without a terminal event.")
RUN_OLDEST_SECONDS = MetricSpec("run_oldest_seconds", "gauge", "Age of the oldest open run that awaits no input.")
RUN_SECONDS = MetricSpec("run_seconds", "histogram", "Time from a run's record to its terminal event.", (_AGENT,))
RUNS_LOST_AT_START = MetricSpec("runs_lost_at_start", "gauge", "Runs that a crash left open and this start closed.")
RUNS_ABANDONED = MetricSpec(
    "runs_abandoned_total",
    "counter",
    "Agents that went on after the end of their run and were left to themselves.",
    (_AGENT,),
)
TOOL_CALLS = MetricSpec(
    "tool_calls_total", "counter", "Tool calls that ended, by how.", (_TOOL, ("status", _values(ToolStatus)))
)
TOOL_SECONDS = MetricSpec("tool_seconds", "histogram", "Duration of tool calls.", (_TOOL,))
CONNECTIONS = MetricSpec("connections", "gauge", "Sockets that are ready.")
OUTBOX_BYTES = MetricSpec("outbox_bytes", "gauge", "Bytes queued to sockets and not yet written.")
UNACKNOWLEDGING = MetricSpec(
    "unacknowledging_connections", "gauge", "Sockets that were due an ack and have never sent one."
)
SLOW_CLIENTS = MetricSpec("slow_clients_total", "counter", "Sockets cut because their outbox was full or too old.")
RESUMES = MetricSpec("resumes_total", "counter", "Runs named in resumes.", (("outcome", _values(ResumeOutcome)),))
REJECTED = MetricSpec(
    "rejected_total", "counter", "Frames and requests that were refused.", (("code", _values(RejectCode)),)
)
CLOSES = MetricSpec(
    "closes_total",
    "counter",
    "Sockets that the server closed, by close code.",
    (("code", tuple(str(code.value) for code in CloseCode)),),
)
EVENTLOG_COMMIT_SECONDS = MetricSpec("eventlog_commit_seconds", "histogram", "Duration of a group commit.")
EVENTLOG_OLDEST_UNCOMMITTED = MetricSpec(
    "eventlog_oldest_uncommitted_seconds", "gauge", "Age of the oldest write that is not committed."
)
EVENTLOG_BYTES = MetricSpec("eventlog_bytes", "gauge", "Size of the event log on disk.")
EVENTLOG_USED_BYTES = MetricSpec(
    "eventlog_used_bytes", "gauge", "Size of what the event log holds, freed room left out, at the last sweep."
)
EVENTLOG_EXPIRED_RUNS = MetricSpec(
    "eventlog_expired_runs_total", "counter", "Runs that retention removed.", (("reason", _values(ExpiryReason)),)
)
EVENTLOG_EXPIRED_EVENTS = MetricSpec(
    "eventlog_expired_events_total", "counter", "Events that retention removed, with their runs or from them."
)
LEDGER_EVENTS_OPEN = MetricSpec("ledger_events_open", "gauge", "Events of runs that are not settled.")
WATCH_LAST_TICK = MetricSpec(
    "watch_last_tick_timestamp_seconds", "gauge", "When the watch last looked at the deadlines, Unix time."
)
SPANS_EXPORTED = MetricSpec("spans_exported_total", "counter", "Spans that the trace receiver took.")
SPANS_DROPPED = MetricSpec(
    "spans_dropped_total", "counter", "Spans that were not exported.", (("reason", _values(SpanDropReason)),)
)
EVENT_LOOP_LAG = MetricSpec("event_loop_lag_seconds", "gauge", "How late the event loop ran its last timer.")
READY = MetricSpec("ready", "gauge", "1 while the server takes new work, otherwise 0.")
START_TIMESTAMP = MetricSpec("start_timestamp_seconds", "gauge", "When this server started, Unix time.")
CANARY_LAST_SUCCESS = MetricSpec(
    "canary_last_success_timestamp_seconds",
    "gauge",
    "When a run of the canary, or of a probe, last went the whole way, Unix time; not there before the first.",
    passing=True,
)
CANARY_DETECTION_LAST_SUCCESS = MetricSpec(
    "canary_detection_last_success_timestamp_seconds",
    "gauge",
    "When an ack that was withheld on purpose was last found missing, Unix time; not there before the first.",
    passing=True,
)
BUILD_INFO = MetricSpec("build_info", "gauge", "Always 1; its labels say what runs.", (("version", ()), ("python", ())))

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, MetricSpec))
"""Every metric of a server, in the order of the declarations above."""

# Of `tracewire probe`, on a port of its own, beside the canary's stamp.

PROBES = MetricSpec(
    "probes_total", "counter", "Probes that ended, by whether they went the whole way.", (("result", ()),)
)
PROBE_LINK_BROKEN = MetricSpec(
    "probe_link_broken", "gauge", "1 for the link at which the last probe broke, otherwise 0.", (_LINK,)
)
