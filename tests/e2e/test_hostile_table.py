"""The table of hostile input: each row on a real server, over the socket and over HTTP: what came back, what was
counted, and that the server went on serving.

Sign-in is by public keys, issuer and audience, so that every way to forge a token is there to be tried.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
import structlog

from support.agents import all_agents
from support.issuers import AUDIENCE, ISSUER, claims, ec_key, jwk_of, jwks_of, public_pem, rsa_key, signed
from support.servers import ServerUnderTest, server_under_test
from support.wire import Wire, contract_problems, wire_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = ec_key("table")
RSA = rsa_key("table")
RUNS_MAX = 2
SOCKETS_MAX = 2
TICKETS_MAX = 2
BAD_FRAMES_MAX = 5
FRAME_BYTES_MAX = 65_536
BODY_BYTES_MAX = 100_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """One server for all rows, with small limits."""
    folder = tmp_path_factory.mktemp("table")
    keys = folder / "keys.json"
    keys.write_bytes(jwks_of(jwk_of(KEY, "k"), jwk_of(RSA, "r")))
    async with server_under_test(
        folder / "data",
        agents=all_agents(),
        jwks_file=str(keys),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        authenticate_seconds=0.5,
        runs_per_user_max=RUNS_MAX,
        sockets_per_user_max=SOCKETS_MAX,
        tickets_per_user_max=TICKETS_MAX,
        bad_frames_per_minute_max=BAD_FRAMES_MAX,
        recording_bytes_max=BODY_BYTES_MAX,
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def token_of(user: str) -> str:
    """A token that holds."""
    return signed(KEY, "k", sub=user)


class Counts:
    """How often the server has refused and closed, by code, since this was made."""

    def __init__(self, server: ServerUnderTest) -> None:
        self._registry = server.server.telemetry.metrics.registry
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {
            sample.labels["code"]: sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name in ("tracewire_rejected_total", "tracewire_closes_total")
        }

    @property
    def since(self) -> dict[str, int]:
        """What has risen, by how much."""
        now = self._read()
        return {code: int(value - self._before[code]) for code, value in now.items() if value != self._before[code]}


async def goes_on(server: ServerUnderTest) -> None:
    """A healthy user's run goes through, over the socket and over HTTP, and nothing was a defect of the server's."""
    token = token_of("healthy")
    async with wire_to(server.server.ws_url, token) as wire:
        run_id = await wire.start_run("go", agent="five")
        events = await wire.receive_run(run_id)
        assert contract_problems(events) == []
        await wire.ack(run_id, len(events))
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert (await http.get(f"/runs/{run_id}", headers=bearer(token))).json()["state"] == "completed"


def bearer(token: str) -> dict[str, str]:
    """The header that brings a token over HTTP."""
    return {"Authorization": f"Bearer {token}"}


def holds_no_part_of(logged: list[Any], token: str) -> None:
    """No log line has any part of the token that would be of use."""
    text = str(logged)
    assert [part for part in token.split(".")[1:] if len(part) > 8 and part in text] == []


# Tokens.


def by_hand(header: dict[str, Any], key: bytes | None) -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims())]
    body = b".".join(parts)
    signature = hmac.new(key, body, hashlib.sha256).digest() if key is not None else b""
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def now() -> int:
    """Unix seconds."""
    return int(time.time())


def deep() -> str:
    """A token whose header nests as deep as a token may be long."""
    header = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 5_000).rstrip(b"=").decode()
    return f"{header}.e30.x"


TOKENS: dict[str, Callable[[], str]] = {
    "garbage": lambda: "garbage-of-some-length",
    "three dots": lambda: "a.b.c",
    "bad signature": lambda: signed(ec_key("stranger"), "k"),
    "wrong key id": lambda: signed(KEY, "elsewhere"),
    "the key id of another kind of key": lambda: signed(KEY, "r"),
    "not yet valid": lambda: signed(KEY, "k", nbf=now() + 600),
    "issued in the future": lambda: signed(KEY, "k", iat=now() + 600),
    "alg none": lambda: by_hand({"alg": "none", "kid": "k"}, None),
    "alg None with a signature": lambda: by_hand({"alg": "None", "kid": "k"}, b"x"),
    "HS256 signed with the public key": lambda: by_hand({"alg": "HS256", "kid": "r"}, public_pem(RSA)),
    "RS256 over an HMAC with the public key": lambda: by_hand({"alg": "RS256", "kid": "r"}, public_pem(RSA)),
    "alg that is no text": lambda: by_hand({"alg": ["ES256"], "kid": "k"}, b"x"),
    "key id that is no text": lambda: by_hand({"alg": "ES256", "kid": {"k": 1}}, b"x"),
    "unknown critical header": lambda: by_hand({"alg": "ES256", "kid": "k", "crit": ["x"], "x": 1}, b"x"),
    "wrong audience": lambda: signed(KEY, "k", aud="another"),
    "no audience": lambda: signed(KEY, "k", aud=None),
    "wrong issuer": lambda: signed(KEY, "k", iss="https://evil.test"),
    "no issuer": lambda: signed(KEY, "k", iss=None),
    "no expiry": lambda: signed(KEY, "k", exp=None),
    "no subject": lambda: signed(KEY, "k", sub=None),
    "long subject": lambda: signed(KEY, "k", sub="x" * 257),
    "deep nesting": deep,
}


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_that_does_not_hold(server: ServerUnderTest, logged: list[Any], name: str) -> None:
    """4501 on the socket and 401 over HTTP, each counted once and logged without the token."""
    token = TOKENS[name]()
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token, ready=False) as wire:
        assert await wire.closed() == (4501, "unauthenticated")
        assert wire.frames == []
    assert counts.since == {"unauthenticated": 1, "4501": 1}
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        refused = await http.get("/runs", headers=bearer(token))
    assert_problem(refused, 401, "unauthenticated")
    assert token not in refused.text
    assert counts.since == {"unauthenticated": 2, "4501": 1}
    assert {"sign_in_refused", "request_refused"} <= {entry["event"] for entry in logged}
    holds_no_part_of(logged, token)
    await goes_on(server)


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    """The response is a problem document with this code."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    assert response.json()["detail"]


async def test_no_token(server: ServerUnderTest) -> None:
    """The socket has its time to bring one, HTTP none."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, ready=False) as wire:
        assert await wire.closed() == (4501, "unauthenticated")
    assert counts.since == {"unauthenticated": 1, "4501": 1}
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert_problem(await http.get("/runs"), 401, "unauthenticated")
    assert counts.since == {"unauthenticated": 2, "4501": 1}
    await goes_on(server)


async def test_an_expired_token(server: ServerUnderTest, logged: list[Any]) -> None:
    """A code of its own on the socket, so that a client knows that a new one helps."""
    token = signed(KEY, "k", exp=now() - 60)
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token, ready=False) as wire:
        assert await wire.closed() == (4502, "token_expired")
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert_problem(await http.get("/runs", headers=bearer(token)), 401, "unauthenticated")
    assert counts.since == {"unauthenticated": 2, "4502": 1}
    holds_no_part_of(logged, token)
    await goes_on(server)


async def test_a_revoked_token(server: ServerUnderTest) -> None:
    """As one that never held."""
    token = signed(KEY, "k", sub="revoked", jti="revoked-id")
    async with httpx.AsyncClient() as http:
        revoked = await http.post(f"{server.server.ops_url}/revocations", json={"token_id": "revoked-id"})
        assert revoked.status_code == 201
        counts = Counts(server)
        async with wire_to(server.server.ws_url, token, ready=False) as wire:
            assert await wire.closed() == (4501, "unauthenticated")
        assert_problem(await http.get(f"{server.server.url}/runs", headers=bearer(token)), 401, "unauthenticated")
    assert counts.since == {"unauthenticated": 2, "4501": 1}
    await goes_on(server)


async def test_a_used_ticket(server: ServerUnderTest, logged: list[Any]) -> None:
    """It opened one socket, and is nothing any more; over HTTP it never was anything."""
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        ticket = (await http.post("/tickets", headers=bearer(token_of("ticket")))).json()["ticket"]
        offered = ("tracewire.v1", f"bearer.{ticket}")
        async with wire_to(server.server.ws_url, subprotocols=offered, ready=False) as wire:
            assert (await wire.receive())["user_id"] == "ticket"
        counts = Counts(server)
        async with wire_to(server.server.ws_url, subprotocols=offered, ready=False) as wire:
            assert await wire.closed() == (4501, "unauthenticated")
        assert_problem(await http.get("/runs", headers=bearer(ticket)), 401, "unauthenticated")
    assert counts.since == {"unauthenticated": 2, "4501": 1}
    assert ticket not in str(logged)
    await goes_on(server)


@pytest.mark.parametrize(("origin", "let_in"), [("https://evil.test", False), ("null", False), (None, True)])
async def test_origins(server: ServerUnderTest, origin: str | None, *, let_in: bool) -> None:
    """A foreign page's socket is closed with 4503; over HTTP the browser keeps it out: nothing allows its origin."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("page"), origin=origin, ready=False) as wire:
        if let_in:
            assert (await wire.receive())["type"] == "ready"
        else:
            assert await wire.closed() == (4503, "origin_refused")
    assert counts.since == ({} if let_in else {"4503": 1})
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        headers = bearer(token_of("page")) | ({"Origin": origin} if origin else {})
        answered = await http.get("/runs", headers=headers)
    assert "access-control-allow-origin" not in answered.headers
    await goes_on(server)


# Frames and bodies.


class Bad(NamedTuple):
    """What is sent as a frame and as the body of `POST /runs`; the code of the refusal, and the status over HTTP."""

    name: str
    body: bytes
    code: str
    status: int = 400
    http_code: str = "malformed"


BAD = [
    Bad("empty", b"", "malformed"),
    Bad("no JSON", b"{nonsense", "malformed"),
    Bad("a list", b"[]", "malformed"),
    Bad("a number", b"1e9999", "malformed"),
    Bad("deep nesting", b"[" * 30_000, "malformed"),
    Bad("deep nesting, closed", b'{"type":"start_run","input":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "malformed"),
    Bad("wrong types", b'{"type":"start_run","request_id":7,"input":"go","agent":[]}', "malformed"),
    Bad("missing fields", b'{"type":"start_run"}', "malformed"),
    Bad("a lone surrogate", b'{"type":"start_run","request_id":"\\ud800","agent":"\\ud800","input":1}', "malformed"),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
async def test_a_frame_or_body_that_cannot_be_read(server: ServerUnderTest, bad: Bad) -> None:
    """Rejected by its code; the socket goes on, and so does the connection."""
    user = f"bad {bad.name}"
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of(user)) as wire:
        await wire.send_text(bad.body.decode())
        rejected = await wire.receive()
        assert (rejected["type"], rejected["code"]) == ("rejected", bad.code)
        assert counts.since == {bad.code: 1}
        await wire.receive_run(await wire.start_run("go", agent="five"))
    headers = bearer(token_of(user)) | {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert_problem(await http.post("/runs", content=bad.body, headers=headers), bad.status, bad.http_code)
    assert counts.since == {bad.code: 2}
    await goes_on(server)


async def test_an_unknown_frame_and_an_unknown_route(server: ServerUnderTest) -> None:
    """`unknown_frame`, and over HTTP 404 or 405."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("unknown")) as wire:
        await wire.send("subscribe", topic="everything")
        assert (await wire.receive())["code"] == "unknown_frame"
    assert counts.since == {"unknown_frame": 1}
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("unknown"))) as http:
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.put("/runs")).status_code == 405
    await goes_on(server)


async def test_a_binary_frame_and_a_body_of_another_type(server: ServerUnderTest) -> None:
    """Text alone on the socket, JSON alone over HTTP."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("binary")) as wire:
        await wire.socket.send(b'{"type":"pong"}')
        assert (await wire.receive())["code"] == "malformed"
    assert counts.since == {"malformed": 1}
    headers = bearer(token_of("binary")) | {"Content-Type": "application/octet-stream"}
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert (await http.post("/runs", content=b"\x00\xff", headers=headers)).status_code in (400, 415)
    await goes_on(server)


async def test_an_oversize_frame_and_body(server: ServerUnderTest) -> None:
    """1009; 413 for a run's body and for a recording."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("large")) as wire:
        await wire.send_text("x" * (FRAME_BYTES_MAX + 1))
        assert (await wire.closed())[0] == 1009
    assert counts.since == {"1009": 1}
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("large"))) as http:
        assert_problem(await http.post("/runs", json={"input": "x" * FRAME_BYTES_MAX}), 413, "invalid_input")
        oversize = await http.post("/recordings", content=b"x" * (BODY_BYTES_MAX + 1))
        assert_problem(oversize, 413, "invalid_input")
    assert counts.since == {"1009": 1, "invalid_input": 2}
    await goes_on(server)


async def test_a_flood_of_bad_frames(server: ServerUnderTest) -> None:
    """4504 with the one too many."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("rude")) as wire:
        with contextlib.suppress(Exception):  # the server closes while they are sent
            for _ in range(3 * BAD_FRAMES_MAX):
                await wire.send_text("nonsense")
        assert await wire.closed() == (4504, "protocol")
    assert counts.since == {"malformed": BAD_FRAMES_MAX + 1, "4504": 1}
    await goes_on(server)


async def test_an_unknown_agent(server: ServerUnderTest) -> None:
    """`unknown_agent`, 404; nothing was started."""
    counts = Counts(server)
    async with wire_to(server.server.ws_url, token_of("agent")) as wire:
        await wire.send("start_run", request_id="1", input="go", agent="nobody")
        assert (await wire.receive())["code"] == "unknown_agent"
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("agent"))) as http:
        assert_problem(await http.post("/runs", json={"input": "go", "agent": "nobody"}), 404, "unknown_agent")
        assert (await http.get("/runs")).json()["runs"] == []
    assert counts.since == {"unknown_agent": 2}
    await goes_on(server)


# Someone else's run.

Ask = Callable[[Wire, str], Awaitable[Any]]
RUN_FRAMES: dict[str, Ask] = {
    "cancel_run": lambda wire, run_id: wire.send("cancel_run", run_id=run_id),
    "ack": lambda wire, run_id: wire.send("ack", run_id=run_id, seq=1, count=1),
    "provide_input": lambda wire, run_id: wire.send("provide_input", run_id=run_id, input_id="input_1", value=True),
    "resume": lambda wire, run_id: wire.send("resume", runs={run_id: 0}),
}
RUN_ROUTES = [
    ("GET", "/runs/{}", {}),
    ("GET", "/runs/{}/events", {}),
    ("GET", "/runs/{}/events", {"Accept": "text/event-stream"}),
    ("GET", "/runs/{}/ledger", {}),
    ("DELETE", "/runs/{}", {}),
]


async def test_someone_elses_run_in_every_frame_and_route(server: ServerUnderTest) -> None:
    """It does not exist; its owner's run goes on untouched."""
    async with wire_to(server.server.ws_url, token_of("owner")) as owner:
        run_id = await owner.start_run("go", agent="asks")
        await owner.receive_type("input_required")
        counts = Counts(server)
        async with wire_to(server.server.ws_url, token_of("thief")) as thief:
            for name, ask in RUN_FRAMES.items():
                await ask(thief, run_id)
                answer = await thief.receive()
                assert "unknown_run" in (answer.get("code"), answer.get("reason")), name
            assert {frame["type"] for frame in thief.frames} == {"ready", "rejected", "resumed"}
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("thief"))) as http:
            for method, path, headers in RUN_ROUTES:
                refused = await http.request(method, path.format(run_id), headers=headers)
                assert_problem(refused, 404, "unknown_run")
            assert (await http.get("/runs")).json()["runs"] == []
        assert counts.since == {"unknown_run": len(RUN_FRAMES) - 1 + len(RUN_ROUTES)}
        await owner.send("cancel_run", run_id=run_id)
        events = await owner.receive_run(run_id)
    assert [event["type"] for event in events] == ["agent_started", "input_required", "agent_cancelled"]
    await goes_on(server)


# Too many of each limited thing.


async def test_too_many_runs(server: ServerUnderTest) -> None:
    """Open ones of one user."""
    async with wire_to(server.server.ws_url, token_of("many")) as wire:
        run_ids = [await wire.start_run("go", agent="asks") for _ in range(RUNS_MAX)]
        counts = Counts(server)
        await wire.send("start_run", request_id="one more", input="go", agent="five")
        rejected = await wire.receive_type("rejected")
        assert (rejected["code"], rejected["retry_after_seconds"] > 0) == ("too_many_runs", True)
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("many"))) as http:
            refused = await http.post("/runs", json={"input": "go", "agent": "five"})
        assert_problem(refused, 429, "too_many_runs")
        assert int(refused.headers["retry-after"]) >= 1
        assert counts.since == {"too_many_runs": 2}
        for run_id in run_ids:
            await wire.send("cancel_run", run_id=run_id)
            await wire.receive_run(run_id)
    await goes_on(server)


async def test_too_many_sockets(server: ServerUnderTest) -> None:
    """Of one user; HTTP goes on."""

    def one(**options: Any) -> Any:
        return wire_to(server.server.ws_url, token_of("sockets"), **options)

    counts = Counts(server)
    async with one(), one(), one(ready=False) as third:
        assert await third.closed() == (4505, "too_many_sockets")
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("sockets"))) as http:
            assert (await http.get("/runs")).status_code == 200
    assert counts.since == {"4505": 1}
    await goes_on(server)


async def test_too_many_tickets(server: ServerUnderTest) -> None:
    """Unused ones of one user; their sockets go on."""
    counts = Counts(server)
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token_of("tickets"))) as http:
        for _ in range(TICKETS_MAX):
            assert (await http.post("/tickets")).status_code == 201
        assert_problem(await http.post("/tickets"), 429, "rate_limited")
    async with wire_to(server.server.ws_url, token_of("tickets")) as wire:
        assert wire.frames[0]["type"] == "ready"
    assert counts.since == {"rate_limited": 1}
    await goes_on(server)


async def test_a_renewal_that_does_not_hold(server: ServerUnderTest, logged: list[Any]) -> None:
    """Every token of the table again, on an open socket: the one that it has stands."""
    async with wire_to(server.server.ws_url, token_of("renews")) as wire:
        counts = Counts(server)
        for name, make in TOKENS.items():
            token = make()
            await wire.send("authenticate", token=token)
            rejected = await wire.receive()
            assert (rejected["frame"], rejected["code"]) == ("authenticate", "unauthenticated"), name
            holds_no_part_of(logged, token)
        assert counts.since == {"unauthenticated": len(TOKENS)}
        await wire.receive_run(await wire.start_run("go", agent="five"))
    await goes_on(server)


async def test_no_span_holds_a_token(server: ServerUnderTest) -> None:
    """Brought in every way, and put into everything that a client names: no exported span repeats any part of it."""
    token = token_of("spans")
    async with wire_to(server.server.ws_url, subprotocols=("tracewire.v1", f"bearer.{token}"), ready=False) as wire:
        await wire.receive()
        run_id = await wire.start_run({"question": token}, agent="five", request_id="with a token")
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        trace = await server.trace(run_id)
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(token)) as http:
        await asyncio.gather(http.get(f"/runs/{token}"), http.get("/runs", params={"token": token}))
    text = str([(span.name, dict(span.attributes)) for span in trace.spans])
    assert [part for part in token.split(".") if part in text] == []
