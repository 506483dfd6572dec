"""Other backends' names and fields come out as the same events."""

from typing import Any

import pytest

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.shapes import frame_of, time_of
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType


def frame(value: Any) -> Frame:
    found = frame_of(value, socket=1, line=1)
    assert found is not None
    return found


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_tracewires_own_types_are_themselves_in_any_spelling(event_type):
    for name in (event_type.value, event_type.value.upper(), event_type.value.replace("_", "."), event_type.name):
        assert frame({"type": name}).event is event_type


@pytest.mark.parametrize(
    ("name", "event_type"),
    [
        ("RUN_STARTED", EventType.AGENT_STARTED),
        ("REASONING_MESSAGE_CONTENT", EventType.AGENT_THINKING),
        ("THINKING_TEXT_MESSAGE_CONTENT", EventType.AGENT_THINKING),
        ("TOOL_CALL_START", EventType.TOOL_EXECUTING),
        ("TOOL_CALL_RESULT", EventType.TOOL_COMPLETED),
        ("TEXT_MESSAGE_CONTENT", EventType.AGENT_DELTA),
        ("RUN_FINISHED", EventType.AGENT_COMPLETED),
        ("RUN_ERROR", EventType.AGENT_ERROR),
        ("agent.started", EventType.AGENT_STARTED),
        ("toolStart", EventType.TOOL_EXECUTING),
        ("tool_result", EventType.TOOL_COMPLETED),
        ("final", EventType.AGENT_COMPLETED),
        ("done", EventType.AGENT_COMPLETED),
        ("error", EventType.AGENT_ERROR),
        ("cancelled", EventType.AGENT_CANCELLED),
        ("TOOL_CALL_ARGS", None),
        ("TOOL_CALL_END", None),
        ("TEXT_MESSAGE_START", None),
        ("ready", None),
        ("chat", None),
    ],
)
def test_other_names_stand_for_the_same_events(name, event_type):
    assert frame({"type": name}).event is event_type


@pytest.mark.parametrize(
    "value",
    [
        {"type": "tool_call", "run_id": "r", "seq": 7, "tool_call_id": "c", "tool_name": "search"},
        {"event": "tool_start", "data": {"runId": "r", "sequence": 7, "toolCallId": "c", "toolName": "search"}},
        {"event_type": "TOOL_EXECUTING", "payload": {"run": "r", "callId": "c", "name": "search"}, "index": "7"},
        {
            "type": "message",
            "payload": {"type": "tool.start", "run_id": "r", "seq": 7, "call_id": "c", "tool": "search"},
        },
        {
            "type": "update",
            "event": "tool_use",
            "thread_id": "r",
            "seq_no": 7,
            "toolCallId": "c",
            "toolCallName": "search",
        },
    ],
)
def test_fields_are_found_wherever_a_backend_puts_them(value):
    found = frame(value)
    assert (found.event, found.run_id, found.seq, found.tool_call_id, found.tool_name) == (
        EventType.TOOL_EXECUTING,
        "r",
        7,
        "c",
        "search",
    )


@pytest.mark.parametrize(
    "value",
    [
        "2025-11-04T09:30:00.250Z",
        "2025-11-04T10:30:00.250+01:00",
        "2025-11-04T09:30:00.250",
        1762248600.25,
        1762248600250,
        1762248600250000,
        1762248600250000000,
        "1762248600.25",
    ],
)
def test_times_are_read_from_every_unit(value):
    assert time_of(value) == pytest.approx(1762248600.25, abs=1e-3)


@pytest.mark.parametrize("value", [None, True, "soon", -1, float("nan"), float("inf"), [], "9" * 400])
def test_what_is_no_time_is_none(value):
    assert time_of(value) is None


@pytest.mark.parametrize("value", [None, 1, "text", [], {}, {"type": 1}, {"type": ""}, {"data": {}}])
def test_what_has_no_type_is_no_frame(value):
    assert frame_of(value, socket=1, line=1) is None


@pytest.mark.parametrize(
    "value",
    [
        {"type": "delta", "seq": True, "run_id": ["r"], "time": {}, "truncated": 1, "receipt": 1, "data": 7},
        {"type": "done", "seq": -1, "receipt": {"counts": {"a": "b"}}, "data": {"metadata": 4}},
        {"type": "done", "seq": 10**30, "metadata": {"receipt": {"last_seq": 1, "counts": []}}},
        {"type": "ready", "runs": [1, {}, {"run_id": None}], "user_id": 5},
        {"type": "resume", "runs": {"r": "x"}},
        {"type": "error", "code": 500, "user": {"id": 1}},
    ],
)
def test_fields_of_a_wrong_type_are_left_out(value):
    assert frame(value).seq is None


def test_a_receipt_is_found_in_the_metadata_of_agui():
    found = frame({"type": "RUN_FINISHED", "metadata": {"receipt": {"last_seq": 3, "counts": {"agent_started": 1}}}})
    assert found.receipt is not None
    assert found.receipt.counts == {"agent_started": 1}


def test_a_finished_run_of_agui_may_be_a_cancelled_one():
    assert frame({"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}).event is EventType.AGENT_CANCELLED
    assert frame({"type": "RUN_FINISHED", "outcome": "success"}).event is EventType.AGENT_COMPLETED
