"""The states of a run, as clients are told them. Pure."""

from enum import StrEnum

from tracewire.eventlog import RunSummary
from tracewire_telemetry.vocabulary import Outcome


class RunState(StrEnum):
    """`running` and `awaiting_input` are open; the others are final."""

    RUNNING = "running"
    AWAITING_INPUT = "awaiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def state_of(run: RunSummary, *, awaiting_input: bool = False) -> RunState:
    """The state of a run that the log knows; `awaiting_input` is known to the process that runs it."""
    match run.outcome:
        case None:
            return RunState.AWAITING_INPUT if awaiting_input else RunState.RUNNING
        case Outcome.COMPLETED:
            return RunState.COMPLETED
        case Outcome.CANCELLED:
            return RunState.CANCELLED
        case _:
            return RunState.FAILED
