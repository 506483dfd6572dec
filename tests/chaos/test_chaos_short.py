"""The short form of `make chaos`: a server that is killed while its users work, and nothing lost, repeated or hanging.

`python -m tests.chaos --seed S` does more of it, and prints what the failures below do.
"""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from chaos.__main__ import table
from chaos.campaign import Campaign, Outcome, Plan

SHORT: Final = Plan("make test", users=12, seconds=20.0, kills=3, settle_seconds=45.0)
FAULTY: Final = Plan("make test", users=6, seconds=5.0, kills=2, settle_seconds=3.0)
pytestmark = pytest.mark.timeout(300)  # a killed server takes its time to come back on a slow machine


def outcome_of(folder: Path, plan: Plan) -> Outcome:
    """What came of the plan, printed for whoever looks at a failure."""
    outcome = asyncio.run(Campaign(folder, plan, print).run())
    print("\n".join(table(outcome)))
    return outcome


def test_nothing_is_lost_repeated_foreign_or_hanging_when_the_server_is_killed(tmp_path: Path) -> None:
    """Every event once and in order for every caller, one terminal event, and whole traces, through three kills."""
    outcome = outcome_of(tmp_path, SHORT)
    assert ([], [], 0) == (outcome.wrongs, outcome.log_problems, outcome.exit_code)
    assert 3 == outcome.counts["kills"]
    # It happened at all: what nobody disturbed proves nothing.
    happened = ("runs", "events", "crashed", "cuts", "stalls", "resumes", "traces")
    assert [] == [name for name in happened if not outcome.counts[name]]


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [("resume_skips", {"lost", "hanging"}), ("L4-writes_leak", {"foreign"})],
)
def test_a_fault_in_the_delivery_is_found(tmp_path: Path, fault: str, kinds: set[str]) -> None:
    """A resume that is off by one, and an event in the wrong hands, each by its own name."""
    outcome = outcome_of(tmp_path, FAULTY._replace(fault=fault))
    assert not outcome.good
    assert kinds & {wrong.kind for wrong in outcome.wrongs}
