"""The agent of the healthy user."""

import asyncio
from typing import Any

from tracewire.engine.agent import agent

REFERENCE = "fuzz.agents:paced"
THOUGHTS = 40
PAUSE_SECONDS = 0.02


@agent(name="paced")
async def paced(ctx: Any) -> str:
    """Thinks forty times, with a fiftieth of a second between."""
    for number in range(THOUGHTS):
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=PAUSE_SECONDS)
        await ctx.thinking(f"thought {number}")
    return "done"
