"""One measurement: a fresh server, its users, one run each, and what that cost the server."""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.benchmarks import agents
from tests.benchmarks.bare import SETTLED, BareProcess
from tests.benchmarks.load import LoadClient, WrongDeliveryError, connect
from tests.benchmarks.traces import TraceSink, trace_sink
from tests.support.servers import ServerProcess

from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX
from tracewire_telemetry.vocabulary import LINKS

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 120
POLL_SECONDS = 0.01
TRAILING_SECONDS = 0.3
"""What a server does after it has settled its runs: the last acks go to the log a quarter of a second later."""
CONNECTING_MAX = 20
TRACE_QUEUE_BYTES = 1 << 30
"""Room for every trace at once: all runs end at the same moment here, and none is to be dropped."""


@dataclass(frozen=True)
class Shape:
    """How much load: so many users, with one socket and one run of so many events each."""

    users: int
    events: int

    @property
    def delivered(self) -> int:
        """Events of all users."""
        return self.users * self.events

    @property
    def spans(self) -> int:
        """What the runs and the handshakes export where every trace is kept."""
        return self.users * (1 + min(SPANS_PER_RUN_MAX, 1 + 4 * self.events))


@dataclass(frozen=True)
class Case:
    """What is measured. `subprotocol` is `None` for the bare sender; `in_memory` has a log that is not on the disk."""

    name: str
    ack_events: int
    subprotocol: str | None = None
    traced: bool = False
    in_memory: bool = False

    @property
    def bare(self) -> bool:
        """Whether it is the floor that the others are held against."""
        return self.subprotocol is None


@dataclass(frozen=True)
class Cost:
    """What a measurement found. `load_share` is how busy the load was, 1 being a whole core."""

    cpu_us_per_event: float
    events_per_second: float
    load_share: float
    events_per_commit: float | None = None


class Target(Protocol):
    """A server process, Tracewire's or the bare one."""

    @property
    def ws_url(self) -> str:
        """The socket's endpoint."""

    def token(self, user_id: str) -> str:
        """What this user signs in with."""

    def log_text(self) -> str:
        """What the server has said, a line with `SETTLED` for each run that is done."""


async def capture(events: int) -> list[bytes]:
    """The frames of a run as Tracewire sends them: `ready`, `run_accepted`, then the envelopes."""
    with tempfile.TemporaryDirectory() as folder, _tracewire(Path(folder), None) as server:
        client = await connect(server.ws_url, server.token("user-0"), "tracewire.v1", 16, keep=True)
        client.start_run("capture", events)
        await asyncio.wait_for(client.done, LIMIT_SECONDS)
        client.close()
        return client.frames


async def measure(case: Case, shape: Shape, frames: list[bytes]) -> Cost:
    """Measure one case with a server of its own.

    Raises:
        WrongDeliveryError: an event did not come, or came twice, or out of order.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case.bare:
            path = folder / "frames"
            path.write_bytes(b"\n".join(frames))
            with BareProcess(path) as bare:
                return await _load(bare, bare.process.pid, case, shape, None)
        async with _sink(wanted=case.traced) as sink:
            with _tracewire(folder, sink, in_memory=case.in_memory) as server:
                cost = await _load(server, server.process.pid, case, shape, sink)
                return _checked(server, shape, sink, cost)


def _tracewire(folder: Path, sink: TraceSink | None, *, in_memory: bool = False) -> ServerProcess:
    environ: dict[str, str] = {}
    if sink is not None:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.endpoint
        environ["TRACEWIRE_TRACE_QUEUE_BYTES_MAX"] = str(TRACE_QUEUE_BYTES)
    program = ("-m", "tests.benchmarks.memory_server" if in_memory else "tracewire.cli")
    return ServerProcess(folder / "data", "--agent", agents.REFERENCE, environ=environ, cwd=ROOT, program=program)


@asynccontextmanager
async def _sink(*, wanted: bool) -> AsyncIterator[TraceSink | None]:
    if not wanted:
        yield None
        return
    async with trace_sink() as sink:
        yield sink


async def _load(target: Target, pid: int, case: Case, shape: Shape, sink: TraceSink | None) -> Cost:
    clients = await _connect_all(target, case, shape)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            load_before, cpu_before, began = time.process_time(), process_cpu_seconds(pid), time.perf_counter()
            for number, client in enumerate(clients):
                client.start_run(f"run-{number}", shape.events)
            await asyncio.gather(*(client.done for client in clients))
            ended, load_after = time.perf_counter(), time.process_time()
            while target.log_text().count(SETTLED) < shape.users:  # another process writes it
                await asyncio.sleep(POLL_SECONDS)
            if sink is not None:
                await sink.wait_for(shape.spans)
            await asyncio.sleep(TRAILING_SECONDS)
            cpu_after = process_cpu_seconds(pid)
        for client in clients:
            client.check()
    finally:
        for client in clients:
            client.close()
    received = sum(client.received for client in clients)
    if received != shape.delivered:
        raise WrongDeliveryError(f"{received} events came, not {shape.delivered}")
    return Cost(
        (cpu_after - cpu_before) / received * 1e6,
        received / (ended - began),
        (load_after - load_before) / (ended - began),
    )


async def _connect_all(target: Target, case: Case, shape: Shape) -> list[LoadClient]:
    turn = asyncio.Semaphore(CONNECTING_MAX)

    async def connected(number: int) -> LoadClient:
        async with turn:
            token = target.token(f"user-{number}")
            return await connect(target.ws_url, token, case.subprotocol or "tracewire.v1", case.ack_events)

    async with asyncio.timeout(LIMIT_SECONDS):
        return await asyncio.gather(*(connected(number) for number in range(shape.users)))


def _checked(server: ServerProcess, shape: Shape, sink: TraceSink | None, cost: Cost) -> Cost:
    """Hold the server's own figures against what was delivered; asked for after the measured part."""
    counts: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(httpx.get(f"{server.ops_url}/metrics").text):
        for sample in family.samples:
            counts[f"{sample.name} {sample.labels.get('link', '')}".strip()] += sample.value
    due = {f"tracewire_events_total {link.value}": shape.delivered for link in LINKS}
    due |= {"tracewire_events_missing_total client": 0, "tracewire_spans_dropped_total": 0}
    if sink is not None:
        due["tracewire_spans_exported_total"] = shape.spans
        if not shape.spans == sink.spans == len(sink.span_ids):
            raise WrongDeliveryError(f"{sink.spans} spans came, {len(sink.span_ids)} of them once, not {shape.spans}")
    wrong = {name: counts[name] for name, count in due.items() if counts[name] != count}
    if wrong:
        raise WrongDeliveryError(f"the server counted {wrong}; {shape.delivered} events were delivered")
    commits = counts["tracewire_eventlog_commit_seconds_count"]
    return replace(cost, events_per_commit=shape.delivered / commits) if commits else cost


def process_cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, to the nanosecond (Linux).

    The clock's id is what `clock_getcpuclockid` gives, which Python has for threads only.
    """
    return time.clock_gettime(~pid << 3 | 2)
