"""Clients that come back: one with a long run to catch up with, and a thousand at once."""

import asyncio
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import agents
from tests.benchmarks.delivery_load import LINES, PLAIN, SeqClient, connect_seq, start_frame
from tests.benchmarks.load import WrongDeliveryError
from tests.benchmarks.measuring import CONNECTING_MAX, LIMIT_SECONDS, ROOT, process_cpu_seconds
from tests.support.servers import ServerProcess

HAD_EVENTS = 2
MISSED_EVENTS = 20
BARE = "bare uvicorn"


@dataclass(frozen=True)
class Reconnected:
    """From the first connection attempt until every client had its last event."""

    seconds: float
    p50_seconds: float
    events: int
    cpu_seconds: float


async def measure_resume(missed: int, rounds: int) -> dict[str, list[float]]:
    """Seconds from `resume` to the last of the missed events, over either subprotocol and from a bare loop.

    Raises:
        WrongDeliveryError: an event was lost, repeated or out of order.
    """
    found: dict[str, list[float]] = {BARE: [], PLAIN: [], LINES: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(folder / "data", *agents.REFERENCES, cwd=ROOT)
        await asyncio.to_thread(server.__enter__)
        try:
            run_id = await _run_of(server, "late", missed)
            rows = folder / "rows.db"
            with (
                closing(sqlite3.connect(next((folder / "data").glob("*.db")))) as log,
                closing(sqlite3.connect(rows)) as copy,
            ):
                log.backup(copy)
            command = ("-m", "tests.benchmarks.bare_replay", str(rows))
            bare = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
            )
            try:
                assert bare.stdout is not None
                port = int(await bare.stdout.readline())
                for _ in range(rounds):
                    found[BARE].append(await _resume(f"ws://127.0.0.1:{port}/ws", "", PLAIN, run_id, missed))
                    for subprotocol in (PLAIN, LINES):
                        token = server.token("late")
                        found[subprotocol].append(await _resume(server.ws_url, token, subprotocol, run_id, missed))
            finally:
                bare.terminate()
                await bare.communicate()
        finally:
            await asyncio.to_thread(server.__exit__)
    return found


async def _run_of(server: ServerProcess, user_id: str, events: int) -> str:
    """A run of so many events that has ended, of which its user has had all and forgotten them."""
    client = await connect_seq(server.ws_url, server.token(user_id))
    client._transport.write(start_frame("steady", {"events": events}))
    await asyncio.wait_for(client.done, LIMIT_SECONDS)
    client.close()
    return client.run_id


async def _resume(url: str, token: str, subprotocol: str, run_id: str, missed: int) -> float:
    client = await connect_seq(url, token, subprotocol=subprotocol, run_id=run_id)
    began = time.perf_counter()
    client.send({"type": "resume", "runs": {run_id: 0}})
    await asyncio.wait_for(client.done, LIMIT_SECONDS)
    seconds = time.perf_counter() - began
    client.close()
    if client.last_seq != missed:
        raise WrongDeliveryError(f"{client.last_seq} events came, not {missed}")
    return seconds


async def measure_reconnect(clients: int) -> Reconnected:
    """Cut every client in the midst of its run, let the runs end, and have all come back in one moment.

    Raises:
        WrongDeliveryError: an event was lost, repeated or out of order.
    """
    events = HAD_EVENTS + MISSED_EVENTS
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", *agents.REFERENCES, cwd=ROOT)
        await asyncio.to_thread(server.__enter__)
        try:
            tokens = [server.token(f"user-{number}") for number in range(clients)]
            turn = asyncio.Semaphore(CONNECTING_MAX)

            async def leave(token: str) -> SeqClient:
                async with turn:
                    client = await connect_seq(server.ws_url, token)
                    client.until_seq = HAD_EVENTS
                    client._transport.write(start_frame("steady", {"events": events}))
                    await client.done
                    client.close()
                    return client

            async with asyncio.timeout(LIMIT_SECONDS):
                left = await asyncio.gather(*map(leave, tokens))
            cpu_before, began = process_cpu_seconds(server.process.pid), time.perf_counter()

            async def come_back(token: str, before: SeqClient) -> float:
                client = await connect_seq(server.ws_url, token, run_id=before.run_id, last_seq=HAD_EVENTS)
                client.send({"type": "resume", "runs": {before.run_id: HAD_EVENTS}})
                await client.done
                client.close()
                if client.last_seq != events:
                    raise WrongDeliveryError(f"{client.last_seq} events came, not {events}")
                return time.perf_counter() - began

            async with asyncio.timeout(LIMIT_SECONDS):
                took = sorted(await asyncio.gather(*map(come_back, tokens, left)))
            cpu_seconds = process_cpu_seconds(server.process.pid) - cpu_before
            return Reconnected(took[-1], took[len(took) // 2], clients * MISSED_EVENTS, cpu_seconds)
        finally:
            await asyncio.to_thread(server.__exit__)
