"""A tool call of an agent: whatever comes of it, its two events, its span and its deadline say the same."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace

from tracewire.engine.tool_call import REDACTED, said
from unit.stations import TOOL_SECONDS, Stations, after, in_virtual_time

LATE = f"the tool passed its deadline of {TOOL_SECONDS:g} s"
CANCELLED = "the call was cancelled"


def completed(stations: Stations) -> list[dict[str, Any]]:
    """How the calls ended."""
    return [data for name, data in stations.told if name == "tool_completed"]


def seconds(call: dict[str, Any]) -> int:
    """How long it took, in whole seconds, by its event."""
    return round(call.pop("duration_ms") / 1e3)


@in_virtual_time
async def test_a_call_tells_what_it_was_given_without_secrets_and_what_came_of_it() -> None:
    """How long it took, too; its span has the same beginning, end and status."""

    async def agent(ctx: Any) -> None:
        async with ctx.tool("look", {"q": 1, "token": "t"}) as call:
            await after(4)
            call.result = {"seen": True}

    stations = Stations(agent)
    await stations.run_agent()
    call = {"tool_call_id": "call_1", "tool_name": "look"}
    assert ("tool_executing", call | {"arguments": {"q": 1, "token": REDACTED}}) == stations.told[1]
    [ended] = completed(stations)
    assert 4 == seconds(ended)
    assert call | {"status": "ok", "result": {"seen": True}} == ended
    span = stations.spans()["execute_tool look"]
    expected = {"gen_ai.tool.name": "look", "gen_ai.tool.call.id": "call_1", "tracewire.tool.status": "ok"}
    assert expected == {name: (span.attributes or {})[name] for name in expected}
    assert 4 == round(((span.end_time or 0) - (span.start_time or 0)) / 1e9)
    assert stations.ledger.unix_ns(stations.ledger.known_ns(2)) == span.start_time


class Stopped(BaseException):
    """No `Exception`."""


ERRORS: list[tuple[Callable[[], BaseException], str, str]] = [
    (lambda: ValueError("no good"), "error", "ValueError: no good"),
    (lambda: Stopped("odd"), "error", "Stopped: odd"),
    (lambda: TimeoutError("its own"), "error", "TimeoutError: its own"),
    (lambda: asyncio.CancelledError(), "cancelled", CANCELLED),
    (lambda: GeneratorExit(), "cancelled", CANCELLED),
]


@pytest.mark.parametrize(("error", "status", "told"), ERRORS, ids=["error", "base", "timeout", "cancelled", "exit"])
@in_virtual_time
async def test_an_exception_passes_through_and_is_what_came_of_the_call(
    error: Callable[[], BaseException], status: str, told: str
) -> None:
    """A result that was set before it is not told: the call did not come to its end."""
    raised, caught = error(), []

    async def agent(ctx: Any) -> None:
        try:
            async with ctx.tool("look") as call:
                await after(1)
                call.result = "half"
                raise raised
        except BaseException as passed:  # noqa: BLE001 # whatever it is, it is looked at
            caught.append(passed)

    stations = Stations(agent)
    await stations.run_agent()
    assert [raised] == caught
    [ended] = completed(stations)
    assert 1 == seconds(ended)
    how = {"status": status, "result": None, "error": told}
    assert {"tool_call_id": "call_1", "tool_name": "look"} | how == ended
    assert "agent_completed" == stations.types[-1]
    assert status == (stations.spans()["execute_tool look"].attributes or {})["tracewire.tool.status"]


@in_virtual_time
async def test_a_call_past_its_deadline_ends_then_and_its_agent_is_told() -> None:
    """By a `TimeoutError` that names tool and deadline; what the block raised in answer is its cause."""
    caught: list[TimeoutError] = []
    began = time.monotonic_ns()

    async def agent(ctx: Any) -> None:
        try:
            async with ctx.tool("look") as call:
                call.result = "half"
                await asyncio.Event().wait()
        except TimeoutError as passed:
            caught.append(passed)

    stations = Stations(agent)
    await stations.run_agent()
    [ended] = completed(stations)
    assert TOOL_SECONDS == seconds(ended)
    how = {"status": "timeout", "result": None, "error": LATE}
    assert {"tool_call_id": "call_1", "tool_name": "look"} | how == ended
    assert f"tool look passed its deadline of {TOOL_SECONDS:g} s" == str(caught[0])
    assert isinstance(caught[0].__cause__, asyncio.CancelledError)
    assert TOOL_SECONDS == round((time.monotonic_ns() - began) / 1e9)


@in_virtual_time
async def test_a_block_that_swallows_the_deadlines_cancellation_is_told_all_the_same() -> None:
    """The call has ended as late, whatever the block would still have had for a result."""

    async def agent(ctx: Any) -> str:
        try:
            async with ctx.tool("look") as call:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    call.result = "late"
        except TimeoutError as error:
            return str(error)
        return "not told"

    stations = Stations(agent)
    await stations.run_agent()
    assert f"tool look passed its deadline of {TOOL_SECONDS:g} s" == stations.last["output"]
    assert [("timeout", None)] == [(call["status"], call["result"]) for call in completed(stations)]


@in_virtual_time
async def test_the_calls_span_is_current_within_it_and_the_runs_around_it() -> None:
    """So that what an agent instruments itself hangs where it belongs."""
    current: list[str] = []

    def note() -> None:
        current.append(getattr(trace.get_current_span(), "name", ""))

    async def agent(ctx: Any) -> None:
        note()
        async with ctx.tool("look"):
            note()
        note()
        with suppress(ValueError):
            async with ctx.tool("search"):
                note()
                raise ValueError("out")
        note()

    stations = Stations(agent)
    await stations.run_agent()
    note()
    root = "invoke_agent agent_of_the_test"
    assert [root, "execute_tool look", root, "execute_tool search", root, ""] == current


def test_an_error_is_said_in_one_line_that_can_be_written() -> None:
    """By its type alone where it has no words."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    told = [said(ValueError("no good")), said(ValueError("\ud800 ü")), said(MuteError())]
    assert ["ValueError: no good", "ValueError: \\ud800 ü", "MuteError"] == told
