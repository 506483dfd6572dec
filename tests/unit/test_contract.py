"""The contract of a run: what may follow what, against an oracle that looks at the whole history each time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracewire.bridge.contract import (
    AFTER_END,
    NOT_STARTED,
    STARTED_TWICE,
    TOOL_LEFT_OPEN,
    TOOL_NOT_OPEN,
    TOOL_REPEATED,
    RunContract,
)
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, EVENT_TYPES, EventType

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
EXECUTING, TOOL_COMPLETED = EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED
ERROR, CANCELLED, DELTA = EventType.AGENT_ERROR, EventType.AGENT_CANCELLED, EventType.AGENT_DELTA

Step = tuple[EventType, str | None]


def oracle(history: list[Step], step: Step) -> str | None:
    """The rule that this step breaks after that history, by looking at all of it."""
    event_type, call = step
    types = [earlier for earlier, _ in history]
    executed = [earlier_call for earlier, earlier_call in history if earlier is EXECUTING]
    completed = [earlier_call for earlier, earlier_call in history if earlier is TOOL_COMPLETED]
    if any(terminal in types for terminal in (COMPLETED, ERROR, CANCELLED)):
        return AFTER_END
    if event_type is COMPLETED:
        return TOOL_LEFT_OPEN if len(executed) > len(completed) else None
    if event_type in (ERROR, CANCELLED):
        return None
    if event_type is STARTED:
        return STARTED_TWICE if STARTED in types else None
    if STARTED not in types:
        return NOT_STARTED
    if event_type is EXECUTING and call in executed:
        return TOOL_REPEATED
    if event_type is TOOL_COMPLETED and (call not in executed or call in completed):
        return TOOL_NOT_OPEN
    return None


_calls = st.sampled_from(["call_1", "call_2", "call_3"])
_steps = st.sampled_from(EVENT_TYPES).flatmap(
    lambda event_type: st.tuples(
        st.just(event_type), _calls if event_type in (EXECUTING, TOOL_COMPLETED) else st.none()
    )
)
_likely = st.sampled_from(EVENT_TYPES[:6]).flatmap(
    lambda event_type: st.tuples(
        st.just(event_type), _calls if event_type in (EXECUTING, TOOL_COMPLETED) else st.none()
    )
)


@given(steps=st.lists(_likely | _steps, max_size=30), begin=st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_step_is_judged_as_its_whole_history_says(steps: list[Step], begin: bool) -> None:
    """Random runs, good and bad; what is refused leaves no mark on what comes after."""
    contract = RunContract()
    history: list[Step] = []
    for step in [(STARTED, None), *steps] if begin else steps:
        violation = contract.check(*step)
        assert oracle(history, step) == (violation.rule if violation else None)
        if violation is None:
            contract.apply(*step, tool_name="look")
            history.append(step)
    types = [event_type for event_type, _ in history]
    assert {event_type: types.count(event_type) for event_type in set(types)} == {
        event_type: count for event_type, count in contract.counts.items() if count
    }
    assert tuple(event_type for event_type in CRITICAL_TYPES if event_type not in types) == contract.missing(
        CRITICAL_TYPES
    )


def applied(*steps: Step) -> RunContract:
    """A run of these steps."""
    contract = RunContract()
    for step in steps:
        assert contract.check(*step) is None
        contract.apply(*step, tool_name="look")
    return contract


@pytest.mark.parametrize("terminal", [ERROR, CANCELLED])
def test_a_run_that_never_started_may_fail_or_be_cancelled(terminal: EventType) -> None:
    """It then has one event, its terminal one."""
    assert {terminal.value: 1} == applied().receipt_counts(terminal)
    assert applied((terminal, None)).ended


@pytest.mark.parametrize("terminal", [ERROR, CANCELLED])
def test_a_run_may_fail_with_a_tool_open_and_names_it_when_it_completes(terminal: EventType) -> None:
    """Completing with an open tool breaks the contract, and the message says which tool."""
    contract = applied((STARTED, None), (EXECUTING, "call_1"))
    violation = contract.check(COMPLETED)
    assert violation is not None
    assert (violation.rule, "look" in violation.message) == (TOOL_LEFT_OPEN, True)
    assert contract.check(terminal) is None
    assert contract.open_tools == {"call_1": "look"}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@pytest.mark.parametrize("terminal", [COMPLETED, ERROR, CANCELLED])
def test_nothing_comes_after_a_terminal_event(terminal: EventType, event_type: EventType) -> None:
    """No second terminal event either."""
    violation = applied((STARTED, None), (terminal, None)).check(event_type, "call_1")
    assert violation is not None
    assert violation.rule == AFTER_END


def test_the_receipt_counts_the_terminal_event_and_leaves_zeros_out() -> None:
    """Asked before the terminal event is applied; asking changes nothing."""
    contract = applied((STARTED, None), (DELTA, None), (DELTA, None), (EXECUTING, "a"), (TOOL_COMPLETED, "a"))
    contract.missing(EVENT_TYPES)
    expected = {"agent_started": 1, "agent_delta": 2, "tool_executing": 1, "tool_completed": 1, "agent_completed": 1}
    assert expected == contract.receipt_counts(COMPLETED) == contract.receipt_counts(COMPLETED)


def test_missing_types_come_in_the_order_in_which_they_were_required() -> None:
    """Only those that were not shown."""
    assert applied((STARTED, None)).missing([COMPLETED, STARTED, THINKING]) == (COMPLETED, THINKING)
