"""Sign-in: whose token it is, which tokens do not hold, and the secret of development mode."""

import base64
import hashlib
import hmac
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tracewire.gateway.auth import (
    DEVELOPMENT_ISSUER,
    AuthenticationError,
    Authenticator,
    Principal,
    development_secret,
    sign_token,
)
from tracewire.settings import Settings, load_settings
from tracewire_telemetry.vocabulary import CloseCode

SECRET = "a secret of the tests, long enough for every algorithm that is refused here: 64 bytes"
NOW = int(time.time())


def settings_with(**changes: Any) -> Settings:
    """A production sign-in: secret, issuer and audience."""
    values = {"jwt_secret": SECRET, "jwt_issuer": "https://issuer.example", "jwt_audience": "tracewire"}
    return load_settings({}, **(values | changes))


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A token that holds but for these changes; `None` leaves a claim out."""
    claims = {"sub": "ada", "exp": NOW + 6_000, "iss": "https://issuer.example", "aud": "tracewire"} | changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, algorithm=algorithm)


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes = SECRET.encode()) -> str:
    """A token put together without a library that would refuse to."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signing = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{signing}.{part(hmac.new(secret, signing.encode(), hashlib.sha256).digest())}"


CLAIMS = {"sub": "ada", "exp": NOW + 6_000, "iss": "https://issuer.example", "aud": "tracewire"}


def test_a_token_that_holds_gives_its_principal() -> None:
    """The user, and until when."""
    assert Principal("ada", NOW + 6_000) == Authenticator(settings_with()).verify(signed())


def test_the_hand_made_token_of_the_cases_below_would_hold() -> None:
    """So that each of them fails for its own reason alone."""
    token = by_hand({"alg": "HS256", "typ": "JWT"}, CLAIMS)
    assert Authenticator(settings_with()).verify(token).user_id == "ada"


BAD: dict[str, Callable[[], str | None]] = {
    "none at all": lambda: None,
    "empty": lambda: "",
    "no token": lambda: "nonsense",
    "two parts": lambda: "a.b",
    "three parts of nothing": lambda: "..",
    "not ASCII": lambda: "é.ü.ß",
    "a lone surrogate": lambda: "\ud800.a.b",
    "another secret": lambda: signed(secret="another secret, 32 bytes or longer"),
    "signature cut off": lambda: signed().rpartition(".")[0] + ".",
    "signature of another": lambda: signed().rpartition(".")[0] + "." + signed(sub="eve").rpartition(".")[2],
    "claims of another": lambda: ".".join(
        [signed().split(".")[0], signed(sub="eve").split(".")[1], signed().split(".")[2]]
    ),
    "alg none": lambda: by_hand({"alg": "none"}, CLAIMS).rpartition(".")[0] + ".",
    "alg None, signed": lambda: by_hand({"alg": "None"}, CLAIMS),
    "alg missing": lambda: by_hand({"typ": "JWT"}, CLAIMS),
    "alg no text": lambda: by_hand({"alg": ["HS256"]}, CLAIMS),
    "HS384": lambda: signed(algorithm="HS384"),
    "HS512": lambda: signed(algorithm="HS512"),
    "RS256 signed with the secret": lambda: by_hand({"alg": "RS256"}, CLAIMS),
    "ES256 signed with the secret": lambda: by_hand({"alg": "ES256"}, CLAIMS),
    "a key of its own": lambda: by_hand(
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "YXR0YWNrZXI"}, "kid": "x"}, CLAIMS, b"attacker"
    ),
    "unknown critical header": lambda: by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, CLAIMS),
    "claims are a list": lambda: by_hand({"alg": "HS256"}, []),  # type: ignore[arg-type] # wrong on purpose
    "expired": lambda: signed(exp=NOW - 6),
    "no expiry": lambda: signed(exp=None),
    "expiry no number": lambda: signed(exp="soon"),
    "not yet": lambda: signed(nbf=NOW + 3_600),
    "not-before no number": lambda: signed(nbf="soon"),
    "another issuer": lambda: signed(iss="https://evil.example"),
    "no issuer": lambda: signed(iss=None),
    "another audience": lambda: signed(aud="billing"),
    "other audiences": lambda: signed(aud=["billing", "mail"]),
    "no audience": lambda: signed(aud=None),
    "no subject": lambda: signed(sub=None),
    "empty subject": lambda: signed(sub=""),
    "blank subject": lambda: signed(sub="  "),
    "subject no text": lambda: by_hand({"alg": "HS256"}, CLAIMS | {"sub": 7}),
    "subject too long": lambda: signed(sub="x" * 257),
    "expiry beyond all numbers": lambda: by_hand({"alg": "HS256"}, CLAIMS | {"exp": float("inf")}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_token_that_does_not_hold_is_refused_and_not_repeated(name: str) -> None:
    """With the close code that tells the client whether a new token helps; the message says why, without the token."""
    token = BAD[name]()
    with pytest.raises(AuthenticationError) as raised:
        Authenticator(settings_with()).verify(token)
    expected = CloseCode.TOKEN_EXPIRED if name == "expired" else CloseCode.UNAUTHENTICATED
    assert expected is raised.value.close_code
    assert raised.value.code == "unauthenticated"
    parts = [part for part in (token or "").split(".") if len(part) > 8]
    assert [part for part in parts if part in str(raised.value)] == []
    assert SECRET not in str(raised.value)


def test_clocks_may_differ_by_the_tolerated_seconds() -> None:
    """In both directions."""
    authenticator = Authenticator(settings_with(jwt_leeway_seconds=300))
    now = int(time.time())
    assert authenticator.verify(signed(exp=now - 200)).expires_at == now - 200
    assert authenticator.verify(signed(nbf=now + 200)).user_id == "ada"


def test_issuer_and_audience_are_checked_where_they_are_configured() -> None:
    """Where they are not, a token may name any or none."""
    authenticator = Authenticator(settings_with(jwt_issuer="", jwt_audience=""))
    for changes in ({}, {"iss": None, "aud": None}, {"iss": "x", "aud": ["y", "z"]}):
        assert authenticator.verify(signed(**changes)).user_id == "ada"


def test_a_token_that_this_server_signs_holds_here() -> None:
    """With the configured issuer and audience, for as long as was asked."""
    settings = settings_with()
    before = int(time.time())
    principal = Authenticator(settings).verify(sign_token(settings, "bob", ttl_seconds=60))
    assert principal.user_id == "bob"
    assert before + 60 <= principal.expires_at <= int(time.time()) + 60


@pytest.mark.parametrize("user_id", ["ada", "ada@example.org", "user|7", "日本", "x" * 256])
def test_any_readable_text_of_up_to_256_characters_is_a_user_id(user_id: str) -> None:
    """As identity providers make them."""
    assert user_id == Authenticator(settings_with()).verify(signed(sub=user_id)).user_id


# --- development mode -----------------------------------------------------------------------------------------------


def development(folder: Path) -> Settings:
    """No secret is configured."""
    return load_settings({}, data_dir=str(folder))


def test_the_development_secret_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, file 0600, whatever the umask; 32 characters or more, and no two alike."""
    before = os.umask(0)
    try:
        secrets = [development_secret(tmp_path / name) for name in ("one", "two")]
    finally:
        os.umask(before)
    for name in ("one", "two"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / name / "development-secret").stat().st_mode) == 0o600
    assert (all(len(secret) >= 32 for secret in secrets), len(set(secrets))) == (True, 2)


def test_the_development_secret_stays(tmp_path: Path) -> None:
    """Tokens of before hold after a restart."""
    token = sign_token(development(tmp_path), "ada", ttl_seconds=60)
    assert Authenticator(development(tmp_path)).verify(token).user_id == "ada"
    assert development_secret(tmp_path) == development_secret(tmp_path)


def test_a_token_of_another_folder_does_not_hold(tmp_path: Path) -> None:
    """Each folder has its own secret."""
    token = sign_token(development(tmp_path / "one"), "ada", ttl_seconds=60)
    with pytest.raises(AuthenticationError):
        Authenticator(development(tmp_path / "two")).verify(token)


def test_a_development_token_names_its_issuer(tmp_path: Path) -> None:
    """One without it was not made for development."""
    authenticator = Authenticator(development(tmp_path))
    secret = development_secret(tmp_path)
    assert authenticator.verify(signed(secret, iss=DEVELOPMENT_ISSUER, aud=None)).user_id == "ada"
    with pytest.raises(AuthenticationError):
        authenticator.verify(signed(secret, iss=None, aud=None))


@pytest.mark.parametrize("text", ["", "short", " " * 40])
def test_a_secret_file_that_holds_no_secret_is_refused(tmp_path: Path, text: str) -> None:
    """It says which file, and what to do; it is not overwritten."""
    file = tmp_path / "development-secret"
    file.write_text(text)
    with pytest.raises(OSError, match="remove it to have a new one made"):
        development_secret(tmp_path)
    assert text == file.read_text()


def test_with_a_secret_configured_no_file_is_made(tmp_path: Path) -> None:
    """Nor is one that is there believed."""
    settings = settings_with(data_dir=str(tmp_path / "data"))
    Authenticator(settings).verify(sign_token(settings, "ada", ttl_seconds=60))
    assert not (tmp_path / "data").exists()
