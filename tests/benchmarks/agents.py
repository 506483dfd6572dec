"""The agents of the benchmarks."""

import asyncio
from typing import Any

from tracewire.engine.agent import agent

REFERENCE = "tests.benchmarks.agents:steady"
REFERENCES = ("--agent", REFERENCE, "--agent", "tests.benchmarks.agents:paced")
EVENTS_MIN = 3
THOUGHT = (
    "a thought as long as it takes for its envelope to weigh about 350 bytes on the wire and in the event log as well"
)


@agent(name="steady")
async def steady(ctx: Any) -> str:
    """Emits thoughts, each a durable event of its own, as fast as it can, until its run has `input.events` events."""
    for _ in range(ctx.input["events"] - 2):
        await ctx.thinking(THOUGHT)
    return "done"


@agent(name="paced")
async def paced(ctx: Any) -> str:
    """Emits a thought each `input.pause_seconds`, `input.events` of them."""
    for _ in range(ctx.input["events"]):
        await asyncio.sleep(ctx.input["pause_seconds"])
        await ctx.thinking(THOUGHT)
    return "done"
