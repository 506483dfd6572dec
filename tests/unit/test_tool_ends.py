"""How often a tool call ends, and with what: once, with what its log, its run and its agent can live with."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tracewire.errors import LogUnavailableError, NotSerializableError, RunEndedError
from tracewire_telemetry.vocabulary import ToolStatus
from unit.stations import Stations, after, in_virtual_time
from unit.test_tool_call import CANCELLED, completed


@in_virtual_time
async def test_a_result_that_is_no_json_is_the_calls_error_and_raised() -> None:
    """Then there is no result, and the agent can go on."""

    async def agent(ctx: Any) -> None:
        with pytest.raises(NotSerializableError):
            async with ctx.tool("look") as call:
                call.result = {"seen": object()}
        assert call.result is None

    stations = Stations(agent)
    await stations.run_agent()
    [ended] = completed(stations)
    assert ("error", None) == (ended["status"], ended["result"])
    told = "the result cannot be written as JSON: tool_completed of run run: Encoding objects of type object"
    assert ended["error"].startswith(told)
    assert "agent_completed" == stations.types[-1]
    assert "error" == (stations.spans()["execute_tool look"].attributes or {})["tracewire.tool.status"]


@in_virtual_time
async def test_a_call_completes_once_whatever_is_said_later() -> None:
    """The first word stands."""

    async def agent(ctx: Any) -> None:
        async with ctx.tool("look") as call:
            await call.complete(ToolStatus.ERROR, "no")
            await call.complete_with_result()

    stations = Stations(agent)
    await stations.run_agent()
    assert [("error", "no")] == [(call["status"], call["error"]) for call in completed(stations)]
    assert "agent_completed" == stations.types[-1]


@in_virtual_time
async def test_a_call_that_its_run_has_closed_says_nothing_more() -> None:
    """Neither to the log nor to its agent: the run's end has said it, and the span says the same."""
    gate = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    async def hold(ctx: Any) -> None:
        async with ctx.tool("look") as call:
            await gate.wait()
            call.result = "late"

    async def agent(ctx: Any) -> None:
        left.append(asyncio.ensure_future(hold(ctx)))
        await after(1)

    stations = Stations(agent)
    with capture_logs() as logged:
        await stations.run_agent()
        gate.set()
        await asyncio.gather(*left)
    assert ["cancelled"] == [call["status"] for call in completed(stations)]
    assert ["tools_left_open", "emitted_after_end"] == [entry["event"] for entry in logged]
    assert "cancelled" == (stations.spans()["execute_tool look"].attributes or {})["tracewire.tool.status"]


@in_virtual_time
async def test_a_call_that_the_log_did_not_take_can_be_completed_later() -> None:
    """It is not complete before its event is durable."""

    async def agent(ctx: Any) -> None:
        call = ctx.tool("look")
        await call.open()
        stations.disk.full = True
        with pytest.raises(LogUnavailableError):
            await call.complete_with_result()
        stations.disk.full = False
        await call.complete_with_result()

    stations = Stations(agent)
    await stations.run_agent()
    assert ["ok"] == [call["status"] for call in completed(stations)]


@in_virtual_time
async def test_a_call_that_is_cancelled_while_it_is_opened_is_closed_if_its_event_is_durable() -> None:
    """And is not heard of where it is not."""

    async def agent(ctx: Any) -> None:
        async def call() -> None:
            async with ctx.tool("look"):
                raise AssertionError("it was never entered")

        for event_is_durable in (True, False):
            stations.disk.slow_seconds = 2
            opening = asyncio.ensure_future(call())
            await after(1)
            stations.disk.full = not event_is_durable
            opening.cancel()
            with pytest.raises((asyncio.CancelledError, LogUnavailableError)):
                await opening
            stations.disk.full = False
            stations.disk.slow_seconds = 0

    stations = Stations(agent)
    await stations.run_agent()
    assert 1 == stations.types.count("tool_executing")
    [ended] = completed(stations)
    assert ("cancelled", None, CANCELLED) == (ended["status"], ended["result"], ended["error"])


@in_virtual_time
async def test_a_call_after_the_run_is_refused() -> None:
    """The agent's left-over task is told, and opens no span."""
    found: list[Any] = []

    async def agent(ctx: Any) -> None:
        found.append(ctx)

    stations = Stations(agent)
    await stations.run_agent()
    with pytest.raises(RunEndedError):
        async with found[0].tool("look"):
            pass
    assert ["agent_started", "agent_completed"] == stations.types
    assert "execute_tool look" not in stations.spans()
