"""Revoking tokens on a real server: at once on what is open, for good across restarts, and nobody else's."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from support.agents import all_agents
from support.servers import ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire.errors import StartupError
from tracewire.gateway.revocation import Revocations

SECRET = "a secret of the test's own, 32 bytes or longer"
UNAUTHENTICATED = (4501, "unauthenticated")


def signed(user_id: str, **changes: Any) -> str:
    """A token; a change to `None` leaves the claim out."""
    now = int(time.time())
    own = {"sub": user_id, "exp": now + 600, "iat": now} | changes
    return jwt.encode({name: value for name, value in own.items() if value is not None}, SECRET, algorithm="HS256")


def serving(tmp_path: Path, **settings: Any) -> Any:
    """A server on the test's folder."""
    return server_under_test(tmp_path / "data", jwt_secret=SECRET, **settings)


async def revoke(server: ServerUnderTest, **body: Any) -> httpx.Response:
    """Ask the ops port to revoke."""
    async with httpx.AsyncClient(base_url=server.server.ops_url) as ops:
        return await ops.post("/revocations", json=body)


async def status_of(server: ServerUnderTest, token: str, path: str = "/runs") -> int:
    """What a request that brings the token comes to."""
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        return (await http.get(path, headers={"Authorization": f"Bearer {token}"})).status_code


async def test_a_revoked_user_is_out_at_once_and_others_are_not(tmp_path: Path) -> None:
    """Every open socket of theirs is closed, every token issued up to now refused; a token of later holds."""
    async with serving(tmp_path) as server:
        tokens = [signed("ada"), signed("ada", iat=None), signed("ada", jti="mine")]
        async with (
            wire_to(server.server.ws_url, tokens[0]) as first,
            wire_to(server.server.ws_url, tokens[1]) as second,
            wire_to(server.server.ws_url, signed("bob")) as other,
        ):
            revoked = await revoke(server, user_id="ada")
            assert revoked.status_code == 201
            assert (revoked.json()["user_id"], revoked.json()["token_id"]) == ("ada", None)
            assert [await first.closed(), await second.closed()] == [UNAUTHENTICATED] * 2
            for token in tokens:
                assert await status_of(server, token) == 401
                async with wire_to(server.server.ws_url, token, ready=False) as refused:
                    assert await refused.closed() == UNAUTHENTICATED
            await other.send("authenticate", token=signed("bob"))
            assert (await other.receive())["type"] == "authenticated"
        later = signed("ada", iat=int(time.time()) + 2)
        assert await status_of(server, later) == 200
        closes = server.server.telemetry.metrics.registry.get_sample_value("tracewire_closes_total", {"code": "4501"})
        assert closes == 5


async def test_a_revoked_token_is_out_and_the_users_others_are_not(tmp_path: Path) -> None:
    """By its id; the socket that renewed with another one since stays."""
    async with serving(tmp_path) as server:
        stolen, own = signed("ada", jti="stolen"), signed("ada", jti="own")
        async with (
            wire_to(server.server.ws_url, stolen) as thief,
            wire_to(server.server.ws_url, stolen) as renewed,
            wire_to(server.server.ws_url, own) as owner,
        ):
            await renewed.send("authenticate", token=own)
            assert (await renewed.receive())["type"] == "authenticated"
            assert (await revoke(server, token_id="stolen", expires_at=time.time() + 600)).status_code == 201
            assert await thief.closed() == UNAUTHENTICATED
            await owner.send("authenticate", token=stolen)
            rejected = await owner.receive()
            assert (rejected["type"], rejected["code"]) == ("rejected", "unauthenticated")
            for wire in (renewed, owner):
                await wire.send("authenticate", token=own)
                assert (await wire.receive())["type"] == "authenticated"
        assert [await status_of(server, token) for token in (stolen, own)] == [401, 200]


async def test_an_open_stream_of_a_revoked_user_ends(tmp_path: Path) -> None:
    """SSE as well as sockets, in the middle of a run that goes on."""
    async with server_under_test(tmp_path / "data", agents=all_agents(), jwt_secret=SECRET) as server:
        token = signed("ada")
        bearer = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer) as http:
            run_id = (await http.post("/runs", json={"input": "go", "agent": "asks"})).json()["run_id"]
            async with http.stream("GET", f"/runs/{run_id}/events", headers={"Accept": "text/event-stream"}) as stream:
                lines = stream.aiter_lines()
                while "input_required" not in await anext(lines):
                    pass
                await revoke(server, user_id="ada")
                rest = [line async for line in lines]
            assert [line for line in rest if line.startswith("event:")] == []
            assert (await http.get(f"/runs/{run_id}")).status_code == 401


async def test_revocations_survive_a_restart_are_listed_and_taken_back(tmp_path: Path) -> None:
    """Kept for their owner alone; what has expired is forgotten."""
    token, stolen = signed("ada"), signed("bob", jti="stolen")
    async with serving(tmp_path) as server:
        await revoke(server, user_id="ada")
        await revoke(server, token_id="stolen")
        file = tmp_path / "data" / "revocations.json"
        assert file.stat().st_mode & 0o777 == 0o600
    async with serving(tmp_path) as server, httpx.AsyncClient(base_url=server.server.ops_url) as ops:
        assert [await status_of(server, each) for each in (token, stolen, signed("bob"))] == [401, 401, 200]
        listed = (await ops.get("/revocations")).json()["revocations"]
        assert sorted((entry["user_id"], entry["token_id"]) for entry in listed if entry["user_id"]) == [("ada", None)]
        assert {entry["token_id"] for entry in listed} == {None, "stolen"}
        for entry in listed:
            assert (await ops.delete(f"/revocations/{entry['id']}")).status_code == 204
            assert (await ops.delete(f"/revocations/{entry['id']}")).status_code == 404
        assert [await status_of(server, each) for each in (token, stolen)] == [200, 200]
    assert json.loads(file.read_text()) == []
    async with serving(tmp_path) as server:
        assert await status_of(server, token) == 200


async def test_one_revocation_a_user_is_kept_and_so_many_in_all(tmp_path: Path) -> None:
    """A second one of the same user replaces the first; past the limit the operator is told what to do."""
    async with serving(tmp_path, revocations_max=2) as server, httpx.AsyncClient(base_url=server.server.ops_url) as ops:
        for body in ({"user_id": "ada"}, {"user_id": "ada"}, {"token_id": "t", "expires_at": time.time() + 60}):
            assert (await revoke(server, **body)).status_code == 201
        assert len((await ops.get("/revocations")).json()["revocations"]) == 2
        refused = await revoke(server, user_id="bob")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
        assert "TRACEWIRE_REVOCATIONS_MAX" in refused.json()["detail"]
        assert (await revoke(server, user_id="ada")).status_code == 201


@pytest.mark.parametrize(
    "body",
    [{}, {"user_id": "a", "token_id": "b"}, {"userid": "a"}, {"user_id": ""}, {"token_id": "t", "expires_at": 1}],
)
async def test_a_revocation_that_says_nothing_or_too_much_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """A mistyped name above all: it must not look as if somebody were revoked."""
    async with serving(tmp_path) as server:
        assert (await revoke(server, **body)).status_code == 400


async def test_only_operators_revoke(tmp_path: Path) -> None:
    """With the ops token where one is set, never on the public port, and never by a page that posts blindly."""
    async with serving(tmp_path, ops_token="the operators' own") as server:
        async with httpx.AsyncClient(base_url=server.server.ops_url) as ops:
            own = {"Authorization": "Bearer the operators' own"}
            assert (await ops.post("/revocations", json={"user_id": "ada"})).status_code == 401
            assert (await ops.get("/revocations")).status_code == 401
            assert (await ops.delete("/revocations/x")).status_code == 401
            body = b'{"user_id": "ada"}'
            assert (await ops.post("/revocations", content=body, headers=own)).status_code == 415
            assert (await ops.post("/revocations", json={"user_id": "ada"}, headers=own)).status_code == 201
        async with httpx.AsyncClient(base_url=server.server.url) as public:
            assert (await public.post("/revocations", json={"user_id": "bob"})).status_code == 404


async def test_a_disk_that_does_not_take_it_is_said_and_the_user_is_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In force until the next start; the operator hears that it is not kept."""
    async with serving(tmp_path) as server, wire_to(server.server.ws_url, signed("ada")) as wire:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Revocations, "save", full)
        refused = await revoke(server, user_id="ada")
        assert refused.status_code == 503
        assert "a restart would forget it: No space left on device" in refused.json()["detail"]
        assert await wire.closed() == UNAUTHENTICATED


@pytest.mark.parametrize("content", ["spoilt", "{}", '[{"id": 1}]', ""])
async def test_a_damaged_file_stops_the_start_by_name(tmp_path: Path, content: str) -> None:
    """A server without its revocations would let people back in."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "revocations.json").write_text(content)
    with pytest.raises(StartupError, match=r"revocations in .*damaged"):
        async with serving(tmp_path):
            pass
