"""Clients that are refused: for what they send, for who they are, for how often they come."""

import contextlib

import httpx
from websockets.exceptions import ConnectionClosed

from support.catalogue_server import DEFECT
from support.catalogue_users import LIMITS, Load, ack_all
from support.raw_socket import TEXT, frame, raw_socket
from support.wire import wire_to
from tracewire.gateway.auth import sign_token
from tracewire.settings import load_settings


async def refusals(load: Load) -> None:
    """Every frame that is refused for what it says, and one that comes too early."""
    found = set()
    async with load.socket("refused") as wire:
        await wire.send_text("{")
        found.add((await wire.receive_type("rejected"))["code"])
        found.add(await load.rejected(wire, "sing"))
        found.add(await load.rejected(wire, "authenticate", token=load.server.token("another")))
        found.add(await load.rejected(wire, "start_run", request_id="1", agent="nobody", input="go"))
        found.add(await load.rejected(wire, "cancel_run", run_id="00000000-0000-7000-8000-000000000000"))
        run_id = await wire.start_run("go", agent="five", request_id="2")
        events = await ack_all(wire, run_id)
        found.add(await load.rejected(wire, "start_run", request_id="2", agent="five", input="something else"))
        found.add(await load.rejected(wire, "ack", run_id=run_id, seq=len(events) + 1))
        found.add(await load.rejected(wire, "cancel_run", run_id=run_id))
        for _ in range(int(LIMITS["TRACEWIRE_RUNS_PER_USER_MAX"])):
            await wire.start_run("go", agent="waits")
        found.add(await load.rejected(wire, "start_run", request_id="3", agent="waits", input="go"))
    async with wire_to(load.server.ws_url, ready=False) as wire:
        found.add(await load.rejected(wire, "start_run", request_id="4", input="go"))
    assert found == {"malformed", "unknown_frame", "forbidden", "unknown_agent", "unknown_run", "request_id_reused",
                     "ack_ahead", "run_ended", "too_many_runs", "not_ready"}  # fmt: skip


async def http_refusals(load: Load) -> None:
    """Requests that are refused, by whom they come from or what they ask for."""
    async with load.http() as http:
        assert (await http.get("/runs")).json()["code"] == "unauthenticated"
    async with httpx.AsyncClient(base_url=load.server.ops_url, timeout=30) as http:
        assert (await http.post("/revocations", json={})).json()["code"] == "invalid_input"


async def closes(load: Load) -> None:
    """Sockets that the server closes for what they send, for who they are, and for a defect of its own."""
    sent = {1002: frame(TEXT, b"hello", masked=False), 1007: frame(TEXT, b"\xff\xfe"), 1009: frame(TEXT, b"x" * 70_000)}
    for code, what in sent.items():
        async with raw_socket(load.server.url, load.server.token(f"closed with {code}")) as socket:
            socket.send(what)
            assert (await socket.read_to_end())[-1].close_code == code
    async with wire_to(load.server.ws_url, "no token", ready=False) as wire:
        assert (await wire.closed())[0] == 4501
    async with wire_to(
        load.server.ws_url, load.server.token("elsewhere"), origin="https://evil.test", ready=False
    ) as wire:
        assert (await wire.closed())[0] == 4503
    async with load.socket("speaks badly") as wire:
        for _ in range(int(LIMITS["TRACEWIRE_BAD_FRAMES_PER_MINUTE_MAX"]) + 1):
            await wire.send_text("{")
        assert (await wire.closed())[0] == 4504
    async with load.socket("everywhere"), load.socket("everywhere"), load.socket("everywhere", ready=False) as wire:
        assert (await wire.closed())[0] == 4505
    async with wire_to(load.server.ws_url, ready=False) as wire:
        await wire.send("authenticate", token=DEFECT)
        assert (await wire.closed())[0] == 1011


async def floods(load: Load) -> None:
    """A user who sends more frames than may be."""
    async with load.socket("floods") as wire:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(10 * int(LIMITS["TRACEWIRE_FRAMES_PER_SECOND_MAX"])):
                await wire.send("cancel_run", run_id="none")
            while (await wire.receive_type("rejected"))["code"] != "rate_limited":
                pass


async def expires_signed_in(load: Load) -> None:
    """A user whose token ends while a socket of theirs is open."""
    settings = load_settings({}, data_dir=str(load.server.data_dir))
    token = sign_token(settings, "signed in for moments", ttl_seconds=6)
    async with wire_to(load.server.ws_url, token) as wire:
        assert (await wire.closed())[0] == 4502
