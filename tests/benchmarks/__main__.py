"""`python -m tests.benchmarks`: server CPU per delivered event, Tracewire beside a bare uvicorn, interleaved.

Every measurement has a server process of its own and a data folder that goes with it; nothing is written elsewhere.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from statistics import median

import uvloop
from tests.benchmarks.agents import EVENTS_MIN
from tests.benchmarks.load import SUBPROTOCOLS, WrongDeliveryError
from tests.benchmarks.measuring import Case, Cost, Shape, capture, measure

PLAIN, LINES = SUBPROTOCOLS
ACKS = {1: "an ack per event", 16: "an ack per 16 events"}
IN_MEMORY = ", log in memory"
CASES = (
    *(
        case
        for ack_events in ACKS
        for case in (
            Case("bare uvicorn", ack_events),
            Case(f"Tracewire, {PLAIN}", ack_events, PLAIN),
            Case(f"Tracewire, {LINES}", ack_events, LINES),
        )
    ),
    *(Case(f"Tracewire, {name}{IN_MEMORY}", 16, name, in_memory=True) for name in SUBPROTOCOLS),
    Case(f"Tracewire, {PLAIN}, all traces exported", 16, PLAIN, traced=True),
)
DISTRIBUTIONS = ("tracewire", "uvicorn", "websockets", "uvloop", "httptools")
NOTES = """\
CPU is user and system time of the server process, all its threads, from the first start_run until every run is
settled (its stamps stored, its trace exported where traces are); "of bare" is the median of the rounds' ratios.
Times drift with the machine and whoever else is on it, from round to round too: it is the ratios that count.
The bare sender gets its bytes ready-made; it encodes nothing, stores nothing, and looks for the last ack alone.
Every client held each envelope against the one that was due; "load" is how busy they kept their one core."""
Round = dict[Case, Cost]


def main() -> int:
    """Measure and print; 1 where something was delivered wrongly."""
    if sys.platform != "linux":
        print("the benchmark reads a process's CPU clock as Linux numbers it, and runs there only", file=sys.stderr)
        return 1
    options = _options()
    shape = Shape(options.users, options.events)
    try:
        rounds = uvloop.run(_measure_all(shape, options.rounds))
    except WrongDeliveryError as error:
        print(f"\nno figures: {error}", file=sys.stderr)
        return 1
    print(f"\nmedians of {len(rounds)} rounds")
    for line in (*_table(rounds), *_log_shares(rounds)):
        print(line)
    print(f"\n{NOTES}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case (default: 5)")
    parser.add_argument("--users", type=int, default=100, help="users with a socket and a run each (default: 100)")
    parser.add_argument("--events", type=int, default=250, help="events of a run, first and last too (default: 250)")
    options = parser.parse_args()
    if options.rounds < 1 or options.users < 1 or options.events < EVENTS_MIN:
        parser.error(f"at least 1 round, 1 user, {EVENTS_MIN} events")
    return options


async def _measure_all(shape: Shape, rounds: int) -> list[Round]:
    frames = await capture(shape.events)
    size = sum(map(len, frames[2:])) / shape.events
    print(
        f"{shape.users} users with a socket and a run each, {shape.events} events a run, {size:.0f} bytes an event\n"
        f"{', '.join(f'{name} {version(name)}' for name in DISTRIBUTIONS)}; Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    found: list[Round] = []
    for number in range(1, rounds + 1):
        print(f"\nround {number} of {rounds}")
        costs: Round = {}
        # Every other round backwards, so that a drift within a round does not favour whoever comes first.
        for case in CASES if number % 2 else reversed(CASES):
            cost = costs[case] = await measure(case, shape, frames)
            print(
                f"  {ACKS[case.ack_events]:<22}{case.name:<46}{cost.cpu_us_per_event:7.1f} µs"
                f"{cost.events_per_second:9,.0f} events/s{cost.load_share:7.0%} load",
                flush=True,
            )
        found.append(costs)
    return found


def _table(rounds: list[Round]) -> Iterator[str]:
    yield f"  {'':<50}{'µs CPU':>8}{'':>10}{'delivered':>12}{'events':>9}"
    yield f"  {'':<50}{'an event':>8}{'of bare':>10}{'events/s':>12}{'a commit':>9}"
    for ack_events, title in ACKS.items():
        yield title
        for case in CASES:
            if case.ack_events == ack_events:
                yield f"  {case.name:<50}{_figures(case, rounds)}"


def _log_shares(rounds: list[Round]) -> Iterator[str]:
    """What the log on the disk takes of an event's cost, by the server that differs in its log alone."""
    yield "the log's share"
    for case in CASES:
        if case.in_memory:
            other = Case(case.name.removesuffix(IN_MEMORY), case.ack_events, case.subprotocol)
            cost = median(costs[other].cpu_us_per_event - costs[case].cpu_us_per_event for costs in rounds)
            share = median(1 - costs[case].cpu_us_per_event / costs[other].cpu_us_per_event for costs in rounds)
            yield f"  {other.name:<50}{cost:8.1f}{share:9.0%}"


def _figures(case: Case, rounds: list[Round]) -> str:
    bare = next(other for other in CASES if other.bare and other.ack_events == case.ack_events)
    costs = [costs[case] for costs in rounds]
    ratio = median(costs[case].cpu_us_per_event / costs[bare].cpu_us_per_event for costs in rounds)
    commits = [cost.events_per_commit for cost in costs if cost.events_per_commit is not None]
    return (
        f"{median(cost.cpu_us_per_event for cost in costs):8.1f}{ratio:9.1f}x"
        f"{median(cost.events_per_second for cost in costs):12,.0f}" + (f"{median(commits):9.0f}" if commits else "")
    )


if __name__ == "__main__":
    raise SystemExit(main())
