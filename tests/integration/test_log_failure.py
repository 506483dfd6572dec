"""When the event log takes no writes: nobody is left waiting on a healthy socket, and every run gets its end."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from support.servers import ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire.engine.agent import AgentSpec

SECONDS = 20


async def until(holds: Callable[[], Any]) -> None:
    """Give the loop its turn until this holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0)


def held_until(released: asyncio.Event) -> AgentSpec:
    """An agent that emits again once it is let go."""

    async def held(ctx: Any) -> str:
        await ctx.thinking("before")
        await released.wait()
        await ctx.thinking("after")
        return "never"

    return AgentSpec("held", held)


async def test_a_log_that_takes_no_writes_ends_its_runs_and_lets_the_sockets_go(tmp_path: Path) -> None:
    """`unavailable` and 4004 at once, 503 meanwhile, and `agent_error{log_unavailable}` when the log is back."""
    released = asyncio.Event()
    async with server_under_test(tmp_path / "data", agents=[held_until(released)], commit_retry_seconds=0.1) as chain:
        async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
            run_id = await wire.start_run("hello", agent="held")
            await wire.receive_type("agent_thinking")
            other = sqlite3.connect(tmp_path / "data" / "events.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            released.set()
            said = await wire.receive_type("unavailable")
            assert "log_unavailable" == said["code"]
            assert (4004, "unavailable") == await wire.closed()
        await refused_while_unavailable(chain)
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: chain.server.readiness.ready)
        async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
            await wire.send("resume", runs={run_id: 0})
            events = await wire.receive_run(run_id)
        assert ["agent_started", "agent_thinking", "agent_error"] == [event["type"] for event in events]
        assert ("log_unavailable", 3) == (events[-1]["data"]["code"], events[-1]["data"]["receipt"]["last_seq"])
        assert [] == list(await chain.server.log.open_runs())
        trace = await chain.trace(run_id)
        assert [] == trace.problems()
        assert [event["type"] for event in events] == [
            span.attributes["tracewire.event.type"] for span in trace if span.name.startswith("process ")
        ]


async def refused_while_unavailable(chain: ServerUnderTest) -> None:
    """No socket gets in, and readiness says why."""
    with pytest.raises(InvalidStatus) as refused:
        async with wire_to(chain.server.ws_url, chain.token("alice")):
            pass
    assert 503 == refused.value.response.status_code
    async with httpx.AsyncClient() as http:
        ready = await http.get(f"{chain.server.url}/ready")
    assert 503 == ready.status_code
    assert "locked" in ready.json()["reasons"]["event log"]
