"""Agents that behave in known ways, well and badly."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry import trace

from tracewire.engine.agent import ALL_CRITICAL, AgentSpec, agent, spec_of
from tracewire.errors import NotSerializableError
from tracewire_telemetry.vocabulary import ToolStatus


@agent(name="five", requires=ALL_CRITICAL, tools=["look"])
async def five(ctx: Any) -> str:
    """Shows all five critical types, and says whose run it is."""
    await ctx.thinking(f"for {ctx.user_id}")
    async with ctx.tool("look", {"for": ctx.user_id, "input": ctx.input}) as call:
        call.result = f"seen by {ctx.user_id}"
    return f"answer for {ctx.user_id}: {ctx.input}"


@agent(name="waits")
async def waits(ctx: Any) -> str:
    """Waits until its run is stopped."""
    await ctx.thinking("waiting")
    await asyncio.Event().wait()
    return "never"


def known_agents() -> list[AgentSpec]:
    """The agents of this module."""
    return [spec_of(five), spec_of(waits)]


# Ways of ending badly. None of these needs anything from the test that runs it.


class UnprintableError(Exception):
    """An error that cannot even be said."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class OddError(BaseException):
    """Not an `Exception`: an agent can raise that too."""


def odd_error(kind: str) -> BaseException:
    """An error of that kind."""
    kinds: dict[str, Callable[[], BaseException]] = {
        "exception": lambda: ValueError("no good"),
        "long": lambda: ValueError("x" * 200_000),
        "unprintable": UnprintableError,
        "base": lambda: OddError("odd"),
        "group": lambda: ExceptionGroup("several", [ValueError("one"), OSError("two")]),
        "exit": lambda: SystemExit(3),
        "interrupt": KeyboardInterrupt,
        "generator_exit": GeneratorExit,
        "cancelled": asyncio.CancelledError,
        "stop_iteration": lambda: StopAsyncIteration("no more"),
    }
    return kinds[kind]()


@agent(name="raises")
async def raises(ctx: Any) -> None:
    """Raises what its input names."""
    await ctx.thinking("about to raise")
    raise odd_error(ctx.input)


@agent(name="raises_in_tool")
async def raises_in_tool(ctx: Any) -> None:
    """Raises while a tool is open."""
    async with ctx.tool("look", {}):
        raise odd_error(ctx.input)


@agent(name="raises_in_thread")
def raises_in_thread(ctx: Any) -> None:
    """Raises while a tool is open, in a thread."""
    with ctx.tool("look", {}):
        raise odd_error(ctx.input)


@agent(name="hangs_in_tool", tool_seconds=0.05)
async def hangs_in_tool(ctx: Any) -> str:
    """Waits in a tool past its deadline, and says what it was told."""
    try:
        async with ctx.tool("hang", {}):
            await asyncio.Event().wait()
    except TimeoutError as error:
        return f"told: {error}"
    return "not told"


@agent(name="hangs_in_tool_for_good", tool_seconds=0.05)
async def hangs_in_tool_for_good(ctx: Any) -> None:
    """Waits in a tool past its deadline, and lets the `TimeoutError` out."""
    async with ctx.tool("hang", {}):
        await asyncio.Event().wait()


@agent(name="overdue", run_seconds=0.1)
async def overdue(ctx: Any) -> None:
    """Passes the deadline of its run."""
    await ctx.thinking("for too long")
    await asyncio.Event().wait()


@agent(name="overdue_in_tool", run_seconds=0.1)
async def overdue_in_tool(ctx: Any) -> None:
    """Passes the deadline of its run inside a tool."""
    async with ctx.tool("hang", {}):
        await asyncio.Event().wait()


@agent(name="waits_in_tool")
async def waits_in_tool(ctx: Any) -> None:
    """Waits inside a tool until its run is stopped."""
    async with ctx.tool("hang", {}):
        await asyncio.Event().wait()


def not_json(kind: str) -> Any:
    """A value that JSON cannot hold."""
    cycle: list[Any] = []
    cycle.append(cycle)
    return {"object": object(), "cycle": cycle, "surrogate": "\ud800", "key": {(1, 2): 3}}[kind]


@agent(name="returns_no_json")
async def returns_no_json(ctx: Any) -> Any:
    """Answers with what JSON cannot hold."""
    return not_json(ctx.input)


@agent(name="tool_gives_no_json")
async def tool_gives_no_json(ctx: Any) -> None:
    """Gives a tool a result that JSON cannot hold."""
    async with ctx.tool("look", {}) as call:
        call.result = not_json(ctx.input)


@agent(name="tool_takes_no_json")
async def tool_takes_no_json(ctx: Any) -> None:
    """Gives a tool arguments that JSON cannot hold."""
    async with ctx.tool("look", not_json(ctx.input)):
        pass


@agent(name="survives_no_json")
async def survives_no_json(ctx: Any) -> str:
    """Goes on after everything of it that JSON could not hold was refused."""
    refused = 0
    for value in (not_json("object"), not_json("surrogate")):
        try:
            async with ctx.tool("look", {}) as call:
                call.result = value
        except NotSerializableError:
            refused += 1
    try:
        await ctx.thinking("\ud800")
    except NotSerializableError:
        refused += 1
    return f"refused {refused}"


@agent(name="leaves_tool_open")
async def leaves_tool_open(ctx: Any) -> str:
    """Opens two tools and closes neither."""
    await ctx.tool("first", {}).__aenter__()
    await ctx.tool("second", {}).__aenter__()
    if ctx.input == "raise":
        raise ValueError("no good")
    return "done"


@agent(name="opens_tool_twice")
async def opens_tool_twice(ctx: Any) -> None:
    """Opens the same tool call twice."""
    call = ctx.tool("look", {})
    await call.open()
    await call.open()


@agent(name="completes_tool_twice")
async def completes_tool_twice(ctx: Any) -> str:
    """Completes the same tool call three times, with different words."""
    async with ctx.tool("look", {}) as call:
        call.result = "seen"
        await call.complete_with_result()
        await call.complete(ToolStatus.ERROR, "no, it failed")
    return "done"


@agent(name="huge")
async def huge(ctx: Any) -> Any:
    """Makes everything larger than an event may be, of the text that its input names."""
    text = {"plain": "x" * 200_000, "wide": "ü" * 100_000, "escaped": '"\n\x01' * 40_000}[ctx.input]
    await ctx.thinking(text)
    await ctx.delta(text)
    async with ctx.tool("look", {"q": text}) as call:
        call.result = [text, {"more": text}]
    return text


@agent(name="threaded", tools=["look"])
def threaded(ctx: Any) -> str:
    """A plain `def` that shows all five critical types."""
    ctx.thinking(f"for {ctx.user_id}")
    with ctx.tool("look", {"in": "a thread"}) as call:
        call.result = "seen"
    ctx.delta("half an ")
    return "answer"


@agent(name="withholds", requires=ALL_CRITICAL, tools=["look"])
async def withholds(ctx: Any) -> str:
    """Owes all five critical types, and leaves out the one that its input names; tool events go in pairs."""
    if ctx.input != "agent_thinking":
        await ctx.thinking("about to withhold")
    if ctx.input not in ("tool_executing", "tool_completed"):
        async with ctx.tool("look", {}) as call:
            call.result = "seen"
    if ctx.input == "agent_completed":
        raise ValueError("no answer")
    return "answer"


# For traces.


@agent(name="streams")
async def streams(ctx: Any) -> str:
    """Two bursts of deltas with a thought between them."""
    for word in ("one ", "two ", "three "):
        await ctx.delta(word)
    await ctx.thinking("a pause")
    for word in ("four ", "five"):
        await ctx.delta(word)
    return "one two three four five"


@agent(name="verbose")
async def verbose(ctx: Any) -> str:
    """Thinks as often as its input says."""
    for number in range(ctx.input):
        await ctx.thinking(f"thought {number}")
    return "done"


@agent(name="holds_the_loop")
async def holds_the_loop(ctx: Any) -> None:
    """Says so, and then holds the event loop for as many seconds as its input says."""
    await ctx.thinking("about to block")
    for _ in range(100):
        await asyncio.sleep(0)  # until the event is on its way
    threading.Event().wait(ctx.input)


@agent(name="verbose_then_waits")
async def verbose_then_waits(ctx: Any) -> None:
    """Thinks as often as its input says, and waits until its run is stopped."""
    for number in range(ctx.input):
        await ctx.thinking(f"thought {number}")
    await asyncio.Event().wait()


@agent(name="traced")
async def traced(ctx: Any) -> str:
    """Makes spans of its own inside and outside a tool: by its context, and by OpenTelemetry's global API."""
    library = trace.get_tracer("a.library")
    with library.start_as_current_span("library outside"):
        await ctx.thinking("outside")
    async with ctx.tool("look", {}) as call:
        with ctx.tracer.start_as_current_span("own inside"), library.start_as_current_span("library inside"):
            call.result = "seen"
    return "done"


@agent(name="traced_thread")
def traced_thread(ctx: Any) -> str:
    """As `traced`, in a thread."""
    library = trace.get_tracer("a.library")
    own = ctx.tracer
    with (
        ctx.tool("look", {}) as call,
        own.start_as_current_span("own inside"),
        library.start_as_current_span("library inside"),
    ):
        call.result = "seen"
    return "done"


@agent(name="overdue_after_a_second", run_seconds=1.1)
async def overdue_after_a_second(ctx: Any) -> None:
    """Passes the deadline of its run after more than a second."""
    await ctx.thinking("for too long")
    await asyncio.Event().wait()


@agent(name="asks")
async def asks(ctx: Any) -> str:
    """Asks its user twice, and says what came back."""
    approved = await ctx.ask("Send it?", kind="approval")
    name = await ctx.ask("To whom?", schema={"type": "string"})
    return f"{approved} {name}"


def all_agents() -> list[AgentSpec]:
    """Every agent of this module."""
    declared = (value for value in globals().values() if hasattr(value, "__tracewire_agent__"))
    return [spec_of(function) for function in declared]
