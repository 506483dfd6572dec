"""An agent that takes its server with it."""

import os
from typing import Any, Final

from tracewire.engine.agent import agent

EXIT_CODE: Final = 7


@agent(name="dies")
async def dies(ctx: Any) -> None:
    """Ends the process when its thought has been delivered and its client answers."""
    await ctx.thinking("the last one")
    await ctx.ask("Go on?")
    os._exit(EXIT_CODE)
