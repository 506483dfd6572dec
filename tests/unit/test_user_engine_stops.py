"""How a run ends from outside its agent: by its deadline, by its user, and with its server."""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from tracewire.engine.user_execution_engine import RunResult
from tracewire.events import Receipt
from tracewire_telemetry.vocabulary import Outcome
from unit.stations import GRACE_SECONDS, RUN_SECONDS, Stations, after, in_virtual_time
from unit.test_user_engine import AGENT, WHOSE, ended_as

STOPPED = "the server stopped before the run ended"


async def waits(_: Any) -> None:
    """Waits until its run is stopped."""
    await asyncio.Event().wait()


def seconds_since(began_ns: int) -> int:
    """Whole virtual seconds."""
    return round((time.monotonic_ns() - began_ns) / 1e9)


def stubborn(release: asyncio.Event, error: Exception | None = None) -> Any:
    """An agent that takes no cancellation for an answer until it is released."""

    async def agent(_: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        if error is not None:
            raise error

    return agent


@in_virtual_time
async def test_a_run_past_its_deadline_ends_then() -> None:
    """It may be tried again; the message names the deadline."""
    stations, began = Stations(waits), time.monotonic_ns()
    with capture_logs() as logged:
        result = await stations.run_agent()
    message = f"the run passed its deadline of {RUN_SECONDS:g} s"
    assert RUN_SECONDS == seconds_since(began)
    receipt = Receipt(2, {"agent_started": 1, "agent_error": 1})
    assert RunResult(Outcome.TIMEOUT, None, message, receipt) == result
    assert ("timeout", message, True) == tuple(stations.last[name] for name in ("code", "message", "retryable"))
    assert [ended_as("timeout", message)] == logged


@in_virtual_time
async def test_a_run_that_is_cancelled_ends_with_the_reason_that_came_first() -> None:
    """Who asks later is told that somebody else was first."""
    stations = Stations(waits)
    running = stations.begin()
    await after(5)
    with capture_logs() as logged:
        asked = [stations.engine.cancel("enough"), stations.engine.cancel("more"),
                 stations.engine.stop(Outcome.TIMEOUT, "late")]  # fmt: skip
        result = await running
    assert [True, False, False] == asked
    counts = {"agent_started": 1, "agent_cancelled": 1}
    assert RunResult(Outcome.CANCELLED, None, "enough", Receipt(2, counts)) == result
    assert ("agent_cancelled", {"reason": "enough", "receipt": {"last_seq": 2, "counts": counts}}) == stations.told[-1]
    assert [ended_as("cancelled", "enough")] == logged
    assert Outcome.CANCELLED == stations.ledger.outcome


@in_virtual_time
async def test_a_run_that_is_stopped_before_it_begins_has_its_end_alone() -> None:
    """Its agent is never called."""

    async def agent(_: Any) -> None:
        raise AssertionError("it was called")

    stations = Stations(agent)
    assert stations.engine.stop(Outcome.WORKER_LOST, "the server is stopping") is True
    result = await stations.run_agent()
    assert (Outcome.WORKER_LOST, Receipt(1, {"agent_error": 1})) == (result.outcome, result.receipt)
    assert ["agent_error"] == stations.types


@in_virtual_time
async def test_an_error_of_an_agent_that_is_being_stopped_is_noted() -> None:
    """The run ends as it was stopped, without waiting out the grace."""

    async def agent(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while unwinding")

    stations = Stations(agent)
    running, began = stations.begin(), time.monotonic_ns()
    await after(1)
    stations.engine.cancel("enough")
    with capture_logs() as logged:
        result = await running
    assert (Outcome.CANCELLED, 1) == (result.outcome, seconds_since(began))
    raised = {"event": "agent_raised_while_stopping", "log_level": "info", "run_id": "run"}
    assert [raised | {"error": "ValueError('while unwinding')"}, ended_as("cancelled", "enough")] == logged


@pytest.mark.parametrize("how", ["quietly", "with an error"])
@in_virtual_time
async def test_an_agent_that_goes_on_is_left_to_itself_after_the_grace_and_counted(how: str) -> None:
    """It is held until it really ends, and what it raises then is nobody's."""
    release = asyncio.Event()
    stations = Stations(stubborn(release, None if how == "quietly" else ValueError("late")))
    running, began = stations.begin(), time.monotonic_ns()
    await after(1)
    stations.engine.cancel("enough")
    with capture_logs() as logged:
        assert Outcome.CANCELLED == (await running).outcome
    assert 1 + GRACE_SECONDS == seconds_since(began)
    left = {"event": "agent_abandoned", "log_level": "warning", **WHOSE}
    assert [left | {"why": "it did not end when its run was stopped"}, ended_as("cancelled", "enough")] == logged
    assert 1.0 == stations.value("runs_abandoned_total", agent=AGENT)
    await after(100)
    assert 1 == len(stations.factory.abandoned)
    release.set()
    await after(1)
    assert set() == stations.factory.abandoned


@in_virtual_time
async def test_an_agent_that_ends_within_the_grace_is_not_abandoned() -> None:
    """Its run waits for it, and ends as it was stopped."""
    release = asyncio.Event()
    stations = Stations(stubborn(release))
    running, began = stations.begin(), time.monotonic_ns()
    await after(1)
    stations.engine.cancel("enough")
    asyncio.get_running_loop().call_later(GRACE_SECONDS / 2, release.set)
    with capture_logs() as logged:
        assert Outcome.CANCELLED == (await running).outcome
    assert [ended_as("cancelled", "enough")] == logged
    assert 1 + GRACE_SECONDS / 2 == seconds_since(began)
    assert (0.0, set()) == (stations.value("runs_abandoned_total", agent=AGENT), stations.factory.abandoned)


@pytest.mark.parametrize("begun", [True, False])
@in_virtual_time
async def test_a_run_whose_server_stops_is_ended_as_lost_before_its_task_is_cancelled(begun: bool) -> None:
    """The user can start it again; its agent is unwound. A run whose first event is on its way ends, too."""
    unwound: list[bool] = []

    async def agent(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            unwound.append(True)

    stations = Stations(agent)
    stations.disk.slow_seconds = 0 if begun else 3
    running = stations.begin()
    await after(1)
    running.cancel()
    with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
        await running
    assert ["agent_started", "agent_error"] == stations.types
    assert ("worker_lost", STOPPED, True) == tuple(stations.last[name] for name in ("code", "message", "retryable"))
    assert [ended_as("worker_lost", STOPPED)] == logged
    assert ([True] if begun else []) == unwound
    assert Outcome.WORKER_LOST == stations.ledger.outcome
