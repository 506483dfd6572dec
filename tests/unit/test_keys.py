"""Public keys: which of a document are taken, when they are read anew, and what is said when they cannot be."""

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support.issuers import ec_key, jwk_of, jwks_endpoint, jwks_of, rsa_key
from tracewire.errors import SettingsError
from tracewire.gateway.keys import JwksFile, JwksUrl, KeyRing, KeysUnavailableError, read_jwks
from tracewire.settings import load_settings
from unit.sockets import turns

RSA = rsa_key("one")
EC = ec_key("one")


def test_keys_are_found_by_id_and_algorithm() -> None:
    """Of either kind, and under no other algorithm than their own."""
    keys = read_jwks(jwks_of(jwk_of(RSA, "r"), jwk_of(EC, "e"), jwk_of(ec_key("two"), "r")))
    assert 3 == len(keys)
    found = [keys.find(key_id, alg) for key_id, alg in (("r", "RS256"), ("e", "ES256"), ("r", "ES256"))]
    assert ["RS256", "ES256", "ES256"] == [key.algorithm_name for key in found if key is not None]
    assert [None] * 5 == [
        keys.find(key_id, alg)
        for key_id, alg in (("e", "RS256"), ("x", "RS256"), ("", "RS256"), ("r", "HS256"), ("r", "none"))
    ]


def test_a_token_without_key_id_is_matched_where_there_is_one_key_alone() -> None:
    """Of its algorithm; among several nobody guesses."""
    keys = read_jwks(jwks_of(jwk_of(RSA, "r"), jwk_of(EC, "e"), jwk_of(ec_key("two"), "f")))
    assert keys.find(None, "RS256") is keys.find("r", "RS256")
    assert keys.find(None, "ES256") is None


LEFT_OUT: dict[str, tuple[Any, str]] = {
    "a short RSA key": (jwk_of(rsa_key("short", 1024), "k"), "1024 bits"),
    "another curve": (jwk_of(ec_key("p384", ec.SECP384R1), "k"), "curve is not P-256"),
    "a curve of another name": (jwk_of(EC, "k", crv="secp256k1"), "curve is not P-256"),
    "another algorithm": (jwk_of(RSA, "k", alg="PS256"), "alg is not RS256"),
    "the algorithm of another kind": (jwk_of(RSA, "k", alg="ES256"), "alg is not RS256"),
    "a symmetric algorithm": (jwk_of(RSA, "k", alg="HS256"), "alg is not RS256"),
    "a symmetric key": ({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}, "neither RSA nor EC"),
    "an Edwards key": ({"kty": "OKP", "crv": "Ed25519", "x": "x", "kid": "k"}, "neither RSA nor EC"),
    "a key for encryption": (jwk_of(RSA, "k", use="enc"), "not for verifying"),
    "a key that signs only": (jwk_of(RSA, "k", key_ops=["sign"]), "not for verifying"),
    "operations that are none": (jwk_of(RSA, "k", key_ops="verify"), "not for verifying"),
    "a private key": (jwk_of(RSA, "k", d="AQAB"), "private key"),
    "numbers that are none": (jwk_of(RSA, "k", n="!"), "numbers are no key"),
    "a point off the curve": (jwk_of(EC, "k", x=jwk_of(EC, "k")["y"]), "numbers are no key"),
    "no numbers": ({"kty": "RSA", "kid": "k"}, "numbers are no key"),
    "a key id that is no text": (jwk_of(RSA, None, kid=7), "kid is no text"),
    "no kind": ({"kid": "k"}, "neither RSA nor EC"),
    "a kind that is no text": ({"kty": ["RSA"], "kid": "k"}, "neither RSA nor EC"),
    "no object": ("k", "no object"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_key_that_must_not_be_used_is_left_out_by_name(name: str) -> None:
    """The others of the document go on; alone it makes the document one without keys."""
    entry, why = LEFT_OUT[name]
    keys = read_jwks(jwks_of(entry, jwk_of(RSA, "good")))
    assert (1, 1) == (len(keys), len(keys.left_out))
    assert keys.left_out[0].startswith("key 1: ")
    assert why in keys.left_out[0]
    with pytest.raises(ValueError, match=r"no usable key"):
        read_jwks(jwks_of(entry))


@pytest.mark.parametrize("entry", [jwk_of(RSA, "k", use=None), jwk_of(RSA, "k", key_ops=["verify", "sign"])])
def test_use_and_operations_may_be_left_out(entry: dict[str, Any]) -> None:
    """Where they are given they must allow verifying."""
    assert read_jwks(jwks_of(entry)).find("k", "RS256") is not None


@pytest.mark.parametrize(
    "document", [b"", b"nonsense", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b"[" * 100_000, b"\xff", b"null"]
)
def test_what_is_no_jwks_says_so(document: bytes) -> None:
    """An error page behind a URL is not taken for "no keys"."""
    with pytest.raises(ValueError, match=r"it is no JSON|it is no JWKS|it holds no usable key"):
        read_jwks(document)


class Source:
    """A document under the test's control."""

    name = "TRACEWIRE_JWKS_URL=https://issuer.test/keys"

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.error: Exception | None = None
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> bytes:
        self.reads += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.document

    async def close(self) -> None:
        self.gate.set()


class Clock:
    """Monotonic seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def opened(source: Source, clock: Clock) -> KeyRing:
    """A ring over the source that reads anew of itself never within a test."""
    ring = KeyRing(source, cache_seconds=1e6, refetch_seconds=10, clock=clock)
    await ring.open()
    return ring


async def test_unknown_key_ids_read_anew_once_in_their_time() -> None:
    """However many ask: a flood of made-up ids costs the issuer one request in ten seconds."""
    source, clock = Source(jwks_of(jwk_of(RSA, "r"))), Clock()
    ring = await opened(source, clock)
    source.document = jwks_of(jwk_of(EC, "e"))
    for _ in range(20):
        await ring.renew()
    assert (1, None) == (source.reads, ring.find("e", "ES256"))
    clock.now += 10
    await asyncio.gather(*(ring.renew() for _ in range(20)))
    assert 2 == source.reads
    assert ring.find("e", "ES256") is not None
    assert ring.find("r", "RS256") is None, "a key that was taken out holds no more"
    await ring.close()


@pytest.mark.parametrize("error", [OSError("refused"), TimeoutError(), None])
async def test_the_last_good_keys_go_on_and_the_failure_is_named(error: Exception | None) -> None:
    """A source that fails, or answers with something else, is not an issuer without keys."""
    source, clock = Source(jwks_of(jwk_of(RSA, "r"))), Clock()
    ring = await opened(source, clock)
    source.error, source.document = error, b"<html>"
    clock.now += 10
    with pytest.raises(KeysUnavailableError, match=r"TRACEWIRE_JWKS_URL=https://issuer.test/keys"):
        await ring.renew()
    assert ring.find("r", "RS256") is not None
    with pytest.raises(KeysUnavailableError):
        await ring.renew()
    assert 2 == source.reads, "nor is a failing source asked more often"
    source.error, source.document = None, jwks_of(jwk_of(EC, "e"))
    clock.now += 10
    await ring.renew()
    assert ring.find("e", "ES256") is not None
    await ring.close()


async def test_who_gives_up_waiting_does_not_take_the_reading_from_the_others() -> None:
    """A socket whose time to sign in is over is cancelled in the middle of it."""
    source, clock = Source(jwks_of(jwk_of(RSA, "r"))), Clock()
    ring = await opened(source, clock)
    clock.now += 10
    source.gate.clear()
    source.document = jwks_of(jwk_of(EC, "e"))
    impatient, patient = asyncio.create_task(ring.renew()), asyncio.create_task(ring.renew())
    while source.reads < 2:
        await turns(1)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    source.gate.set()
    await patient
    assert (2, True) == (source.reads, ring.find("e", "ES256") is not None)
    await ring.close()


async def test_without_keys_at_the_start_it_does_not_open() -> None:
    """The reason names the setting, and the one thing that is wrong."""
    source = Source(b"{}")
    with pytest.raises(KeysUnavailableError, match=r"TRACEWIRE_JWKS_URL=.*it is no JWKS"):
        await KeyRing(source, cache_seconds=1, refetch_seconds=0).open()


async def test_keys_are_read_anew_when_their_time_is_over() -> None:
    """Without anybody asking: a key that the issuer withdrew holds no longer than that."""
    source = Source(jwks_of(jwk_of(RSA, "r")))
    ring = KeyRing(source, cache_seconds=0.01, refetch_seconds=0)
    await ring.open()
    source.document = jwks_of(jwk_of(EC, "e"))
    async with asyncio.timeout(5):
        while ring.find("e", "ES256") is None:
            await turns(1)
    assert ring.find("r", "RS256") is None
    await ring.close()


async def test_a_file_that_is_not_there_is_named(tmp_path: Any) -> None:
    """With the reason of the system."""
    missing = tmp_path / "keys.json"
    with pytest.raises(KeysUnavailableError, match=r"TRACEWIRE_JWKS_FILE=.*keys.json: No such file"):
        await KeyRing(JwksFile(str(missing)), cache_seconds=1, refetch_seconds=0).open()


async def test_an_endpoint_is_asked_and_bounded() -> None:
    """A real one: what it serves is taken; a redirect, an error and an endless document are failures by name."""
    async with jwks_endpoint(jwks_of(jwk_of(RSA, "r"))) as endpoint:
        source = JwksUrl(f"{endpoint.url}?key=hidden")
        assert "hidden" not in source.name
        assert json.loads(endpoint.document) == json.loads(await source.read())
        for status in (302, 404, 500):
            endpoint.status = status
            with pytest.raises(OSError, match=f"HTTP {status}"):
                await source.read()
        endpoint.status, endpoint.document = 200, b"x" * (1024 * 1024 + 1)
        with pytest.raises(OSError, match="more than 1048576 bytes"):
            await source.read()
        await source.close()


def problems_of(**settings: str) -> list[str]:
    """What is wrong with these settings."""
    try:
        load_settings({f"TRACEWIRE_{name.upper()}": value for name, value in settings.items()})
    except SettingsError as error:
        return list(error.failures)
    return []


SECRET = "s" * 32
BOTH_WAYS = [
    {"jwt_secret": SECRET, "jwks_file": "keys.json"},
    {"jwt_secret": SECRET, "jwks_url": "https://issuer.test/keys"},
    {"jwks_file": "keys.json", "jwks_url": "https://issuer.test/keys"},
]


@pytest.mark.parametrize("settings", BOTH_WAYS)
def test_tokens_are_signed_one_way(settings: dict[str, str]) -> None:
    """A secret beside public keys would leave a second way in open; both settings are named."""
    [told] = problems_of(**settings)
    assert [name for name in settings if f"TRACEWIRE_{name.upper()}" in told] == list(settings)
    assert SECRET not in told


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://issuer.test/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://localhost/keys", True),
        ("http://issuer.test/keys", False),
        ("file:///keys.json", False),
        ("issuer.test/keys", False),
        ("https://user:password@issuer.test/keys", False),
        ("https://", False),
        ("https://[::1", False),
        ("https://issuer.test:port/", False),
    ],
)
def test_keys_come_over_a_line_that_nobody_else_writes_on(url: str, *, good: bool) -> None:
    """Whoever can change the keys can sign in as anybody."""
    told = problems_of(jwks_url=url)
    assert good == (not told)
    assert all(failure.startswith("TRACEWIRE_JWKS_URL: ") and "password@" not in failure for failure in told)


def test_with_public_keys_the_server_is_not_in_development_mode() -> None:
    """It may listen beyond loopback."""
    assert problems_of(jwks_url="https://issuer.test/keys", host="203.0.113.1") == []
    assert not load_settings({"TRACEWIRE_JWKS_FILE": "keys.json"}).development
