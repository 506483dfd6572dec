"""Where the canaries' tokens come from, and what their incidents count for."""

from pathlib import Path

import pytest

from support.auth import E2EAuthHelper
from tracewire.canary import CanaryTokenError, OwnTokens, reachable
from tracewire.gateway.auth import AuthenticationError, Authenticator, sign_token
from tracewire.gateway.keys import key_ring
from tracewire.settings import Settings, load_settings
from tracewire_telemetry.origins import CANARY_USER, DETECTION_USER, PROBE_USER, Origins
from tracewire_telemetry.vocabulary import Origin


def settings_in(folder: Path) -> Settings:
    """A server that signs for itself, with canaries."""
    return load_settings({}, data_dir=str(folder), canary_seconds=30)


@pytest.mark.parametrize("user_id", [CANARY_USER, DETECTION_USER])
def test_nobody_but_the_canary_signs_in_by_its_name(tmp_path: Path, user_id: str) -> None:
    """A token that is signed as well, and is not the canary's own, is refused by name."""
    settings = settings_in(tmp_path)
    authenticator = Authenticator(settings)
    strangers = sign_token(settings, user_id, ttl_seconds=60)
    with pytest.raises(AuthenticationError, match=f"the name '{user_id}' is the server's own"):
        authenticator.verify(strangers)
    own = OwnTokens(settings, authenticator, Origins()).of(user_id)
    assert user_id == authenticator.verify(own).user_id
    with pytest.raises(AuthenticationError):
        authenticator.verify(strangers)


def test_a_signed_token_is_used_again(tmp_path: Path) -> None:
    """The server remembers few of them; the two canaries have one each."""
    tokens = OwnTokens(settings_in(tmp_path), Authenticator(settings_in(tmp_path)), Origins())
    assert tokens.of(CANARY_USER) == tokens.of(CANARY_USER)
    assert tokens.of(CANARY_USER) != tokens.of(DETECTION_USER)


async def test_the_token_of_a_file_is_admitted_and_its_user_is_a_canary(tmp_path: Path) -> None:
    """Whichever name its issuer gave it; a new token in the file is used from then on."""
    issuer = E2EAuthHelper.by_key_pair(tmp_path)
    path = tmp_path / "token"
    path.write_text(issuer.token("service-account-7") + "\n")
    environ = issuer.environ | {"TRACEWIRE_CANARY_SECONDS": "30", "TRACEWIRE_CANARY_TOKEN_FILE": str(path)}
    settings = load_settings(environ, data_dir=str(tmp_path / "data"))
    keys = key_ring(settings)
    assert keys is not None
    await keys.open()
    try:
        authenticator, origins = Authenticator(settings, keys), Origins()
        assert origins.of("service-account-7") is Origin.USER
        tokens = OwnTokens(settings, authenticator, origins)
        assert origins.of("service-account-7") is Origin.CANARY  # before anything of an earlier process is taken over
        assert authenticator.verify(tokens.of(CANARY_USER)).user_id == "service-account-7"
        path.write_text(issuer.token(CANARY_USER))
        assert authenticator.verify(tokens.of(DETECTION_USER)).user_id == CANARY_USER
    finally:
        await keys.close()


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), ("", "holds no JWT"), ("no token", "holds no JWT")]
)
def test_a_file_without_a_token_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    """With what is wrong and what to do, and without what it holds; making the canaries raises nothing."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    settings = load_settings({}, data_dir=str(tmp_path), canary_seconds=30, canary_token_file=str(path))
    tokens = OwnTokens(settings, Authenticator(settings), Origins())
    with pytest.raises(CanaryTokenError, match=why) as raised:
        tokens.of(CANARY_USER)
    assert "TRACEWIRE_CANARY_TOKEN_FILE" in str(raised.value)
    assert "put" in str(raised.value)
    assert not content or content not in str(raised.value)


def test_people_are_users_and_what_checks_the_service_is_not() -> None:
    """The names of the canaries and of the probe; nothing that only resembles them."""
    origins = Origins()
    assert {Origin.CANARY} == {origins.of(name) for name in (CANARY_USER, DETECTION_USER, PROBE_USER)}
    assert {Origin.USER} == {origins.of(name) for name in ("ada", "canary-2", "Canary", "drill")}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://0.0.0.0:8000/ws", "ws://127.0.0.1:8000/ws"),
        ("ws://[::]:8000/ws", "ws://[::1]:8000/ws"),
        ("ws://127.0.0.1:8000/ws", "ws://127.0.0.1:8000/ws"),
        ("ws://192.0.2.7:1/ws", "ws://192.0.2.7:1/ws"),
        ("ws://[2001:db8::1]:1/ws", "ws://[2001:db8::1]:1/ws"),
    ],
)
def test_a_server_that_listens_everywhere_is_reached_on_loopback(url: str, expected: str) -> None:
    """Any other one at its own address."""
    assert expected == reachable(url)
