"""`tracewire ask`: one question over the real socket, its timeline, its answer, and whether the receipt agrees."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import click
import httpx
import msgspec

from tracewire import timeline
from tracewire.client import Client, ClientError, ClientRun, ConnectionFailedError, RequestRejectedError
from tracewire.events import ReceivedEnvelope
from tracewire_telemetry.vocabulary import EventType

ATTEMPTS_MAX: Final = 8
SOCKET_PATH: Final = "/ws"


def checked_url(url: str) -> str:
    """The socket's URL; its path may be left out.

    Raises:
        ValueError: it is no WebSocket URL; the message gives one.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(f"{url!r} is no socket's URL; it looks like ws://127.0.0.1:8000/ws")
    return urlunsplit(parts._replace(path=SOCKET_PATH)) if parts.path in ("", "/") else url


class Asking:
    """Asks one server, as whoever the token signs for."""

    def __init__(self, url: str, token: str, *, agent: str | None, as_json: bool) -> None:
        self._url = url
        self._token = token
        self._agent = agent
        self._as_json = as_json
        self._started = time.monotonic()

    async def ask(self, question: str, recording: Path | None, body: bytes | None) -> bool:
        """Ask, and print what comes; whether the run completed and its receipt agrees.

        Raises:
            ClientError: the server is not there, does not let this user in, or refuses the question.
        """
        base = self._url.replace("ws", "http", 1).rsplit("/", 1)[0]
        headers = {"Authorization": f"Bearer {self._token}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as http:
            asked: Any = question
            if recording is not None and body is not None:
                asked = {"question": question, "recording_id": await _upload(http, recording, body)}
            async with Client(
                self._url, self._token, attempts_max=ATTEMPTS_MAX, on_lost=_say_lost, on_rejected=_say_rejected
            ) as client:
                run = await client.start_run(asked, agent=self._agent)
                if not self._as_json:
                    click.echo(f"{client.user_id} asks {self._agent or client.ready['agents'][0]}: {question}")
                    click.echo(f"run {run.run_id}\n")
                await self._show_events(run)
                if not self._as_json:
                    await self._show_end(http, run)
        return run.receipt_agrees and run.terminal is not None and run.terminal.type is EventType.AGENT_COMPLETED

    async def _show_events(self, run: ClientRun) -> None:
        try:
            async for envelope in run:
                self._show(envelope)
                if envelope.type is EventType.INPUT_REQUIRED:
                    await self._answer(run, envelope)
        except asyncio.CancelledError:
            # Ctrl-C: a run that nobody watches any more would go on, and hold one of the user's places.
            with contextlib.suppress(ClientError):
                await run.cancel()
            click.echo(f"asked the server to cancel run {run.run_id}", err=True)
            raise

    def _show(self, envelope: ReceivedEnvelope) -> None:
        if self._as_json:
            click.echo(msgspec.json.encode(envelope))
        else:
            click.echo(timeline.event_line(envelope, self._started, time.monotonic()))

    async def _answer(self, run: ClientRun, envelope: ReceivedEnvelope) -> None:
        """Put the agent's question to whoever sits at the terminal; without an answer the run is cancelled."""
        approval = envelope.data["kind"] == "approval"
        click.echo(f"{envelope.data['prompt']} {'[y/N] ' if approval else ''}", nl=False, err=True)
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            click.echo("\nno answer on standard input: the run is cancelled", err=True)
            await run.cancel()
            return
        said = line.strip()
        value: Any = said.lower() in ("y", "yes") if approval else said
        await run.provide_input(envelope.data["input_id"], value)

    async def _show_end(self, http: httpx.AsyncClient, run: ClientRun) -> None:
        if run.terminal is not None:
            click.echo(f"\n{timeline.answer_text(run.terminal)}\n")
        ledger = await timeline.settled_ledger(http, run.run_id)
        for line in timeline.link_lines(ledger) if ledger else ["the ledger could not be read"]:
            click.echo(line)
        click.echo(f"\n{timeline.receipt_line(run)}")


def _say_lost(failure: ConnectionFailedError) -> None:
    click.echo(f"connection lost, reconnecting ({failure})", err=True)


def _say_rejected(refusal: RequestRejectedError) -> None:
    click.echo(f"refused ({refusal.code}): {refusal}", err=True)


async def _upload(http: httpx.AsyncClient, recording: Path, body: bytes) -> str:
    response = await http.post("/recordings", params={"name": recording.name}, content=body)
    if response.status_code != 201:
        raise ClientError(f"{recording}: {_problem(response)}")
    recording_id: str = response.json()["recording_id"]
    return recording_id


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
