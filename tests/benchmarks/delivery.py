"""`python -m tests.benchmarks.delivery`: what slow, late and returning clients cost, against a real server process.

Three parts, each of them alone by its name: `stalled`, `resume`, `reconnect`. Every measurement has a server process
and a data folder of its own; what is compared is measured in turn.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

import uvloop
from tests.benchmarks.delivery_reconnect import measure_reconnect, measure_resume
from tests.benchmarks.delivery_stalled import measure_stalled
from tests.benchmarks.load import WrongDeliveryError

Part = Callable[[argparse.Namespace], Coroutine[Any, Any, None]]


def main() -> int:
    """Measure and print; 1 where something was delivered wrongly."""
    if sys.platform != "linux":
        print("the benchmark reads a process's memory as Linux gives it, and runs there only", file=sys.stderr)
        return 1
    options = _options()
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    try:
        for name in options.parts or PARTS:
            uvloop.run(PARTS[name](options))
    except WrongDeliveryError as error:
        print(f"\nno figures: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.delivery", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), help="which parts (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--users", type=int, default=100, help="healthy users beside a stalled one (default: 100)")
    parser.add_argument("--stalled", type=int, default=1, help="clients that stop reading (default: 1)")
    parser.add_argument("--clients", type=int, default=1_000, help="clients that return at once (default: 1000)")
    parser.add_argument("--missed", type=int, default=10_000, help="events that a resume gives (default: 10000)")
    return parser.parse_args()


async def _stalled(options: argparse.Namespace) -> None:
    readers = options.stalled
    print(f"\n{readers} that stop reading among {options.users} healthy users, and without them")
    rounds = []
    for number in range(options.rounds):
        # Every other round the other way round, so that a drift does not favour one of the two.
        order = (False, True) if number % 2 else (True, False)
        found = {stalling: await measure_stalled(options.users, readers, stalling=stalling) for stalling in order}
        rounds.append(found)
        print(
            f"  freed after {found[True].freed_seconds:4.1f} s, "
            f"peak memory {(found[True].peak_bytes - found[False].peak_bytes) / 1024 / readers:+6.0f} KiB each; "
            f"the others' p99 {found[True].p99_ms:5.1f} ms, without it {found[False].p99_ms:5.1f} ms",
            flush=True,
        )
    ratio = median(found[True].p99_ms / found[False].p99_ms for found in rounds)
    cost = median((found[True].peak_bytes - found[False].peak_bytes) / readers for found in rounds)
    freed = max(found[True].freed_seconds for found in rounds)
    print(
        f"  freed within {freed:.1f} s; medians: {cost / 1024:+.0f} KiB each, "
        f"the others' p99 {ratio:.2f} of that without them"
    )


async def _resume(options: argparse.Namespace) -> None:
    print(f"\na resume of a run with {options.missed:,} missed events")
    found = await measure_resume(options.missed, options.rounds)
    for name, seconds in found.items():
        ratio = median(own / bare for own, bare in zip(seconds, found["bare uvicorn"], strict=True))
        rate = options.missed / median(seconds)
        print(f"  {name:<34}{median(seconds) * 1000:8.0f} ms{rate:10,.0f} events/s{ratio:7.1f}x")


async def _reconnect(options: argparse.Namespace) -> None:
    print(f"\n{options.clients:,} clients that come back at once")
    for _ in range(options.rounds):
        found = await measure_reconnect(options.clients)
        print(
            f"  all current after {found.seconds:5.2f} s; {found.events:,} missed events given, none lost or repeated; "
            f"p50 {found.p50_seconds:.2f} s, server CPU {found.cpu_seconds:.2f} s",
            flush=True,
        )


PARTS: dict[str, Part] = {"stalled": _stalled, "resume": _resume, "reconnect": _reconnect}

if __name__ == "__main__":
    raise SystemExit(main())
