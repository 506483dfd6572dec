"""The nouns that both sides speak: links, event types, outcomes, codes.

Wire, log, metrics, spans and log records all draw their closed sets from here, so that one thing has one name
wherever it is met.
"""

from enum import IntEnum, StrEnum
from typing import Final


class Link(StrEnum):
    """One of the five stations that every event crosses, in this order."""

    ENGINE = "engine"
    BRIDGE = "bridge"
    EMITTER = "emitter"
    SOCKET = "socket"
    CLIENT = "client"


LINKS: Final = tuple(Link)


class EventType(StrEnum):
    """What an agent can be seen to do: the `type` of an envelope."""

    AGENT_STARTED = "agent_started"
    AGENT_THINKING = "agent_thinking"
    TOOL_EXECUTING = "tool_executing"
    TOOL_COMPLETED = "tool_completed"
    AGENT_DELTA = "agent_delta"
    INPUT_REQUIRED = "input_required"
    AGENT_COMPLETED = "agent_completed"
    AGENT_ERROR = "agent_error"
    AGENT_CANCELLED = "agent_cancelled"


EVENT_TYPES: Final = tuple(EventType)
CRITICAL_TYPES: Final = (
    EventType.AGENT_STARTED,
    EventType.AGENT_THINKING,
    EventType.TOOL_EXECUTING,
    EventType.TOOL_COMPLETED,
    EventType.AGENT_COMPLETED,
)
TERMINAL_TYPES: Final = frozenset(
    {EventType.AGENT_COMPLETED, EventType.AGENT_ERROR, EventType.AGENT_CANCELLED},
)


NEXT: Final = "next"
"""In place of an event's type where the engine fell silent: whichever event would have come next."""
MISSING_TYPES: Final = (*(event_type.value for event_type in EVENT_TYPES), NEXT)
"""What can be the type of a missing event."""


class ToolStatus(StrEnum):
    """How a tool call ended: the `status` of `tool_completed`."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class RunErrorCode(StrEnum):
    """Why a run ended in `agent_error`."""

    AGENT_EXCEPTION = "agent_exception"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    NOT_SERIALIZABLE = "not_serializable"
    CONTRACT_BROKEN = "contract_broken"
    LOG_UNAVAILABLE = "log_unavailable"


class Outcome(StrEnum):
    """How a run ended: `completed`, `cancelled` or the code of its `agent_error`."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    AGENT_EXCEPTION = "agent_exception"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    NOT_SERIALIZABLE = "not_serializable"
    CONTRACT_BROKEN = "contract_broken"
    LOG_UNAVAILABLE = "log_unavailable"


class RejectCode(StrEnum):
    """Why a frame or a request was refused; also the `code` of a problem document."""

    MALFORMED = "malformed"
    UNKNOWN_FRAME = "unknown_frame"
    NOT_READY = "not_ready"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN_AGENT = "unknown_agent"
    UNKNOWN_RUN = "unknown_run"
    INVALID_INPUT = "invalid_input"
    RUN_ENDED = "run_ended"
    ACK_AHEAD = "ack_ahead"
    REQUEST_ID_REUSED = "request_id_reused"
    TOO_MANY_RUNS = "too_many_runs"
    RATE_LIMITED = "rate_limited"
    DRAINING = "draining"
    LOG_UNAVAILABLE = "log_unavailable"


class CloseCode(IntEnum):
    """Why a socket was closed. 4000 to 4499 ask the client to reconnect, 4501 to 4999 ask it not to.

    4500 is absent on purpose: Litestar closes with it on any exception that a handler lets out.
    """

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    DRAINING = 4000
    TOO_SLOW = 4001
    SILENT = 4002
    RESYNC = 4003
    UNAVAILABLE = 4004
    UNAUTHENTICATED = 4501
    TOKEN_EXPIRED = 4502
    ORIGIN_REFUSED = 4503
    PROTOCOL = 4504
    TOO_MANY_SOCKETS = 4505

    @property
    def reason(self) -> str:
        """The close's reason as a client reads it: the code's name in lower case."""
        return self.name.lower()


class ResumeOutcome(StrEnum):
    """What came of one run of a `resume`: recovered, or the reason why not."""

    RECOVERED = "recovered"
    EXPIRED = "expired"
    UNKNOWN_RUN = "unknown_run"


class ExpiryReason(StrEnum):
    """Why a run was removed from the log: it ended too long ago, or the log was too large."""

    AGE = "age"
    SIZE = "size"


class Verdict(StrEnum):
    """What became of the delivery of one event."""

    IN_TIME = "in_time"
    LATE = "late"
    MISSING = "missing"
    NO_SOCKET = "no_socket"


class IncidentState(StrEnum):
    """`open`, or how an incident ended: its events came after all, its user went, or its run settled without them."""

    OPEN = "open"
    HEALED = "healed"
    USER_GONE = "user_gone"
    LOST = "lost"


class Origin(StrEnum):
    """Who started a run: a user, or the service's own canary."""

    USER = "user"
    CANARY = "canary"


class KeepReason(StrEnum):
    """Why the trace of a run is exported although the share of good runs would have left it out."""

    ERROR = "error"
    INCIDENT = "incident"
    SLOW = "slow"


class SpanDropReason(StrEnum):
    """Why spans were not exported. Only whole runs are dropped, except past a run's own limit."""

    QUEUE_FULL = "queue_full"
    EXPORT_FAILED = "export_failed"
    RUN_LIMIT = "run_limit"
    LATE = "late"
    SHUTDOWN = "shutdown"
