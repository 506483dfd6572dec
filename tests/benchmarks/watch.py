"""What it costs to know of every event, and how soon a missing one is known: `python -m tests.benchmarks.watch`.

Two parts, each of them alone by its name. `cost`: what ledger and watch do for a healthy event, alone in this process,
beside the whole cost of an event in a server, measured in turn (a server cannot do without them, so that no server
tells the difference); the record of a run's end is written to the null device. `incident`: from the deadline of an
event to its incident, among 100,000 open runs in the real watch, which ticks by its real clock while healthy events go
on; first a few events are lost, then one of each run.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import structlog
import uvloop
from opentelemetry.sdk.resources import Resource
from tests.benchmarks.load import SUBPROTOCOLS, WrongDeliveryError
from tests.benchmarks.measuring import Case, Shape, capture, measure

from tracewire_telemetry.ledger import RunIdentity
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.logs import configure_logging
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import EventType, Outcome
from tracewire_telemetry.watch import OpenRun, Watch

SHAPE: Final = Shape(users=100, events=250)
ACK_EVENTS: Final = 16
EVENTS_PER_LOOK: Final = 25
"""Events of each run between two ticks: as many as a busy server's runs have in a quarter of a second."""
TURN_SECONDS: Final = 0.01
HEALTHY_PER_TURN: Final = 20
LOST_EVERY_TURNS: Final = 2
AT_ONCE: Final = 500
LIMIT_SECONDS: Final = 300.0
PATIENT: Final = EngineDeadlines(3_600, 3_600, 3_600)
WHOLE: Final = Case(f"Tracewire, {SUBPROTOCOLS[0]}", ACK_EVENTS, SUBPROTOCOLS[0])


class TimedWatch(Watch):
    """The watch, with the seconds of each of its turns."""

    def __init__(self) -> None:
        metrics = Metrics(version="0", agents=["steady"])
        tracing = RunTracing(Resource({}), version="0", share=1.0, recording=False, dropped=metrics.spans_dropped)
        super().__init__(metrics, tracing, None, deadlines=LinkDeadlines())
        self.turns: list[float] = []

    def tick(self, now: int, **bounds: Any) -> bool:
        began = time.perf_counter()
        more = super().tick(now, **bounds)
        self.turns.append(time.perf_counter() - began)
        return more


def opened(watch: Watch, number: int) -> OpenRun:
    """A run of a user of its own, whose first event is settled."""
    identity = RunIdentity(f"run-{number}", f"user-{number}", "thread", "steady", number + 1, 1)
    run = watch.open(identity, (), now=time.monotonic_ns(), unix_ns=time.time_ns(), engine=PATIENT)
    run.attached(acking=True)
    delivered(run, EventType.AGENT_STARTED)
    return run


def durable(run: OpenRun, event_type: EventType) -> int:
    """The first three links, each of which looks at the clock."""
    ledger = run.ledger
    ordinal = ledger.emitted(event_type, time.monotonic_ns())
    seq = ledger.sequenced(ordinal, time.monotonic_ns())
    ledger.committed(seq, time.monotonic_ns())
    return seq


def delivered(run: OpenRun, event_type: EventType) -> None:
    """All five."""
    seq = durable(run, event_type)
    run.ledger.written(1, seq, time.monotonic_ns())
    run.acknowledged(1, seq, seq)


class Spent(NamedTuple):
    """Seconds by what they went to."""

    stamps: float
    acks: float
    looks: float
    settling: float


async def _kept(*_: object) -> None:
    """What the log does with stamps and incidents, for nothing."""


async def alone(shape: Shape) -> Spent:
    """What ledger and watch do for the events of a `Shape`."""
    watch = TimedWatch()
    clock = time.thread_time
    began = clock()
    runs = [opened(watch, number) for number in range(shape.users)]
    stamps, acks, looks = clock() - began, 0.0, 0.0
    for number in range(2, shape.events):
        at = clock()
        for run in runs:
            seq = durable(run, EventType.AGENT_THINKING)
            run.ledger.written(1, seq, time.monotonic_ns())
        stamped = clock()
        if not number % ACK_EVENTS:
            for run in runs:
                run.acknowledged(1, number, number)
        acked = clock()
        if not number % EVENTS_PER_LOOK:
            watch.tick(time.monotonic_ns() + 1_000_000_000)
        stamps, acks, looks = stamps + stamped - at, acks + acked - stamped, looks + clock() - acked
    began = clock()
    watch.start(_kept)
    for run in runs:
        run.ended(Outcome.COMPLETED)
        delivered(run, EventType.AGENT_COMPLETED)
    await watch.close()
    return Spent(stamps, acks, looks, clock() - began)


async def _cost(rounds: int) -> None:
    frames = await capture(SHAPE.events)
    print(f"\nan event's cost in µs; {SHAPE.users} runs of {SHAPE.events} events, an ack per {ACK_EVENTS}")
    print(f"  {'stamps':>8}{'acks':>8}{'looks':>8}{'settling':>10}{'all of it':>11}{'of a server':>13}{'share':>8}")
    shares = []
    for _ in range(rounds):
        spent = await alone(SHAPE)
        cost = await measure(WHOLE, SHAPE, frames)
        each = [seconds / SHAPE.delivered * 1e6 for seconds in spent]
        shares.append(sum(each) / cost.cpu_us_per_event)
        print(
            f"  {each[0]:8.2f}{each[1]:8.2f}{each[2]:8.2f}{each[3]:10.2f}{sum(each):11.2f}"
            f"{cost.cpu_us_per_event:13.1f}{shares[-1]:8.1%}",
            flush=True,
        )
    print(f"  median share {median(shares):.1%}")


class Openings:
    """When each run's incident opened, monotonic nanoseconds: the record of its opening is the last thing done."""

    def __init__(self) -> None:
        self.at_ns: dict[str, int] = {}

    def note(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take the record out of the log."""
        if event["event"] == "incident_opened":
            self.at_ns[event["run_id"]] = time.monotonic_ns()
        raise structlog.DropEvent


async def _incidents(count: int, seconds: float) -> None:
    openings, watch = Openings(), TimedWatch()
    structlog.configure(processors=[openings.note])
    runs: list[OpenRun] = []
    for start in range(0, count, AT_ONCE):
        runs += [opened(watch, number) for number in range(start, min(count, start + AT_ONCE))]
        await asyncio.sleep(0)
    watch.start(_kept, _kept)
    print(f"\nfrom the deadline to the incident, {count:,} open runs")
    print(f"  {'':<26}{'to the incident, ms':>28}{'a turn of the watch, ms':>30}")
    print(f"  {'':<26}{'p50':>10}{'p99':>9}{'max':>9}{'p50':>12}{'p99':>9}{'max':>9}")
    chance = random.Random(1)
    healthy, losing = runs[: count // 2], runs[count // 2 :]
    some = losing[: int(seconds / TURN_SECONDS / LOST_EVERY_TURNS)]
    rest = losing[len(some) :] + healthy
    waiting, turn = list(some), 0
    async with asyncio.timeout(LIMIT_SECONDS):
        while len(openings.at_ns) < len(some):
            turn += 1
            for run in chance.choices(healthy, k=HEALTHY_PER_TURN):
                delivered(run, EventType.AGENT_THINKING)
            if waiting and not turn % LOST_EVERY_TURNS:
                durable(waiting.pop(), EventType.AGENT_THINKING)
            await asyncio.sleep(TURN_SECONDS)
        _tell(f"{len(some):,} runs, one by one", some, openings, watch)
        for start in range(0, len(rest), AT_ONCE):
            for run in rest[start : start + AT_ONCE]:
                durable(run, EventType.AGENT_THINKING)
            await asyncio.sleep(0)
        while len(openings.at_ns) < count:
            await asyncio.sleep(TURN_SECONDS)
        _tell(f"{len(rest):,} runs, all at once", rest, openings, watch)
    for run in runs:
        for seq in range(run.ledger.acked + 1, run.ledger.last_seq + 1):
            run.ledger.written(1, seq, time.monotonic_ns())
        run.acknowledged(1, run.ledger.last_seq)
    await watch.close()


def _tell(name: str, runs: Sequence[OpenRun], openings: Openings, watch: TimedWatch) -> None:
    late = []
    for run in runs:
        ledger = run.ledger
        late.append((openings.at_ns[ledger.identity.run_id] - ledger.emitter[-1] - ledger.limits.socket) / 1e9)
    # A turn that had nothing to do is one of four a second, and no measure of a turn.
    turns = [seconds for seconds in watch.turns if seconds > 1e-4] or watch.turns
    print(f"  {name:<26}{_shown(late, 10)}{_shown(turns, 12)}", flush=True)
    watch.turns.clear()


def _shown(seconds: Sequence[float], width: int) -> str:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"{p50 * 1000:{width}.1f}{p99 * 1000:9.1f}{ordered[-1] * 1000:9.1f}"


def main() -> int:
    """Measure and print; 1 where something was delivered wrongly."""
    if sys.platform != "linux":
        print("the benchmark reads a process's CPU clock as Linux numbers it, and runs there only", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.watch")
    parser.add_argument("parts", nargs="*", choices=("cost", "incident", []), help="which parts (default: both)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of the cost (default: 3)")
    parser.add_argument("--runs", type=int, default=100_000, help="open runs (default: 100000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="in which single events are lost (default: 20)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} processes at work")
    failure: WrongDeliveryError | None = None
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        configure_logging(level="info", json=True)
        try:
            for part in options.parts or ("cost", "incident"):
                uvloop.run(_cost(options.rounds) if part == "cost" else _incidents(options.runs, options.seconds))
        except WrongDeliveryError as error:
            failure = error
    if failure is not None:
        print(f"\nno figures: {failure}", file=sys.stderr)
    return 0 if failure is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
