"""Sign-in by public keys on a real server: which tokens hold, how keys are rotated, and what a failing issuer means."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from support.issuers import (
    AUDIENCE,
    ISSUER,
    JwksEndpoint,
    claims,
    ec_key,
    jwk_of,
    jwks_endpoint,
    jwks_of,
    public_pem,
    rsa_key,
    signed,
)
from support.servers import ServerProcess, ServerUnderTest, server_under_test, settings_for
from support.wire import wire_to
from tracewire.errors import StartupError
from tracewire.gateway import keys
from tracewire.main import Server

RSA = rsa_key("one")
EC = ec_key("one")
STRANGER = rsa_key("stranger")
DOCUMENT = jwks_of(jwk_of(RSA, "r"), jwk_of(EC, "e"))
IN = "ready"
UNAUTHENTICATED = (4501, "unauthenticated")
EXPIRED = (4502, "token_expired")
UNAVAILABLE = (4004, "unavailable")


def configured(tmp_path: Path, **settings: Any) -> Any:
    """A server that checks issuer and audience, by the keys that the settings name."""
    checked = {"jwt_issuer": f"https://another.test,{ISSUER}", "jwt_audience": f"{AUDIENCE},another"}
    return server_under_test(tmp_path / "data", **(checked | settings))


async def by_socket(server: ServerUnderTest, token: str) -> str | tuple[int, str]:
    """What a socket that brings the token comes to: `ready`, or its close."""
    async with wire_to(server.server.ws_url, token, ready=False) as wire:
        try:
            await wire.receive_type("ready")
        except ConnectionClosed:
            return await wire.closed()
        return IN


async def by_http(server: ServerUnderTest, token: str) -> httpx.Response:
    """What a request that brings the token comes to."""
    async with httpx.AsyncClient(base_url=server.server.url) as http:
        return await http.get("/runs", headers={"Authorization": f"Bearer {token}"})


async def both(server: ServerUnderTest, token: str) -> tuple[str | tuple[int, str], int]:
    """The socket's end and the request's status."""
    return await by_socket(server, token), (await by_http(server, token)).status_code


class Case(NamedTuple):
    """A token, and what a socket that brings it comes to."""

    name: str
    token: Callable[[], str]
    end: str | tuple[int, str]


def with_pem(algorithm: str) -> str:
    """A token signed by HMAC with a public key's PEM, which everybody has; PyJWT itself would refuse to make it."""
    parts = [{"alg": algorithm, "typ": "JWT", "kid": "r"}, claims()]
    body = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.new(public_pem(RSA), body, hashlib.sha256).digest()
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def with_key_of_its_own() -> str:
    """A token that brings, and points to, the key that it is signed with."""
    headers = {"jwk": jwk_of(STRANGER, "s"), "jku": "https://evil.test/keys", "kid": "s"}
    return jwt.encode(claims(), STRANGER, "RS256", headers=headers)


CASES = [
    Case("RS256", lambda: signed(RSA, "r"), IN),
    Case("ES256", lambda: signed(EC, "e"), IN),
    Case("no key id, and one key of its kind", lambda: signed(EC, None), IN),
    Case("the other audience of the list", lambda: signed(EC, "e", aud="another"), IN),
    Case("the other issuer of the list", lambda: signed(EC, "e", iss="https://another.test"), IN),
    Case("several audiences, one of the list", lambda: signed(EC, "e", aud=["x", AUDIENCE]), IN),
    Case("unknown key id", lambda: signed(RSA, "x"), UNAUTHENTICATED),
    Case("the key id of the other key", lambda: signed(RSA, "e"), UNAUTHENTICATED),
    Case("a stranger's key under our key id", lambda: signed(STRANGER, "r"), UNAUTHENTICATED),
    Case("a stranger's key without key id", lambda: signed(STRANGER, None), UNAUTHENTICATED),
    Case("HS256 signed with the public key", lambda: with_pem("HS256"), UNAUTHENTICATED),
    Case("RS256 that is an HMAC of the public key", lambda: with_pem("RS256"), UNAUTHENTICATED),
    Case("alg none", lambda: jwt.encode(claims(), None, algorithm="none", headers={"kid": "r"}), UNAUTHENTICATED),
    Case("RS512 by the right key", lambda: jwt.encode(claims(), RSA, "RS512", headers={"kid": "r"}), UNAUTHENTICATED),
    Case("PS256 by the right key", lambda: jwt.encode(claims(), RSA, "PS256", headers={"kid": "r"}), UNAUTHENTICATED),
    Case("a key of its own", with_key_of_its_own, UNAUTHENTICATED),
    Case("expired", lambda: signed(EC, "e", exp=1), EXPIRED),
    Case("wrong issuer", lambda: signed(EC, "e", iss="https://evil.test"), UNAUTHENTICATED),
    Case("no issuer", lambda: signed(EC, "e", iss=None), UNAUTHENTICATED),
    Case("wrong audience", lambda: signed(EC, "e", aud="billing"), UNAUTHENTICATED),
]


async def test_which_tokens_hold_by_public_keys(tmp_path: Path) -> None:
    """Each over the socket and over HTTP, on one server; the refusals say why, and not what the token was."""
    file = tmp_path / "keys.json"
    file.write_bytes(DOCUMENT)
    async with configured(tmp_path, jwks_file=str(file)) as server:
        for case in CASES:
            token = case.token()
            assert await both(server, token) == (case.end, 200 if case.end == IN else 401), case.name
            refused = await by_http(server, token)
            assert case.end == IN or token not in refused.text


async def test_a_key_file_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    """A new key holds at once, a removed one no more; a file that is spoilt or gone changes nothing."""
    file = tmp_path / "keys.json"
    file.write_bytes(jwks_of(jwk_of(RSA, "r")))
    async with configured(tmp_path, jwks_file=str(file)) as server:
        assert await both(server, signed(EC, "e")) == (UNAUTHENTICATED, 401)
        replace(file, jwks_of(jwk_of(EC, "e")))
        assert await both(server, signed(EC, "e")) == (IN, 200)
        assert await both(server, signed(RSA, "r")) == (UNAUTHENTICATED, 401)
        replace(file, b"spoilt")
        assert await both(server, signed(RSA, "r")) == (UNAVAILABLE, 503)
        assert await both(server, signed(EC, "e")) == (IN, 200)
        file.unlink()
        assert await both(server, signed(EC, "e")) == (IN, 200)


def replace(file: Path, document: bytes) -> None:
    """Write the file anew, whole."""
    written = file.with_suffix(".new")
    written.write_bytes(document)
    os.replace(written, file)  # noqa: PTH105 # the two calls do the same; this one says what it does


async def test_a_key_that_is_taken_out_holds_no_more_although_nobody_asks(tmp_path: Path) -> None:
    """Its tokens name a key at hand; the file is looked at all the same."""
    file = tmp_path / "keys.json"
    file.write_bytes(DOCUMENT)
    async with configured(tmp_path, jwks_file=str(file)) as server:
        token = signed(RSA, "r")
        assert (await by_http(server, token)).status_code == 200
        replace(file, jwks_of(jwk_of(EC, "e")))
        async with asyncio.timeout(10), httpx.AsyncClient(base_url=server.server.url) as http:
            while (await http.get("/runs", headers={"Authorization": f"Bearer {token}"})).status_code == 200:
                pass  # each look is a request


async def test_rotated_keys_are_fetched_and_made_up_ids_cost_the_issuer_nothing(tmp_path: Path) -> None:
    """An unknown key id has the keys fetched anew, once in its time; known ones never do."""
    async with (
        jwks_endpoint(jwks_of(jwk_of(RSA, "r"))) as endpoint,
        configured(tmp_path, jwks_url=endpoint.url, jwks_refetch_seconds=3600) as server,
    ):
        for _ in range(5):
            assert await both(server, signed(RSA, "r")) == (IN, 200)
            assert await both(server, signed(EC, "e")) == (UNAUTHENTICATED, 401)
        assert endpoint.requests == 1
    async with (
        jwks_endpoint(jwks_of(jwk_of(RSA, "r"))) as endpoint,
        configured(tmp_path, jwks_url=endpoint.url, jwks_refetch_seconds=0) as server,
    ):
        endpoint.document = DOCUMENT
        for token in (with_pem("HS256"), jwt.encode(claims(), RSA, "PS256", headers={"kid": "x"}), "garbage"):
            assert await both(server, token) == (UNAUTHENTICATED, 401)
        assert endpoint.requests == 1, "what no key could make hold asks for none"
        assert await both(server, signed(EC, "e")) == (IN, 200)
        assert endpoint.requests == 2


async def test_a_failing_issuer_is_told_from_a_bad_token(tmp_path: Path) -> None:
    """Known keys go on, on the socket and over HTTP; whose key is not at hand is asked to come back, and everything
    else of the server stays as it is.
    """
    async with (
        jwks_endpoint(DOCUMENT) as endpoint,
        configured(tmp_path, jwks_url=endpoint.url, jwks_refetch_seconds=0) as server,
    ):
        for status, document in ((500, DOCUMENT), (200, b"<html>maintenance</html>"), (200, b'{"keys": []}')):
            endpoint.status, endpoint.document = status, document
            assert await both(server, signed(RSA, "r")) == (IN, 200)
            assert await both(server, signed(RSA, "new")) == (UNAVAILABLE, 503)
            assert await both(server, signed(STRANGER, "r")) == (UNAUTHENTICATED, 401)
        refused = await by_http(server, signed(RSA, "new"))
        assert refused.json()["code"] == "not_ready"
        assert "TRACEWIRE_JWKS_URL=http://127.0.0.1" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert server.server.readiness.ready
        async with wire_to(server.server.ws_url, signed(EC, "e")) as wire:
            await wire.send("authenticate", token=signed(RSA, "new"))
            rejected = await wire.receive()
            assert (rejected["code"], rejected["frame"]) == ("not_ready", "authenticate")
            assert rejected["retry_after_seconds"] > 0
            await wire.send("authenticate", token=signed(RSA, "r"))
            assert (await wire.receive())["type"] == "authenticated"
        endpoint.status, endpoint.document = 200, jwks_of(jwk_of(RSA, "new"))
        assert await both(server, signed(RSA, "new")) == (IN, 200)


async def test_an_issuer_that_does_not_answer_holds_nobody_else_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one sign-in waits for it, others with keys at hand get in; who waited is asked to come back."""
    monkeypatch.setattr(keys, "FETCH_SECONDS", 2.0)
    async with (
        jwks_endpoint(DOCUMENT) as endpoint,
        configured(tmp_path, jwks_url=endpoint.url, jwks_refetch_seconds=0) as server,
    ):
        endpoint.held.set()
        endpoint.asked.clear()
        waiting = asyncio.create_task(by_socket(server, signed(RSA, "new")))
        await endpoint.asked.wait()
        assert await both(server, signed(RSA, "r")) == (IN, 200)
        assert not waiting.done()
        assert await waiting == UNAVAILABLE


@pytest.mark.parametrize("status", [200, 500])
async def test_without_keys_the_server_does_not_start_and_says_why(tmp_path: Path, status: int) -> None:
    """By the name of the setting, together with whatever else fails; nothing is left behind."""
    async with jwks_endpoint(b"{}") as endpoint:
        endpoint.status = status
        settings = settings_for(tmp_path / "data", jwks_url=endpoint.url, agents=("none:such",))
        with pytest.raises(StartupError) as raised:
            await Server(settings, environ={}).start()
    named = [failure for failure in raised.value.failures if "TRACEWIRE_JWKS_URL=" in failure]
    assert len(named) == 1
    assert any("none:such" in failure for failure in raised.value.failures)


async def test_no_part_of_a_token_by_public_key_is_logged_by_a_real_process(tmp_path: Path) -> None:
    """At the most talkative level; and the process serves with keys from a URL."""
    async with jwks_endpoint(DOCUMENT) as endpoint:
        tokens = [signed(RSA, "r"), signed(EC, "e"), signed(RSA, "new"), with_pem("HS256")]
        log = await asyncio.to_thread(_served_log, tmp_path, endpoint, tokens)
    assert "socket_ready" in log or "request_refused" in log
    for token in tokens:
        assert [part for part in token.split(".")[1:] if part in log] == []


def _served_log(tmp_path: Path, endpoint: JwksEndpoint, tokens: list[str]) -> str:
    environ = {"TRACEWIRE_JWKS_URL": endpoint.url, "TRACEWIRE_LOG_LEVEL": "debug"}
    with ServerProcess(tmp_path / "data", environ=environ) as process:
        with httpx.Client(base_url=process.url) as http:
            statuses = [http.get("/runs", headers={"Authorization": f"Bearer {token}"}).status_code for token in tokens]
            for token in tokens:
                http.get(f"/runs/{token}", headers={"Authorization": f"Bearer {tokens[0]}"})
        assert statuses == [200, 200, 401, 401]
        assert process.stop() == 0
        return process.log_text()
