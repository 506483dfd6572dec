"""`make stack`: Tracewire with canary and drills, Prometheus with the rules, Alertmanager, a receiver that prints
notifications, and the Collector where it is built, as plain processes on loopback, until Ctrl-C.

Ports are the well-known ones where they are free. Configurations are the shipped ones, with these addresses. When one
of the programs ends, all end, and it is said which one it was.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import httpx

from dashboards.stack.programs import (
    ALERTMANAGER_PORT,
    CANARY,
    OPS_PORT,
    OTLP_PORT,
    PROMETHEUS_PORT,
    PUBLIC_PORT,
    Plan,
    Program,
    plan,
    required_missing,
)
from dashboards.stack.receiver import PORT as RECEIVER_PORT
from dashboards.stack.rendering import ROOT, RenderingError

FOLDER: Final = ROOT / ".stack"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.05
LOG_LINES: Final = 20
_TELEMETRY: Final = ("TRACEWIRE_", "OTEL_", "OTELCOL_")
"""Variables with these beginnings are not handed on: the stack is what it says that it is."""


class EndedError(Exception):
    """A program ended, or was not ready in time; says which, and what it said last."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, for as long as this goes on: two stacks would write over each other's files.

    Raises:
        BlockingIOError: another stack has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class Running:
    """One started program."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process, log: Path) -> None:
        self.program = program
        self.process = process
        self._log = log

    def ended(self, why: str) -> EndedError:
        """What is to be said of it."""
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:] if self._log.exists() else []
        return EndedError("\n".join([f"{self.program.name} {why}; its log is {self._log}", *lines]))

    async def wait_until_ready(self, http: httpx.AsyncClient) -> None:
        """Until its URL answers.

        Raises:
            EndedError: it ended, or its time is over.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + START_SECONDS
        while not await _answers(http, self.program.ready_url):
            if self.process.returncode is not None:
                raise self.ended(f"ended with {self.process.returncode} before it was ready")
            if loop.time() > give_up_at:
                raise self.ended(f"was not ready within {START_SECONDS:g} s")
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """Ask it to end, and wait; killed if that does not come."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.TransportError:
        return False


async def start(program: Program, folder: Path) -> Running:
    """Start it, in a process group of its own: a Ctrl-C is for us, who then end all in order."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_TELEMETRY)}
    path = folder / "logs" / f"{program.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *program.command,
            env=environment | dict(program.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=None if program.told else log,
            stderr=log,
            process_group=0,
        )
    return Running(program, process, path)


async def run(made: Plan, folder: Path) -> None:
    """Start all, say where they are, and wait for a signal; then end all, the last first.

    Raises:
        EndedError: one of them ended by itself.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started: list[Running] = []
    stopped = asyncio.create_task(stop.wait())
    try:
        starting = asyncio.create_task(_start_all(made, folder, started))
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        starting.result()
        click.echo(welcome(made, folder))
        ends = {asyncio.create_task(one.process.wait()): one for one in started}
        done, _ = await asyncio.wait({*ends, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in ends.keys() - done:
            task.cancel()
        for task in ends.keys() & done:
            raise ends[task].ended(f"ended with {task.result()}")
    finally:
        stopped.cancel()
        click.echo("ending " + ", ".join(one.program.name for one in reversed(started)))
        for one in reversed(started):
            await one.stop()


async def _start_all(made: Plan, folder: Path, started: list[Running]) -> None:
    async with httpx.AsyncClient(timeout=2) as http:
        for program in made.programs:
            running = await start(program, folder)
            started.append(running)
            await running.wait_until_ready(http)


def welcome(made: Plan, folder: Path) -> str:
    """Where everything is, and what to try next."""
    url = made.url
    command = Path(sys.executable).with_name("tracewire")
    shown = f"{command.relative_to(Path.cwd())}" if command.is_relative_to(Path.cwd()) else "tracewire"
    ops = "" if made.ports[OPS_PORT] == OPS_PORT else f" --url {url(OPS_PORT)}"
    drill = f"{shown} drill --event tool_completed --link socket --alertmanager {url(ALERTMANAGER_PORT)}{ops}"
    collector = f"\n  Collector    {url(OTLP_PORT)} (OTLP)" if OTLP_PORT in made.ports else ""
    left_out = "".join(f"\n  {one.program:13}left out: {one.advice}" for one in made.left_out)
    return f"""
The stack is up: canary every {CANARY}, a visitor who asks something now and then, drills allowed; data in {folder}.

  Tracewire    {url(PUBLIC_PORT)}         the page, signed in with one click
  operations   {url(OPS_PORT)}/incidents
  Prometheus   {url(PROMETHEUS_PORT)}/alerts
  Alertmanager {url(ALERTMANAGER_PORT)}{collector}
  notifications are printed here, by {url(RECEIVER_PORT)}
  Grafana and Tempo are no plain processes: `docker compose up` has them{left_out}

A fire drill, from another terminal (an event is lost, noticed, alerted on and healed):

  {drill}

Ctrl-C ends all of it.
"""


@click.command(help=__doc__)
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER, help="Data, logs, configurations."
)
@click.option(
    "--every", default="", metavar="DURATION", help="Scrape and evaluate so often.  [default: as shipped, 15s]"
)
def main(folder: Path, every: str) -> None:
    """Run the stack; the exit code is 0 when a signal ended it."""
    missing = required_missing()
    if missing:
        raise click.ClickException("\n".join(f"{one.program} is missing: {one.advice}" for one in missing))
    folder = folder.resolve()
    try:
        with held(folder):
            asyncio.run(run(plan(folder, every=every), folder))
    except BlockingIOError:
        raise click.ClickException(
            f"a stack runs in {folder} already: end it first, or name another --folder"
        ) from None
    except (RenderingError, OSError, EndedError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
