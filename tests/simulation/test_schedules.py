"""Ten thousand schedules of faults, each from its own seed, and that a seed says all."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation.virtual_loop import HungError, Process, VirtualLoop
from simulation.world import run_schedule

SCHEDULES = 10_000
AT_ONCE = 500
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", range(0, SCHEDULES, AT_ONCE))
def test_no_schedule_breaks_an_invariant(start: int) -> None:
    """Every event once and in order as the caller saw it, one end, nothing lost, nothing of another user, no hang."""
    failing: dict[int, str] = {}
    happened: Counter[str] = Counter()
    for seed in range(start, start + AT_ONCE):
        result = run_schedule(seed)
        happened += result.happened
        if result.wrong:
            failing[seed] = result.wrong[0]
    assert {} == failing, "replay one with: python -m tests.simulation --seed N"
    # Faults that no longer happen would let everything pass.
    assert {"crash", "crash_at_step", "cut", "fill", "forget", "stall"} <= set(happened)


@pytest.mark.timeout(120)
def test_a_seed_gives_the_same_steps_in_every_process() -> None:
    """Hashes of strings and places in memory differ from process to process; nothing here may follow from them."""
    program = (
        "from tests.simulation.world import run_schedule\n"
        "for seed in range(100, 160): print(*run_schedule(seed, tracing=True).trace, sep='\\n')"
    )
    said = set()
    for hash_seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed}
        told = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        assert told.stdout.count("starts") >= 60
        said.add(told.stdout)
    assert 1 == len(said)


def test_nothing_of_a_killed_process_runs_again() -> None:
    """No callback, no `finally`: as after `kill -9`."""
    loop, process, said = VirtualLoop(), Process("victim"), []

    async def victim() -> None:
        try:
            said.append("begun")
            await asyncio.sleep(1)
        finally:
            if process.alive:
                said.append("ended")

    async def main() -> None:
        loop.create_task(victim(), context=process.context)
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(1)
        said.append("survived")

    loop.run(main(), seconds_max=10)
    assert ["begun", "survived"] == said


def test_what_can_never_end_is_said_to_hang() -> None:
    """Virtual time costs nothing: a lost wake-up does not make a test wait."""

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(HungError, match="nothing is left that could happen"):
        VirtualLoop().run(wait_for_ever(), seconds_max=10)
