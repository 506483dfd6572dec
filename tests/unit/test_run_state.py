"""The states of a run, as clients are told them."""

import pytest

from tracewire.eventlog import RunSummary
from tracewire.runs.run import RunState, state_of
from tracewire_telemetry.vocabulary import Outcome


def summary(outcome: Outcome | None) -> RunSummary:
    """A run that ended so, or has not."""
    return RunSummary("run", "ada", "request", "thread", "five", "0" * 32, "0" * 16, 1, 1, 0, outcome)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_run_that_ended_has_the_state_of_its_outcome_whatever_was_awaited(outcome: Outcome) -> None:
    """Completed and cancelled by name; every other way is a failure."""
    expected = {Outcome.COMPLETED: RunState.COMPLETED, Outcome.CANCELLED: RunState.CANCELLED}
    for awaiting_input in (False, True):
        assert expected.get(outcome, RunState.FAILED) == state_of(summary(outcome), awaiting_input=awaiting_input)


def test_an_open_run_runs_or_awaits_input() -> None:
    """Which of the two, the process that runs it knows; who does not know says that it runs."""
    assert (RunState.RUNNING, RunState.RUNNING) == (
        state_of(summary(None)),
        state_of(summary(None), awaiting_input=False),
    )
    assert RunState.AWAITING_INPUT == state_of(summary(None), awaiting_input=True)
