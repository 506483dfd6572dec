"""Secrets in files: read as they are, and each way in which one cannot be read is said."""

from pathlib import Path

import pytest

from tracewire.errors import SettingsError
from tracewire.settings import load_settings

SECRET = "a secret of more than 32 characters, as HS256 asks"


def file_of(folder: Path, content: bytes) -> str:
    """A file with this content."""
    path = folder / "secret"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"  {SECRET}\r\n"])
def test_a_secret_is_what_its_file_holds_without_the_space_around_it(tmp_path: Path, content: str) -> None:
    """As an editor, `echo` or a secret store leaves it."""
    path = file_of(tmp_path, content.encode())
    settings = load_settings({"TRACEWIRE_JWT_SECRET_FILE": path, "TRACEWIRE_OPS_TOKEN_FILE": path})
    assert (SECRET, SECRET) == (settings.jwt_secret, settings.ops_token)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TRACEWIRE_OPS_TOKEN_FILE": "/nowhere/token"}, "TRACEWIRE_OPS_TOKEN_FILE=/nowhere/token: No such file"),
        ({"TRACEWIRE_OPS_TOKEN_FILE": "s3cret-s3cret"}, "TRACEWIRE_OPS_TOKEN_FILE: No such file"),
        ({"TRACEWIRE_OPS_TOKEN_FILE": "{file}", "TRACEWIRE_OPS_TOKEN": "x"}, "one secret, said twice"),
        ({"TRACEWIRE_OPS_TOKEN_FILE": "{empty}"}, "is empty"),
        ({"TRACEWIRE_OPS_TOKEN_FILE": "{binary}"}, "is no text"),
        ({"TRACEWIRE_JWT_SECRET_FILE": "{file}"}, "must be 32 bytes or longer"),
        ({"TRACEWIRE_JWT_SECRETS_FILE": "{file}"}, "did you mean TRACEWIRE_JWT_SECRET_FILE?"),
    ],
)
def test_what_keeps_a_secret_from_being_read_is_said(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    """By the variable, and without the secret."""
    paths = {}
    for name, content in (("file", b"short"), ("empty", b" \n"), ("binary", b"\xff\xfe")):
        (tmp_path / name).mkdir()
        paths[name] = file_of(tmp_path / name, content)
    with pytest.raises(SettingsError) as refused:
        load_settings({name: value.format(**paths) for name, value in environ.items()})
    (failure,) = refused.value.failures
    assert said in failure
    assert "short" not in failure


def test_a_secret_in_a_file_makes_a_server_for_others(tmp_path: Path) -> None:
    """It may listen beyond loopback, which development mode may not."""
    path = file_of(tmp_path, SECRET.encode())
    environ = {"TRACEWIRE_JWT_SECRET_FILE": path, "TRACEWIRE_OPS_TOKEN_FILE": path}
    everywhere = "0.0.0.0"  # noqa: S104 # nothing listens
    settings = load_settings(environ, host=everywhere, ops_host=everywhere)
    assert not settings.development
