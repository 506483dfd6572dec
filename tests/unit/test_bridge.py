"""The bridge: what it writes into an envelope, what it refuses, and what is left of an event that is not durable."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.errors import ContractBrokenError, LogUnavailableError, RunEndedError, WiringError
from tracewire.events import (
    AgentCancelled,
    AgentDelta,
    AgentStarted,
    AgentThinking,
    InputRequired,
    Timestamps,
    ToolCompleted,
    ToolExecuting,
)
from tracewire_telemetry.chain import envelope_traceparents
from tracewire_telemetry.vocabulary import EventType, RunErrorCode, ToolStatus
from unit.stations import Stations, after, in_virtual_time

STARTED = AgentStarted("begun")
THOUGHT = AgentThinking("hm", 1)
LOOKS = ToolExecuting("call_1", "look", {"q": 1})
SEEN = ToolCompleted("call_1", "look", ToolStatus.OK, "seen", 12.5)
FAILURE = (RunErrorCode.TIMEOUT, "too late")


def lying(stations: Stations, event_type: EventType) -> None:
    """The emitter's method for this type says that all is well, and does nothing."""

    async def emit(envelope: Any) -> EmitOutcome:
        return EmitOutcome(envelope.seq, 1)

    stations.bridge._emits[event_type] = emit


@in_virtual_time
async def test_an_emitter_that_is_missing_or_bound_to_somebody_else_is_refused_by_name() -> None:
    """Before anything is emitted: the events would go to another user, or to nobody."""
    stations = Stations()
    for user_id, run_id in (("bob", "run"), ("ada", "other"), ("bob", "other")):
        emitter = UserWebSocketEmitter(user_id, run_id, stations.log, stations.connections, stations.ledger)
        with pytest.raises(WiringError) as refused:
            AgentWebSocketBridge(emitter, stations.run, stations.metrics)
        told = f"L4: the bridge of ada's run run was given the emitter of {user_id}'s run {run_id}"
        assert ("L4", told) == (refused.value.check, str(refused.value))
    with pytest.raises(WiringError) as refused:
        AgentWebSocketBridge(None, stations.run, stations.metrics)  # type: ignore[arg-type] # what a broken factory does
    assert ("L4", "L4: the bridge of run run was given no emitter") == (refused.value.check, str(refused.value))


@in_virtual_time
async def test_an_emitter_that_lacks_methods_is_refused_with_the_name_of_each() -> None:
    """One that is there and cannot be called is lacking, too."""

    class Lacking(UserWebSocketEmitter):
        emit_agent_delta = None  # type: ignore[assignment] # that it is wrong is the point
        emit_input_required = "no method"  # type: ignore[assignment] # as above

    stations = Stations()
    emitter = Lacking("ada", "run", stations.log, stations.connections, stations.ledger)
    with pytest.raises(WiringError) as refused:
        AgentWebSocketBridge(emitter, stations.run, stations.metrics)
    told = "L5: the emitter lacks emit_agent_delta, emit_input_required"
    assert ("L5", told) == (refused.value.check, str(refused.value))
    nothing: Any = SimpleNamespace(user_id="ada", run_id="run")
    with pytest.raises(WiringError, match=r"lacks emit_agent_started, emit_agent_thinking, .*, emit_agent_cancelled$"):
        AgentWebSocketBridge(nothing, stations.run, stations.metrics)


@in_virtual_time
async def test_an_envelope_says_whose_event_it_is_when_it_was_and_where_its_trace_is() -> None:
    """Each type goes through the emitter's method of its name; the engine's and the bridge's moments are stamped."""
    stations = Stations()
    await stations.emit(STARTED)
    await after(5)
    emitted_ns, now = stations.stamp(EventType.AGENT_THINKING), time.monotonic_ns
    await after(3)
    before_ns = now()
    written = Timestamps().now()[:19]
    outcome = await stations.bridge.emit(THOUGHT, emitted_ns)
    assert EmitOutcome(2, 1) == outcome
    [_, event] = stations.events
    assert written == event.pop("time")[:19]
    assert {
        "type": "agent_thinking",
        "run_id": "run",
        "seq": 2,
        "agent": "agent_of_the_test",
        "traceparent": envelope_traceparents(stations.ledger.identity)(2),
        "data": {"text": "hm", "step": 1},
    } == event
    ledger = stations.ledger
    assert 3 == round((ledger.bridge[1] - ledger.engine[1]) / 1e9)
    assert before_ns <= ledger.bridge[1] <= ledger.emitter[1] <= now()
    assert {} == ledger.waiting
    await stations.emit(LOOKS, SEEN, AgentDelta("d"), InputRequired("i", "question", "?"))
    await stations.bridge.fail(*FAILURE, retryable=True, ordinal=stations.stamp(EventType.AGENT_ERROR))
    assert [
        "agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_delta", "input_required",
        "agent_error",
    ] == stations.types  # fmt: skip


@in_virtual_time
async def test_emits_of_one_run_wait_for_each_other() -> None:
    """However slow the log is: they are durable in the order in which they were asked for."""
    stations = Stations()
    stations.disk.slow_seconds = 10
    began = time.monotonic_ns()
    await asyncio.gather(stations.emit(STARTED), stations.emit(THOUGHT), stations.emit(AgentDelta("d")))
    assert ["agent_started", "agent_thinking", "agent_delta"] == stations.types
    assert 30 == round((time.monotonic_ns() - began) / 1e9)


@in_virtual_time
async def test_what_breaks_the_contract_is_refused_and_leaves_nothing_behind() -> None:
    """No seq, no event that somebody would wait for; the message is the contract's own."""
    stations = Stations()
    with capture_logs() as logged:
        with pytest.raises(ContractBrokenError, match=r"^agent_thinking comes before agent_started$"):
            await stations.emit(THOUGHT)
        await stations.emit(STARTED, LOOKS)
        with pytest.raises(ContractBrokenError, match=r"^tool call call_1 was executing already$"):
            await stations.emit(LOOKS)
        with pytest.raises(ContractBrokenError, match=r"^tool call call_2 completes, but is not executing$"):
            await stations.emit(ToolCompleted("call_2", "look", ToolStatus.OK, None, 0.0))
    assert [] == logged
    assert ({}, 2) == (stations.ledger.waiting, stations.ledger.last_seq)
    assert {"call_1": "look"} == stations.bridge.contract.open_tools
    assert ["agent_started", "tool_executing"] == stations.types


@in_virtual_time
async def test_what_comes_after_the_end_is_refused_and_said_once() -> None:
    """An agent that was left behind can try as often as it likes; our log is told of the first time."""
    stations = Stations()
    await stations.emit(STARTED)
    await stations.bridge.cancel("enough", stations.stamp(EventType.AGENT_CANCELLED))
    with capture_logs() as logged:
        for event in (THOUGHT, AgentDelta("d")):
            with pytest.raises(RunEndedError, match=f"^{event.type.value} comes after the run's terminal event$"):
                await stations.emit(event)
        with pytest.raises(RunEndedError):
            await stations.bridge.complete("late", stations.stamp(EventType.AGENT_COMPLETED))
    assert [
        {"event": "emitted_after_end", "log_level": "warning", "user_id": "ada", "run_id": "run",
         "event_type": "agent_thinking"}
    ] == logged  # fmt: skip
    assert ({}, 2) == (stations.ledger.waiting, stations.ledger.last_seq)


@in_virtual_time
async def test_what_the_log_does_not_take_has_not_happened() -> None:
    """Its seq is the next event's, its tool is not open, and nothing of it is awaited."""
    stations = Stations()
    await stations.emit(STARTED)
    stations.disk.full = True
    with pytest.raises(LogUnavailableError):
        await stations.emit(LOOKS)
    with pytest.raises(LogUnavailableError):
        await stations.bridge.cancel("enough", stations.stamp(EventType.AGENT_CANCELLED))
    assert ({}, 1) == (stations.ledger.waiting, stations.ledger.last_seq)
    assert ({}, False) == (stations.bridge.contract.open_tools, stations.bridge.contract.ended)
    stations.disk.full = False
    assert [EmitOutcome(2, 1), EmitOutcome(3, 1)] == await stations.emit(LOOKS, SEEN)
    assert ["agent_started", "tool_executing", "tool_completed"] == stations.types


@in_virtual_time
async def test_an_emit_method_that_did_not_make_its_event_durable_is_named() -> None:
    """What it says is held against the log's newest seq; the event has not happened."""
    stations = Stations()
    await stations.emit(STARTED)
    lying(stations, EventType.AGENT_THINKING)
    with pytest.raises(WiringError) as refused:
        await stations.emit(THOUGHT)
    told = "L5: emit_agent_thinking returned, and the log does not hold seq 2"
    assert ("L5", told) == (refused.value.check, str(refused.value))
    assert 1 == stations.ledger.last_seq
    assert [EmitOutcome(2, 1)] == await stations.emit(AgentDelta("d"))


@in_virtual_time
async def test_what_is_durable_has_happened_although_its_caller_was_cancelled() -> None:
    """The log had the event already: it counts, its tool is open, and is closed with the run."""
    stations = Stations()
    await stations.emit(STARTED)
    stations.disk.slow_seconds = 10
    emitting = asyncio.get_running_loop().create_task(stations.emit(LOOKS))
    await after(5)
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    assert ["agent_started", "tool_executing"] == stations.types
    assert ({"call_1": "look"}, 2) == (stations.bridge.contract.open_tools, stations.ledger.last_seq)
    ended = await stations.bridge.cancel("enough", stations.stamp(EventType.AGENT_CANCELLED))
    assert isinstance(ended, AgentCancelled)
    assert ["tool_completed", "agent_cancelled"] == stations.types[2:]
