"""What a tool's arguments show of secrets on the wire: nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewire.engine.tool_call import REDACTED, redact

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "key",
    [
        "password", "Password", "passwd", "passphrase", "db_password", "secret", "client_secret", "SECRET_KEY", "token",
        "access_token", "refreshToken", "api_key", "apikey", "API-KEY", "x-api-key", "auth", "Authorization",
        "credential", "credentials", "cookie", "Set-Cookie", "private_key", "privateKey",
    ],
)  # fmt: skip
def test_a_value_under_a_name_that_looks_secret_is_redacted(key: str) -> None:
    """Whatever the value is, and however deep it stands."""
    for value in (SECRET, 12345, [SECRET], {"inner": SECRET}, None):
        assert {"a": [{key: REDACTED, "q": "kept"}]} == redact({"a": [{key: value, "q": "kept"}]})


@pytest.mark.parametrize(
    "key", ["q", "query", "author", "authority", "passage", "compass", "user", "key", "keyword", "id"]
)
def test_a_value_under_an_ordinary_name_is_kept(key: str) -> None:
    """Names that merely share letters with the others."""
    assert {key: SECRET} == redact({key: SECRET})


@pytest.mark.parametrize(
    "value",
    [
        "Bearer abc.def",
        "bearer abc",
        "BEARER abc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "-----BEGIN PRIVATE KEY-----\nMIIE",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n",
    ],
)
def test_a_value_that_looks_secret_is_redacted_under_any_name(value: str) -> None:
    """By itself, in a list, in a tuple, in a mapping."""
    assert redact(value) == REDACTED
    assert redact({"header": value, "rows": ((value,), "kept")}) == {"header": REDACTED, "rows": [[REDACTED], "kept"]}


@pytest.mark.parametrize("value", ["the bearer of news", "eyJ", "eye", "BEGIN", "", 7, 1.5, True, None, b"ab"])
def test_an_ordinary_value_is_kept(value: Any) -> None:
    """Also what begins alike."""
    assert {"q": value} == redact({"q": value})


@given(depth=st.integers(0, 40), in_list=st.booleans())
def test_a_secret_is_redacted_however_deep_it_stands(depth: int, in_list: bool) -> None:
    """Past the depth to which arguments are looked through nothing is shown at all."""
    value: Any = {"password": SECRET}
    for _ in range(depth):
        value = [value] if in_list else {"inner": value}
    assert SECRET not in repr(redact(value))


@pytest.mark.parametrize("in_list", [False, True])
def test_what_stands_eight_deep_is_shown_and_no_more(in_list: bool) -> None:
    """Of mappings and of lists: what is in nine of them is left out whole, and what is in eight is not."""

    def nested(innermost: Any, count: int) -> Any:
        for _ in range(count):
            innermost = [innermost] if in_list else {"inner": innermost}
        return innermost

    assert nested("kept", 9) == redact(nested("kept", 9))
    assert nested(REDACTED, 9) == redact(nested(["left out"], 9))


def test_what_contains_itself_is_no_endless_loop() -> None:
    """It cannot be written as JSON, and is refused further on, not here."""
    circle: dict[str, Any] = {"q": 1}
    circle["self"] = circle
    assert redact(circle)["q"] == 1


def test_the_agents_own_arguments_are_not_changed() -> None:
    """The tool still needs its secret."""
    arguments = {"token": SECRET, "rows": [{"password": SECRET}]}
    redact(arguments)
    assert arguments == {"token": SECRET, "rows": [{"password": SECRET}]}


def test_keys_that_are_no_texts_are_kept() -> None:
    """JSON turns them into texts later."""
    assert redact({1: "a", None: "b"}) == {1: "a", None: "b"}
