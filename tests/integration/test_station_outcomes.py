"""What the stations write of what an agent asks, says and leaves behind: the log has it as the user is told it."""

import time
from pathlib import Path
from typing import Any

from support.agents import known_agents, raises
from support.servers import server_under_test
from support.wire import wire_to
from tracewire.bridge.agent_websocket_bridge import LEFT_OPEN
from tracewire.engine.agent import agent, spec_of
from tracewire_telemetry.vocabulary import Outcome


@agent(name="forgets")
async def forgets(ctx: Any) -> str:
    """Opens two tools and closes neither."""
    await ctx.tool("first").open()
    await ctx.tool("second").open()
    return "answer"


@agent(name="asks_twice")
async def asks_twice(ctx: Any) -> list[Any]:
    """Asks by a kind that there is not, then for an approval, then for an answer of a shape."""
    try:
        await ctx.ask("?", kind="guess")
    except ValueError as error:
        told = str(error)
    approved = await ctx.ask("Send it?", kind="approval")
    return [told, approved, await ctx.ask("To whom?", schema={"type": "string"})]


@agent(name="speaks_in_a_thread")
def speaks_in_a_thread(ctx: Any) -> str:
    """Thinks and streams, from a thread of its own."""
    ctx.thinking("from a thread")
    ctx.delta("streamed")
    return "said"


async def test_a_question_is_told_as_it_was_asked_and_its_answer_given_back(tmp_path: Path) -> None:
    """Its id, kind, prompt, and schema where it has one; the run awaits input until it is answered, and no longer."""
    async with (
        server_under_test(tmp_path / "data", agents=[spec_of(asks_twice)]) as server,
        wire_to(server.server.ws_url, server.token("ada")) as wire,
    ):
        run_id = await wire.start_run("go", agent="asks_twice")
        for data, value in (
            ({"input_id": "input_1", "kind": "approval", "prompt": "Send it?"}, True),
            ({"input_id": "input_2", "kind": "question", "prompt": "To whom?", "schema": {"type": "string"}}, "Bob"),
        ):
            assert data == (await wire.receive_type("input_required"))["data"]
            run = server.server.telemetry.watch.runs[run_id]
            assert run.awaiting_input is True
            await wire.send("provide_input", run_id=run_id, input_id=data["input_id"], value=value)
        [*_, completed] = await wire.receive_run(run_id)
        assert run.awaiting_input is False
    told = "kind is 'guess'; it must be one of approval, question"
    assert [told, True, "Bob"] == completed["data"]["output"]


async def test_an_agent_in_a_thread_says_what_it_says(tmp_path: Path) -> None:
    """Its thoughts and its text arrive as they are."""
    async with (
        server_under_test(tmp_path / "data", agents=[spec_of(speaks_in_a_thread)]) as server,
        wire_to(server.server.ws_url, server.token("ada")) as wire,
    ):
        events = await wire.receive_run(await wire.start_run("go", agent="speaks_in_a_thread"))
    said = [event["data"]["text"] for event in events if event["type"] in ("agent_thinking", "agent_delta")]
    assert ["from a thread", "streamed"] == said


async def test_tools_that_are_open_at_the_end_are_closed_by_name_with_what_happened(tmp_path: Path) -> None:
    """In the order in which they were opened, before the terminal event, with how long they had been executing."""
    async with (
        server_under_test(tmp_path / "data", agents=[spec_of(forgets)]) as server,
        wire_to(server.server.ws_url, server.token("ada")) as wire,
    ):
        began = time.monotonic()
        events = await wire.receive_run(await wire.start_run("go", agent="forgets"))
    opened = [event["data"] for event in events if event["type"] == "tool_executing"]
    closed = [event["data"] for event in events if event["type"] == "tool_completed"]
    expected = [(call["tool_call_id"], call["tool_name"], "cancelled", None, LEFT_OPEN) for call in opened]
    names = ("tool_call_id", "tool_name", "status", "result", "error")
    assert expected == [tuple(call[name] for name in names) for call in closed]
    assert ["first", "second"] == [call["tool_name"] for call in closed]
    assert all(call["duration_ms"] > 0 for call in closed)
    assert "agent_completed" == events[-1]["type"]
    took_ms = events[-1]["data"]["duration_ms"]
    assert isinstance(took_ms, float)
    assert max(call["duration_ms"] for call in closed) <= took_ms <= (time.monotonic() - began) * 1000


async def test_the_log_knows_how_a_run_ended(tmp_path: Path) -> None:
    """By its terminal event's commit: nothing else tells a later process."""
    async with server_under_test(tmp_path / "data", agents=[*known_agents(), spec_of(raises)]) as server:
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            cancelled = await wire.start_run("go", agent="waits")
            await wire.receive_type("agent_thinking")
            await wire.send("cancel_run", run_id=cancelled)
            await wire.receive_run(cancelled)
            completed = await wire.start_run("go", agent="five")
            await wire.receive_run(completed)
            failed = await wire.start_run("exception", agent="raises")
            await wire.receive_run(failed)
        ended = {run_id: await server.server.log.run(run_id) for run_id in (cancelled, completed, failed)}
    outcomes = {run_id: run.outcome for run_id, run in ended.items() if run is not None}
    assert {
        cancelled: Outcome.CANCELLED,
        completed: Outcome.COMPLETED,
        failed: Outcome.AGENT_EXCEPTION,
    } == outcomes
