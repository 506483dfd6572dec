"""Every setting and limit, frozen, with its unit; read from `TRACEWIRE_…` and checked as a whole at start.

A setting's environment variable is its name in capitals after `TRACEWIRE_`. Lists are comma-separated. Secrets can be
named by a file (`secret_files.py`).
"""

import difflib
import ipaddress
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from tracewire.errors import SettingsError
from tracewire.secret_files import SECRETS, SUFFIX, read_secret_files

PREFIX: Final = "TRACEWIRE_"
OTHER_VARIABLES: Final = frozenset({"TRACEWIRE_TOKEN", "TRACEWIRE_URL"})
"""Variables of ours that are no settings of the server."""


RETENTION_BYTES_MIN: Final = 16 * 1024 * 1024
"""A smaller log would remove runs that its users are still reading."""


def _setting(description: str, *, unit: str = "", ge: float | None = None, le: float | None = None) -> Meta:
    return Meta(description=description, ge=ge, le=le, extra={"unit": unit})


class Settings(Struct, frozen=True, kw_only=True):
    """What a server runs with. Build it with `load_settings`, which checks what no single field can."""

    host: Annotated[str, _setting("address of the public port")] = "127.0.0.1"
    port: Annotated[int, _setting("public port; 0 picks a free one", ge=0, le=65535)] = 8000
    ops_host: Annotated[str, _setting("address of the ops port (metrics, ledgers of all users)")] = "127.0.0.1"
    ops_port: Annotated[int, _setting("ops port; 0 picks a free one", ge=0, le=65535)] = 9464
    ops_token: Annotated[str, _setting("bearer token of the ops port, required beyond loopback")] = ""
    data_dir: Annotated[str, _setting("folder of the event log, the recordings and the development secret")] = (
        ".tracewire"
    )
    agents: Annotated[tuple[str, ...], _setting("agents to serve beside the analyst, each as module:name")] = ()
    drills: Annotated[
        bool, _setting("true allows fire drills (`tracewire drill`), for the reserved user drill alone")
    ] = False
    environment: Annotated[str, _setting("deployment environment, as traces name it")] = "development"
    log_level: Annotated[str, _setting("debug, info, warning or error")] = "info"

    jwt_secret: Annotated[str, _setting("HS256 secret of sign-in tokens, 32 bytes or more; none: development mode")] = (
        ""
    )
    jwks_file: Annotated[str, _setting("file with the public keys (JWKS) of RS256 or ES256 tokens")] = ""
    jwks_url: Annotated[str, _setting("https address of the public keys (JWKS) of RS256 or ES256 tokens")] = ""
    jwks_cache_seconds: Annotated[
        float, _setting("age at which keys of TRACEWIRE_JWKS_URL are fetched anew", unit="seconds", ge=1)
    ] = 300
    jwks_refetch_seconds: Annotated[
        float, _setting("time between two fetches that unknown key ids ask for", unit="seconds", ge=0)
    ] = 10
    jwt_issuer: Annotated[tuple[str, ...], _setting("issuers of which tokens must name one; none: not checked")] = ()
    jwt_audience: Annotated[
        tuple[str, ...], _setting("audiences of which tokens must name one; none: not checked")
    ] = ()
    jwt_leeway_seconds: Annotated[float, _setting("tolerated difference of clocks", unit="seconds", ge=0, le=300)] = 5
    allowed_origins: Annotated[tuple[str, ...], _setting("origins whose pages may connect, beside the same host")] = ()
    authenticate_seconds: Annotated[
        float, _setting("time that a socket has to sign in", unit="seconds", ge=0.1, le=600)
    ] = 10

    ticket_seconds: Annotated[float, _setting("time in which a ticket must be used", unit="seconds", ge=0.1, le=60)] = (
        30
    )
    tickets_per_user_max: Annotated[int, _setting("unused tickets of one user", unit="tickets", ge=1)] = 10
    revocations_max: Annotated[int, _setting("revocations in force", unit="revocations", ge=1)] = 10_000

    runs_max: Annotated[int, _setting("open runs of all users", unit="runs", ge=1)] = 10_000
    runs_per_user_max: Annotated[int, _setting("open runs of one user", unit="runs", ge=1)] = 8
    run_starts_per_minute_max: Annotated[
        int, _setting("runs that one user may start, at once or spread over a minute", unit="runs a minute", ge=1)
    ] = 120
    sockets_max: Annotated[int, _setting("sockets of all users", unit="sockets", ge=1)] = 10_000
    sockets_per_user_max: Annotated[int, _setting("sockets of one user", unit="sockets", ge=1)] = 10
    sockets_unauthenticated_max: Annotated[
        int, _setting("sockets that are yet to bring their token", unit="sockets", ge=1)
    ] = 1_000
    request_head_seconds: Annotated[
        float, _setting("time that the head of a request or handshake may take", unit="seconds", ge=0.1)
    ] = 10
    request_seconds: Annotated[
        float, _setting("time that a whole request may take to arrive, its body included", unit="seconds", ge=0.1)
    ] = 120
    frames_per_second_max: Annotated[
        int,
        _setting(
            "frames that one user may send, acks of new events not counted; five times as many at once",
            unit="frames a second",
            ge=1,
        ),
    ] = 200
    frame_bytes_max: Annotated[int, _setting("size of a frame from a client", unit="bytes", ge=1024)] = 64 * 1024
    bad_frames_per_minute_max: Annotated[
        int, _setting("malformed and unknown frames before a socket is closed", unit="frames a minute", ge=0)
    ] = 10
    outbox_bytes_max: Annotated[
        int, _setting("unwritten bytes of one socket before it is cut as too slow", unit="bytes", ge=128 * 1024)
    ] = 256 * 1024
    outbox_age_seconds: Annotated[
        float, _setting("age of an unwritten frame before its socket is cut as too slow", unit="seconds", ge=0.1)
    ] = 5
    heartbeat_seconds: Annotated[
        float, _setting("time between pings of a socket; three without a sign of life close it", unit="seconds", ge=0.5)
    ] = 20
    ready_runs_max: Annotated[int, _setting("runs listed in `ready`", unit="runs", ge=1, le=100)] = 100
    recording_bytes_max: Annotated[int, _setting("size of an uploaded recording", unit="bytes", ge=1024)] = (
        16 * 1024 * 1024
    )
    recordings_per_user_max: Annotated[
        int, _setting("recordings kept of a user, the newest", unit="recordings", ge=1)
    ] = 20

    start_deadline_seconds: Annotated[
        float, _setting("time from a run's record to agent_started", unit="seconds", ge=0.1)
    ] = 5
    tool_deadline_seconds: Annotated[
        float, _setting("time that a tool may take before it ends with timeout", unit="seconds", ge=0.01)
    ] = 60
    run_deadline_seconds: Annotated[
        float, _setting("time that a run may take before it ends with timeout", unit="seconds", ge=0.01)
    ] = 3_600
    idle_deadline_seconds: Annotated[
        float, _setting("silence of a running agent that counts as an incident", unit="seconds", ge=0.1)
    ] = 60
    cancel_grace_seconds: Annotated[
        float, _setting("time that a stopped agent has to unwind before it is abandoned", unit="seconds", ge=0, le=1)
    ] = 0.5
    agent_threads_max: Annotated[int, _setting("threads for agents that are plain functions", unit="threads", ge=1)] = (
        64
    )
    history_turns_max: Annotated[
        int, _setting("earlier runs of its thread that an agent is shown", unit="runs", ge=0, le=1000)
    ] = 20
    loop_blocked_seconds: Annotated[
        float,
        _setting("blocking of the event loop after which the line that blocks is logged", unit="seconds", ge=0.05),
    ] = 0.5

    commit_retry_seconds: Annotated[
        float, _setting("time that a failing commit is retried", unit="seconds", ge=0, le=60)
    ] = 2
    retention_hours: Annotated[
        float,
        _setting("time that a run is kept after its end, and a recording after its last use", unit="hours", ge=0.001),
    ] = 24
    run_events_max: Annotated[
        int, _setting("events kept of a run, the newest; older ones expire", unit="events", ge=100)
    ] = 10_000
    retention_bytes: Annotated[
        int,
        _setting("size of the log past which the runs that ended first are removed; 0: none", unit="bytes", ge=0),
    ] = 10 * 1024**3
    retention_sweep_seconds: Annotated[
        float, _setting("time between two looks at what has expired", unit="seconds", ge=0.05)
    ] = 5
    drain_grace_seconds: Annotated[
        float, _setting("time that running runs get when the server is told to stop", unit="seconds", ge=0)
    ] = 5
    drain_seconds_max: Annotated[float, _setting("time that stopping may take in all", unit="seconds", ge=1)] = 10

    bridge_deadline_seconds: Annotated[
        float, _setting("time to the bridge before an event is missing", unit="seconds", ge=0.01)
    ] = 1
    emitter_deadline_seconds: Annotated[
        float, _setting("time to the emitter before an event is missing", unit="seconds", ge=0.01)
    ] = 2
    socket_deadline_seconds: Annotated[
        float, _setting("time to the socket before an event is missing", unit="seconds", ge=0.01)
    ] = 6
    client_deadline_seconds: Annotated[
        float, _setting("time to the ack before an event is missing", unit="seconds", ge=0.01)
    ] = 10
    silence_deadline_seconds: Annotated[
        float,
        _setting("time in which a socket that is asked for a sign of life must give one", unit="seconds", ge=0.01),
    ] = 5
    heal_deadline_seconds: Annotated[
        float,
        _setting(
            "time that a missing event has to come after all, once its run or its user is gone", unit="seconds", ge=0
        ),
    ] = 30
    missing_users_named_max: Annotated[
        int, _setting("series that name a user in violation", unit="series", ge=1, le=10_000)
    ] = 200
    missing_shown_seconds: Annotated[
        float, _setting("time that such a series is shown at least; 2.5 scrape intervals", unit="seconds", ge=0)
    ] = 37.5
    metrics_user_id: Annotated[
        str, _setting("how metrics name users: plain, by their id, or hash, by a hash of it")
    ] = "plain"
    canary_seconds: Annotated[
        float,
        _setting("time between two runs of the canary over the server's own socket; 0: none", unit="seconds", ge=0),
    ] = 0
    canary_detection_seconds: Annotated[
        float,
        _setting("time between two acks that the canary withholds to see them found missing", unit="seconds", ge=0.1),
    ] = 300
    canary_token_file: Annotated[str, _setting("file with the canary's token, where an issuer signs tokens")] = ""
    trace_share: Annotated[float, _setting("share of good runs whose traces are exported, 0 to 1", ge=0, le=1)] = 1.0
    trace_queue_bytes_max: Annotated[int, _setting("spans waiting for the exporter", unit="bytes", ge=1024 * 1024)] = (
        32 * 1024 * 1024
    )

    @property
    def development(self) -> bool:
        """Whether sign-in is unconfigured: a secret of the data folder, loopback only."""
        return not (self.jwt_secret or self.jwks_file or self.jwks_url)

    @property
    def data_path(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)


class SettingInfo(Struct, frozen=True):
    """One setting as people are shown it."""

    name: str
    variable: str
    unit: str
    default: Any
    description: str


def describe_settings() -> Iterator[SettingInfo]:
    """Every setting, in the order of its declaration."""
    for name, (_, meta, default) in _fields().items():
        unit = (meta.extra or {}).get("unit", "")
        yield SettingInfo(name, PREFIX + name.upper(), unit, default, meta.description or "")


def load_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings from the environment, with those of the command line laid over them (`None` leaves one alone).

    Raises:
        SettingsError: names every setting that is wrong, with the value it had and what it must be.
    """
    values: dict[str, Any] = {}
    environ, failures = read_secret_files(environ)
    fields = _fields()
    for name, (annotation, _, _) in fields.items():
        variable = PREFIX + name.upper()
        override = overrides.get(name)
        raw = override if override is not None else environ.get(variable)
        if raw is None:
            continue
        try:
            values[name] = msgspec.convert(_split(raw, annotation), annotation, strict=False)
        except msgspec.ValidationError as error:
            shown = "***" if "secret" in name or "token" in name else repr(raw)
            failures.append(f"{variable}={shown}: {error}")
    wrong = [failure.partition("=")[0] for failure in failures]
    failures.extend(_unknown(environ, fields))
    settings = Settings(**values)
    # What names a setting that could not be read would speak of its default.
    failures.extend(told for told in _contradictions(settings) if not any(variable in told for variable in wrong))
    if failures:
        raise SettingsError(failures)
    return settings


def _fields() -> dict[str, tuple[Any, Meta, Any]]:
    hints = get_type_hints(Settings, include_extras=True)
    fields: dict[str, tuple[Any, Meta, Any]] = {}
    for field in msgspec.structs.fields(Settings):
        annotation = hints[field.name]
        meta = next(part for part in get_args(annotation) if isinstance(part, Meta))
        fields[field.name] = (annotation, meta, field.default)
    return fields


def _split(raw: Any, annotation: Any) -> Any:
    is_list = get_origin(get_args(annotation)[0]) is tuple
    if is_list and isinstance(raw, str):
        return [part.strip() for part in raw.split(",") if part.strip()]
    return list(raw) if is_list else raw


def _unknown(environ: Mapping[str, str], fields: Mapping[str, Any]) -> Iterator[str]:
    known = {PREFIX + name.upper() for name in fields} | OTHER_VARIABLES | {name + SUFFIX for name in SECRETS}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `tracewire serve --help` lists all"
            yield f"{variable}: there is no such setting{hint}"


def _contradictions(settings: Settings) -> Iterator[str]:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{PREFIX}{name.upper()}={value}: must be a finite number"
    if settings.jwt_secret and len(settings.jwt_secret.encode()) < 32:
        yield "TRACEWIRE_JWT_SECRET: must be 32 bytes or longer (RFC 7518, 3.2)"
    if settings.development and not is_loopback(settings.host):
        yield (
            f"TRACEWIRE_HOST={settings.host}: without TRACEWIRE_JWT_SECRET or TRACEWIRE_JWKS_… the server is in "
            "development mode, which listens on loopback only; set one of them, or use 127.0.0.1"
        )
    yield from _key_contradictions(settings)
    if settings.canary_seconds and (settings.jwks_file or settings.jwks_url) and not settings.canary_token_file:
        yield (
            "TRACEWIRE_CANARY_TOKEN_FILE: the canary needs a token that your issuer has signed for a user of its own; "
            "name the file that holds it, or leave TRACEWIRE_CANARY_SECONDS (--canary) away"
        )
    if not is_loopback(settings.ops_host) and not settings.ops_token:
        yield (
            f"TRACEWIRE_OPS_HOST={settings.ops_host}: beyond loopback the ops port needs TRACEWIRE_OPS_TOKEN, "
            "because it names users"
        )
    if settings.log_level.lower() not in ("debug", "info", "warning", "error"):
        yield f"TRACEWIRE_LOG_LEVEL={settings.log_level!r}: must be debug, info, warning or error"
    if settings.metrics_user_id not in ("plain", "hash"):
        yield f"TRACEWIRE_METRICS_USER_ID={settings.metrics_user_id!r}: must be plain or hash"
    if settings.port and settings.port == settings.ops_port and settings.host == settings.ops_host:
        yield f"TRACEWIRE_OPS_PORT={settings.ops_port}: is TRACEWIRE_PORT too; they must differ"
    if 0 < settings.retention_bytes < RETENTION_BYTES_MIN:
        yield (
            f"TRACEWIRE_RETENTION_BYTES={settings.retention_bytes}: "
            f"must be 0 (no bound), or {RETENTION_BYTES_MIN} or more"
        )
    if settings.socket_deadline_seconds <= settings.outbox_age_seconds:
        yield "TRACEWIRE_SOCKET_DEADLINE_SECONDS: must be above TRACEWIRE_OUTBOX_AGE_SECONDS, which cuts a socket first"


def _key_contradictions(settings: Settings) -> Iterator[str]:
    """Of the three ways to name what tokens are signed with."""
    names = [name for name in ("jwt_secret", "jwks_file", "jwks_url") if getattr(settings, name)]
    if len(names) > 1:
        shown = " and ".join(PREFIX + name.upper() for name in names)
        yield f"{shown}: tokens are signed one way; set one of them"
    if settings.jwks_url:
        try:
            parts = urlsplit(settings.jwks_url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            yield "TRACEWIRE_JWKS_URL: is no URL"
            return
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
            yield "TRACEWIRE_JWKS_URL: must be https (http on loopback alone): who changes the keys lets in anybody"
        if "@" in parts.netloc:
            yield "TRACEWIRE_JWKS_URL: must hold no password; public keys need none"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
