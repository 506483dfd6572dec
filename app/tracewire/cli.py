"""The command line: serve, token, ask, drill, doctor, probe."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import IO, Any, Final

import click
import httpx

from tracewire.client_run import ClientError
from tracewire.errors import SettingsError, StartupError, WiringError
from tracewire.secret_files import SECRETS, SUFFIX, read_secret_files
from tracewire.settings import Settings, describe_settings, load_settings
from tracewire_telemetry.origins import PROBE_USER
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, LINKS

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
TOKEN_HOURS: Final = 12
DEFAULT_USER: Final = "you"


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="tracewire")
def main() -> None:
    """An agent backend whose every event can be proven to have arrived."""


# serve


class ServeCommand(click.Command):
    """`serve`, whose help lists every setting."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every setting with its unit and default, as the environment gives it."""
        with formatter.section("Settings (environment)"):
            rows = []
            for setting in describe_settings():
                default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
                unit = f" {setting.unit}" if setting.unit else ""
                rows.append((setting.variable, f"{setting.description} [default: {default or 'none'}{unit}]"))
            rows += ((name + SUFFIX, f"file that holds {name} [default: none]") for name in SECRETS)
            rows.append(("OTEL_EXPORTER_OTLP_ENDPOINT", "where traces go (OTLP over HTTP) [default: none]"))
            formatter.write_dl(rows)


@main.command(cls=ServeCommand)
@click.option("--host", help="Address of the public port.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Public port; 0 takes a free one.  [default: 8000]")
@click.option("--ops-host", help="Address of the ops port.  [default: 127.0.0.1]")
@click.option("--ops-port", type=int, help="Ops port; 0 takes a free one.  [default: 9464]")
@click.option("--data-dir", help="Folder of the event log.  [default: .tracewire]")
@click.option(
    "--agent", "agents", multiple=True, metavar="M:N", help="Serve this agent too, as module:name; repeatable."
)
@click.option("--canary", metavar="DURATION", help="Go the whole way as a user of its own so often, as in 30s.")
@click.option("--drills", is_flag=True, default=None, help="Allow fire drills: see `tracewire drill --help`.")
def serve(canary: str | None, **options: Any) -> None:
    """Run the server, until SIGTERM or SIGINT drains it; a second one ends it at once."""
    options["agents"] = options["agents"] or None
    options["canary_seconds"] = None if canary is None else _seconds(canary, "--canary")
    settings = _settings_or_exit(**options)
    from tracewire.serve_command import run_server  # the other commands need none of it, and start sooner

    code = run_server(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread of an agent that never ends would otherwise hold the process back at its exit.
    os._exit(code)


# token


@main.command()
@click.option("--user", required=True, metavar="NAME", help="The user who signs in with it.")
@click.option("--ttl", default="1h", show_default=True, help="How long it holds, as in 30s, 15m, 1h, 7d.")
@click.option("--data-dir", help="The server's data folder, made where there is none.  [default: .tracewire]")
def token(user: str, ttl: str, data_dir: str | None) -> None:
    """Print a token for a user, and nothing else."""
    from tracewire.gateway.auth import SigningError, sign_token

    settings = _settings_or_exit(data_dir=data_dir)
    if not user.strip():
        raise click.BadParameter("a user needs a name", param_hint="--user")
    try:
        click.echo(sign_token(settings, user, ttl_seconds=_seconds(ttl, "--ttl")))
    except SigningError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"data folder {settings.data_dir}: {error}") from None


def _seconds(ttl: str, option: str = "--ttl") -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = (ttl[:-1], ttl[-1:]) if ttl[-1:] in units else (ttl, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        raise click.BadParameter(f"{ttl!r} is no duration; use 30s, 15m, 1h or 7d", param_hint=option) from None
    if not 0 < seconds <= 10 * 365 * 86_400:
        raise click.BadParameter(f"{ttl!r} must be above 0 and at most ten years", param_hint=option)
    return seconds


# ask


@main.command()
@click.argument("question")
@click.option("--file", "recording", type=click.Path(path_type=Path), help="A recording to look at: .har or .jsonl.")
@click.option(
    "--url", envvar="TRACEWIRE_URL", default="ws://127.0.0.1:8000/ws", show_default=True, help="The server's socket."
)
@click.option("--user", help="Ask as this user (development mode).  [default: you]")
@click.option("--token", envvar="TRACEWIRE_TOKEN", help="Ask with this token (or TRACEWIRE_TOKEN).")
@click.option("--agent", help="The agent to ask.  [default: the server's first, the analyst]")
@click.option("--json", "as_json", is_flag=True, help="Print each envelope on a line, and nothing else.")
@click.option("--data-dir", help="The server's data folder, whose secret signs for --user.  [default: .tracewire]")
def ask(
    question: str,
    recording: Path | None,
    url: str,
    user: str | None,
    token: str | None,
    agent: str | None,
    as_json: bool,
    data_dir: str | None,
) -> None:
    """Ask an agent over the real socket, and watch its events cross the chain.

    Exits with 0 only if the run completed and its receipt agrees with what arrived. Ctrl-C cancels the run.
    """
    from tracewire.asking import Asking, checked_url

    try:
        url = checked_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    if user is not None:
        token = None
    if token is None:
        token = _development_token(user or DEFAULT_USER, data_dir)
    asking = Asking(url, token, agent=agent, as_json=as_json)
    try:
        agrees = asyncio.run(asking.ask(question, recording, _read_recording(recording)))
    except httpx.InvalidURL as error:
        raise click.BadParameter(f"{url}: {error}", param_hint="--url") from None
    except (ClientError, httpx.HTTPError) as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if agrees else 1)


def _read_recording(recording: Path | None) -> bytes | None:
    if recording is None:
        return None
    try:
        return recording.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{recording}: {error.strerror}") from None


def _development_token(user: str, data_dir: str | None) -> str:
    from tracewire.gateway.auth import DEVELOPMENT_SECRET_FILE, SigningError, sign_token

    settings = _settings_or_exit(data_dir=data_dir)
    if settings.development and not (settings.data_path / DEVELOPMENT_SECRET_FILE).exists():
        raise click.ClickException(
            f"{settings.data_dir} holds no development secret: start `tracewire serve` here, name the server's folder "
            "with --data-dir, or bring a --token"
        )
    try:
        return sign_token(settings, user, ttl_seconds=3600)
    except SigningError as error:
        raise click.ClickException(f"{error}, and bring it with --token or TRACEWIRE_TOKEN") from None
    except OSError as error:
        raise click.ClickException(f"data folder {settings.data_dir}: {error}") from None


# drill


@main.command()
@click.option(
    "--event", required=True, type=click.Choice([event.value for event in CRITICAL_TYPES]), help="The event to lose."
)
@click.option(
    "--link", required=True, type=click.Choice([link.value for link in LINKS]), help="The link that is to lose it."
)
@click.option("--url", "ops_url", default="http://127.0.0.1:9464", show_default=True, help="The server's ops port.")
@click.option("--ops-token", envvar="TRACEWIRE_OPS_TOKEN", default="", help="Its token (or TRACEWIRE_OPS_TOKEN).")
@click.option("--socket-url", "ws_url", default="", help="The server's socket.  [default: as the ops port says]")
@click.option("--token-file", type=click.File(), help="A file with a token of the user `drill`.  [default: made]")
@click.option("--alertmanager", "alertmanager_url", default="", metavar="URL", help="Wait for the alert there, too.")
@click.option("--within", default="3m", show_default=True, help="How long each step may take, as in 90s, 3m.")
def drill(token_file: IO[str] | None, within: str, **order: str) -> None:
    """Fire drill: lose one event at one link of a running server, and see it noticed, alerted on and healed.

    The server must allow it (`tracewire serve --drills`). It loses the event of one run of the reserved user `drill`,
    once; nobody else is touched. Its own deadlines decide how long that takes: up to a minute or so. What an agent
    never emits stays `lost`; everything else heals. With --alertmanager, prints when the alert fired.

    Exits with 0 if the drill went as it should, otherwise with 1 and the reason.
    """
    from tracewire.drilling import DrillError, Drilling, DrillOrder

    token = token_file.read().strip() if token_file is not None else ""
    seconds = _seconds(within, "--within")
    if not order["ops_token"]:
        secrets, failures = read_secret_files(os.environ)
        if failures:
            raise click.ClickException("\n".join(failures))
        order["ops_token"] = secrets.get("TRACEWIRE_OPS_TOKEN", "")
    try:
        asyncio.run(Drilling(DrillOrder(token=token, within_seconds=seconds, **order), click.echo).drill())
    except DrillError as error:
        raise click.ClickException(str(error)) from None


# doctor


@main.command()
@click.option("--data-dir", help="A data folder to inspect; nothing is changed in it.  [default: .tracewire]")
def doctor(data_dir: str | None) -> None:
    """Check the six joints of the chain, by a real run over a real socket in a temporary data folder.

    Exits with 1 and names the joint that is broken.
    """
    settings = _settings_or_exit(data_dir=data_dir)
    from tracewire.inspection import inspect_folder

    for line in inspect_folder(settings.data_path):
        click.echo(line)
    with tempfile.TemporaryDirectory(prefix="tracewire-doctor-") as folder:
        sys.exit(_run(lambda: _doctor(folder)))


async def _doctor(folder: str) -> int:
    from tracewire import wiring
    from tracewire.main import Server
    from tracewire_telemetry.logs import configure_logging

    configure_logging(level="error")
    settings = _settings_or_exit(
        data_dir=folder,
        host="127.0.0.1",
        port=0,
        ops_host="127.0.0.1",
        ops_port=0,
        drain_grace_seconds=0,
        jwks_file="",  # it signs for itself
        jwks_url="",
    )
    server = Server(settings)
    try:
        await server.start()
    except (StartupError, WiringError) as error:
        click.echo(f"L1 BROKEN {wiring.TITLES['L1']}: {error}")
        for name in list(wiring.TITLES)[1:]:
            click.echo(wiring.WiringCheck(name, None, "not reached (L1)").line)
        return 1
    try:
        checks = await wiring.check_wiring(server)
    finally:
        await server.stop()
    for check in checks:
        click.echo(check.line)
    broken = wiring.broken(checks)
    click.echo("all six hold" if broken is None else f"broken: {broken}", err=broken is not None)
    return 0 if broken is None else 1


# probe


@main.command()
@click.option(
    "--url", envvar="TRACEWIRE_URL", default="ws://127.0.0.1:8000/ws", show_default=True, help="The server's socket."
)
@click.option("--user", help=f"Probe as this user (who signs as `tracewire token` does).  [default: {PROBE_USER}]")
@click.option("--token", envvar="TRACEWIRE_TOKEN", help="Probe with this token (or TRACEWIRE_TOKEN).")
@click.option("--every", metavar="DURATION", help="Go on for ever, so often, as in 30s.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="With --every: serve metrics on this loopback port; 0 takes a free one.",
)
@click.option("--within", metavar="DURATION", default="20s", show_default=True, help="How long one probe may take.")
@click.option("--data-dir", help="The server's data folder, whose secret signs for --user.  [default: .tracewire]")
def probe(
    url: str,
    user: str | None,
    token: str | None,
    every: str | None,
    metrics_port: int | None,
    within: str,
    data_dir: str | None,
) -> None:
    """Go the whole way as a user of its own: five events, their order, the receipt, and the stamps of all five links.

    Exits with 0 if all of it holds, else with 1, and names the link that does not. With --every it goes on, and the
    exit code says nothing of the probes.
    """
    from tracewire.probe_command import run_probe

    def fresh_token() -> str:
        return token if token is not None and user is None else _development_token(user or PROBE_USER, data_dir)

    every_seconds = None if every is None else _seconds(every, "--every")
    within_seconds = _seconds(within, "--within")
    sys.exit(
        run_probe(
            url,
            fresh_token,
            every_seconds=every_seconds,
            within_seconds=within_seconds,
            metrics_port=metrics_port,
        )
    )


def _run(main_: Callable[[], Coroutine[Any, Any, int]]) -> int:
    return asyncio.run(main_())


def _settings_or_exit(**overrides: Any) -> Settings:
    try:
        return load_settings(os.environ, **overrides)
    except SettingsError as error:
        raise click.ClickException(
            "these settings cannot be used:\n" + "\n".join(f"  - {f}" for f in error.failures)
        ) from None


if __name__ == "__main__":
    main()
