"""The agent of the matrix: the suites' own, slowly enough that a client's acks leave one by one."""

from typing import Any, Final

from mutants.moments import let_pass
from support.chain_checks import AGENT, TOOL, answer_for
from tracewire.engine.agent import ALL_CRITICAL, agent

PACE_SECONDS: Final = 0.25
"""More than twice what the Python client waits before it acks."""


@agent(name=AGENT, requires=ALL_CRITICAL, tools=[TOOL])
async def paced(ctx: Any) -> str:
    """Shows all five critical types, and says whose run it is."""
    await let_pass(PACE_SECONDS)
    await ctx.thinking(f"for {ctx.user_id}")
    await let_pass(PACE_SECONDS)
    async with ctx.tool(TOOL, {"for": ctx.user_id, "input": ctx.input}) as call:
        await let_pass(PACE_SECONDS)
        call.result = f"seen by {ctx.user_id}"
    await let_pass(PACE_SECONDS)
    return answer_for(ctx.user_id, ctx.input)
