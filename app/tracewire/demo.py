"""`make demo`: a server on free ports, two users who ask the analyst over real sockets, and the times of the chain."""

import asyncio
import sys
import tempfile
import time
from typing import Any

import click
import httpx

from tracewire import timeline
from tracewire.client import Client
from tracewire.gateway.auth import sign_token
from tracewire.main import Server, running
from tracewire.settings import load_settings
from tracewire_telemetry.logs import configure_logging

ASKS = (
    (
        "alice",
        {"question": "What is missing in the sample recording?", "recording_id": "sample"},
        "Alice has a recording of an agent's socket, and asks what was lost in it.",
    ),
    ("bob", {"question": "How many events of which type?", "recording_id": "sample"}, "Bob asks something first, …"),
    ("bob", "What ran lately?", "… and then what ran lately: he is shown his own runs, and nothing of Alice's."),
)


async def demo() -> bool:
    """Run the demonstration; whether every receipt agreed."""
    configure_logging(level="error")
    agreed = True
    with tempfile.TemporaryDirectory(prefix="tracewire-demo-") as folder:
        settings = load_settings({}, data_dir=folder, port=0, ops_port=0, drain_grace_seconds=0)
        async with running(settings, environ={}) as server:
            click.echo(f"A server is up: socket {server.ws_url}, operations {server.ops_url}\n")
            for user, question, why in ASKS:
                click.echo(f"{'─' * timeline.WIDTH}\n{why}\n")
                agreed = await _ask(server, user, question) and agreed
            click.echo(f"{'─' * timeline.WIDTH}\nThe chain, over all runs (from {server.ops_url}/metrics)\n")
            for line in await _chain_lines(server):
                click.echo(line)
    click.echo("\nThe server has stopped. Next: `make run`, then `tracewire ask` from another terminal.")
    return agreed


async def _ask(server: Server, user: str, question: Any) -> bool:
    token = sign_token(server.settings, user, ttl_seconds=60)
    async with Client(server.ws_url, token) as client:
        started = time.monotonic()
        run = await client.start_run(question)
        asked = question if isinstance(question, str) else question["question"]
        click.echo(f"{user} asks the analyst: {asked}")
        click.echo(f"run {run.run_id}\n")
        async for envelope in run:
            click.echo(timeline.event_line(envelope, started, time.monotonic()))
    if run.terminal is not None:
        click.echo(f"\n{timeline.answer_text(run.terminal)}\n")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        ledger = await timeline.settled_ledger(http, run.run_id)
    for line in timeline.link_lines(ledger) if ledger else []:
        click.echo(line)
    click.echo(f"\n{timeline.receipt_line(run)}\n")
    return run.receipt_agrees


async def _chain_lines(server: Server) -> list[str]:
    async with httpx.AsyncClient(base_url=server.ops_url) as http:
        text = (await http.get("/metrics")).text
    lines = [f"{'link':<10}{'events':>8}{'mean ms from the link before':>32}"]
    for link in ("engine", "bridge", "emitter", "socket", "client"):
        events = _total(text, "tracewire_events_total{", link)
        count = _total(text, "tracewire_link_seconds_count{", link)
        seconds = _total(text, "tracewire_link_seconds_sum{", link)
        mean = f"{seconds / count * 1000:.3f}" if count else "-"
        lines.append(f"{link:<10}{events:>8.0f}{mean:>32}")
    return lines


def _total(text: str, metric: str, link: str) -> float:
    rows = (line for line in text.splitlines() if line.startswith(metric) and f'link="{link}"' in line)
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(demo()) else 1)
