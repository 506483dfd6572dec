"""How a run ends at the bridge: its open tools first, then one terminal event with its receipt and its duration."""

import time
from typing import Any

import pytest

from tracewire.bridge.agent_websocket_bridge import LEFT_OPEN
from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.errors import LogUnavailableError, NotSerializableError
from tracewire.events import (
    AgentCancelled,
    AgentCompleted,
    AgentError,
    AgentStarted,
    Receipt,
    ToolCompleted,
    ToolExecuting,
)
from tracewire_telemetry.vocabulary import EventType, Outcome, RunErrorCode, ToolStatus
from unit.stations import Stations, after, in_virtual_time

STARTED = AgentStarted("begun")


@in_virtual_time
async def test_a_run_that_completes_tells_its_answer_how_long_it_took_and_what_was_sent() -> None:
    """It is the log's last event of the run, and gives the run's outcome."""
    stations = Stations()
    await stations.emit(STARTED)
    await after(12.3456785)
    emitted = stations.stamp(EventType.AGENT_COMPLETED)
    await after(2)
    event = await stations.bridge.complete({"answer": 42}, emitted)
    assert isinstance(event, AgentCompleted)
    assert Receipt(2, {"agent_started": 1, "agent_completed": 1}) == event.receipt
    told = {"output": {"answer": 42}, "duration_ms": event.duration_ms}
    assert told | {"receipt": {"last_seq": 2, "counts": event.receipt.counts}} == stations.last
    assert round((stations.ledger.bridge[1] - stations.ledger.opened_ns) / 1e6, 3) == event.duration_ms
    assert 14_345 < event.duration_ms < 14_400
    assert 2 == round((stations.ledger.bridge[1] - stations.ledger.engine[1]) / 1e9)
    assert (Outcome.COMPLETED, {}) == (stations.stored.outcome, stations.ledger.waiting)


@in_virtual_time
async def test_a_run_that_fails_tells_why_and_whether_it_can_be_tried_again() -> None:
    """Code, message and `retryable` are those that were given; the log has the code as the run's outcome."""
    for retryable in (True, False):
        stations = Stations()
        await stations.emit(STARTED)
        ordinal = stations.stamp(EventType.AGENT_ERROR)
        event = await stations.bridge.fail(RunErrorCode.TIMEOUT, "too late", retryable=retryable, ordinal=ordinal)
        receipt = Receipt(2, {"agent_started": 1, "agent_error": 1})
        assert AgentError(RunErrorCode.TIMEOUT, "too late", retryable, receipt) == event
        assert [2, "timeout", "too late", retryable] == [
            stations.last["receipt"]["last_seq"], *(stations.last[name] for name in ("code", "message", "retryable")),
        ]  # fmt: skip
        assert (Outcome.TIMEOUT, {}) == (stations.stored.outcome, stations.ledger.waiting)


@in_virtual_time
async def test_a_run_that_is_cancelled_before_it_began_has_its_end_alone() -> None:
    """With the reason that was given."""
    stations = Stations()
    event = await stations.bridge.cancel("enough", stations.stamp(EventType.AGENT_CANCELLED))
    assert AgentCancelled("enough", Receipt(1, {"agent_cancelled": 1})) == event
    receipt = {"last_seq": 1, "counts": {"agent_cancelled": 1}}
    assert [("agent_cancelled", {"reason": "enough", "receipt": receipt})] == stations.told
    assert (Outcome.CANCELLED, {}) == (stations.stored.outcome, stations.ledger.waiting)


@in_virtual_time
async def test_open_tools_are_closed_with_the_run_and_say_how_long_they_had_been_executing() -> None:
    """As cancelled, in the order in which they were opened; each is stamped when it is closed, and counted."""
    stations = Stations()
    await stations.emit(STARTED, ToolExecuting("call_1", "look", {}))
    await after(4)
    await stations.emit(ToolExecuting("call_2", "search", {}))
    await after(2)
    event = await stations.bridge.complete("done", stations.stamp(EventType.AGENT_COMPLETED))
    counts = {"agent_started": 1, "tool_executing": 2, "tool_completed": 2, "agent_completed": 1}
    assert Receipt(6, counts) == event.receipt
    closed = [data for name, data in stations.told if name == "tool_completed"]
    took_ms = [call.pop("duration_ms") for call in closed]
    assert [6, 2] == [round(ms / 1e3) for ms in took_ms]
    how = {"status": "cancelled", "result": None, "error": LEFT_OPEN}
    assert [
        {"tool_call_id": "call_1", "tool_name": "look"} | how,
        {"tool_call_id": "call_2", "tool_name": "search"} | how,
    ] == closed
    assert ["tool_completed", "tool_completed", "agent_completed"] == stations.types[3:]
    engine = stations.ledger.engine
    assert [0, 4, 6, 6, 6] == [round((stamp - engine[0]) / 1e9) for stamp in engine[1:]]
    assert 1.0 == stations.value("tool_calls_total", tool="look", status="cancelled")
    assert took_ms[0] / 1e3 == stations.value("tool_seconds_sum", tool="look")
    assert {} == stations.bridge.contract.open_tools


@in_virtual_time
async def test_a_tool_that_cannot_be_closed_does_not_cost_the_run_its_end() -> None:
    """The emit method for it does nothing; what is wrong there is not the user's to wait for. The other is closed."""
    stations = Stations()
    await stations.emit(STARTED, ToolExecuting("call_1", "look", {}), ToolExecuting("call_2", "look", {}))
    emit_tool_completed = stations.bridge._emits[EventType.TOOL_COMPLETED]

    async def lying(envelope: Any) -> EmitOutcome:
        if envelope.data.tool_call_id == "call_1":
            return EmitOutcome(envelope.seq, 1)
        return await emit_tool_completed(envelope)

    stations.bridge._emits[EventType.TOOL_COMPLETED] = lying
    await stations.bridge.cancel("enough", stations.stamp(EventType.AGENT_CANCELLED))
    assert ["tool_completed", "agent_cancelled"] == stations.types[3:]
    assert ["call_2"] == [data["tool_call_id"] for name, data in stations.told if name == "tool_completed"]
    assert (5, {"call_1": "look"}) == (stations.ledger.last_seq, stations.bridge.contract.open_tools)


@in_virtual_time
async def test_an_answer_that_is_no_json_leaves_the_run_to_be_ended_otherwise() -> None:
    """Its tools are closed already; nothing is awaited for the event that was refused."""
    stations = Stations()
    await stations.emit(STARTED, ToolExecuting("call_1", "look", {}))
    with pytest.raises(NotSerializableError):
        await stations.bridge.complete(object(), stations.stamp(EventType.AGENT_COMPLETED))
    assert ({}, 3, False) == (stations.ledger.waiting, stations.ledger.last_seq, stations.bridge.contract.ended)
    ordinal = stations.stamp(EventType.AGENT_ERROR)
    await stations.bridge.fail(RunErrorCode.NOT_SERIALIZABLE, "no", retryable=False, ordinal=ordinal)
    assert ["tool_completed", "agent_error"] == stations.types[2:]


@in_virtual_time
async def test_an_end_that_the_log_does_not_take_is_awaited_no_more() -> None:
    """A tool that it does not take either is open as before."""
    stations = Stations()
    await stations.emit(STARTED, ToolExecuting("call_1", "look", {}))
    stations.disk.full = True
    with pytest.raises(LogUnavailableError):
        await stations.bridge.complete("done", stations.stamp(EventType.AGENT_COMPLETED))
    assert ({}, 2) == (stations.ledger.waiting, stations.ledger.last_seq)
    assert {"call_1": "look"} == stations.bridge.contract.open_tools


@in_virtual_time
async def test_a_tool_is_timed_from_its_beginning_to_its_end_and_no_longer() -> None:
    """In milliseconds, to the microsecond; one that is not executing has taken no time. What it says is counted."""
    stations = Stations()
    bridge = stations.bridge
    await stations.emit(STARTED)
    assert [0.0, 0.0] == [bridge.tool_duration_ms("call_1"), bridge.tool_duration_ms("call_2")]
    await stations.emit(ToolExecuting("call_1", "look", {}))
    await after(1.2345675)
    took_ms = bridge.tool_duration_ms("call_1")
    assert round((time.monotonic_ns() - bridge._tool_starts["call_1"]) / 1e6, 3) == took_ms
    assert 1_234.567 <= took_ms < 1_250
    assert 0.0 == bridge.tool_duration_ms("call_2")
    await stations.emit(ToolCompleted("call_1", "look", ToolStatus.OK, None, 2_500.0))
    assert 0.0 == bridge.tool_duration_ms("call_1")
    assert 1.0 == stations.value("tool_calls_total", tool="look", status="ok")
    assert 2.5 == stations.value("tool_seconds_sum", tool="look")
    assert {} == bridge._tool_starts
