"""An agent that is a plain `def`: the same calls from a thread of its own, on a real loop, with real deadlines."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from structlog.testing import capture_logs

from tracewire.engine.agent_context import ThreadedAgentContext
from tracewire.eventlog import Turn
from tracewire_telemetry.catalog_attributes import AGENT_SCOPE
from tracewire_telemetry.vocabulary import EventType, Outcome
from unit.stations import Stations

SECONDS_MAX = 10.0
"""Bounds what would hang; nothing here takes long."""
SHORT_SECONDS = 0.01
"""A deadline that is meant to pass."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """For one run; nothing may be left in it."""
    with ThreadPoolExecutor(1, "agent") as pool:
        yield pool


@pytest.fixture
def gate(threads: ThreadPoolExecutor) -> Iterator[threading.Event]:
    """For an agent to wait at. However the test ends, it is open then."""
    event = threading.Event()
    yield event
    event.set()


def tell(stations: Stations, event_type: EventType, gate: threading.Event | asyncio.Event) -> None:
    """Open the gate when an event of this type is durable."""
    emit = stations.bridge._emits[event_type]

    async def emit_and_tell(envelope: Any) -> Any:
        outcome = await emit(envelope)
        gate.set()
        return outcome

    stations.bridge._emits[event_type] = emit_and_tell


async def ended(running: "asyncio.Future[Any]") -> Any:
    """What came of the run."""
    async with asyncio.timeout(SECONDS_MAX):
        return await running


async def test_it_is_told_what_an_async_one_is(threads: ThreadPoolExecutor) -> None:
    """And works within the run's span, in the thread that is for agents."""
    found: dict[str, Any] = {}

    def agent(ctx: ThreadedAgentContext) -> None:
        found.update(vars(ctx), thread=threading.current_thread().name, span=trace.get_current_span())

    stations = Stations(agent, threads=threads)
    history = (Turn("earlier", "asked", "told"),)
    await ended(asyncio.ensure_future(stations.run_agent({"q": 1}, history)))
    expected = {
        "user_id": "ada", "run_id": "run", "thread_id": "thread", "input": {"q": 1}, "history": history,
        "tracer_provider": stations.run.spans.tracer_provider,
    }  # fmt: skip
    assert expected == {name: found[name] for name in expected}
    with found["tracer"].start_as_current_span("own") as span:
        assert AGENT_SCOPE == span.instrumentation_scope.name
    assert found["thread"].startswith("agent")
    assert "invoke_agent agent_of_the_test" == found["span"].name


async def test_its_calls_are_events_and_give_back_what_comes_of_them(threads: ThreadPoolExecutor) -> None:
    """Thoughts, text, tools with their results, and the user's answers."""
    current: list[str] = []

    def note() -> None:
        current.append(getattr(trace.get_current_span(), "name", ""))

    def agent(ctx: ThreadedAgentContext) -> Any:
        ctx.thinking("hm")
        ctx.delta("text")
        with ctx.tool("look", {"q": 1}) as call:
            note()
            assert call.result is None
            call.result = "seen"
            assert "seen" == call.result
        note()
        with ctx.tool("search"):
            pass
        return [ctx.ask("Which?"), ctx.ask("So?", kind="approval", schema={"type": "boolean"})]

    stations = Stations(agent, threads=threads)
    emit, answers = stations.bridge._emits[EventType.INPUT_REQUIRED], iter(["this", True])

    async def answer(envelope: Any) -> Any:
        outcome = await emit(envelope)
        asyncio.get_running_loop().call_soon(stations.engine.provide_input, envelope.data.input_id, next(answers))
        return outcome

    stations.bridge._emits[EventType.INPUT_REQUIRED] = answer
    result = await ended(stations.begin())
    assert (Outcome.COMPLETED, ["this", True]) == (result.outcome, result.output)
    told = [(name, {key: value for key, value in data.items() if key != "duration_ms"}) for name, data in stations.told]
    look, search = ({"tool_call_id": f"call_{n}", "tool_name": name} for n, name in ((1, "look"), (2, "search")))
    assert [
        ("agent_thinking", {"text": "hm", "step": 1}),
        ("agent_delta", {"text": "text"}),
        ("tool_executing", look | {"arguments": {"q": 1}}),
        ("tool_completed", look | {"status": "ok", "result": "seen"}),
        ("tool_executing", search | {"arguments": {}}),
        ("tool_completed", search | {"status": "ok", "result": None}),
        ("input_required", {"input_id": "input_1", "kind": "question", "prompt": "Which?"}),
        ("input_required", {"input_id": "input_2", "kind": "approval", "prompt": "So?", "schema": {"type": "boolean"}}),
    ] == told[1:-1]
    assert ["execute_tool look", "invoke_agent agent_of_the_test"] == current


async def test_an_exception_in_its_tool_passes_through_and_is_what_came_of_the_call(
    threads: ThreadPoolExecutor,
) -> None:
    """As in an async one; what it lets out ends the run."""

    def agent(ctx: ThreadedAgentContext) -> None:
        with ctx.tool("look") as call:
            call.result = "half"
            raise ValueError("no good")

    stations = Stations(agent, threads=threads)
    with capture_logs():
        result = await ended(stations.begin())
    [call] = [data for name, data in stations.told if name == "tool_completed"]
    assert ("error", None, "ValueError: no good") == (call["status"], call["result"], call["error"])
    assert (Outcome.AGENT_EXCEPTION, "ValueError: no good") == (result.outcome, result.message)
    assert "error" == (stations.spans()["execute_tool look"].attributes or {})["tracewire.tool.status"]


@pytest.mark.parametrize("raises", [False, True])
async def test_its_tool_ends_in_time_although_it_is_held_and_it_learns_of_it_at_the_end(
    threads: ThreadPoolExecutor, gate: threading.Event, raises: bool
) -> None:
    """By a `TimeoutError`; an exception of the block's own passes through in its place."""

    def agent(ctx: ThreadedAgentContext) -> str:
        try:
            with ctx.tool("look") as call:
                call.result = "half"
                assert gate.wait(SECONDS_MAX)
                if raises:
                    raise ValueError("no good")
        except (TimeoutError, ValueError) as error:
            return str(error)
        return "not told"

    stations = Stations(agent, threads=threads, tool_seconds=SHORT_SECONDS)
    tell(stations, EventType.TOOL_COMPLETED, gate)
    result = await ended(stations.begin())
    assert ("no good" if raises else "tool look passed its deadline of 0.01 s") == result.output
    [call] = [data for name, data in stations.told if name == "tool_completed"]
    assert ("timeout", None, "the tool passed its deadline of 0.01 s") == (
        call["status"], call["result"], call["error"],
    )  # fmt: skip
    assert call["duration_ms"] >= 1e3 * SHORT_SECONDS


async def test_its_tools_deadline_that_is_going_to_end_the_call_is_waited_for(
    threads: ThreadPoolExecutor, gate: threading.Event
) -> None:
    """The block ends while the log still takes the event: the call has one end, and the agent is told which."""

    def agent(ctx: ThreadedAgentContext) -> str:
        try:
            with ctx.tool("look"):
                assert gate.wait(SECONDS_MAX)
        except TimeoutError as error:
            return str(error)
        return "not told"

    stations = Stations(agent, threads=threads, tool_seconds=SHORT_SECONDS)
    emit = stations.bridge._emits[EventType.TOOL_COMPLETED]

    async def held(envelope: Any) -> Any:
        gate.set()
        for _ in range(100):  # the block ends meanwhile
            await asyncio.sleep(0)
        return await emit(envelope)

    stations.bridge._emits[EventType.TOOL_COMPLETED] = held
    result = await ended(stations.begin())
    assert "tool look passed its deadline of 0.01 s" == result.output
    assert ["timeout"] == [data["status"] for name, data in stations.told if name == "tool_completed"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("no good")])
async def test_what_would_end_a_process_ends_its_run_alone(threads: ThreadPoolExecutor, error: BaseException) -> None:
    """As an error like any other."""

    def agent(_: ThreadedAgentContext) -> None:
        raise error

    stations = Stations(agent, threads=threads)
    with capture_logs():
        result = await ended(stations.begin())
    assert Outcome.AGENT_EXCEPTION == result.outcome
    assert type(error).__name__ in result.message


@pytest.mark.parametrize("held", [True, False])
async def test_one_whose_run_is_stopped_is_abandoned_until_its_thread_ends(
    threads: ThreadPoolExecutor, gate: threading.Event, held: bool
) -> None:
    """A thread cannot be interrupted: past the grace the run ends without it, and the server knows that it is there."""
    begun = asyncio.Event()

    def agent(ctx: ThreadedAgentContext) -> None:
        ctx.thinking("hm")
        assert gate.wait(SECONDS_MAX)

    stations = Stations(agent, threads=threads)
    tell(stations, EventType.AGENT_THINKING, begun)
    stations.engine._grace = SHORT_SECONDS if held else SECONDS_MAX
    running = stations.begin()
    await ended(asyncio.ensure_future(begun.wait()))
    stations.engine.cancel("enough")
    if not held:
        asyncio.get_running_loop().call_later(SHORT_SECONDS, gate.set)
    with capture_logs() as logged:
        assert Outcome.CANCELLED == (await ended(running)).outcome
    assert ["agent_abandoned"] * held + ["run_ended"] == [entry["event"] for entry in logged]
    left = list(stations.factory.abandoned)
    assert [False] * held == [task.done() for task in left]
    gate.set()
    for task in left:
        await ended(task)
        await asyncio.sleep(0)  # the task's callbacks are the loop's next turn
    assert set() == stations.factory.abandoned
