"""`python -m tests.fuzz`: a million hostile frames and requests against a real server, and what came of them.

It ends with 1 where the server failed: a wrong answer (5xx, 1011, none), an error in its log, a crash, memory that
grew by more than 5 %, or a run of the healthy user that was not whole. A wrong answer is told with its seed and number;
`--only` sends that attack alone. Memory was seen to rise by a quarter over the first 400,000, and then to stay.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

import uvloop

from fuzz.attackers import Tally
from fuzz.campaign import Campaign, Outcome, Window, prepared, served

MEMORY_RATIO_MAX = 1.05
LATENCY_RATIO_AIM = 1.2


def main() -> int:
    """Send, print, and judge."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tracewire-fuzz-") as folder:
        if options.only is not None:
            return uvloop.run(_replay(Path(folder), options.seed, options.only))
        return _judge(uvloop.run(_campaign(Path(folder), options).run()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what all of it follows from")
    parser.add_argument("--count", type=int, default=1_000_000, help="frames and requests in all")
    parser.add_argument("--seconds", type=float, default=900, help="the most that it may take")
    parser.add_argument("--warm-up", type=int, default=400_000, help="of these, sent before memory is looked at")
    parser.add_argument("--rate", type=float, default=0, help="frames and requests a second; 0: as many as go")
    parser.add_argument(
        "--alone-runs", type=int, default=30, help="runs of the healthy user between two turns of the attack"
    )
    parser.add_argument("--only", type=int, help="send the attack of this number alone")
    return parser.parse_args()


def _campaign(folder: Path, options: argparse.Namespace) -> Campaign:
    def until(tally: Tally, seconds: float) -> bool:
        return tally.sent >= options.count or seconds > options.seconds

    return Campaign(
        folder, options.seed, until=until, warm_up=options.warm_up, alone_runs=options.alone_runs,
        per_second=options.rate, say=lambda line: print(line, flush=True),
    )  # fmt: skip


async def _replay(folder: Path, seed: str, index: int) -> int:
    with served(folder) as server:
        attackers = await prepared(server, seed)
        print(attackers._hostile.attack(seed, index))
        await attackers.one(index)
        await asyncio.to_thread(server.stop)
        print(*attackers.tally.failures, server.log_text(), sep="\n")
    return bool(attackers.tally.failures)


def _judge(outcome: Outcome) -> int:
    tally = outcome.tally
    print(f"\n{tally.frames:,} frames and {tally.requests:,} requests; {outcome.seconds:.0f} s after the warm-up")
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(tally.answers.items())))
    print(f"memory {outcome.memory_before_kib / 1024:.1f} -> {outcome.memory_after_kib / 1024:.1f} MiB,", end=" ")
    print(
        f"{outcome.memory_ratio:.3f} times; log {outcome.log_bytes / 1e6:.1f} MB, {outcome.log_bytes / tally.sent:.1f}",
        end=" ",
    )
    print("bytes for each frame or request")
    for name, window in (("alone", outcome.alone), ("meanwhile", outcome.meanwhile)):
        print(f"healthy user {name}: {_told(window)}")
    ratio = outcome.meanwhile.p99_ms / outcome.alone.p99_ms if outcome.alone.p99_ms else 0.0
    print(f"p99 {ratio:.2f} times; {'within' if ratio <= LATENCY_RATIO_AIM else 'beyond'} {LATENCY_RATIO_AIM}")
    wrong = [*tally.failures, *outcome.problems, *outcome.log_problems]
    if outcome.memory_ratio > MEMORY_RATIO_MAX:
        wrong.append(f"memory grew {outcome.memory_ratio:.3f} times, {MEMORY_RATIO_MAX} is the most")
    if outcome.exit_code:
        wrong.append(f"the server ended with {outcome.exit_code}")
    print(*(["", "WRONG:", *wrong[:50]] if wrong else ["", "nothing wrong"]), sep="\n")
    return bool(wrong)


def _told(window: Window) -> str:
    return f"{window.runs} runs, {window.events:,} events, p50 {window.p50_ms:.2f} ms, p99 {window.p99_ms:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
