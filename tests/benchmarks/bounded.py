"""What must not grow with the users: series, scrapes, memory, `/incidents`. `python -m tests.benchmarks.bounded`.

A real server of this process, its log on the disk, its ops port asked over HTTP; agents and sockets are left out: the
runs are accepted by the log and opened in the watch, and their links stamped, as the stations do it. First every user
has a run that ends well, and is known. Then some of them lose an event at the socket in the same second, all are in
violation at once, and heal one group after the other. Records of the log go to the null device.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import uuid_utils
import uvloop

from tracewire.eventlog import RunRecord
from tracewire.main import Server, running
from tracewire.settings import load_settings
from tracewire_telemetry.ledger import RunIdentity
from tracewire_telemetry.limits import EngineDeadlines
from tracewire_telemetry.logs import configure_logging
from tracewire_telemetry.vocabulary import EventType, Outcome
from tracewire_telemetry.watch import OpenRun

SCRATCH: Final = Path(".bench")
"""On the disk: what is temporary is often in memory."""
BODY: Final = b"{}"
AT_ONCE: Final = 250
"""Runs that are handled before the event loop gets its turn."""
LIMIT_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.01
SCRAPES: Final = 3
PATIENT: Final = EngineDeadlines(3_600, 3_600, 3_600)
OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
SERIES: Final = "tracewire_user_events_missing{"
QUERIES: Final = (
    ("open, the first page", "state=open"),
    ("open, 1,000 at once", "state=open&limit=1000"),
    ("of one user", "user=user-1"),
    ("of a user who has none", "user=nobody"),
    ("at a link that has none", "link=engine"),
    ("of a type that has none, open", "type=tool_completed&state=open"),
    ("since a minute from now", "since=2999-01-01T00:00:00Z"),
)


@dataclass(frozen=True)
class Shape:
    """`users` are known, `affected` of them in violation at once, `waves` times; `slots` series name users, each for
    `shown_seconds` at least. They heal in `rotations` groups. An event is missing `socket_seconds` after it is durable.
    """

    users: int
    affected: int
    slots: int = 200
    waves: int = 1
    rotations: int = 10
    shown_seconds: float = 1.0
    socket_seconds: float = 5.2


@dataclass(frozen=True)
class Stage:
    """What the process was at one moment. A scrape is timed from its request to its last byte."""

    name: str
    memory_bytes: int
    series: int
    user_series: int
    users_affected: int
    scrape_seconds: float
    scrape_bytes: int
    stall_seconds: float


@dataclass
class Found:
    """What the measurement found. `named` are the users whom any scrape named while they rotated through the slots."""

    stages: list[Stage] = field(default_factory=list)
    declared_seconds: list[float] = field(default_factory=list)
    stored_seconds: list[float] = field(default_factory=list)
    answers: list[tuple[str, float, int]] = field(default_factory=list)
    user_series_max: int = 0
    named: int = 0
    left: int = 0


class LoopLag:
    """The longest time for which the event loop gave nobody a turn."""

    def __init__(self) -> None:
        self._longest = 0.0

    def taken(self) -> float:
        """The longest since this was asked last, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    async def watch(self) -> None:
        """Look on until cancelled."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS / 2)
            self._longest = max(self._longest, time.perf_counter() - began - LOOK_SECONDS / 2)


async def measure(shape: Shape, scratch: Path, *, verbose: bool = False) -> Found:
    """Measure, in this process; the log is below `scratch` meanwhile."""
    found, lag = Found(), LoopLag()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        settings = load_settings(
            {},
            port=0,
            ops_port=0,
            data_dir=folder,
            drain_grace_seconds=0.1,
            missing_users_named_max=shape.slots,
            missing_shown_seconds=shape.shown_seconds,
            outbox_age_seconds=shape.socket_seconds - 0.1,
            socket_deadline_seconds=shape.socket_seconds,
        )
        async with running(settings, environ={}) as server, _beside(lag):
            bench = _Bench(server, shape, found, lag, verbose=verbose)
            await bench.run()
            found.left = len(server.telemetry.watch.runs)
    return found


@asynccontextmanager
async def _beside(lag: LoopLag) -> AsyncIterator[None]:
    watching = asyncio.create_task(lag.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class _Bench:
    def __init__(self, server: Server, shape: Shape, found: Found, lag: LoopLag, *, verbose: bool) -> None:
        self._server = server
        self._shape = shape
        self._found = found
        self._lag = lag
        self._verbose = verbose
        self._users = server.telemetry.metrics.users

    async def run(self) -> None:
        shape = self._shape
        await self._stage("at the start")
        for numbers in _groups(range(shape.users)):
            await self._end(await self._open(numbers))
        await self._stage(f"{shape.users:,} users known")
        for wave in range(shape.waves):
            name = f", wave {wave + 1}" if shape.waves > 1 else ""
            runs = [run for numbers in _groups(range(shape.affected)) for run in await self._open(numbers)]
            await self._stage(f"{shape.affected:,} runs open{name}")
            await self._lose(runs)
            await self._stage(f"{shape.affected:,} users in violation{name}")
            if not wave:
                await self._ask()
            await self._heal(runs)
            runs.clear()
            await self._stage(f"all healed{name}")

    # Runs.

    async def _open(self, numbers: Sequence[int]) -> list[OpenRun]:
        """A run of each user, with its first event settled."""
        server, started = self._server, time.time_ns()
        records = [_record(number, started) for number in numbers]
        await asyncio.gather(*(server.log.accept(record) for record in records))
        await asyncio.gather(*(server.log.append(record.run_id, 1, BODY) for record in records))
        runs = []
        for record in records:
            run = server.telemetry.watch.open(
                RunIdentity(record.run_id, record.user_id, "thread", "analyst", int(record.trace_id, 16), 1),
                (),
                now=time.monotonic_ns(),
                unix_ns=time.time_ns(),
                engine=PATIENT,
            )
            run.attached(acking=True)
            self._written(run, self._durable(run, EventType.AGENT_STARTED))
            runs.append(run)
        return runs

    def _durable(self, run: OpenRun, event_type: EventType) -> int:
        ledger, now = run.ledger, time.monotonic_ns()
        seq = ledger.sequenced(ledger.emitted(event_type, now), now)
        ledger.committed(seq, now)
        return seq

    def _written(self, run: OpenRun, seq: int) -> None:
        run.ledger.written(1, seq, time.monotonic_ns())
        run.acknowledged(1, seq)

    async def _end(self, runs: Sequence[OpenRun]) -> None:
        """The terminal event of each run is delivered and acked, and the run settled."""
        log = self._server.log
        await asyncio.gather(
            *(
                log.append(run.ledger.identity.run_id, run.ledger.last_seq + 1, BODY, outcome=Outcome.COMPLETED)
                for run in runs
            )
        )
        for run in runs:
            seq = self._durable(run, EventType.AGENT_COMPLETED)
            run.ended(Outcome.COMPLETED)
            self._written(run, seq)
        await self._server.telemetry.watch.settling.idle.wait()

    async def _lose(self, runs: Sequence[OpenRun]) -> None:
        """Each run has an event that no socket is given, until all are declared missing and in the log."""
        for group in _groups(runs):
            appended = (self._server.log.append(run.ledger.identity.run_id, 2, BODY) for run in group)
            await asyncio.gather(*appended)
        for group in _groups(runs):
            for run in group:
                self._durable(run, EventType.AGENT_THINKING)
            await asyncio.sleep(0)
        deadline = time.monotonic() + self._shape.socket_seconds
        async with asyncio.timeout(LIMIT_SECONDS):
            while self._users.users_affected < len(runs):
                await asyncio.sleep(LOOK_SECONDS)
            self._found.declared_seconds.append(time.monotonic() - deadline)
            while self._server.telemetry.watch.incidents._unstored:
                await asyncio.sleep(LOOK_SECONDS)
            self._found.stored_seconds.append(time.monotonic() - deadline)

    async def _heal(self, runs: Sequence[OpenRun]) -> None:
        """What was lost comes after all, one group of users after the other, each with a scrape behind it."""
        named: set[str] = set()
        size = max(1, -(-len(runs) // self._shape.rotations))
        async with asyncio.timeout(LIMIT_SECONDS):
            for start in range(0, len(runs), size):
                healed = runs[start : start + size]
                for group in _groups(healed):
                    for run in group:
                        self._written(run, 2)
                    await self._end(group)
                await asyncio.sleep(self._shape.shown_seconds)
                body, _ = await asyncio.to_thread(self._scrape)
                users = [line for line in body.splitlines() if line.startswith(SERIES)]
                named.update(users)
                self._found.user_series_max = max(self._found.user_series_max, len(users))
            while self._users.users_affected:
                await asyncio.sleep(LOOK_SECONDS)
            while self._server.telemetry.watch.incidents._unstored:
                await asyncio.sleep(LOOK_SECONDS)
        self._found.named = max(self._found.named, len(named))

    # Looking on.

    async def _stage(self, name: str) -> None:
        gc.collect()
        memory = memory_bytes()
        await asyncio.sleep(2 * LOOK_SECONDS)  # so that the collection above is not taken for a stall of the scrapes
        self._lag.taken()
        scrapes = [await asyncio.to_thread(self._scrape) for _ in range(SCRAPES)]
        stall = self._lag.taken()
        body = scrapes[-1][0]
        samples = [line for line in body.splitlines() if line and not line.startswith("#")]
        users = [line for line in samples if line.startswith(SERIES)]
        seconds = sorted(seconds for _, seconds in scrapes)[SCRAPES // 2]
        stage = Stage(
            name, memory, len(samples), len(users), self._users.users_affected, seconds, len(body.encode()), stall
        )
        self._found.stages.append(stage)
        self._found.user_series_max = max(self._found.user_series_max, len(users))
        if self._verbose:
            print(row(stage), flush=True)

    def _scrape(self) -> tuple[str, float]:
        return fetched(f"{self._server.ops_url}/metrics", OPENMETRICS)

    async def _ask(self) -> None:
        for name, query in QUERIES:
            answers = [
                await asyncio.to_thread(fetched, f"{self._server.ops_url}/incidents?{query}") for _ in range(SCRAPES)
            ]
            count = len(json.loads(answers[-1][0])["incidents"])
            slowest = max(seconds for _, seconds in answers)
            self._found.answers.append((name, slowest, count))
            if self._verbose:
                print(f"    /incidents {name:<32}{count:6,} in {slowest * 1000:7.1f} ms", flush=True)


def fetched(url: str, accept: str = "*/*") -> tuple[str, float]:
    """What a GET answers, and in how many seconds."""
    began = time.perf_counter()
    with urlopen(Request(url, headers={"Accept": accept}), timeout=LIMIT_SECONDS) as answer:  # noqa: S310 # our own server
        body = answer.read()
    return body.decode(), time.perf_counter() - began


def memory_bytes() -> int:
    """The resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def _record(number: int, started_unix_ns: int) -> RunRecord:
    run_id = str(uuid_utils.uuid7())
    trace_id = f"{uuid_utils.uuid4().int:032x}"
    user_id = f"user-{number}"
    return RunRecord(run_id, user_id, run_id, "thread", "analyst", None, trace_id, "0" * 15 + "1", started_unix_ns)


def _groups(items: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


HEAD: Final = (
    f"  {'':<36}{'memory':>9}{'series':>8}{'of users':>9}{'affected':>10}{'scrape':>10}{'size':>9}{'stall':>9}\n"
    f"  {'':<36}{'MiB':>9}{'':>8}{'':>9}{'users':>10}{'ms':>10}{'KiB':>9}{'ms':>9}"
)


def row(stage: Stage) -> str:
    """One stage as a line of the table."""
    return (
        f"  {stage.name:<36}{stage.memory_bytes / 2**20:9.0f}{stage.series:8,}{stage.user_series:9}"
        f"{stage.users_affected:10,}{stage.scrape_seconds * 1000:10.1f}{stage.scrape_bytes / 1024:9.0f}"
        f"{stage.stall_seconds * 1000:9.1f}"
    )


def main() -> int:
    """Measure and print."""
    if sys.platform != "linux":
        print("the benchmark reads a process's memory as Linux gives it, and runs there only", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bounded")
    parser.add_argument("--users", type=int, default=1_000_000, help="users that are known (default: 1000000)")
    parser.add_argument("--affected", type=int, default=100_000, help="of them in violation (default: 100000)")
    parser.add_argument("--waves", type=int, default=1, help="how often they are (default: 1)")
    options = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with Path(os.devnull).open("w") as nowhere:
        sys.stderr = nowhere
        try:
            configure_logging(level="warning", json=True)
            print(HEAD)
            shape = Shape(options.users, options.affected, waves=options.waves)
            found = uvloop.run(measure(shape, SCRATCH, verbose=True))
        finally:
            sys.stderr = sys.__stderr__
    _tell(found, shape)
    return 0


def _tell(found: Found, shape: Shape) -> None:
    first, known, opened, violating, healed = found.stages[:5]
    affected = max(1, shape.affected)
    known_bytes = (known.memory_bytes - first.memory_bytes) / max(1, shape.users)
    print(
        f"\n  a known user costs {known_bytes:,.0f} bytes, an open run"
        f" {(opened.memory_bytes - known.memory_bytes) / affected:,.0f}, a user in violation"
        f" {(violating.memory_bytes - opened.memory_bytes) / affected:,.0f} more; after it"
        f" {(healed.memory_bytes - known.memory_bytes) / 2**20:+,.0f} MiB are left to the process"
    )
    print(
        f"  all declared {found.declared_seconds[0]:.2f} s after the deadline of the last event, in the log after"
        f" {found.stored_seconds[0]:.2f} s"
    )
    print(
        f"  at most {found.user_series_max} series of users; {found.named:,} were named as they rotated;"
        f" {found.left} runs are left"
    )


if __name__ == "__main__":
    raise SystemExit(main())
