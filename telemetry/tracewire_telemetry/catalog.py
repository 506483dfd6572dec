"""Every span, metric, label and attribute that Tracewire emits, declared once.

Code takes its names from here; `dashboards/reference.md` is written from it, and a test holds what a real server
emitted against it. This file has the metrics; `catalog_labels.py` their labels, `catalog_spans.py` the spans,
`catalog_attributes.py` their attributes, `catalog_logs.py` the log records. The OpenTelemetry conventions for
generative AI and for messaging are still in development and change names: they are pinned there and nowhere else.
"""

from typing import Final

from tracewire_telemetry import catalog_labels as label
from tracewire_telemetry.catalog_attributes import EVENT_MISSING, SCOPE, SPANS_PER_RUN_MAX, Attribute
from tracewire_telemetry.catalog_process import PROCESS_METRICS
from tracewire_telemetry.catalog_specs import PREFIX, RUN_SECONDS_BUCKETS, SECONDS_BUCKETS, MetricSpec

__all__ = [
    "EVENT_MISSING",
    "METRICS",
    "METRIC_GROUPS",
    "OTHER",
    "PREFIX",
    "PROBE_METRICS",
    "PROCESS_METRICS",
    "RUN_SECONDS_BUCKETS",
    "SCOPE",
    "SECONDS_BUCKETS",
    "SPANS_PER_RUN_MAX",
    "Attribute",
    "MetricSpec",
]

OTHER: Final = "other"
"""The value of a label with an open set for what was not known at start."""

# Events and their links.

EVENTS = MetricSpec(
    "events_total", "counter", "Events that crossed a link, once a link.", "events", (label.LINK, label.EVENT_TYPE)
)
LINK_SECONDS = MetricSpec(
    "link_seconds",
    "histogram",
    "Time from the previous link to this one; at the engine, from the run's record to its first event.",
    "s",
    (label.LINK,),
    buckets=SECONDS_BUCKETS,
)
DELIVERY_SECONDS = MetricSpec(
    "delivery_seconds", "histogram", "Time of an event from the engine to its ack.", "s", buckets=SECONDS_BUCKETS
)
DELIVERIES = MetricSpec(
    "deliveries_total",
    "counter",
    "Verdicts on events, deltas left out: acked within 2 s, later, never, or no socket followed the run.",
    "events",
    (label.COUNTED_TYPE, label.VERDICT, label.ORIGIN),
)
STAMPS_LOST = MetricSpec(
    "stamps_lost_total",
    "counter",
    "Events that crossed a link, as a later link shows, without a stamp there; at the socket also acked ones that no "
    "socket was given, as what is read over HTTP.",
    "stamps",
    (label.LINK_STAMPED,),
)

# Missing events.

EVENTS_MISSING = MetricSpec(
    "events_missing_total",
    "counter",
    "Events that a link had not taken by its deadline, by the first link that had not.",
    "events",
    (label.MISSING_TYPE, label.LINK_MISSED),
)
EVENTS_HEALED = MetricSpec(
    "events_healed_total",
    "counter",
    "Missing events that came after all, by the link that was late.",
    "events",
    (label.LINK_MISSED,),
)
USER_EVENTS_MISSING = MetricSpec(
    "user_events_missing",
    "gauge",
    "Events that one user is missing now, by the incident's type and link; there only while that user is in violation.",
    "events",
    (label.USER_ID, label.MISSING_TYPE, label.LINK_MISSED),
    passing=True,
)
USERS_AFFECTED = MetricSpec(
    "users_affected", "gauge", "Users in violation, whether a series names them or not.", "users"
)
USER_SLOTS_OVERFLOW = MetricSpec(
    "user_slots_overflow", "gauge", "Series of user_events_missing that no slot is left for.", "series"
)

# Runs and tools.

RUNS = MetricSpec("runs_total", "counter", "Runs that ended, by how.", "runs", (label.AGENT, label.OUTCOME))
RUN_SECONDS = MetricSpec(
    "run_seconds",
    "histogram",
    "Time from a run's record to its terminal event.",
    "s",
    (label.AGENT,),
    buckets=RUN_SECONDS_BUCKETS,
)
RUNS_OPEN = MetricSpec("runs_open", "gauge", "Runs without a terminal event.", "runs")
RUN_OLDEST_SECONDS = MetricSpec("run_oldest_seconds", "gauge", "Age of the oldest open run that awaits no input.", "s")
RUNS_ABANDONED = MetricSpec(
    "runs_abandoned_total",
    "counter",
    "Agents that went on after the end of their run and were left to themselves.",
    "runs",
    (label.AGENT,),
)
RUNS_LOST_AT_START = MetricSpec(
    "runs_lost_at_start", "gauge", "Runs that a crash left open and this start closed.", "runs"
)
TOOL_CALLS = MetricSpec(
    "tool_calls_total", "counter", "Tool calls that ended, by how.", "calls", (label.TOOL, label.TOOL_STATUS)
)
TOOL_SECONDS = MetricSpec(
    "tool_seconds", "histogram", "Duration of tool calls.", "s", (label.TOOL,), buckets=SECONDS_BUCKETS
)

# Sockets and clients.

CONNECTIONS = MetricSpec("connections", "gauge", "Sockets that are ready.", "sockets")
OUTBOX_BYTES = MetricSpec("outbox_bytes", "gauge", "Bytes queued to sockets and not yet written.", "By")
UNACKNOWLEDGING = MetricSpec(
    "unacknowledging_connections", "gauge", "Sockets that were due an ack and have never sent one.", "sockets"
)
SLOW_CLIENTS = MetricSpec(
    "slow_clients_total", "counter", "Sockets cut because their outbox was full or too old.", "sockets"
)
RESUMES = MetricSpec("resumes_total", "counter", "Runs named in resumes.", "runs", (label.RESUME_OUTCOME,))
REJECTED = MetricSpec(
    "rejected_total", "counter", "Frames and requests that were refused.", "frames and requests", (label.REJECT_CODE,)
)
CLOSES = MetricSpec(
    "closes_total", "counter", "Sockets that the server closed, by close code.", "sockets", (label.CLOSE_CODE,)
)

# Event log.

EVENTLOG_COMMIT_SECONDS = MetricSpec(
    "eventlog_commit_seconds", "histogram", "Duration of a group commit.", "s", buckets=SECONDS_BUCKETS
)
EVENTLOG_OLDEST_UNCOMMITTED = MetricSpec(
    "eventlog_oldest_uncommitted_seconds", "gauge", "Age of the oldest write that is not committed.", "s"
)
EVENTLOG_BYTES = MetricSpec("eventlog_bytes", "gauge", "Size of the event log on disk.", "By")
EVENTLOG_USED_BYTES = MetricSpec(
    "eventlog_used_bytes", "gauge", "Size of what the event log holds, freed room left out, at the last sweep.", "By"
)
EVENTLOG_EXPIRED_RUNS = MetricSpec(
    "eventlog_expired_runs_total", "counter", "Runs that retention removed.", "runs", (label.EXPIRY_REASON,)
)
EVENTLOG_EXPIRED_EVENTS = MetricSpec(
    "eventlog_expired_events_total", "counter", "Events that retention removed, with their runs or from them.", "events"
)

# Telemetry itself.

LEDGER_EVENTS_OPEN = MetricSpec("ledger_events_open", "gauge", "Events of runs that are not settled.", "events")
WATCH_LAST_TICK = MetricSpec(
    "watch_last_tick_timestamp_seconds", "gauge", "When the watch last looked at the deadlines, Unix time.", "s"
)
SPANS_EXPORTED = MetricSpec("spans_exported_total", "counter", "Spans that the trace receiver took.", "spans")
SPANS_DROPPED = MetricSpec(
    "spans_dropped_total", "counter", "Spans that were not exported.", "spans", (label.DROP_REASON,)
)

# Process.

READY = MetricSpec("ready", "gauge", "1 while the server takes new work, otherwise 0.", "1")
EVENT_LOOP_LAG = MetricSpec("event_loop_lag_seconds", "gauge", "How late the event loop ran its last timer.", "s")
START_TIMESTAMP = MetricSpec("start_timestamp_seconds", "gauge", "When this server started, Unix time.", "s")
BUILD_INFO = MetricSpec(
    "build_info", "gauge", "Always 1; its labels say what runs.", "1", (label.VERSION, label.PYTHON)
)

# Canaries.

CANARY_LAST_SUCCESS = MetricSpec(
    "canary_last_success_timestamp_seconds",
    "gauge",
    "When a run of the canary, or of a probe, last went the whole way, Unix time; not there before the first.",
    "s",
    passing=True,
)
CANARY_DETECTION_LAST_SUCCESS = MetricSpec(
    "canary_detection_last_success_timestamp_seconds",
    "gauge",
    "When an ack that was withheld on purpose was last found missing, Unix time; not there before the first.",
    "s",
    passing=True,
)

METRIC_GROUPS: Final = (
    ("Events and their links", (EVENTS, LINK_SECONDS, DELIVERY_SECONDS, DELIVERIES, STAMPS_LOST)),
    ("Missing events", (EVENTS_MISSING, EVENTS_HEALED, USER_EVENTS_MISSING, USERS_AFFECTED, USER_SLOTS_OVERFLOW)),
    (
        "Runs and tools",
        (
            RUNS,
            RUN_SECONDS,
            RUNS_OPEN,
            RUN_OLDEST_SECONDS,
            RUNS_ABANDONED,
            RUNS_LOST_AT_START,
            TOOL_CALLS,
            TOOL_SECONDS,
        ),
    ),
    ("Sockets and clients", (CONNECTIONS, OUTBOX_BYTES, UNACKNOWLEDGING, SLOW_CLIENTS, RESUMES, REJECTED, CLOSES)),
    (
        "Event log",
        (
            EVENTLOG_COMMIT_SECONDS,
            EVENTLOG_OLDEST_UNCOMMITTED,
            EVENTLOG_BYTES,
            EVENTLOG_USED_BYTES,
            EVENTLOG_EXPIRED_RUNS,
            EVENTLOG_EXPIRED_EVENTS,
        ),
    ),
    ("Telemetry itself", (LEDGER_EVENTS_OPEN, WATCH_LAST_TICK, SPANS_EXPORTED, SPANS_DROPPED)),
    ("Process", (READY, EVENT_LOOP_LAG, START_TIMESTAMP, BUILD_INFO)),
    ("Canaries", (CANARY_LAST_SUCCESS, CANARY_DETECTION_LAST_SUCCESS)),
)
METRICS: Final = tuple(spec for _, group in METRIC_GROUPS for spec in group)
"""Every metric of a server, in the order of its groups."""

# Of `tracewire probe`, on a port of its own, beside the canary's stamp.

PROBES = MetricSpec(
    "probes_total", "counter", "Probes that ended, by whether they went the whole way.", "probes", (label.PROBE_RESULT,)
)
PROBE_LINK_BROKEN = MetricSpec(
    "probe_link_broken", "gauge", "1 for the link at which the last probe broke, otherwise 0.", "1", (label.LINK,)
)
PROBE_METRICS: Final = (PROBES, PROBE_LINK_BROKEN, CANARY_LAST_SUCCESS)
