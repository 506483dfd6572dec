"""Stations that break behind an event, or lose count of them: the run is settled as it ended, and nothing heals that
never came.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.agents import known_agents
from support.incident_clients import incidents, until
from support.servers import ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.user_websocket_emitter import EmitOutcome


@asynccontextmanager
async def broken(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A server whose deadlines a test can wait for."""
    quick = {"emitter_deadline_seconds": 1, "heal_deadline_seconds": 1}
    async with server_under_test(tmp_path / "data", agents=known_agents(), **quick) as server:
        yield server


async def test_a_run_whose_station_crashed_behind_its_terminal_event_is_settled_as_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not open for ever, nor called silent: the log has how it ended."""
    complete = AgentWebSocketBridge.complete

    async def complete_twice(bridge: AgentWebSocketBridge, output: Any, ordinal: int) -> Any:
        await complete(bridge, output, ordinal)
        return await complete(bridge, output, ordinal)

    monkeypatch.setattr(AgentWebSocketBridge, "complete", complete_twice)
    async with (
        server_under_test(tmp_path / "data", agents=known_agents()) as server,
        wire_to(server.server.ws_url, server.token("ada")) as wire,
    ):
        run_id = await wire.start_run("go", agent="five")
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        trace = await server.trace(run_id)
        assert "completed" == trace.root.attributes["tracewire.run.outcome"]
        assert trace.root.attributes["tracewire.chain.complete"] is True
        assert {} == server.server.telemetry.watch.runs
        assert await incidents(server) == []


async def test_an_event_in_whose_place_the_log_has_another_does_not_heal_by_that_ones_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge lied about `agent_started`; under its seq the log has the `agent_error` that ended the run."""
    init = AgentWebSocketBridge.__init__

    def lying(bridge: AgentWebSocketBridge, *args: Any) -> None:
        async def emit(envelope: Any) -> EmitOutcome:
            bridge.emitter.durable_seq = envelope.seq
            return EmitOutcome(envelope.seq, 1)

        init(bridge, *args)
        bridge._emits = {event_type: emit if event_type == "agent_started" else bridge._emits[event_type]
                         for event_type in bridge._emits}  # fmt: skip

    monkeypatch.setattr(AgentWebSocketBridge, "__init__", lying)
    async with broken(tmp_path) as server, wire_to(server.server.ws_url, server.token("ada")) as wire:
        run_id = await wire.start_run("go", agent="five")
        assert ["agent_error"] == [event["type"] for event in await wire.receive_run(run_id)]
        await wire.ack(run_id, 1)
        [lost] = await until(server, 1, state="lost")
        assert ("emitter", "agent_started") == (lost["link"], lost["type"])


async def test_who_acks_what_the_log_has_is_not_told_that_he_is_ahead_of_stations_that_lost_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge stamped the end of a tool as durable and gave nobody anything: the log has more than it knows of."""
    init = AgentWebSocketBridge.__init__

    def forging(bridge: AgentWebSocketBridge, *args: Any) -> None:
        async def emit(envelope: Any) -> EmitOutcome:
            bridge.emitter.durable_seq = envelope.seq
            bridge._ledger.committed(envelope.seq, time.monotonic_ns())
            return EmitOutcome(envelope.seq, 1)

        init(bridge, *args)
        bridge._emits = {event_type: emit if event_type == "tool_completed" else bridge._emits[event_type]
                         for event_type in bridge._emits}  # fmt: skip

    monkeypatch.setattr(AgentWebSocketBridge, "__init__", forging)
    async with broken(tmp_path) as server, wire_to(server.server.ws_url, server.token("ada")) as wire:
        run_id = await wire.start_run("go", agent="five")
        events = await wire.receive_run(run_id)
        assert ["tool_completed", "agent_error"] == [event["type"] for event in events[3:]]
        await wire.ack(run_id, len(events))
        async with asyncio.timeout(20):
            while server.server.telemetry.watch.runs:
                await asyncio.sleep(0)
        assert [] == [frame for frame in wire.frames if frame["type"] == "rejected"]
        summary = await server.server.log.run(run_id)
        assert summary is not None
        assert len(events) == summary.acked_seq
