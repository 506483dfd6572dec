"""What a busy retention costs the events that are appended meanwhile: latencies with and without it, in turns.

python -m tests.benchmarks.retention [seconds a phase]
"""

import asyncio
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracewire.eventlog import RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.runs.recordings import RecordingStore
from tracewire.runs.retention import NANOSECONDS_PER_HOUR, Retention
from tracewire.settings import Settings
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import Outcome

WRITERS = 50
INTERVAL_SECONDS = 0.01
BODY = bytes(350)
EXPIRED_RUNS = 600
EXPIRED_EVENTS = 1000
ROUNDS = 3


async def accept(log: SqliteEventLog, run_id: str) -> None:
    await log.accept(RunRecord(run_id, "ada", run_id, "thread", "analyst", None, "0" * 32, "0" * 16, 1))


async def fill(log: SqliteEventLog, round_: int) -> None:
    """Runs that are to expire."""
    for number in range(EXPIRED_RUNS):
        run_id = f"old-{round_}-{number}"
        await accept(log, run_id)
        appends = [log.append(run_id, seq, BODY) for seq in range(1, EXPIRED_EVENTS)]
        await asyncio.gather(*appends, log.append(run_id, EXPIRED_EVENTS, BODY, outcome=Outcome.COMPLETED))


async def append_for(log: SqliteEventLog, phase: str, seconds: float) -> list[float]:
    """Append at a steady pace; the latency of each group in milliseconds, sorted."""
    for number in range(WRITERS):
        await accept(log, f"{phase}-{number}")
    loop, latencies = asyncio.get_running_loop(), []
    began, seq = loop.time(), 0
    while loop.time() - began < seconds:
        seq += 1
        at = time.perf_counter()
        await asyncio.gather(*(log.append(f"{phase}-{number}", seq, BODY) for number in range(WRITERS)))
        latencies.append((time.perf_counter() - at) * 1000)
        await asyncio.sleep(max(0.0, began + seq * INTERVAL_SECONDS - loop.time()))
    return sorted(latencies)


def shown(name: str, latencies: list[float], more: str = "") -> str:
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return f"{name:<20} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   max {latencies[-1]:6.2f} ms   {more}"


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder, ThreadPoolExecutor(1) as threads:
        log = SqliteEventLog(Path(folder))
        await log.open()
        retention = Retention(
            Settings(retention_hours=1.0),
            log,
            RecordingStore(Path(folder)),
            Metrics(version="0"),
            watched=lambda run_id: not run_id.startswith("old"),
            threads=threads,
            unix_ns=lambda: time.time_ns() + 2 * NANOSECONDS_PER_HOUR,
        )
        print(f"{WRITERS / INTERVAL_SECONDS:,.0f} events/s of {len(BODY)} bytes, {seconds:g} s a phase")
        for round_ in range(ROUNDS):
            await fill(log, round_)
            print(shown("without retention", await append_for(log, f"a{round_}", seconds)))
            sweeping = asyncio.create_task(retention.sweep())
            latencies = await append_for(log, f"b{round_}", seconds)
            state = "swept all" if sweeping.done() else "busy throughout"
            swept = await sweeping
            print(shown("with retention", latencies, f"{state}; {swept.events:,} events removed"))
        await log.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0))
