"""`python -m tests.simulation`: schedules of faults over the real chain, each replayable from its seed alone.

With `--seed` it runs that one and prints its steps; otherwise `--count` of them from `--start` on. It ends with 1 where
an invariant did not hold, and names the seeds.
"""

import argparse
import contextlib
import sys
import time
from collections import Counter

from simulation.planted import BUGS, planted
from simulation.world import run_schedule


def main() -> int:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this schedule alone, and print its steps")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10_000, help="how many schedules")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug first")
    options = parser.parse_args()
    with planted(BUGS[options.bug]) if options.bug else contextlib.nullcontext():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    if options.seed is not None:
        result = run_schedule(options.seed, tracing=True)
        print(*result.trace, sep="\n")
        print(*(result.wrong or ["nothing wrong"]), sep="\n")
        return bool(result.wrong)
    began, began_cpu, steps, events, failing = time.monotonic(), time.process_time(), 0, 0, []
    happened: Counter[str] = Counter()
    for seed in range(options.start, options.start + options.count):
        result = run_schedule(seed)
        steps, events = steps + result.steps, events + result.events
        happened += result.happened
        if result.wrong:
            failing.append(seed)
            print(f"seed {seed}: {result.wrong[0]}", flush=True)
    seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(happened.items())))
    print(
        f"{options.count:,} schedules, {events:,} events, {steps:,} steps in {seconds:.1f} s ({cpu:.1f} s of CPU);",
        end=" ",
    )
    print(f"{len(failing)} failed: {failing[:20]}" if failing else "nothing wrong")
    return bool(failing)


if __name__ == "__main__":
    sys.exit(main())
