"""A tool call of an agent: whatever comes of it, its two events, its span and its deadline say the same."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from structlog.testing import capture_logs

from tracewire.engine.tool_call import REDACTED, said
from tracewire.errors import LogUnavailableError, NotSerializableError, RunEndedError
from tracewire_telemetry.vocabulary import ToolStatus
from unit.stations import TOOL_SECONDS, Stations, in_virtual_time

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
            await asyncio.sleep(4)
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
                await asyncio.sleep(1)
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
        await asyncio.sleep(1)

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
            await asyncio.sleep(1)
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
