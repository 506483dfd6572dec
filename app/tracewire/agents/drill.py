"""The agent of fire drills: each of the five critical events once, at once. It knows nothing of what is lost.

Only a server that allows drills has it. A run of it for which no drill was armed is whole, like any other.
"""

from tracewire.drills import AGENT
from tracewire.engine.agent import ALL_CRITICAL, AgentSpec, agent, spec_of
from tracewire.engine.agent_context import AgentContext


@agent(name=AGENT, requires=ALL_CRITICAL, tools=[AGENT])
async def run_drill(ctx: AgentContext) -> str:
    """Owes its user one event of each critical type."""
    await ctx.thinking("what is lost in a drill?")
    async with ctx.tool(AGENT) as call:
        call.result = "one event, at one link"
    return "the drill's run is over"


def drill_agents(*, allowed: bool) -> list[AgentSpec]:
    """The agents that a server has for drills: none where they are not allowed."""
    return [spec_of(run_drill)] if allowed else []
