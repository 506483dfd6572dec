"""Agents for tests of the page, which run in a server process of their own: one waits at gates that the test opens."""

import asyncio
import socket
from types import TracebackType
from typing import Any, Self

from tracewire.engine.agent import ALL_CRITICAL, agent

WAIT_SECONDS = 15.0
HOSTILE = (
    "# <img src=x onerror=alert(1)>\n\n<script>alert(2)</script> and [a link](javascript:alert(3))\n\n"
    "| <b>cell</b> | `<i>code</i>` |\n| --- | --- |\n| **bold** | plain |\n\n```html\n<iframe src=//example.com>\n```\n"
)


@agent(name="gated", requires=ALL_CRITICAL, tools=["step"])
async def gated(ctx: Any) -> str:
    """Four events, then four more at each of two gates, then its end. Its input is the port on which `Gate` waits."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(ctx.input))
    await ctx.thinking("before the first gate")
    async with ctx.tool("step", {"gate": 0}):
        pass
    try:
        for gate in (1, 2):
            await reader.readexactly(1)
            for part in (1, 2):
                async with ctx.tool("step", {"gate": gate, "part": part}) as call:
                    call.result = part
    finally:
        writer.close()
    return "through **both** gates"


@agent(name="hostile")
async def hostile(ctx: Any) -> str:
    """Answers with what would be markup, were it let."""
    await ctx.thinking("<img src=x onerror=alert(4)>")
    return HOSTILE


@agent(name="asks")
async def asks(ctx: Any) -> str:
    """Asks its user, and says what came back."""
    return f"approved: {await ctx.ask('Send <b>it</b>?', kind='approval')}"


class Gate:
    """Where one run of `gated` waits. `question` is what it is asked, `open` lets it go on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_SECONDS)
        self._agent: socket.socket | None = None

    @property
    def question(self) -> str:
        """The agent's input."""
        return str(self._listener.getsockname()[1])

    def open(self) -> None:
        """Open the next gate."""
        if self._agent is None:
            self._agent, _ = self._listener.accept()
        self._agent.sendall(b"1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.close()
        if self._agent is not None:
            self._agent.close()
