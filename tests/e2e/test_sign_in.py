"""Sign-in on a real server, by socket and by HTTP: which tokens hold, how they are brought, and for how long."""

import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
import pytest_asyncio
import structlog

from support.agents import known_agents
from support.servers import ServerProcess, ServerUnderTest, server_under_test
from support.wire import Wire, wire_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a secret of the test's own, 32 bytes or longer"
ISSUER = "https://issuer.test"
AUDIENCE = "tracewire-test"
UNAUTHENTICATED = (4501, "unauthenticated")
TOKEN_EXPIRED = (4502, "token_expired")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """A server with sign-in configured in full; a socket has a fifth of a second to bring a token."""
    async with server_under_test(
        tmp_path_factory.mktemp("sign-in") / "data",
        agents=known_agents(),
        jwt_secret=SECRET,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        jwt_leeway_seconds=2,
        authenticate_seconds=0.2,
        allowed_origins=("https://allowed.test",),
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that hold, with changes; a change to `None` leaves the claim out."""
    now = int(time.time())
    own = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "nbf": now, "iat": now} | changes
    return {name: value for name, value in own.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A token with these claims."""
    return jwt.encode(claims(**changes), secret, algorithm=algorithm)


def forged(header: dict[str, Any], digest: str | None) -> str:
    """A token by hand: this header, claims that hold, and an HMAC of the server's secret, or no signature at all."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims())]
    body = b".".join(parts)
    signature = hmac.new(SECRET.encode(), body, getattr(hashlib, digest)).digest() if digest else b""
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class Refused(NamedTuple):
    """A token that does not hold, and what a socket that brings it is closed with."""

    name: str
    token: Callable[[], str]
    close: tuple[int, str] = UNAUTHENTICATED


REFUSED = [
    Refused("garbage", lambda: "garbage"),
    Refused("three dots", lambda: "a.b.c"),
    Refused("bad signature", lambda: signed("another secret, but also 32 bytes long")),
    Refused("cut signature", lambda: signed()[:-4]),
    Refused("expired", lambda: signed(exp=int(time.time()) - 60), TOKEN_EXPIRED),
    Refused("not yet valid", lambda: signed(nbf=int(time.time()) + 60)),
    Refused("alg none", lambda: forged({"alg": "none", "typ": "JWT"}, None)),
    Refused("alg None", lambda: forged({"alg": "None", "typ": "JWT"}, None)),
    Refused("alg none with a signature", lambda: forged({"alg": "none", "typ": "JWT"}, "sha256")),
    Refused("no alg", lambda: forged({"typ": "JWT"}, "sha256")),
    Refused("alg RS256 over an HMAC", lambda: forged({"alg": "RS256", "typ": "JWT"}, "sha256")),
    Refused("alg ES256 over an HMAC", lambda: forged({"alg": "ES256", "typ": "JWT"}, "sha256")),
    Refused("alg HS512 by the right secret", lambda: forged({"alg": "HS512", "typ": "JWT"}, "sha512")),
    Refused("key in the header", lambda: forged({"alg": "HS256", "jwk": {"kty": "oct", "k": ""}}, None)),
    Refused("wrong issuer", lambda: signed(iss="https://elsewhere.test")),
    Refused("no issuer", lambda: signed(iss=None)),
    Refused("wrong audience", lambda: signed(aud="another")),
    Refused("no audience", lambda: signed(aud=None)),
    Refused("no expiry", lambda: signed(exp=None)),
    Refused("no subject", lambda: signed(sub=None)),
    Refused("empty subject", lambda: signed(sub="")),
    Refused("blank subject", lambda: signed(sub="  ")),
    Refused("numeric subject", lambda: jwt.api_jws.encode(json.dumps(claims(sub=7)).encode(), SECRET, "HS256")),
    Refused("long subject", lambda: signed(sub="x" * 257)),
]
BY_NAME = pytest.mark.parametrize("refused", REFUSED, ids=[refused.name for refused in REFUSED])


@BY_NAME
async def test_a_socket_with_a_token_that_does_not_hold_is_closed(server: ServerUnderTest, refused: Refused) -> None:
    """By a close that a browser can read, after accepting; nothing was sent before it."""
    for way in ("header", "subprotocol", "frame"):
        async with bringing(server, refused.token(), way) as wire:
            assert await wire.closed() == refused.close, way
            assert wire.frames == []


@BY_NAME
async def test_http_with_a_token_that_does_not_hold_is_401(server: ServerUnderTest, refused: Refused) -> None:
    """As a problem document that says why, and not what the token was."""
    token = refused.token()
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        response = await http.get("/runs", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert token not in response.text


HELD = {
    "plain": claims,
    "within the leeway after expiry": lambda: claims(exp=int(time.time()) - 1),
    "within the leeway before its time": lambda: claims(nbf=int(time.time()) + 1),
    "one of several audiences": lambda: claims(aud=["another", AUDIENCE]),
    "no not-before": lambda: claims(nbf=None, iat=None),
    "subject of 256 characters": lambda: claims(sub="ä" * 256),
}


@pytest.mark.parametrize("name", HELD)
async def test_a_token_that_holds_lets_in(server: ServerUnderTest, name: str) -> None:
    """Over the socket in each of the three ways, and over HTTP; the user is the token's subject."""
    own = HELD[name]()
    token = jwt.encode(own, SECRET, algorithm="HS256")
    for way in ("header", "subprotocol", "frame"):
        async with bringing(server, token, way) as wire:
            ready = await wire.receive()
            assert (ready["type"], ready["user_id"]) == ("ready", own["sub"]), way
            assert wire.subprotocol == "tracewire.v1"
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        assert (await http.get("/runs", headers={"Authorization": f"Bearer {token}"})).status_code == 200


class bringing:  # noqa: N801 # used as a function is
    """An open socket that brings the token in one of the three ways of wire.md."""

    def __init__(self, server: ServerUnderTest, token: str, way: str) -> None:
        self._token = token
        self._way = way
        offered = ("tracewire.v1", f"bearer.{token}") if way == "subprotocol" else ("tracewire.v1",)
        header = token if way == "header" else None
        self._opening = wire_to(server.server.ws_url, header, subprotocols=offered, ready=False)

    async def __aenter__(self) -> Wire:
        wire = await self._opening.__aenter__()
        if self._way == "frame":
            await wire.send("authenticate", token=self._token)
        return wire

    async def __aexit__(self, *error: Any) -> None:
        await self._opening.__aexit__(*error)


async def test_without_a_token_a_socket_is_closed_when_its_time_is_over(server: ServerUnderTest) -> None:
    """The server waits for an `authenticate` frame, then closes with 4501; HTTP is 401 at once."""
    async with wire_to(server.server.ws_url, ready=False) as wire:
        opened = time.monotonic()
        assert await wire.closed() == UNAUTHENTICATED
        assert 0.15 < time.monotonic() - opened < 5
        assert wire.frames == []
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        for method, path in itertools.product(
            ("GET",), ("/runs", "/agents", "/runs/x", "/runs/x/events", "/runs/x/ledger")
        ):
            assert (await http.request(method, path)).status_code == 401, path
        assert (await http.delete("/runs/x")).status_code == 401
        assert (await http.post("/runs", json={"input": "go"})).status_code == 401
        assert (await http.post("/recordings", content=b"{}")).status_code == 401


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "bearer"])
async def test_a_token_in_the_url_is_not_accepted_and_not_logged(
    server: ServerUnderTest, logged: list[Any], name: str
) -> None:
    """Not by the socket, not by HTTP, under no name."""
    token = signed()
    async with wire_to(f"{server.server.ws_url}?{name}={token}", ready=False) as wire:
        assert await wire.closed() == UNAUTHENTICATED
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        response = await http.get("/runs", params={name: token})
    assert response.status_code == 401
    assert token not in response.text
    assert token not in str(logged)


async def test_the_bearer_subprotocol_alone_signs_in_and_is_never_echoed(server: ServerUnderTest) -> None:
    """A client that offers none of ours gets none back, and speaks `tracewire.v1`."""
    async with wire_to(server.server.ws_url, subprotocols=(f"bearer.{signed()}",), ready=False) as wire:
        assert (await wire.receive())["type"] == "ready"
        assert wire.subprotocol is None


async def test_frames_before_ready_are_rejected_and_sign_in_still_works(server: ServerUnderTest) -> None:
    """Everything but `authenticate` is `rejected{not_ready}`, and nothing of it happens."""
    async with wire_to(server.server.ws_url, ready=False) as wire:
        frames: list[tuple[str, dict[str, Any]]] = [
            ("start_run", {"request_id": "early", "input": "go", "agent": "five"}),
            ("ack", {"run_id": "r", "seq": 1}),
            ("resume", {"runs": {"r": 1}}),
            ("cancel_run", {"run_id": "r"}),
            ("provide_input", {"run_id": "r", "input_id": "i", "value": 1}),
            ("pong", {"id": 1}),
        ]
        for name, fields in frames:
            await wire.send(name, **fields)
        await wire.send("authenticate", token=signed(sub="early"))
        ready = await wire.receive_type("ready")
    rejected = wire.frames[:-1]
    assert [(frame["type"], frame["code"], frame["frame"]) for frame in rejected] == [
        ("rejected", "not_ready", name) for name, _ in frames
    ]
    assert rejected[0]["request_id"] == "early"
    assert (ready["user_id"], ready["runs"]) == ("early", [])


async def test_a_token_is_renewed_on_the_open_socket(server: ServerUnderTest) -> None:
    """`authenticated` says until when; the socket then outlives its first token, and no longer than the second."""
    first, second = int(time.time()) + 100, int(time.time()) + 1000
    async with wire_to(server.server.ws_url, signed(sub="renews", exp=first)) as wire:
        [session] = [s for s in server.server.gateway.sessions if s.principal and s.principal.user_id == "renews"]
        await wire.send("authenticate", token=signed(sub="renews", exp=second))
        assert await wire.receive() == {"type": "authenticated", "expires_at": second}
        keeper = server.server._keeper
        keeper.look(session, time.monotonic_ns(), first + 3.0)
        run_id = await wire.start_run("go", agent="five")
        await wire.receive_run(run_id)
        keeper.look(session, time.monotonic_ns(), second + 3.0)
        assert await wire.closed() == TOKEN_EXPIRED


async def test_a_renewal_that_does_not_hold_is_rejected_and_the_old_token_stands(server: ServerUnderTest) -> None:
    """An expired one, garbage and another user's: `rejected`, and the socket goes on as it was."""
    async with wire_to(server.server.ws_url, signed(sub="stands")) as wire:
        for token, code in (
            (signed(sub="stands", exp=int(time.time()) - 60), "unauthenticated"),
            ("garbage", "unauthenticated"),
            (signed(sub="another"), "forbidden"),
        ):
            await wire.send("authenticate", token=token)
            rejected = await wire.receive()
            assert (rejected["type"], rejected["frame"], rejected["code"]) == ("rejected", "authenticate", code)
            assert token not in rejected["message"]
        events = await wire.receive_run(await wire.start_run("go", agent="five"))
        assert events[-1]["data"]["output"] == "answer for stands: go"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://evil.test", False),
        ("https://allowed.test", True),
        ("https://allowed.test.evil.test", False),
        ("http://allowed.test", False),
        ("null", False),
        ("http://localhost:3000", False),
        ("file://", False),
        ("same host", True),
        (None, True),
    ],
)
async def test_pages_of_foreign_origins_are_refused(
    server: ServerUnderTest, origin: str | None, *, allowed: bool
) -> None:
    """With sign-in configured: the same host, what the list names, and clients that name no origin."""
    if origin == "same host":
        origin = server.server.url
    async with wire_to(server.server.ws_url, signed(), origin=origin, ready=False) as wire:
        if allowed:
            assert (await wire.receive())["type"] == "ready"
        else:
            assert await wire.closed() == (4503, "origin_refused")
            assert wire.frames == []


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:8080", True),
        ("https://evil.test", False),
        ("http://localhost.evil.test", False),
    ],
)
async def test_in_development_pages_of_this_machine_may_connect(tmp_path: Path, origin: str, *, allowed: bool) -> None:
    """Every loopback origin, and no other."""
    async with (
        server_under_test(tmp_path / "data") as development,
        wire_to(development.server.ws_url, development.token("dev"), origin=origin, ready=False) as wire,
    ):
        if allowed:
            assert (await wire.receive())["type"] == "ready"
        else:
            assert await wire.closed() == (4503, "origin_refused")


async def test_the_development_secret_is_made_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    """Mode 0600, long enough, the same after a restart; a token of another folder's secret does not hold."""
    secret = tmp_path / "data" / "development-secret"
    async with server_under_test(tmp_path / "data") as first:
        token = first.token("dev")
        made = secret.read_text()
        assert secret.stat().st_mode & 0o777 == 0o600
        assert len(made) >= 32
    async with server_under_test(tmp_path / "data") as again, wire_to(again.server.ws_url, token) as wire:
        assert wire.frames[0]["user_id"] == "dev"
        assert secret.read_text() == made
    async with (
        server_under_test(tmp_path / "elsewhere") as other,
        wire_to(other.server.ws_url, token, ready=False) as wire,
    ):
        assert await wire.closed() == UNAUTHENTICATED


async def test_no_token_ever_reaches_the_log_of_a_server(tmp_path: Path) -> None:
    """At the most talkative level, tokens brought in every way, good and bad ones, refused and accepted: no part of any
    is in a line of the log.
    """
    with ServerProcess(tmp_path / "data", environ={"TRACEWIRE_LOG_LEVEL": "debug"}) as process:
        good, bad = process.token("quiet"), signed(sub="quiet")
        for token in (good, bad):
            for url, header, offered in (
                (process.ws_url, token, ("tracewire.v1",)),
                (process.ws_url, None, ("tracewire.v1", f"bearer.{token}")),
                (f"{process.ws_url}?token={token}", token, ("tracewire.v1",)),
            ):
                async with wire_to(url, header, subprotocols=offered, ready=False) as wire:
                    if token == good:
                        await wire.receive_type("ready")
                        await wire.send("authenticate", token=bad)
                        await wire.receive_type("rejected")
                        await wire.send("authenticate", token=good)
                        await wire.receive_type("authenticated")
                        await wire.send(
                            "start_run", request_id=good, input={"authorization": f"Bearer {good}"}, agent=good
                        )
                        await wire.receive_type("rejected")
                        await wire.send(good, token=good)
                        await wire.receive_type("rejected")
                        await wire.send_text(f"no JSON: {good}")
                        await wire.receive_type("rejected")
                    else:
                        await wire.closed()
            async with httpx.AsyncClient(base_url=process.url, headers={"Authorization": f"Bearer {token}"}) as http:
                await http.get("/runs", params={"token": token})
                await http.get(f"/runs/{token}")
                await http.post("/runs", json={"input": "go", "agent": token})
        assert process.stop() == 0
        log = process.log_text()
    assert log.count("sign_in_refused") == 3
    assert log.count("socket_ready") == 3
    for token in (good, bad):
        assert [part for part in token.split(".")[1:] if part in log] == []
