"""Agents for tests of the Collector: one calls a service that traces itself."""

from typing import Any

import httpx
from opentelemetry.propagate import inject

from tracewire.engine.agent import agent

PRICE_SECONDS = 600


@agent(name="prices", tools=["price"], tool_seconds=PRICE_SECONDS, run_seconds=PRICE_SECONDS)
async def prices(ctx: Any) -> str:
    """Asks the service at its input's `url`, handing on the trace; then fails if its input says so."""
    async with ctx.tool("price", {"url": ctx.input["url"]}) as call:
        headers: dict[str, str] = {}
        inject(headers)
        async with httpx.AsyncClient(timeout=PRICE_SECONDS) as http:
            call.result = (await http.get(ctx.input["url"], headers=headers)).text
    if ctx.input.get("fails"):
        raise ValueError("the price is wrong")
    return str(call.result)
