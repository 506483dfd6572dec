"""The settings: described, checked as a whole, and every failure named at once."""

from typing import Any

import pytest

from tracewire.errors import SettingsError
from tracewire.settings import SettingInfo, Settings, describe_settings, is_loopback, load_settings

SECRET = "s" * 32


def failures(environ: dict[str, str], **overrides: Any) -> tuple[str, ...]:
    """What is wrong with these."""
    with pytest.raises(SettingsError) as raised:
        load_settings(environ, **overrides)
    return raised.value.failures


def test_every_setting_is_described_with_its_variable_its_default_and_its_unit() -> None:
    """In the order of the declarations; whoever gives a time, a size or a count says in what."""
    described = list(describe_settings())
    assert list(Settings.__struct_fields__) == [info.name for info in described]
    for info in described:
        assert f"TRACEWIRE_{info.name.upper()}" == info.variable
        assert getattr(Settings(), info.name) == info.default
        assert info.description, info.name
        if info.name.endswith("_seconds"):
            assert info.unit == "seconds", info.name
        if "bytes" in info.name:
            assert info.unit == "bytes", info.name


def test_the_defaults_are_a_server_that_starts() -> None:
    """Nothing set: development mode on loopback, with the limits of the contract."""
    settings = load_settings({})
    assert Settings() == settings
    assert (settings.development, is_loopback(settings.host) and is_loopback(settings.ops_host)) == (True, True)
    assert (
        settings.runs_per_user_max,
        settings.sockets_per_user_max,
        settings.runs_max,
        settings.sockets_max,
        settings.frame_bytes_max,
    ) == (8, 10, 10_000, 10_000, 64 * 1024)
    assert (
        settings.start_deadline_seconds,
        settings.tool_deadline_seconds,
        settings.run_deadline_seconds,
        settings.idle_deadline_seconds,
    ) == (5, 60, 3_600, 60)
    assert (
        settings.bridge_deadline_seconds,
        settings.emitter_deadline_seconds,
        settings.socket_deadline_seconds,
        settings.client_deadline_seconds,
    ) == (1, 2, 6, 10)


GIVEN = {
    "TRACEWIRE_JWT_SECRET": SECRET,
    "TRACEWIRE_JWKS_URL": "https://keys.example/jwks.json",
    "TRACEWIRE_LOG_LEVEL": "debug",
    "TRACEWIRE_TRACE_SHARE": "0.5",
    "TRACEWIRE_CANCEL_GRACE_SECONDS": "0.25",
    "TRACEWIRE_METRICS_USER_ID": "hash",
    "TRACEWIRE_OUTBOX_AGE_SECONDS": "1.5",
    "TRACEWIRE_READY_RUNS_MAX": "50",
}
"""Values where a text or one more than the default would not do."""


@pytest.mark.parametrize("info", tuple(describe_settings()), ids=lambda info: info.name)
def test_each_setting_can_be_given_by_its_variable(info: SettingInfo) -> None:
    """As the text that an environment holds."""
    if isinstance(info.default, tuple):
        plain = "a:b,c:d"
    elif isinstance(info.default, str):
        plain = "text"
    else:
        plain = f"{info.default + 1:g}"
    needed = {
        "TRACEWIRE_HOST": {"TRACEWIRE_JWT_SECRET": SECRET},
        "TRACEWIRE_OPS_HOST": {"TRACEWIRE_OPS_TOKEN": "t"},
    }.get(info.variable, {})
    settings = load_settings(needed | {info.variable: GIVEN.get(info.variable, plain)})
    assert getattr(settings, info.name) != info.default


def test_the_command_line_lies_over_the_environment() -> None:
    """`None` is an option that was not given."""
    settings = load_settings({"TRACEWIRE_PORT": "1", "TRACEWIRE_OPS_PORT": "2"}, port=3, ops_port=None)
    assert (settings.port, settings.ops_port) == (3, 2)


@pytest.mark.parametrize(
    ("raw", "agents"),
    [("", ()), ("a:b", ("a:b",)), (" a:b , c:d ,", ("a:b", "c:d")), (",,", ())],
)
def test_a_list_is_separated_by_commas(raw: str, agents: tuple[str, ...]) -> None:
    """Blanks around its parts and empty parts do not count."""
    assert agents == load_settings({"TRACEWIRE_AGENTS": raw}).agents


def test_a_list_of_the_command_line_is_a_list_already() -> None:
    """`--agent` given twice."""
    assert load_settings({}, agents=("a:b", "c:d")).agents == ("a:b", "c:d")


def test_every_failure_is_named_at_once() -> None:
    """Values that do not parse or do not fit, unknown variables, and contradictions: each with what it must be."""
    found = failures(
        {
            "TRACEWIRE_PORT": "http",
            "TRACEWIRE_RUNS_MAX": "0",
            "TRACEWIRE_TRACE_SHARE": "2",
            "TRACEWIRE_TOOL_DEADLINE_SECONDS": "",
            "TRACEWIRE_RUNS_PER_USERS_MAX": "3",
            "TRACEWIRE_JWT_SECRET": "short",
            "TRACEWIRE_LOG_LEVEL": "loud",
        }
    )
    named = {failure.partition("=")[0].partition(":")[0] for failure in found}
    assert {
        "TRACEWIRE_PORT",
        "TRACEWIRE_RUNS_MAX",
        "TRACEWIRE_TRACE_SHARE",
        "TRACEWIRE_TOOL_DEADLINE_SECONDS",
        "TRACEWIRE_RUNS_PER_USERS_MAX",
        "TRACEWIRE_JWT_SECRET",
        "TRACEWIRE_LOG_LEVEL",
    } == named
    assert len(found) == 7
    assert any("'http'" in failure and "int" in failure for failure in found)
    assert any("TRACEWIRE_RUNS_MAX='0'" in failure and ">= 1" in failure for failure in found)


def test_a_failure_is_not_told_of_a_default_that_stands_in_for_what_was_wrong() -> None:
    """The public port cannot be read: that the ops port equals the default of it is not a second failure."""
    found = failures({"TRACEWIRE_PORT": "http", "TRACEWIRE_OPS_PORT": "8000"})
    assert [failure.partition(":")[0] for failure in found] == ["TRACEWIRE_PORT='http'"]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("TRACEWIRE_RUN_PER_USER_MAX", "did you mean TRACEWIRE_RUNS_PER_USER_MAX?"),
        ("TRACEWIRE_JWT_SECRETS", "did you mean TRACEWIRE_JWT_SECRET?"),
        ("TRACEWIRE_ZZZZZZZZZZZZZZZZ", "`tracewire serve --help` lists all"),
    ],
)
def test_an_unknown_variable_is_refused_with_what_was_probably_meant(variable: str, hint: str) -> None:
    """A misspelt limit must not be silently the default."""
    (failure,) = failures({variable: "1"})
    assert failure.startswith(f"{variable}: there is no such setting")
    assert hint in failure


def test_variables_of_others_and_the_clients_token_are_left_alone() -> None:
    """`TRACEWIRE_TOKEN` belongs to `tracewire ask`."""
    assert Settings() == load_settings({"TRACEWIRE_TOKEN": "t", "PATH": "x", "TRACEWIREX": "y", "OTEL_X": "z"})


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TRACEWIRE_JWT_SECRET": "s" * 31}, "TRACEWIRE_JWT_SECRET: must be 32 bytes"),
        ({"TRACEWIRE_HOST": "0.0.0.0"}, "TRACEWIRE_HOST=0.0.0.0: without TRACEWIRE_JWT_SECRET"),  # noqa: S104 # refused
        ({"TRACEWIRE_HOST": "example.org"}, "TRACEWIRE_HOST=example.org: without TRACEWIRE_JWT_SECRET"),
        ({"TRACEWIRE_OPS_HOST": "::"}, "TRACEWIRE_OPS_HOST=::: beyond loopback"),
        ({"TRACEWIRE_LOG_LEVEL": "loud"}, "TRACEWIRE_LOG_LEVEL='loud'"),
        ({"TRACEWIRE_PORT": "9464"}, "TRACEWIRE_OPS_PORT=9464: is TRACEWIRE_PORT too"),
        ({"TRACEWIRE_OUTBOX_AGE_SECONDS": "6"}, "TRACEWIRE_SOCKET_DEADLINE_SECONDS: must be above"),
        ({"TRACEWIRE_RUN_DEADLINE_SECONDS": "inf"}, "TRACEWIRE_RUN_DEADLINE_SECONDS=inf: must be a finite number"),
        ({"TRACEWIRE_CLIENT_DEADLINE_SECONDS": "nan"}, "TRACEWIRE_CLIENT_DEADLINE_SECONDS='nan'"),
    ],
)
def test_settings_that_cannot_hold_are_refused(environ: dict[str, str], named: str) -> None:
    """Alone or with each other: one failure, which names the variable and what to do."""
    (failure,) = failures(environ)
    assert failure.startswith(named)


@pytest.mark.parametrize(
    "environ",
    [
        {"TRACEWIRE_HOST": "0.0.0.0", "TRACEWIRE_JWT_SECRET": SECRET},  # noqa: S104 # allowed with a secret
        {"TRACEWIRE_OPS_HOST": "0.0.0.0", "TRACEWIRE_OPS_TOKEN": "t"},  # noqa: S104 # allowed with a token
        {"TRACEWIRE_HOST": "::1"},
        {"TRACEWIRE_HOST": "localhost"},
        {"TRACEWIRE_PORT": "0", "TRACEWIRE_OPS_PORT": "0"},
        {"TRACEWIRE_PORT": "9464", "TRACEWIRE_OPS_HOST": "127.0.0.2"},
        {"TRACEWIRE_LOG_LEVEL": "WARNING"},
        {"TRACEWIRE_JWT_SECRET": "é" * 16},
    ],
)
def test_settings_that_hold_are_taken(environ: dict[str, str]) -> None:
    """What looks like the cases above and is right."""
    load_settings(environ)


def test_a_canary_whose_tokens_an_issuer_signs_needs_the_file_of_one() -> None:
    """Without canaries, or where the server signs itself, there is none to name."""
    issuer = {"TRACEWIRE_JWKS_FILE": "keys.json"}
    canary = {"TRACEWIRE_CANARY_SECONDS": "30"}
    (failure,) = failures(issuer | canary)
    assert failure.startswith("TRACEWIRE_CANARY_TOKEN_FILE: ")
    for environ in (issuer, canary, issuer | canary | {"TRACEWIRE_CANARY_TOKEN_FILE": "token"}):
        load_settings(environ)


def test_a_secret_is_not_shown_in_a_failure() -> None:
    """The failures go to the terminal and into logs."""
    found = failures({"TRACEWIRE_JWT_SECRET": "hunter2", "TRACEWIRE_PORT": "x"})
    assert not any("hunter2" in failure for failure in found)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 # told apart
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host: str, loopback: bool) -> None:
    """A name that merely begins like one is not."""
    assert loopback is is_loopback(host)
