"""How a run ends that the log takes nothing of any more: its end is owed to who follows, and our log says so."""

import asyncio
import time
from typing import Any

from structlog.testing import capture_logs

from tracewire.engine.user_execution_engine import RunResult
from tracewire.events import Receipt
from tracewire_telemetry.vocabulary import Outcome
from unit.stations import GRACE_SECONDS, Stations, after, in_virtual_time
from unit.test_user_engine import AGENT, WHOSE
from unit.test_user_engine_stops import seconds_since, stubborn

FULL = "the disk is full"


def unlogged(receipt_seq: int) -> RunResult:
    """The result of a run that the log could not be told the end of."""
    return RunResult(Outcome.LOG_UNAVAILABLE, None, FULL, Receipt(receipt_seq, {}))


NOT_CLOSED = {"event": "run_not_closed", "log_level": "error", **WHOSE, "error": FULL}


@in_virtual_time
async def test_a_run_whose_first_event_the_log_does_not_take_is_not_begun() -> None:
    """Its end is owed to who follows, and the agent was not called."""

    async def agent(_: Any) -> None:
        raise AssertionError("it was called")

    stations = Stations(agent)
    stations.disk.full = True
    with capture_logs() as logged:
        result = await stations.run_agent()
    assert unlogged(0) == result
    assert [NOT_CLOSED] == logged
    assert (True, Outcome.LOG_UNAVAILABLE, []) == (stations.run.owes_end, stations.ledger.outcome, stations.types)


@in_virtual_time
async def test_a_run_whose_end_the_log_does_not_take_owes_it() -> None:
    """The receipt says how far the log came."""

    async def agent(ctx: Any) -> None:
        await ctx.thinking("hm")
        stations.disk.full = True

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent()
    assert unlogged(2) == result
    assert [NOT_CLOSED] == logged
    assert (True, {}) == (stations.run.owes_end, stations.ledger.waiting)


@in_virtual_time
async def test_an_agent_that_goes_on_when_the_log_takes_nothing_is_given_one_grace_and_counted_once() -> None:
    """It was left to itself already when the run's end could not be written."""
    stations = Stations(stubborn(asyncio.Event()))
    running, began = stations.begin(), time.monotonic_ns()
    await after(1)
    stations.engine.stop(Outcome.LOG_UNAVAILABLE, FULL)
    stations.disk.full = True
    with capture_logs() as logged:
        assert unlogged(1) == await running
    assert ["agent_abandoned", "run_not_closed"] == [entry["event"] for entry in logged]
    assert 1 + GRACE_SECONDS == seconds_since(began)
    assert 1.0 == stations.value("runs_abandoned_total", agent=AGENT)
    assert 1 == len(stations.factory.abandoned)
