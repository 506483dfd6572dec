"""The emitter: durable first, then offered to each socket of its user that follows the run, and to nobody else."""

import asyncio
import re
import time
from typing import Any

import pytest

from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.errors import LogUnavailableError, WiringError
from tracewire.events import (
    AgentCancelled,
    AgentCompleted,
    AgentDelta,
    AgentError,
    AgentStarted,
    AgentThinking,
    Envelope,
    Event,
    InputRequired,
    Receipt,
    ToolCompleted,
    ToolExecuting,
    encode_envelope,
)
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Outcome, RunErrorCode, ToolStatus
from unit.stations import Stations, after, in_virtual_time

RECEIPT = Receipt(1, {})
EVENTS: dict[EventType, tuple[Event, Outcome | None]] = {
    EventType.AGENT_STARTED: (AgentStarted("begun"), None),
    EventType.AGENT_THINKING: (AgentThinking("hm", 1), None),
    EventType.TOOL_EXECUTING: (ToolExecuting("call_1", "look", {}), None),
    EventType.TOOL_COMPLETED: (ToolCompleted("call_1", "look", ToolStatus.OK, None, 1.0), None),
    EventType.AGENT_DELTA: (AgentDelta("d"), None),
    EventType.INPUT_REQUIRED: (InputRequired("input_1", "question", "?"), None),
    EventType.AGENT_COMPLETED: (AgentCompleted("done", 1.0, RECEIPT), Outcome.COMPLETED),
    EventType.AGENT_ERROR: (AgentError(RunErrorCode.TIMEOUT, "late", True, RECEIPT), Outcome.TIMEOUT),
    EventType.AGENT_CANCELLED: (AgentCancelled("enough", RECEIPT), Outcome.CANCELLED),
}


def envelope_of(stations: Stations, event: Event, *, run_id: str = "run") -> Envelope:
    """The event as the bridge would hand it over, with the run's next seq."""
    seq = stations.ledger.sequenced(stations.stamp(event.type), time.monotonic_ns())
    return Envelope(event.type, run_id, seq, "now", "five", "00-", event)


def method(stations: Stations, event_type: EventType) -> Any:
    """The emitter's method for this type."""
    return getattr(stations.emitter, f"emit_{event_type.value}")


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@in_virtual_time
async def test_an_event_is_durable_with_its_outcome_and_then_queued_to_who_follows(event_type: EventType) -> None:
    """The bytes are the same for the log and each socket; the outcome says how many sockets took them."""
    event, ends_with = EVENTS[event_type]
    stations = Stations(sockets=2)
    stranger, elsewhere = stations.follow(1, "bob"), stations.follow(3)
    elsewhere.connection.unfollow("run")
    envelope = envelope_of(stations, event)
    began = time.monotonic_ns()
    outcome = await method(stations, event_type)(envelope)
    body = encode_envelope(envelope)
    assert (EmitOutcome(1, 2), False) == (outcome, outcome.pending)
    assert ([body], ends_with) == (stations.stored.bodies, stations.stored.outcome)
    await after(1)  # what is queued is written in another turn
    assert [[body], [body]] == [socket.transport.objects for socket in stations.sockets]
    assert [[], []] == [stranger.transport.objects, elsewhere.transport.objects]
    assert (1, 1) == (stations.emitter.durable_seq, stations.ledger.committed_count)
    assert began < stations.ledger.emitter[0] < time.monotonic_ns()


@in_virtual_time
async def test_an_event_that_nobody_follows_is_pending() -> None:
    """It is in the log, where a later resume finds it."""
    stations = Stations(sockets=0)
    outcome = await stations.emitter.emit_agent_started(envelope_of(stations, EVENTS[EventType.AGENT_STARTED][0]))
    assert (EmitOutcome(1, 0), True) == (outcome, outcome.pending)
    assert 1 == len(stations.stored.bodies)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@in_virtual_time
async def test_an_event_of_another_type_or_another_run_is_refused(event_type: EventType) -> None:
    """Nothing of it is written, and nobody gets it."""
    stations = Stations()
    other = EventType.AGENT_DELTA if event_type is not EventType.AGENT_DELTA else EventType.AGENT_THINKING
    if event_type is not EventType.AGENT_ERROR:  # which asks for its own event before all else
        with pytest.raises(WiringError) as refused:
            await method(stations, event_type)(envelope_of(stations, EVENTS[other][0]))
        told = f"L4: an emitter of run run was given {other} of run"
        assert ("L4", told) == (refused.value.check, str(refused.value))
    with pytest.raises(WiringError, match=f"^L4: an emitter of run run was given {event_type} of bobs$"):
        await method(stations, event_type)(envelope_of(stations, EVENTS[event_type][0], run_id="bobs"))
    await after(1)
    assert ([], []) == (stations.stored.bodies, stations.sockets[0].transport.objects)
    assert 0 == stations.emitter.durable_seq


@in_virtual_time
async def test_an_envelope_that_says_error_and_holds_none_is_refused() -> None:
    """The bridge dispatches by the event's own type; whoever else calls this gets no run closed by it."""
    stations = Stations()
    envelope = Envelope(EventType.AGENT_ERROR, "run", 1, "now", "five", "00-", AgentDelta("d"))
    with pytest.raises(AssertionError):
        await stations.emitter.emit_agent_error(envelope)
    assert [] == stations.stored.bodies


@in_virtual_time
async def test_what_the_log_does_not_take_reaches_nobody() -> None:
    """It raises, and the newest durable seq stays what it was."""
    stations = Stations()
    await stations.emitter.emit_agent_started(envelope_of(stations, EVENTS[EventType.AGENT_STARTED][0]))
    stations.disk.full = True
    with pytest.raises(LogUnavailableError, match=re.escape("the disk is full")):
        await stations.emitter.emit_agent_delta(envelope_of(stations, AgentDelta("d")))
    await after(1)
    assert (1, 1) == (stations.emitter.durable_seq, len(stations.sockets[0].transport.objects))
    assert [0] == list(stations.ledger.emitter[1:])


@in_virtual_time
async def test_what_is_durable_is_delivered_although_its_caller_was_cancelled() -> None:
    """No socket is to be left without an event that the log holds."""
    stations = Stations()
    stations.disk.slow_seconds = 10
    emit = stations.emitter.emit_agent_started(envelope_of(stations, EVENTS[EventType.AGENT_STARTED][0]))
    emitting = asyncio.get_running_loop().create_task(emit)
    await after(5)
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    await after(1)
    assert stations.stored.bodies == stations.sockets[0].transport.objects
    assert (1, 1) == (len(stations.stored.bodies), stations.emitter.durable_seq)


@in_virtual_time
async def test_an_emitter_of_nobody_is_refused() -> None:
    """An id that is empty would lead to no socket."""
    stations = Stations()
    with pytest.raises(WiringError) as refused:
        UserWebSocketEmitter("", "run", stations.log, stations.connections, stations.ledger)
    told = "L4: an emitter needs the id of the user to whom it is bound"
    assert ("L4", told) == (refused.value.check, str(refused.value))
    assert 0 == UserWebSocketEmitter("ada", "run", stations.log, stations.connections, stations.ledger).durable_seq
