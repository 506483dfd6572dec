"""How long a commit takes at 20,000 events/s: `python -m tests.benchmarks.commits`.

The event log as the server has it (its writer's thread, its groups) in turn with a bare `sqlite3` loop on the same
schema with the same pragmas, which commits whatever is due, and then waits for the next batch to fall due. An event's
latency is from the moment at which it is due, or handed over, until it is durable.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from tracewire.eventlog import RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.eventlog.sqlite_schema import open_database

SCRATCH: Final = Path(".bench")
"""On the disk: what is temporary is often in memory."""
BODY: Final = bytes(350)
INTERVAL_SECONDS: Final = 0.002
WARM_UP_SECONDS: Final = 0.5
ROW_BYTES_MAX: Final = 1 << 24
INSERT: Final = "INSERT INTO events (run_no, seq, body) VALUES (?, ?, ?)"


@dataclass
class Latencies:
    """Of one phase, in seconds; `events` were made durable in `commits`."""

    commits: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    count: int = 0


def measure_log(folder: Path, batch: int, seconds: float) -> Latencies:
    """The product's log, through its port."""
    return uvloop.run(_measure_log(folder, batch, seconds))


async def _measure_log(folder: Path, batch: int, seconds: float) -> Latencies:
    found = Latencies()
    log = SqliteEventLog(folder, observe_commit=lambda taken: found.commits.append(taken))
    await log.open()
    for number in range(batch):
        run_id = f"run-{number}"
        await log.accept(RunRecord(run_id, "ada", run_id, "thread", "analyst", None, "0" * 32, "0" * 16, 1))
    seq = 0

    async def pour(until_seconds: float) -> None:
        nonlocal seq
        began, first, waiting = time.perf_counter(), seq, set[asyncio.Future[None]]()
        while (now := time.perf_counter()) - began < until_seconds:
            seq += 1
            for number in range(batch):
                future = log.append(f"run-{number}", seq, BODY)
                waiting.add(future)
                future.add_done_callback(waiting.discard)
            # The last of a batch is answered last: its latency stands for theirs.
            future.add_done_callback(lambda _, at=now: found.events.append(time.perf_counter() - at))
            await asyncio.sleep(began + (seq - first) * INTERVAL_SECONDS - time.perf_counter())
        await asyncio.gather(*waiting)

    await pour(WARM_UP_SECONDS)
    found.commits.clear()
    found.events.clear()
    before, cpu_before = seq, time.process_time()
    await pour(seconds)
    found.cpu_seconds = time.process_time() - cpu_before
    found.count = (seq - before) * batch
    await log.close()
    return found


def measure_bare(folder: Path, batch: int, seconds: float) -> Latencies:
    """A loop of transactions, one thread, nobody who waits."""
    found = Latencies()
    connection = open_database(folder, lock_wait_seconds=1, row_bytes_max=ROW_BYTES_MAX)
    try:
        seq = _pour_bare(connection, batch, 0, WARM_UP_SECONDS, Latencies())
        cpu_before = time.process_time()
        found.count = (_pour_bare(connection, batch, seq, seconds, found) - seq) * batch
        found.cpu_seconds = time.process_time() - cpu_before
    finally:
        connection.close()
    return found


def _pour_bare(connection: sqlite3.Connection, batch: int, seq: int, seconds: float, found: Latencies) -> int:
    began, first = time.perf_counter(), seq
    while (now := time.perf_counter()) - began < seconds:
        due = first + int((now - began) / INTERVAL_SECONDS) + 1
        rows = [(run_no, number, BODY) for number in range(seq + 1, due + 1) for run_no in range(1, batch + 1)]
        commit_began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
        ended = time.perf_counter()
        found.commits.append(ended - commit_began)
        found.events += [ended - began - (number - first) * INTERVAL_SECONDS for number in range(seq, due)]
        seq = due
        time.sleep(max(0.0, began + (seq - first) * INTERVAL_SECONDS - time.perf_counter()))
    return seq


def main() -> int:
    """Measure in turn, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.commits")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    parser.add_argument("--rate", type=int, default=20_000, help="events a second (default: 20000)")
    options = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    batch = max(1, int(options.rate * INTERVAL_SECONDS))
    print(
        f"{options.rate:,} events/s of {len(BODY)} bytes, {batch} each {INTERVAL_SECONDS * 1000:g} ms, SQLite"
        f" {sqlite3.sqlite_version}, WAL, synchronous=FULL\n"
        f"  {'':<16}{'commit, ms':>24}{'an event durable, ms':>26}{'events':>9}{'µs CPU':>9}{'':>10}\n"
        f"  {'':<16}{'p50':>8}{'p99':>8}{'max':>8}{'p50':>10}{'p99':>8}{'max':>8}{'a commit':>9}{'an event':>9}"
        f"{'events/s':>10}"
    )
    for number in range(options.rounds):
        order = (("event log", measure_log), ("bare sqlite3", measure_bare))
        for name, measure in order if number % 2 else reversed(order):
            with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
                found = measure(Path(folder), batch, options.seconds)
            per_commit, cpu_us = found.count / len(found.commits), found.cpu_seconds / found.count * 1e6
            print(
                f"  {name:<16}{_shown(found.commits, 8)}{_shown(found.events, 10)}{per_commit:9.0f}{cpu_us:9.1f}"
                f"{found.count / options.seconds:10,.0f}",
                flush=True,
            )
    return 0


def _shown(seconds: Sequence[float], width: int) -> str:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"{p50 * 1000:{width}.2f}{p99 * 1000:8.2f}{ordered[-1] * 1000:8.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
