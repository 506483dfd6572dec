"""The agent of the chaos: its input says what it does. Every text of it names its user, so that a stray one shows."""

import asyncio
from random import Random
from typing import Any, Final

from tracewire.engine.agent import agent

REFERENCE: Final = "chaos.agents:chaotic"
KINDS: Final = ("words", "tools", "fails", "long", "burst", "brief")
EXPECTED_ERROR: Final = "as it was told to"


def input_of(random: Random) -> dict[str, Any]:
    """What a user asks for next."""
    kind = random.choices(KINDS, (6, 4, 2, 3, 2, 4))[0]
    counts = {"words": (10, 40), "tools": (1, 4), "fails": (0, 6), "long": (8, 30), "burst": (60, 200), "brief": (0, 2)}
    return {"kind": kind, "count": random.randint(*counts[kind])}


@agent(name="chaotic")
async def chaotic(ctx: Any) -> str:
    """Speaks, calls tools, fails, takes its time, or says much at once."""
    kind, count, me = ctx.input["kind"], ctx.input["count"], f"{ctx.user_id} "
    await ctx.thinking(f"{me}asks for {kind}")
    match kind:
        case "words":
            for number in range(count):
                await ctx.delta(f"{me}{number} ")
                await _pass(0.02)
        case "tools":
            await asyncio.gather(*(_call(ctx, number) for number in range(count)))
        case "fails":
            for number in range(count):
                await ctx.thinking(f"{me}{number}")
            raise ValueError(f"{me}fails {EXPECTED_ERROR}")
        case "long":
            for number in range(count):
                await ctx.thinking(f"{me}{number}")
                await _pass(0.2)
        case "burst":
            for number in range(count):
                await ctx.delta(f"{me}{number} {'x' * 1_500} ")
    return f"{me}is answered"


async def _call(ctx: Any, number: int) -> None:
    async with ctx.tool("look", {"for": ctx.user_id, "number": number}) as call:
        await _pass(0.05 * number)
        call.result = f"{ctx.user_id} {number}"


async def _pass(seconds: float) -> None:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)
