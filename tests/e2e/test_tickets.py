"""Tickets on a real server: once, soon, as a subprotocol, and no longer than the token that they stand for."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.servers import ServerUnderTest, server_under_test
from support.wire import wire_to

UNAUTHENTICATED = (4501, "unauthenticated")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A server with two tickets a user."""
    async with server_under_test(tmp_path / "data", tickets_per_user_max=2) as started:
        yield started


async def asked(server: ServerUnderTest, token: str) -> httpx.Response:
    """What asking for a ticket comes to."""
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        return await http.post("/tickets", headers={"Authorization": f"Bearer {token}"})


async def ticket_of(server: ServerUnderTest, token: str) -> str:
    """A ticket for the token."""
    response = await asked(server, token)
    assert (response.status_code, response.json()["expires_in_seconds"]) == (201, 30)
    return str(response.json()["ticket"])


def offered(ticket: str) -> dict[str, Any]:
    """How a browser offers it."""
    return {"subprotocols": ("tracewire.v1", f"bearer.{ticket}"), "ready": False}


async def test_a_ticket_opens_one_socket_as_its_user(server: ServerUnderTest) -> None:
    """It is not echoed; used once more it is refused, as one that never was."""
    ticket = await ticket_of(server, server.token("ada"))
    async with wire_to(server.server.ws_url, **offered(ticket)) as wire:
        assert (await wire.receive())["user_id"] == "ada"
        assert wire.subprotocol == "tracewire.v1"
    for spent in (ticket, "ticket-never-was"):
        async with wire_to(server.server.ws_url, **offered(spent)) as wire:
            assert await wire.closed() == UNAUTHENTICATED
            assert wire.frames == []


async def test_a_ticket_is_no_token(server: ServerUnderTest) -> None:
    """Not over HTTP, not in a frame; both leave it unused."""
    ticket = await ticket_of(server, server.token("ada"))
    assert (await asked(server, ticket)).status_code == 401
    async with wire_to(server.server.ws_url, ready=False) as wire:
        await wire.send("authenticate", token=ticket)
        assert await wire.closed() == UNAUTHENTICATED
    async with wire_to(server.server.ws_url, **offered(ticket)) as wire:
        assert (await wire.receive())["type"] == "ready"


async def test_a_refused_origin_does_not_use_a_ticket_up(server: ServerUnderTest) -> None:
    """A foreign page that guessed nothing has taken nothing."""
    ticket = await ticket_of(server, server.token("ada"))
    async with wire_to(server.server.ws_url, origin="https://evil.test", **offered(ticket)) as wire:
        assert await wire.closed() == (4503, "origin_refused")
    async with wire_to(server.server.ws_url, **offered(ticket)) as wire:
        assert (await wire.receive())["type"] == "ready"


async def test_who_has_no_token_gets_no_ticket(server: ServerUnderTest) -> None:
    """And none by another's."""
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert (await http.post("/tickets")).status_code == 401
    assert (await asked(server, "garbage")).status_code == 401


async def test_a_user_has_so_many_unused_tickets(server: ServerUnderTest) -> None:
    """One more is `rate_limited`, with the time to wait; a used one makes room; others have theirs."""
    token = server.token("ada")
    first = await ticket_of(server, token)
    await ticket_of(server, token)
    refused = await asked(server, token)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    await ticket_of(server, server.token("bob"))
    async with wire_to(server.server.ws_url, **offered(first)) as wire:
        await wire.receive()
        await ticket_of(server, token)


async def test_a_tickets_socket_expires_with_its_token_and_is_renewed_as_any(server: ServerUnderTest) -> None:
    """The ticket was good for seconds; the socket lives by the token."""
    ticket = await ticket_of(server, server.token("ada", ttl_seconds=100))
    async with wire_to(server.server.ws_url, **offered(ticket)) as wire:
        await wire.receive()
        [session] = server.server.gateway.sessions
        assert session.principal is not None
        assert 90 <= session.principal.expires_at - time.time() <= 100
        await wire.send("authenticate", token=server.token("ada", ttl_seconds=1000))
        renewed = await wire.receive()
        server.server._keeper.look(session, time.monotonic_ns(), time.time() + 500)
        await wire.send("authenticate", token=server.token("ada", ttl_seconds=1000))
        assert (await wire.receive())["type"] == "authenticated"
        server.server._keeper.look(session, time.monotonic_ns(), renewed["expires_at"] + 60.0)
        assert await wire.closed() == (4502, "token_expired")


async def test_a_ticket_whose_token_is_revoked_meanwhile_is_refused(server: ServerUnderTest) -> None:
    """It stands for the token, and falls with it."""
    ticket = await ticket_of(server, server.token("ada"))
    async with httpx.AsyncClient(base_url=server.server.ops_url) as ops:
        assert (await ops.post("/revocations", json={"user_id": "ada"})).status_code == 201
    async with wire_to(server.server.ws_url, **offered(ticket)) as wire:
        assert await wire.closed() == UNAUTHENTICATED


async def test_a_token_that_expires_closes_its_socket_by_itself(tmp_path: Path) -> None:
    """4502, without anybody looking but the server."""
    async with (
        server_under_test(tmp_path / "data", jwt_leeway_seconds=0) as server,
        wire_to(server.server.ws_url, server.token("ada", ttl_seconds=4)) as wire,
    ):
        assert await wire.closed() == (4502, "token_expired")
