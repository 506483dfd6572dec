"""The error tree: one exception for each decision that a caller can take, each with a stable code.

`code` is the word that the wire, the HTTP problem documents, the metrics and the log records use for it.
`retryable` says whether the same call can succeed later without anybody changing it.
"""

from collections.abc import Sequence

from tracewire_telemetry.vocabulary import RejectCode, ResumeOutcome, RunErrorCode


class TracewireError(Exception):
    """Anything that Tracewire itself raises on purpose."""

    code: str = "internal"
    retryable: bool = False


# --- start-up -------------------------------------------------------------------------------------------------


class StartupError(TracewireError):
    """The server cannot start. `failures` names every failed dependency, not just the first."""

    code = "startup_failed"

    def __init__(self, failures: Sequence[str]) -> None:
        self.failures = tuple(failures)
        super().__init__("cannot start:\n" + "\n".join(f"  - {failure}" for failure in self.failures))


class SettingsError(StartupError):
    """One or more settings do not hold what they must."""

    code = "bad_setting"


class AgentLoadError(StartupError):
    """An agent given as `module:name` does not import, or is no agent."""

    code = "agent_not_loaded"


# --- wiring ---------------------------------------------------------------------------------------------------


class WiringError(TracewireError):
    """A station of the chain is missing or joined to the wrong successor. `check` is one of L1 to L6."""

    code = "wiring"

    def __init__(self, check: str, message: str) -> None:
        self.check = check
        super().__init__(f"{check}: {message}")


class NotConfiguredError(WiringError):
    """A factory was used before `configure`, or its configuration failed. `missing` names every dependency."""

    code = "not_configured"

    def __init__(self, what: str, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            "L1",
            f"{what} is not configured: {', '.join(missing)} missing; call configure(...) with every dependency",
        )


class DirectConstructionError(WiringError):
    """A station was built by hand instead of by the factory that wires it."""

    code = "direct_construction"


# --- refusals (what a client is told) -------------------------------------------------------------------------


class RejectedError(TracewireError):
    """A request of a client is refused. The message says what was wrong and what to do about it.

    `retry_after_seconds` is set where waiting helps.
    """

    def __init__(self, code: RejectCode, message: str, *, retry_after_seconds: float | None = None) -> None:
        self.reject_code = code
        self.code = code.value
        self.retryable = retry_after_seconds is not None
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


# --- runs -----------------------------------------------------------------------------------------------------


class RunEndedError(TracewireError):
    """Something was asked of a run that already has its terminal event; nothing was emitted."""

    code = "run_ended"


class ContractBrokenError(TracewireError):
    """An event does not fit the contract of its run, and the bridge cannot repair it; nothing was emitted."""

    code = RunErrorCode.CONTRACT_BROKEN.value


class InvalidInputError(TracewireError, ValueError):
    """What a user sent is not what the agent takes; the message says what is. For agents to raise: it ends the run with
    `agent_error`, and is no defect that the log would need a traceback for.
    """

    code = RejectCode.INVALID_INPUT.value


class NotSerializableError(TracewireError):
    """A value that an agent handed over cannot be written as JSON; nothing was emitted."""

    code = RunErrorCode.NOT_SERIALIZABLE.value


# --- the event log --------------------------------------------------------------------------------------------


class EventLogError(TracewireError):
    """Anything that the event log refuses or fails at."""

    code = "event_log"


class LogUnavailableError(EventLogError):
    """The log cannot take or give anything now (disk full, read-only, locked, closed). Nothing was written."""

    code = RunErrorCode.LOG_UNAVAILABLE.value
    retryable = True


class SequenceError(EventLogError):
    """An append whose seq is not the run's next, or to a run that has ended or is unknown. Nothing was written."""

    code = "sequence"


class UnknownRunError(EventLogError):
    """No such run, or it is another user's: the two cannot be told apart on purpose."""

    code = RejectCode.UNKNOWN_RUN.value


class EventsExpiredError(EventLogError):
    """Events that were asked for are no longer kept; nothing of the run is given in their place.

    `first_seq` is the oldest that is kept, 0 where the run is gone whole.
    """

    code = ResumeOutcome.EXPIRED.value

    def __init__(self, run_id: str, first_seq: int) -> None:
        self.first_seq = first_seq
        kept = f"the log begins at seq {first_seq}; ask after {first_seq - 1}" if first_seq else "none are left"
        super().__init__(f"events of run {run_id} have expired: {kept}")


class RequestIdReusedError(EventLogError):
    """The user has used this request id for a run with another agent or input."""

    code = RejectCode.REQUEST_ID_REUSED.value


class SchemaError(EventLogError):
    """The database on disk is no Tracewire log, is damaged, or was written by a newer version."""

    code = "schema"
