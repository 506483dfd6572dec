"""Agents that behave in known ways, well and badly."""

import asyncio
from typing import Any

from tracewire.engine.agent import ALL_CRITICAL, AgentSpec, agent, spec_of


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
