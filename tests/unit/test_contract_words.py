"""The contract of a run, word by word: what each breach says, and what each event leaves behind."""

import pytest

from tracewire.bridge.contract import (
    AFTER_END,
    NOT_STARTED,
    STARTED_TWICE,
    TOOL_LEFT_OPEN,
    TOOL_NOT_OPEN,
    TOOL_REPEATED,
    RunContract,
    Violation,
)
from tracewire_telemetry.vocabulary import EventType

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
EXECUTING, TOOL_COMPLETED, ERROR = EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED, EventType.AGENT_ERROR


def contract_after(*steps: tuple[EventType, str | None]) -> RunContract:
    """A run in which this has happened; tools are named after their calls."""
    contract = RunContract()
    for event_type, call in steps:
        contract.apply(event_type, call, f"tool of {call}" if call else "")
    return contract


@pytest.mark.parametrize(
    ("before", "step", "expected"),
    [
        ([(ERROR, None)], (THINKING, None), (AFTER_END, "agent_thinking comes after the run's terminal event")),
        ([(STARTED, None)], (STARTED, None), (STARTED_TWICE, "the run has started already")),
        ([], (THINKING, None), (NOT_STARTED, "agent_thinking comes before agent_started")),
        (
            [(STARTED, None), (EXECUTING, "b"), (EXECUTING, "a")],
            (COMPLETED, None),
            (TOOL_LEFT_OPEN, "the run completes while a tool is open: tool of a, tool of b"),
        ),
        (
            [(STARTED, None), (EXECUTING, "a"), (TOOL_COMPLETED, "a")],
            (EXECUTING, "a"),
            (TOOL_REPEATED, "tool call a was executing already"),
        ),
        (
            [(STARTED, None), (EXECUTING, "a")],
            (TOOL_COMPLETED, "b"),
            (TOOL_NOT_OPEN, "tool call b completes, but is not executing"),
        ),
    ],
)
def test_a_breach_is_told_with_its_rule_and_its_event(
    before: list[tuple[EventType, str | None]], step: tuple[EventType, str | None], expected: tuple[str, str]
) -> None:
    """A person reads the message in `agent_error`."""
    assert Violation(*expected) == contract_after(*before).check(*step)


def test_a_tool_is_open_from_its_first_event_to_its_second() -> None:
    """Under its call's id; others stay as they are, and no other event opens or closes one."""
    contract = contract_after((STARTED, None), (EXECUTING, "a"), (EXECUTING, "b"))
    assert {"a": "tool of a", "b": "tool of b"} == contract.open_tools
    contract.apply(THINKING, "a")
    contract.apply(THINKING, "c")
    assert ({"a", "b"}, {"a", "b"}) == (contract.open_tools.keys(), contract.seen_tools)
    contract.apply(TOOL_COMPLETED, "a")
    contract.apply(TOOL_COMPLETED, "nobody's")
    assert ({"b"}, {"a", "b"}) == (contract.open_tools.keys(), contract.seen_tools)
    contract.apply(EXECUTING, "c")
    assert {"b": "tool of b", "c": ""} == contract.open_tools


def test_a_run_has_ended_with_its_terminal_event_and_not_before() -> None:
    """Ended is no matter of what was asked, but of what was applied."""
    contract = contract_after((STARTED, None), (THINKING, None))
    assert contract.ended is False
    assert contract.check(ERROR) is None
    assert contract.ended is False
    contract.apply(ERROR)
    assert contract.ended is True


def test_a_receipt_counts_what_was_applied_and_the_terminal_event_to_come() -> None:
    """Zeros are left out; one that a contract holds already is counted on top."""
    contract = contract_after((STARTED, None), (THINKING, None), (THINKING, None))
    assert {"agent_started": 1, "agent_thinking": 2, "agent_error": 1} == contract.receipt_counts(ERROR)
    contract.apply(ERROR)
    assert {"agent_started": 1, "agent_thinking": 2, "agent_error": 2} == contract.receipt_counts(ERROR)
