"""Clients that heal nothing, for tests of missing events on a real server; and what the server says of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
from websockets.exceptions import ConnectionClosed

from support.servers import ServerUnderTest
from support.wire import EVENT_NAMES, Wire, wire_to

WITHIN_SECONDS: Final = 60
AT_THE_ENGINE: Final = {
    "agent_started": "agent_started",
    "agent_thinking": "agent_thinking",
    "tool_executing": "tool_executing",
    "tool_completed": "next",
    "agent_completed": "next",
}
"""What the engine is seen to lack: where it falls silent, nobody can tell what would have come."""


async def incidents(server: ServerUnderTest, **filters: str) -> list[dict[str, Any]]:
    """What the ops port tells."""
    async with httpx.AsyncClient(base_url=server.server.ops_url, timeout=30) as http:
        answer = await http.get("/incidents", params={"limit": "1000", **filters})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["incidents"]
    return found


async def until(server: ServerUnderTest, count: int, **filters: str) -> list[dict[str, Any]]:
    """Wait for so many incidents."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while len(found := await incidents(server, **filters)) < count:
            await asyncio.sleep(0)
    return found


def without_gap(wire: Wire, run_id: str) -> int:
    """Up to which seq the client has everything."""
    seqs = {event["seq"] for event in wire.events(run_id)}
    processed = 0
    while processed + 1 in seqs:
        processed += 1
    return processed


async def follow(wire: Wire, run_id: str, *, but: str = "") -> None:
    """Ack as a client does, up to the first event of the type `but`; until the socket closes."""
    await wire.ack(run_id, 0)
    with contextlib.suppress(ConnectionClosed):
        while True:
            types = [event["type"] for event in wire.events(run_id)]
            processed = min(without_gap(wire, run_id), types.index(but) if but in types else len(types))
            await wire.ack(run_id, processed)
            await receive_event(wire)


async def receive_event(wire: Wire) -> None:
    """The next event, however long it takes; anything else is passed over."""
    while True:
        with contextlib.suppress(TimeoutError):
            if (await wire.receive())["type"] in EVENT_NAMES:
                return


@contextlib.asynccontextmanager
async def running(
    server: ServerUnderTest, user_id: str, *, but: str = "", agent: str = "loses"
) -> AsyncIterator[tuple[Wire, str]]:
    """A run of this user whose client acks all but `but`."""
    async with wire_to(server.server.ws_url, server.token(user_id)) as wire:
        run_id = await wire.start_run("go", agent=agent)
        following = asyncio.create_task(follow(wire, run_id, but=but))
        try:
            yield wire, run_id
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
