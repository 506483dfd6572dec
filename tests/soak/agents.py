"""An agent that goes on for a while."""

import asyncio
from typing import Any


async def ticks(ctx: Any) -> str:
    """All five critical types, with a thought a second for as many seconds as it is asked for."""
    for second in range(int(ctx.input)):
        await ctx.thinking(f"second {second}")
        await asyncio.sleep(1)
    async with ctx.tool("look", {}) as call:
        call.result = "seen"
    return "done"
