"""Limits on a real server: frames, run starts, sockets, and requests that do not come to an end. Each is refused by a
code, counted, logged, and harms nobody else.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from support.agents import all_agents
from support.servers import ServerUnderTest, server_under_test
from support.wire import contract_problems, wire_to
from tracewire.gateway.sockets import SocketSession

FRAMES = 20
BURST = 100
STARTS = 3


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """Twenty frames a second, three starts a minute, three sockets, one of which may be yet to sign in; two tenths of a
    second for the head of a request, and three seconds for all of it.
    """
    async with server_under_test(
        tmp_path / "data",
        agents=all_agents(),
        frames_per_second_max=FRAMES,
        run_starts_per_minute_max=STARTS,
        sockets_max=3,
        sockets_unauthenticated_max=1,
        request_head_seconds=0.2,
        request_seconds=3,
        recording_bytes_max=200_000,
    ) as started:
        yield started


def counted(server: ServerUnderTest, name: str, code: str) -> float:
    """How often the server has counted this code."""
    value = server.server.telemetry.metrics.registry.get_sample_value(f"tracewire_{name}_total", {"code": code})
    assert value is not None
    return value


async def test_bad_frames_that_come_at_once_hold_up_their_sender_alone(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two refusals the event loop goes on: a task of somebody else's gets its turn."""
    turns, refused_at = 0, list[int]()
    reject = SocketSession._reject

    def note(self: SocketSession, *arguments: Any, **fields: Any) -> None:
        refused_at.append(turns)
        reject(self, *arguments, **fields)

    async def go_on() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(SocketSession, "_reject", note)
    async with wire_to(server.server.ws_url, server.token("hostile")) as wire:
        others = asyncio.create_task(go_on())
        for _ in range(9):
            await wire.send_text("no frame")
        for _ in range(9):
            await wire.receive_type("rejected")
        others.cancel()
    assert all(later > earlier for earlier, later in itertools.pairwise(refused_at))


async def answers(server: ServerUnderTest) -> bool:
    """Whether another user's run goes through as ever."""
    async with wire_to(server.server.ws_url, server.token("a healthy user")) as wire:
        return contract_problems(await wire.receive_run(await wire.start_run("go", agent="five"))) == []


# Frames.


async def test_frames_over_the_rate_are_refused_and_a_flood_is_closed(
    server: ServerUnderTest, logged: list[Any]
) -> None:
    """With the time to wait; then 4504. Others go on meanwhile and after it."""
    async with wire_to(server.server.ws_url, server.token("flood")) as wire:
        with contextlib.suppress(Exception):  # the server may close while they are sent
            for _ in range(BURST + 200):
                await wire.send("cancel_run", run_id="none")
        assert await answers(server)
        assert await wire.closed() == (4504, "protocol")
    refused = [frame for frame in wire.frames if frame.get("code") == "rate_limited"]
    assert len(refused) == FRAMES + 1
    assert all(0 < frame["retry_after_seconds"] < 1 for frame in refused)
    assert sum(frame.get("code") == "unknown_run" for frame in wire.frames) >= BURST
    assert counted(server, "rejected", "rate_limited") == FRAMES + 1
    assert counted(server, "closes", "4504") == 1
    assert sum(entry["event"] == "frame_rejected" and entry["code"] == "rate_limited" for entry in logged) == FRAMES + 1


async def test_a_flood_before_sign_in_is_closed_too(server: ServerUnderTest) -> None:
    """By the socket's own allowance."""
    async with wire_to(server.server.ws_url, ready=False) as wire:
        with contextlib.suppress(Exception):
            for _ in range(BURST + 100):
                await wire.send("cancel_run", run_id="none")
        assert await wire.closed() == (4504, "protocol")
    assert await answers(server)


async def test_a_client_that_acks_every_event_is_never_refused(server: ServerUnderTest) -> None:
    """Hundreds of events and as many acks at once, far over the rate of frames: all of them count."""
    async with wire_to(server.server.ws_url, server.token("eager")) as wire:
        run_id = await wire.start_run(400, agent="verbose")
        events = await wire.receive_run(run_id)
        assert len(events) > 2 * BURST
        for event in events:
            await wire.send("ack", run_id=run_id, seq=event["seq"], count=event["seq"])
        await server.trace(run_id)
        async with httpx.AsyncClient(
            base_url=server.server.url, headers={"Authorization": f"Bearer {server.token('eager')}"}
        ) as http:
            assert (await http.get(f"/runs/{run_id}")).json()["acked_seq"] == len(events)
    assert [frame for frame in wire.frames if frame["type"] == "rejected"] == []


async def test_repeated_acks_wait_and_are_not_refused(server: ServerUnderTest) -> None:
    """They hold up their own socket alone, whose next frame is answered behind them."""
    async with wire_to(server.server.ws_url, server.token("again")) as wire:
        run_id = await wire.start_run("go", agent="five")
        await wire.receive_run(run_id)
        for _ in range(BURST + 5):
            await wire.ack(run_id, 1)
        await wire.send("provide_input", run_id=run_id, input_id="x", value=1)
        assert await answers(server)
        rejected = await wire.receive_type("rejected")
        assert rejected["frame"] == "provide_input"
    assert counted(server, "closes", "4504") == 0


# Run starts.


async def test_starts_over_the_rate_are_refused_over_socket_and_http(server: ServerUnderTest) -> None:
    """`rate_limited`, 429 with `Retry-After`; a repeated request is no start; others have theirs."""
    token = server.token("starter")
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        wire_to(server.server.ws_url, token) as wire,
        httpx.AsyncClient(base_url=server.server.url, headers=headers) as http,
    ):
        for number in range(STARTS):
            await wire.receive_run(await wire.start_run("go", agent="five", request_id=f"run {number}"))
            await wire.start_run("go", agent="five", request_id=f"run {number}")
        await wire.send("start_run", request_id="too many", input="go", agent="five")
        rejected = await wire.receive_type("rejected")
        assert (rejected["code"], rejected["request_id"]) == ("rate_limited", "too many")
        assert 0 < rejected["retry_after_seconds"] <= 60 / STARTS
        refused = await http.post("/runs", json={"input": "go", "agent": "five"})
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60 / STARTS
        await wire.start_run("go", agent="five", request_id="run 0")
        assert len((await http.get("/runs")).json()["runs"]) == STARTS
    assert counted(server, "rejected", "rate_limited") == 2
    assert await answers(server)


async def test_a_start_that_came_to_nothing_is_not_counted(server: ServerUnderTest) -> None:
    """An unknown agent, a reused request id: what was refused has started nothing."""
    async with wire_to(server.server.ws_url, server.token("careless")) as wire:
        await wire.start_run("go", agent="five", request_id="first")
        for _ in range(2 * STARTS):
            await wire.send("start_run", request_id="first", input="another", agent="five")
            assert (await wire.receive_type("rejected"))["code"] == "request_id_reused"
            await wire.send("start_run", request_id="x", input="go", agent="nobody")
            assert (await wire.receive_type("rejected"))["code"] == "unknown_agent"
        await wire.start_run("go", agent="five", request_id="second")


# Sockets.


async def test_one_socket_too_many_in_all_is_asked_to_come_back(server: ServerUnderTest, logged: list[Any]) -> None:
    """By a close that a browser can read, after `unavailable`; when one has gone there is room again."""

    def one(user: str, **options: Any) -> Any:
        return wire_to(server.server.ws_url, server.token(user), **options)

    async with one("a"), one("b"):
        async with one("c"), one("d", ready=False) as fourth:
            assert await fourth.closed() == (4004, "unavailable")
            assert fourth.frames == [{"type": "unavailable", "code": "not_ready"}]
        async with one("d") as again:
            assert again.frames[0]["user_id"] == "d"
    assert (counted(server, "closes", "4004"), counted(server, "rejected", "not_ready")) == (1, 1)
    assert [entry["why"] for entry in logged if entry["event"] == "socket_refused"] == [
        "3 sockets are open, the most it takes"
    ]


async def test_sockets_without_a_token_do_not_keep_those_with_one_out(server: ServerUnderTest) -> None:
    """Only so many may be yet to sign in; who brings a token waits behind none of them."""
    async with (
        wire_to(server.server.ws_url, ready=False) as silent,
        wire_to(server.server.ws_url, ready=False) as another,
        wire_to(server.server.ws_url, server.token("a")) as signed_in,
    ):
        assert await another.closed() == (4004, "unavailable")
        assert signed_in.frames[0]["type"] == "ready"
        await silent.send("authenticate", token=server.token("b"))
        assert (await silent.receive())["user_id"] == "b"


# Requests that do not come to an end, and those that are too large.


class Raw:
    """A bare TCP connection."""

    def __init__(self, server: ServerUnderTest) -> None:
        host, _, port = server.server.url.removeprefix("http://").partition(":")
        self._host, self._port = host, int(port)

    async def __aenter__(self) -> "Raw":
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def said(self, data: bytes = b"") -> bytes:
        """Everything that the server says to this until it closes."""
        self.writer.write(data)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def frame(self) -> tuple[int, bytes]:
        """The next WebSocket frame of the server: its first byte, and its payload."""
        async with asyncio.timeout(20):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2), "big")
            return first, await self.reader.readexactly(length)


HEAD = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
BODY = b"POST /recordings HTTP/1.1\r\nHost: x\r\nBEARER\r\nContent-Length: 100\r\n\r\n{"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize("data", [b"", b"G", HEAD, BODY], ids=["silent", "head", "handshake", "body"])
async def test_a_request_that_does_not_come_to_an_end_is_closed(server: ServerUnderTest, data: bytes) -> None:
    """A silent connection without a word, any other with 408; its connection is not kept."""
    bearer = b"Authorization: Bearer " + server.token("a").encode() + b"\r\n"
    began = time.monotonic()
    async with Raw(server) as raw:
        said = await raw.said(data.replace(b"BEARER\r\n", bearer))
    assert (time.monotonic() - began > 2.5) == (data == BODY)
    if data:
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "malformed"' in said
    else:
        assert said == b""
    assert counted(server, "rejected", "malformed") == bool(data)
    assert await answers(server)


async def test_a_refused_request_is_not_answered_twice(server: ServerUnderTest) -> None:
    """Its body never comes; it has its 401 already."""
    async with Raw(server) as raw:
        said = await raw.said(b"POST /recordings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert said.startswith(b"HTTP/1.1 401 ")
    assert said.count(b"HTTP/1.1") == 1
    assert counted(server, "rejected", "unauthenticated") == 1


async def test_a_second_request_has_its_time_too(server: ServerUnderTest) -> None:
    """On a connection that was good once."""
    async with Raw(server) as raw:
        said = await raw.said(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET /li")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


@pytest.mark.parametrize(
    "data",
    [
        HEAD + KEY + b"Authorization: Bearer " + b"x" * 9_000 + b"\r\n\r\n",
        HEAD + KEY + b"Sec-WebSocket-Protocol: tracewire.v1, bearer." + b"x" * 9_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /live HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /live HTTP/1.1\r\nX: " + b"x" * 300_000,
    ],
    ids=["token in the header", "token in a subprotocol", "path", "many headers", "a header without end"],
)
async def test_a_head_that_is_too_large_is_431(server: ServerUnderTest, logged: list[Any], data: bytes) -> None:
    """In a handshake too, which the WebSocket parser would leave without an answer; the token is in no log line."""
    async with Raw(server) as raw:
        said = await raw.said(data)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "malformed"' in said
    assert counted(server, "rejected", "malformed") == 1
    assert [entry["status"] for entry in logged if entry["event"] == "connection_refused"] == [431]
    assert "xxxx" not in str(logged)
    assert await answers(server)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n"])
async def test_what_is_no_http_is_400(server: ServerUnderTest, data: bytes) -> None:
    """TLS on the plain port above all."""
    async with Raw(server) as raw:
        assert (await raw.said(data)).startswith(b"HTTP/1.1 400 ")
    assert counted(server, "rejected", "malformed") == 1


async def test_an_oversized_recording_is_413(server: ServerUnderTest) -> None:
    """Whether its length is announced or not; a recording of just the size is kept."""

    async def in_parts() -> AsyncIterator[bytes]:
        for _ in range(21):
            yield b"x" * 10_000

    headers = {"Authorization": f"Bearer {server.token('a')}"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        for content in (b"x" * 200_001, in_parts()):
            refused = await http.post("/recordings", content=content)
            assert (refused.status_code, refused.json()["code"]) == (413, "invalid_input")
            assert "TRACEWIRE_RECORDING_BYTES_MAX" in refused.json()["detail"]
        assert (await http.post("/recordings", content=b"x" * 200_000)).status_code == 201
    assert counted(server, "rejected", "invalid_input") == 2


# Below the frames.


async def close_code_after(server: ServerUnderTest, what: bytes) -> int:
    """The code with which a ready socket is closed that sends this, unframed."""
    async with Raw(server) as raw:
        raw.writer.write(HEAD + KEY + b"Authorization: Bearer " + server.token("rude").encode() + b"\r\n\r\n")
        await raw.reader.readuntil(b"\r\n\r\n")
        await raw.frame()
        raw.writer.write(what)
        opcode, payload = await raw.frame()
        assert opcode == 0x88
        return int.from_bytes(payload[:2], "big")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask", 1009),
        (b"\x81\xff" + (4_000_000).to_bytes(8, "big") + b"mask" + b"x" * 4_000_000, 1009),
        (b"\x81\x05hello", 1002),
        (b"\x83\x80mask", 1002),
        (b"\xc1\x80mask", 1002),
        (b"\x81\x82\x00\x00\x00\x00\xff\xfe", 1007),
    ],
    ids=["announced oversize", "sent oversize", "unmasked", "reserved opcode", "reserved bit", "no UTF-8"],
)
async def test_a_broken_frame_is_closed_readably_and_counted(
    server: ServerUnderTest, logged: list[Any], what: bytes, code: int
) -> None:
    """By its code, which the client gets to see although it is still sending; once in the metrics and in the log."""
    assert await close_code_after(server, what) == code
    assert counted(server, "closes", str(code)) == 1
    assert [entry["code"] for entry in logged if entry["event"] == "socket_violated_protocol"] == [code]
    assert await answers(server)
