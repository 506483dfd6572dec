"""A run as a terminal shows it: one line an event under its wire type's name, then the milliseconds to each link."""

from typing import Any

import msgspec
import pytest

from tracewire.client import Client, ClientRun
from tracewire.events import ReceivedEnvelope
from tracewire.timeline import WIDTH, answer_text, event_line, link_lines, receipt_line
from tracewire_telemetry.stamps import report_of, stamps_of
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType
from unit.ledgers import LedgerScript

DATA: dict[EventType, dict[str, Any]] = {
    EventType.AGENT_STARTED: {"message": "five starts"},
    EventType.AGENT_THINKING: {"text": "looking\n  it up", "step": 1},
    EventType.TOOL_EXECUTING: {"tool_call_id": "c", "tool_name": "look", "arguments": {"q": "ä"}},
    EventType.TOOL_COMPLETED: {
        "tool_call_id": "c", "tool_name": "look", "status": "ok", "result": [1, 2], "duration_ms": 1.25,
    },
    EventType.AGENT_DELTA: {"text": "a piece"},
    EventType.INPUT_REQUIRED: {"input_id": "i", "kind": "approval", "prompt": "Send it?"},
    EventType.AGENT_COMPLETED: {"output": "the answer", "duration_ms": 12.5},
    EventType.AGENT_ERROR: {"code": "timeout", "message": "too long", "retryable": True},
    EventType.AGENT_CANCELLED: {"reason": "the user asked"},
}  # fmt: skip
SAID = {
    EventType.AGENT_STARTED: "five starts",
    EventType.AGENT_THINKING: "looking it up",
    EventType.TOOL_EXECUTING: 'look {"q":"ä"}',
    EventType.TOOL_COMPLETED: "look ok, 1.2 ms  [1,2]",
    EventType.AGENT_DELTA: "a piece",
    EventType.INPUT_REQUIRED: "approval: Send it?",
    EventType.AGENT_COMPLETED: "12.5 ms",
    EventType.AGENT_ERROR: "timeout: too long",
    EventType.AGENT_CANCELLED: "the user asked",
}


def envelope(event_type: EventType, **changes: Any) -> ReceivedEnvelope:
    """One event as it is read from the socket."""
    return ReceivedEnvelope(event_type, "run", 1, "", "five", "", DATA[event_type] | changes)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_event_is_one_line_under_its_wire_types_name(event_type: EventType) -> None:
    """With the seconds since the question, and what it says."""
    line = event_line(envelope(event_type), 100.0, 101.5)
    assert f"    1.500 s  {event_type.value:<16}  {SAID[event_type]}" == line


def test_a_tool_that_failed_shows_its_error_instead_of_its_result() -> None:
    """And its status."""
    line = event_line(envelope(EventType.TOOL_COMPLETED, status="error", error="no such file", result=None), 0, 0)
    assert line.endswith("look error, 1.2 ms  no such file")


def test_a_long_line_is_cut_and_says_so() -> None:
    """It never wraps; an ellipsis ends it."""
    line = event_line(envelope(EventType.AGENT_DELTA, text="x" * 500), 0, 0)
    assert (len(line), line[-1]) == (WIDTH, "…")


@pytest.mark.parametrize(
    ("event_type", "changes", "text"),
    [
        (EventType.AGENT_COMPLETED, {}, "the answer"),
        (EventType.AGENT_COMPLETED, {"output": {"ä": 1}}, '{\n  "ä": 1\n}'),
        (EventType.AGENT_ERROR, {}, "The run failed (timeout): too long"),
        (EventType.AGENT_CANCELLED, {}, "The run was cancelled: the user asked"),
    ],
)
def test_the_answer_is_what_the_run_came_to(event_type: EventType, changes: dict[str, Any], text: str) -> None:
    """In full, for each way to end."""
    assert text == answer_text(envelope(event_type, **changes))


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"agent_completed": 1}, "receipt: 1 events sent, 1 received; it agrees"),
        (
            {"agent_completed": 1, "agent_delta": 2},
            "receipt: DISAGREES; sent {'agent_completed': 1, 'agent_delta': 2}, received {'agent_completed': 1}",
        ),
    ],
)
async def test_the_receipt_line_says_whether_client_and_server_agree(counts: dict[str, int], line: str) -> None:
    """With both counts where they do not."""
    run = ClientRun(Client("ws://127.0.0.1:1/ws", "token")._send, "run", "request", None)
    run._take(envelope(EventType.AGENT_COMPLETED, receipt={"last_seq": 1, "counts": counts}))
    assert line == receipt_line(run)


async def test_a_run_that_did_not_end_has_no_receipt_that_agrees() -> None:
    """It is said as a disagreement."""
    run = ClientRun(Client("ws://127.0.0.1:1/ws", "token")._send, "run", "request", None)
    assert receipt_line(run) == "receipt: DISAGREES; sent {}, received {}"


def ledger_of(script: LedgerScript) -> dict[str, Any]:
    """The ledger as the server answers it."""
    built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report_of(stamps_of(script.ledger))))
    return built


def test_the_ledger_shows_the_milliseconds_from_link_to_link_and_in_all() -> None:
    """One row an event; an unacked one has a dash."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(EventType.AGENT_STARTED, 0, socket)
    script.acknowledged(socket, 1, 5)
    script.sent(EventType.AGENT_THINKING, 10, socket)
    rows = [line.split() for line in link_lines(ledger_of(script))[2:]]
    assert rows == [
        ["1", "agent_started", "1.000", "1.000", "1.000", "2.000", "5.000"],
        ["2", "agent_thinking", "1.000", "1.000", "1.000", "-", "-"],
    ]


def test_a_burst_of_deltas_is_one_row() -> None:
    """With its range, and the times of its last."""
    script = LedgerScript()
    socket = script.attached()
    for at in (0, 10, 20):
        script.sent(EventType.AGENT_DELTA, at, socket)
    script.sent(EventType.AGENT_COMPLETED, 30, socket)
    script.acknowledged(socket, 4, 40)
    rows = [line.split() for line in link_lines(ledger_of(script))[2:]]
    assert rows == [
        ["1-3", "agent_delta", "1.000", "1.000", "1.000", "17.000", "20.000"],
        ["4", "agent_completed", "1.000", "1.000", "1.000", "7.000", "10.000"],
    ]


def test_missing_events_are_named_below() -> None:
    """By link, type and seq; one that never got a seq is named without."""
    script = LedgerScript(required=(EventType.TOOL_EXECUTING,))
    script.sent(EventType.AGENT_COMPLETED, 0, script.attached())
    script.ended(4)
    script.overdue(10_003)
    lines = [line.strip() for line in link_lines(ledger_of(script))[-2:]]
    assert lines == ["MISSING at engine: tool_executing", "MISSING at client: agent_completed 1"]


def test_the_columns_stand_under_their_headings() -> None:
    """Every row is as wide as the heading, also for long times."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(EventType.INPUT_REQUIRED, 0, socket)
    script.acknowledged(socket, 1, 1_000_000)
    _, header, row = link_lines(ledger_of(script))
    assert len(header) == len(row)
