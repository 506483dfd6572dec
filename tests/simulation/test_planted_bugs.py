"""The simulation finds bugs: each of these, planted in the real code, makes a schedule go red, whose seed is named."""

import pytest

from simulation.planted import BUGS, Bug, Change, planted
from simulation.world import run_schedule
from tracewire.delivery.outbox import Outbox

SCHEDULES_MAX = 10_000


def first_red_seed(bug: Bug) -> tuple[int, str]:
    """The first seed that finds the bug, and what was wrong."""
    with planted(bug):
        for seed in range(SCHEDULES_MAX):
            result = run_schedule(seed)
            if result.wrong:
                return seed, result.wrong[0]
    pytest.fail(f"{SCHEDULES_MAX} schedules stayed green with this in {bug.part}: {bug.says}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_its_seed_replays(name: str) -> None:
    """With the bug the seed fails, again and in the same way; without it the same seed is green."""
    seed, wrong = first_red_seed(BUGS[name])
    print(f"{name}: seed {seed}: {wrong}")
    with planted(BUGS[name]):
        assert run_schedule(seed, tracing=True).wrong[0] == wrong
    assert run_schedule(seed).wrong == []


def test_a_bug_that_no_longer_fits_the_code_is_named() -> None:
    """Code that moves on must not turn a planted bug into none."""
    bug = Bug("outbox", "nothing", (Change(Outbox.pop, "no such line", ""),))
    with pytest.raises(LookupError, match=r"Outbox.pop holds 'no such line' 0 times, not once"), planted(bug):
        pass
