"""What `tracewire serve` does: a server in this process, until a signal drains it.

Enters: settings that can be used. Leaves: the exit code of the process.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Final

import click
import structlog
import uvloop

from tracewire.errors import StartupError
from tracewire.gateway.auth import sign_token
from tracewire.holding import allow_descriptors
from tracewire.main import Server
from tracewire.settings import Settings
from tracewire_telemetry.logs import configure_logging, write_in_thread

USER: Final = "you"
TOKEN_HOURS: Final = 12
SWITCH_SECONDS: Final = 0.000_05
"""How soon a busy loop lets the thread that commits go on, which asks some eight times a commit: with Python's 5 ms an
event waited for whatever ran beside it. Under an attack the p99 of others was 2.9 ms, and 4.2 without (`make fuzz`)."""


def run_server(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT drains the server; a second one ends the process at once. The exit code."""
    configure_logging(level=settings.log_level)
    stop_logging = write_in_thread()
    # An agent's own instrumentation asks OpenTelemetry for the process's provider: it is to find the run's.
    os.environ.setdefault("OTEL_PYTHON_TRACER_PROVIDER", "tracewire")
    code = uvloop.run(_serve(settings, stop_logging))
    stop_logging()
    return code


async def _serve(settings: Settings, stop_logging: Callable[[], None]) -> int:
    fitting = allow_descriptors(settings)
    if fitting is not None:
        advice = "raise the hard limit (ulimit -n), or lower TRACEWIRE_SOCKETS_MAX"
        log = structlog.get_logger("tracewire.cli")
        log.warning("few_descriptors", sockets_that_fit=fitting, sockets_max=settings.sockets_max, advice=advice)
    server = Server(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    asked = False

    def stop_or_exit(*_: object) -> None:
        nonlocal asked
        if asked:
            # In a thread: whatever the signal interrupted may hold a lock of the log.
            writing = threading.Thread(target=stop_logging, daemon=True)
            writing.start()
            writing.join(1.0)
            os._exit(1)
        asked = True
        loop.call_soon_threadsafe(stop.set)

    # Not the loop's own handlers: those wait for their turn, and an agent that blocks the loop gives them none.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_or_exit)
    sys.setswitchinterval(SWITCH_SECONDS)
    # What is imported and made at the start stays: the garbage collector's full looks, each of which held the loop for
    # 36 ms, leave it out.
    gc.collect()
    gc.freeze()
    try:
        await server.start()
    except StartupError as error:
        click.echo(f"tracewire: {error}", err=True)
        return 1
    gc.freeze()
    for handler in logging.getLogger().handlers:
        handler.flush()  # what was logged stands before the welcome
    if settings.development:
        click.echo(_welcome(settings, server.url, server.ws_url, server.ops_url))
    await stop.wait()
    try:
        async with asyncio.timeout(settings.drain_seconds_max):
            await server.stop()
    except TimeoutError:
        click.echo(f"tracewire: not stopped within {settings.drain_seconds_max:g} s; leaving", err=True)
        return 1
    return 0


def _welcome(settings: Settings, url: str, ws_url: str, ops_url: str) -> str:
    token = sign_token(settings, USER, ttl_seconds=TOKEN_HOURS * 3600)
    where = "" if settings.data_dir == ".tracewire" else f" --data-dir {settings.data_dir}"
    there = "" if ws_url == "ws://127.0.0.1:8000/ws" else f" --url {ws_url}"
    return textwrap.dedent(
        f"""
        Tracewire is ready (development mode: this machine only, any user can be signed for).

          socket      {ws_url}   subprotocols tracewire.v1, tracewire.v1.lines
          HTTP        {url}   /agents /runs /recordings /ready /schema
          operations  {ops_url}   /metrics /runs/{{id}}/ledger

          a token for user "{USER}", {TOKEN_HOURS} h:
          {token}

        Try, from another terminal:

          tracewire ask "what is missing in the sample recording?"{there}{where}
          tracewire ask "what ran lately?"{there}{where}
          tracewire token --user alice{where}
          curl -s {ops_url}/metrics | grep events_total
        """
    )
