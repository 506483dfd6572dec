"""What `tracewire probe` prints and serves: once, with an exit code, or for ever, with metrics."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

import click

from tracewire.asking import checked_url
from tracewire.probing import ProbeReport, probe
from tracewire_telemetry.probe_metrics import ProbeMetrics

METRICS_HOST = "127.0.0.1"


def run_probe(
    url: str,
    token: Callable[[], str],
    *,
    every_seconds: float | None,
    within_seconds: float,
    metrics_port: int | None,
) -> int:
    """Probe once, or for ever where `every_seconds` is given; the exit code. `token` gives one for each probe.

    Raises:
        click.BadParameter: the URL is none, or the metrics' port is no use or cannot be had.
    """
    try:
        url = checked_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    if every_seconds is None:
        if metrics_port is not None:
            why = "there is nothing to scrape of one probe; name --every too"
            raise click.BadParameter(why, param_hint="--metrics-port")
        once = token()
        return asyncio.run(probe_once(url, once, within_seconds=within_seconds))
    token()  # what keeps it from having one is said now, not in each round
    metrics = ProbeMetrics()
    if metrics_port is not None:
        try:
            port = metrics.open(METRICS_HOST, metrics_port)
        except OSError as error:
            raise click.BadParameter(f"{metrics_port}: {error.strerror}", param_hint="--metrics-port") from None
        click.echo(f"metrics at http://{METRICS_HOST}:{port}/metrics")
    try:
        asyncio.run(probe_forever(url, token, metrics, every_seconds=every_seconds, within_seconds=within_seconds))
    finally:
        metrics.close()
    return 0


async def probe_once(url: str, token: str, *, within_seconds: float) -> int:
    """One probe, a line for each link; the exit code."""
    began = time.monotonic()
    report = await probe(url, token, within_seconds=within_seconds)
    for check in report.links:
        click.echo(check.line)
    if report.broken is None:
        click.echo(f"all five hold, run {report.run_id}, {time.monotonic() - began:.2f} s")
        return 0
    _say_broken(report)
    return 1


async def probe_forever(
    url: str, token: Callable[[], str], metrics: ProbeMetrics, *, every_seconds: float, within_seconds: float
) -> None:
    """A probe, a line, and the metrics, again and again until SIGTERM or SIGINT."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    probing = asyncio.create_task(_again_and_again(url, token, metrics, every_seconds, within_seconds))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((probing, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (probing, stopping):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing


async def _again_and_again(
    url: str, token: Callable[[], str], metrics: ProbeMetrics, every_seconds: float, within_seconds: float
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        report = await probe(url, token(), within_seconds=within_seconds)
        metrics.probed(succeeded=report.broken is None, broken=report.broken.link if report.broken else None)
        if report.broken is None:
            click.echo(f"ok, run {report.run_id}, {loop.time() - began:.2f} s")
        else:
            _say_broken(report)
        await asyncio.sleep(max(0.0, began + every_seconds - loop.time()))


def _say_broken(report: ProbeReport) -> None:
    run = f", run {report.run_id}" if report.run_id else ""
    click.echo(f"broken: {report.broken}{run}", err=True)
