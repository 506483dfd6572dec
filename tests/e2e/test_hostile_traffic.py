"""Hostile frames and requests against a real `tracewire serve` with its default limits, a healthy user beside them.

The short form of `make fuzz`, which sends a million. A failure names the attack: `python -m tests.fuzz --seed S
--only N` sends it again.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.attackers import CLOSES, FRAMES, Attackers
from fuzz.campaign import Campaign, Outcome, served
from support.hostile import Hostile, HttpAttack, SocketAttack
from support.raw_socket import ACCEPT, PING, PONG, TEXT, Received, close_frame, frame, raw_socket
from tracewire.gateway.openapi import openapi_document
from tracewire.gateway.schema import frames_schema
from tracewire_telemetry.logs import PEER_EVENTS, PEER_LINES_MAX, PEER_SECONDS
from tracewire_telemetry.vocabulary import RejectCode

SEED: Final = "make test"
SENT_MAX: Final = 30_000
SECONDS_MAX: Final = 10.0
WARM_UP: Final = 3_000
MEMORY_RATIO_MAX: Final = 1.25
"""The full form asks for 1.05, after 400,000 frames and requests. After 3,000 the allocator's arenas and the caches of
SQLite and of the framework, each with a bound of its own, are still on their way up: 1.05 was measured after 25,000.
What kept a KiB of each frame or request would be at 1.35.
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One campaign for the tests below."""
    campaign = Campaign(
        tmp_path_factory.mktemp("hostile"),
        SEED,
        until=lambda tally, seconds: tally.sent >= SENT_MAX or seconds > SECONDS_MAX,
        warm_up=WARM_UP,
        alone_runs=2,
    )
    return asyncio.run(campaign.run())


def test_no_answer_is_wrong_and_none_is_missing(outcome: Outcome) -> None:
    """No 5xx, no 1011, nothing unanswered, and as much was refused as there was to refuse."""
    assert [] == outcome.tally.failures
    assert outcome.tally.sent > WARM_UP
    kinds = set(outcome.tally.answers)
    assert {"close 1002", "close 1007", "close 1009", "close 4501", "close 4504", "rejected malformed"} <= kinds
    assert {"rejected unknown_frame", "rejected unknown_run", "HTTP 200", "HTTP 400", "HTTP 401", "HTTP 404"} <= kinds


def test_nothing_crashes_and_nothing_is_raised(outcome: Outcome) -> None:
    """No error in the log that is not an agent's own, and a server that stops when it is told to."""
    assert ([], 0) == (outcome.log_problems, outcome.exit_code)


def test_memory_stays_within_bounds(outcome: Outcome) -> None:
    """What hostile traffic takes, the server gives back."""
    assert outcome.memory_ratio < MEMORY_RATIO_MAX, (outcome.memory_before_kib, outcome.memory_after_kib)


def test_a_healthy_user_gets_every_event_once_and_in_order_meanwhile(outcome: Outcome) -> None:
    """And a receipt that agrees, for each of its runs, some of which fell into the attack."""
    assert [] == outcome.problems
    assert outcome.meanwhile.runs > 0
    print(f"p99 alone {outcome.alone.p99_ms:.2f} ms, meanwhile {outcome.meanwhile.p99_ms:.2f} ms")


def test_the_log_does_not_grow_with_the_attack(outcome: Outcome) -> None:
    """Of each thing that a peer can cause there are so many lines in a time, whatever it sends."""
    windows = outcome.seconds_in_all // PEER_SECONDS + 2
    lines = {event: count for event, count in outcome.log_lines.items() if event in PEER_EVENTS}
    assert {} == {event: count for event, count in lines.items() if count > windows * PEER_LINES_MAX}
    # There was more to tell than was told.
    assert outcome.tally.answers["rejected malformed"] > lines["frame_rejected"]


# Properties, by hypothesis.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "request_id",
    "input",
    "agent",
    "thread_id",
    "traceparent",
    "run_id",
    "input_id",
    "value",
    "seq",
    "count",
    "runs",
)
TYPES = st.sampled_from(
    ["start_run", "cancel_run", "provide_input", "ack", "resume", "pong", "authenticate", "nothing"]
)
FRAME_LIKE = st.builds(
    lambda kind, fields: json.dumps({"agent": "none", **fields, "type": kind}),
    TYPES,
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5),
)
TEXTS = FRAME_LIKE | JSON.map(json.dumps) | st.text(max_size=60)


def test_any_text_is_answered_by_the_wire_and_leaves_the_socket_alive(tmp_path: Path) -> None:
    """Whatever it says: a refusal of the closed set of codes, or what a valid frame is answered with."""
    with served(tmp_path) as server:
        users = itertools.count()

        async def answers(texts: list[str]) -> list[Received]:
            found = []
            async with raw_socket(server.url, server.token(f"user {next(users)}")) as socket:
                socket.send(b"".join(frame(TEXT, text.encode("utf-8", "replace")) for text in texts))
                socket.send(frame(TEXT, b'{"type":"the end"}'))
                while not found or b'"frame":"the end"' not in found[-1].payload:
                    received = await socket.read_frame()
                    assert received is not None
                    found.append(received)
                socket.send(frame(PING, b"alive?"))
                while (received := await socket.read_frame()) != Received(PONG, b"alive?"):
                    assert received is not None
            return found

        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(TEXTS, min_size=1, max_size=9))
        def holds(texts: list[str]) -> None:
            for received in asyncio.run(answers(texts)):
                document = json.loads(received.payload)
                assert document["type"] in FRAMES
                assert document["type"] != "rejected" or document["code"] in set(RejectCode)

        holds()
        assert "Traceback" not in server.log_text()


# The attackers themselves: what they would overlook, nobody would see.


@cache
def hostile() -> Hostile:
    """Attacks on the server as its code describes it."""
    return Hostile(frames_schema(), openapi_document("0"), ["run"], 3)


def test_the_same_seed_and_number_are_the_same_attack() -> None:
    """Otherwise a failure could not be sent again; and other numbers are other attacks."""
    attacks = [hostile().attack("s", index) for index in range(300)]
    assert attacks == [hostile().attack("s", index) for index in range(300)]
    assert len({repr(attack) for attack in attacks}) == 300
    assert {SocketAttack, HttpAttack} == {type(attack) for attack in attacks}


def test_attacks_are_of_every_kind() -> None:
    """Every frame type that there is, every route, every way to end."""
    attacks = [hostile().attack("s", index) for index in range(3_000)]
    sockets = [attack for attack in attacks if isinstance(attack, SocketAttack)]
    assert {"answered", "closed", "cut", "half-closed", "violated"} == {attack.ends for attack in sockets}
    targets = Counter(
        (method, request.split(b" ")[1].split(b"?")[0].decode("latin-1"))
        for attack in attacks
        if isinstance(attack, HttpAttack)
        for method, request in attack.requests
    )
    for path, methods in openapi_document("0")["paths"].items():
        for method in methods:
            assert targets[method.upper(), path.replace("{run_id}", "run")], (method, path)


@asynccontextmanager
async def broken_server(answer: bytes) -> AsyncIterator[str]:
    """A server that answers every handshake and every request with these bytes, and ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 20)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


UPGRADED = f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode()
UNMASKED: Final[dict[str, Any]] = {"masked": False}


@pytest.mark.parametrize(
    ("answer", "noticed"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", ["answered 500", "HTTP 500"]),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", ["answered 503", "HTTP 503"]),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ["answered 404", "without a problem document"]),
        (b"", ["IncompleteReadError", "without an answer"]),
        (UPGRADED + frame(8, b"\x03\xf3", masked=False), ["closed with 1011", ""]),
        (UPGRADED + frame(8, b"\x11\x94", masked=False), ["closed with 4500", ""]),
        (UPGRADED + frame(TEXT, b'{"type":"oops"}', masked=False), ["the server sent", ""]),
        (UPGRADED + frame(TEXT, b"{", masked=False), ["JSONDecodeError", ""]),
        (UPGRADED + close_frame(1000), ["must not mask", ""]),
    ],
)
async def test_the_attackers_notice_what_a_broken_server_answers(answer: bytes, noticed: list[str]) -> None:
    """An error, an excuse, nothing at all, a close that only a failed handler sends, a frame that there is not."""
    by_socket, by_http = noticed
    made = hostile()
    socket_index = next(n for n in range(999) if getattr(made.attack("s", n), "ends", "") == "answered")
    http_index = next(n for n in range(999) if getattr(made.attack("s", n), "requests", [("HEAD", b"")])[0][0] == "GET")
    async with broken_server(answer) as url:
        attackers = Attackers(url, made, ["token"] * 3, "s")
        await attackers.one(socket_index)
        await attackers.one(http_index)
    assert len(attackers.tally.failures) >= (2 if by_http else 1)
    assert by_socket in attackers.tally.failures[0]
    assert by_http in attackers.tally.failures[-1]


def test_only_codes_that_blame_the_peer_are_right() -> None:
    """1011 is a failed handler, 4500 Litestar's, 4000 to 4499 would be an excuse."""
    assert not CLOSES & {1005, 1006, 1011, 1012, 4500, *range(4000, 4500)}
