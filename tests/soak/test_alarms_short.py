"""The short form of `python -m tests.soak.alarms`: no false alarm, and every true loss named."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from soak.alarm_agents import SHORT
from soak.alarm_campaign import Campaign, Outcome, SoakPlan
from soak.alarm_planted import LOSERS, WITHHOLDER
from soak.alarms import table

PLAN: Final = SoakPlan(
    events=1_000, seed="make test", seconds=6.0, pace=SHORT, processes=2, burst_max=200, deed_seconds=(0.2, 0.8)
)
pytestmark = pytest.mark.timeout(300)  # people and their server take their time on a slow machine


def outcome_of(folder: Path, plan: SoakPlan) -> Outcome:
    """What came of the plan, printed for whoever looks at a failure."""
    outcome = asyncio.run(Campaign(folder, plan, print).run())
    print("\n".join(table(outcome)))
    return outcome


def test_what_people_do_raises_no_alarm(tmp_path: Path) -> None:
    """Through a drain, a stall, a stepped clock and stopped clients: no incident, nothing missing, nobody affected."""
    outcome = outcome_of(tmp_path, PLAN)
    assert ([], [], set()) == (outcome.alarms, outcome.problems, outcome.users_alarmed)
    assert (0, 0, 0) == tuple(outcome.counts[name] for name in ("missing", "affected", "named"))
    # It happened at all: what nobody disturbed proves nothing.
    happened = ("events", "runs", "stops", "stalls", "clock steps", "drains", "streams", "left")
    assert [] == [name for name in happened if not outcome.counts[name]]
    assert outcome.counts["events"] >= PLAN.events


def test_losses_that_are_true_are_found_and_nobody_else_is_named(tmp_path: Path) -> None:
    """One event lost at the engine, one at the socket, one that is never acked by a client that is alive."""
    outcome = outcome_of(tmp_path, PLAN._replace(planted=True, users=("client", "bare")))
    assert not outcome.good
    withholder = next(user for user in outcome.users_alarmed if user.startswith(WITHHOLDER))
    assert {*LOSERS, withholder} == outcome.users_alarmed
    assert all(any(told.startswith(user) for told in outcome.alarms) for user in outcome.users_alarmed)
