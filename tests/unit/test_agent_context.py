"""What an agent does by its context, and what comes of it: events, answers, and a deadline that knows when to rest."""

import asyncio
import time
from typing import Any

import pytest

from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.engine.agent_context import TOOL_NAME_CHARACTERS_MAX
from tracewire.errors import NotSerializableError, RejectedError
from tracewire.eventlog import Turn
from tracewire.events import AgentDelta
from tracewire_telemetry.catalog_attributes import AGENT_SCOPE
from tracewire_telemetry.vocabulary import Outcome, RejectCode
from unit.stations import RUN_SECONDS, TOOL_SECONDS, Stations, after, in_virtual_time


@in_virtual_time
async def test_an_agent_is_told_whose_run_it_is_what_was_sent_and_what_came_before() -> None:
    """As the run was accepted; its own spans go where the run's go."""
    found: dict[str, Any] = {}

    async def agent(ctx: Any) -> None:
        found.update(vars(ctx), tracer=ctx.tracer, provider=ctx.tracer_provider)

    stations = Stations(agent)
    history = [Turn("earlier", "asked", "told")]
    await stations.run_agent({"q": 1}, history)
    expected = {
        "user_id": "ada", "run_id": "run", "thread_id": "thread", "input": {"q": 1}, "history": tuple(history),
        "deadlines": stations.deadlines, "bridge": stations.bridge, "run": stations.run,
        "provider": stations.run.spans.tracer_provider,
    }  # fmt: skip
    assert expected == {name: found[name] for name in expected}
    assert isinstance(found["history"], tuple)
    with found["tracer"].start_as_current_span("own") as span:
        assert (AGENT_SCOPE, "own") == (span.instrumentation_scope.name, span.name)


@in_virtual_time
async def test_thoughts_are_counted_and_texts_are_what_python_writes() -> None:
    """What is no text is written as one; an emit says what became of it, and is stamped when it is made."""
    outcomes: list[EmitOutcome] = []

    async def agent(ctx: Any) -> None:
        await ctx.thinking("one")
        await after(3)
        await ctx.thinking(2)
        await ctx.delta("text")
        await ctx.delta(None)
        outcomes.append(await ctx.emit(AgentDelta("last")))

    stations = Stations(agent)
    await stations.run_agent()
    assert [
        ("agent_thinking", {"text": "one", "step": 1}),
        ("agent_thinking", {"text": "2", "step": 2}),
        ("agent_delta", {"text": "text"}),
        ("agent_delta", {"text": "None"}),
        ("agent_delta", {"text": "last"}),
    ] == stations.told[1:-1]
    assert [EmitOutcome(6, 1)] == outcomes
    engine = stations.ledger.engine
    assert [0, 3, 3] == [round((stamp - engine[1]) / 1e9) for stamp in engine[1:4]]
    assert all(stamp <= after for stamp, after in zip(engine, stations.ledger.bridge, strict=True))


@in_virtual_time
async def test_tools_are_numbered_in_the_order_in_which_they_were_made() -> None:
    """Whatever they are called; a name is a text, too. Without arguments they have an empty object."""
    calls: list[Any] = []

    async def agent(ctx: Any) -> None:
        calls.extend([ctx.tool("look"), ctx.tool(7, {"q": 1})])
        for call in reversed(calls):
            await call.open()
            await call.complete_with_result()

    stations = Stations(agent)
    await stations.run_agent()
    assert [("call_1", "look", None), ("call_2", "7", None)] == [(call.id, call.name, call.result) for call in calls]
    assert [
        {"tool_call_id": "call_2", "tool_name": "7", "arguments": {"q": 1}},
        {"tool_call_id": "call_1", "tool_name": "look", "arguments": {}},
    ] == [data for name, data in stations.told if name == "tool_executing"]


@in_virtual_time
async def test_a_name_of_a_tool_that_is_too_long_is_refused() -> None:
    """With its length; it is not counted as a call. One that just fits is taken whole."""

    async def agent(ctx: Any) -> Any:
        with pytest.raises(ValueError, match=r"^a tool's name has at most 256 characters, not 257$"):
            ctx.tool("x" * (TOOL_NAME_CHARACTERS_MAX + 1))
        call = ctx.tool("x" * TOOL_NAME_CHARACTERS_MAX)
        return [call.id, len(call.name)]

    stations = Stations(agent)
    await stations.run_agent()
    assert ["call_1", 256] == stations.last["output"]


@in_virtual_time
async def test_what_an_agent_asks_is_told_and_its_answer_given_back() -> None:
    """By default a question without a schema; the run awaits input until nothing is left to be answered."""

    async def agent(ctx: Any) -> Any:
        with pytest.raises(ValueError, match=r"^kind is 'guess'; it must be one of approval, question$"):
            await ctx.ask("?", kind="guess")
        first = asyncio.ensure_future(ctx.ask("Which?"))
        second = asyncio.ensure_future(ctx.ask(2, kind="approval", schema={"type": "boolean"}))
        return [await first, await second]

    stations = Stations(agent)
    running = stations.begin()
    assert stations.run.awaiting_input is False
    await after(1)
    asked = [data for name, data in stations.told if name == "input_required"]
    assert [
        {"input_id": "input_1", "kind": "question", "prompt": "Which?"},
        {"input_id": "input_2", "kind": "approval", "prompt": "2", "schema": {"type": "boolean"}},
    ] == asked
    assert stations.run.awaiting_input is True
    stations.engine.provide_input("input_2", True)
    await after(1)
    assert stations.run.awaiting_input is True
    for unknown in ("input_2", "input_3"):
        with pytest.raises(RejectedError) as refused:
            stations.engine.provide_input(unknown, "x")
        assert f"the run awaits no input {unknown!r}" == str(refused.value)
        assert RejectCode.INVALID_INPUT == refused.value.reject_code
    stations.engine.provide_input("input_1", "this")
    await running
    assert ["this", True] == stations.last["output"]
    assert stations.run.awaiting_input is False
    with pytest.raises(RejectedError):
        stations.engine.provide_input("input_1", "again")


@in_virtual_time
async def test_a_run_that_has_not_begun_awaits_nothing() -> None:
    """An answer to it is refused, and not lost in silence."""
    with pytest.raises(RejectedError, match=r"^the run awaits no input 'input_1'$"):
        Stations().engine.provide_input("input_1", "early")


@in_virtual_time
async def test_the_deadline_stands_still_while_the_user_is_asked() -> None:
    """An hour of thinking about each answer costs the run nothing; its own time is counted to its end."""

    async def agent(ctx: Any) -> None:
        for seconds in (20, 39.5):
            await after(seconds)
            await ctx.ask("?")
        await asyncio.Event().wait()

    stations = Stations(agent)
    running = stations.begin()
    began = time.monotonic_ns()
    for number, asked_after in ((1, 20), (2, 39.5)):
        await after(asked_after + 3600)
        assert "input_required" == stations.types[-1]
        stations.engine.provide_input(f"input_{number}", None)
    result = await running
    assert Outcome.TIMEOUT == result.outcome
    assert 7200 + RUN_SECONDS == pytest.approx((time.monotonic_ns() - began) / 1e9, abs=0.2)


@in_virtual_time
async def test_the_deadline_runs_on_when_the_last_question_is_answered() -> None:
    """Of two that were asked at once the first answer lets it rest on."""

    async def agent(ctx: Any) -> None:
        await asyncio.gather(ctx.ask("?"), ctx.ask("?"))
        await asyncio.Event().wait()

    stations = Stations(agent)
    running = stations.begin()
    await after(1_000)
    stations.engine.provide_input("input_1", None)
    await after(1_000)
    assert not running.done()
    stations.engine.provide_input("input_2", None)
    began = time.monotonic_ns()
    assert Outcome.TIMEOUT == (await running).outcome
    assert RUN_SECONDS == pytest.approx((time.monotonic_ns() - began) / 1e9, abs=1)


@in_virtual_time
async def test_a_question_that_could_not_be_asked_does_not_stop_the_clock() -> None:
    """The log refuses it; the agent goes on, and its run still passes its deadline."""

    async def agent(ctx: Any) -> None:
        with pytest.raises(NotSerializableError):
            await ctx.ask("?", schema={object(): 1})
        await asyncio.Event().wait()

    stations = Stations(agent)
    result = await stations.run_agent()
    assert Outcome.TIMEOUT == result.outcome


@in_virtual_time
async def test_a_run_that_ends_awaits_no_answer() -> None:
    """A task that the agent left behind with its question is cancelled, and no deadline is left running."""
    left: list[asyncio.Task[Any]] = []

    async def agent(ctx: Any) -> None:
        left.append(asyncio.ensure_future(ctx.ask("?")))
        await after(1)

    stations = Stations(agent)
    await stations.run_agent()
    await asyncio.wait(left)
    assert left[0].cancelled()
    assert stations.run.awaiting_input is False
    ctx = stations.engine._agent_context
    assert ctx is not None
    await after(2 * RUN_SECONDS)
    assert Outcome.COMPLETED == stations.stored.outcome
    assert (False, False) == (stations.engine._stopped.done(), ctx.answer("input_1", "late"))


@in_virtual_time
async def test_a_tool_in_which_the_user_is_asked_keeps_its_own_deadline() -> None:
    """That one does not rest."""

    async def agent(ctx: Any) -> str:
        began = time.monotonic_ns()
        with pytest.raises(TimeoutError):
            async with ctx.tool("look"):
                await ctx.ask("?")
        return str(round((time.monotonic_ns() - began) / 1e9))

    stations = Stations(agent)
    await stations.run_agent()
    assert str(round(TOOL_SECONDS)) == stations.last["output"]
