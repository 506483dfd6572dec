"""What is said and counted of a settled run, and one that cannot be settled."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import CapturedCall, CapturingLogger

from tracewire_telemetry import settling
from tracewire_telemetry.spans import SPANS_PER_TURN, RunSpans
from tracewire_telemetry.vocabulary import EventType, Outcome
from unit.ledgers import OPENED_UNIX_NS, identity_of, ns
from unit.test_watch import Watched, durable, settled

STARTED, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_COMPLETED
WAIT_SECONDS = 10.0


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """A watch that settles, and notes what it logs, with the level."""
    capturing = CapturingLogger()
    logger = structlog.wrap_logger(capturing, processors=[lambda _logger, _name, event: ((), event)])
    monkeypatch.setattr(settling, "_log", logger)
    made = Watched(capturing)
    made.watch.start(made.store)
    yield made
    await asyncio.wait_for(made.watch.close(), WAIT_SECONDS)
    made.queue.close(WAIT_SECONDS)


def calls(watched: Watched, event: str) -> list[CapturedCall]:
    """What was logged under this name."""
    return [call for call in watched.log.calls if call.kwargs["event"] == event]


async def test_a_settled_run_is_logged_with_whose_it_was_and_what_came_of_it(watched: Watched) -> None:
    """User, run, trace, agent, outcome, and how many events it had, left pending, and missed."""
    run = watched.open()
    durable(run, STARTED, 0)
    durable(run, COMPLETED, 10)
    run.ended(Outcome.COMPLETED)
    await settled(watched)
    [call] = calls(watched, "run_settled")
    assert "info" == call.method_name
    assert {
        "event": "run_settled",
        "user_id": "ada",
        "run_id": "run",
        "trace_id": f"{run.ledger.identity.trace_id:032x}",
        "agent": "five",
        "outcome": Outcome.COMPLETED,
        "events": 2,
        "pending": 2,
        "missing": 0,
    } == call.kwargs


async def test_lost_stamps_are_counted_and_said(watched: Watched) -> None:
    """By link, with user, run and trace; where none was lost nothing is said."""
    run = watched.open()
    seq = run.ledger.sequenced(run.ledger.emitted(STARTED, 0), 0)
    run.ledger.committed(seq, ns(1))
    run.ended(Outcome.CANCELLED)
    await settled(watched)
    [call] = calls(watched, "stamps_lost")
    assert "warning" == call.method_name
    assert {
        "event": "stamps_lost",
        "user_id": "ada",
        "run_id": "run",
        "trace_id": f"{run.ledger.identity.trace_id:032x}",
        "links": {"engine": 1, "bridge": 1},
    } == call.kwargs
    assert [1, 1, 0] == [watched.value("stamps_lost_total", link=link) for link in ("engine", "bridge", "emitter")]
    whole = watched.open("whole")
    durable(whole, STARTED, 0)
    whole.ended(Outcome.CANCELLED)
    await settled(watched)
    assert 1 == len(calls(watched, "stamps_lost"))


async def test_a_long_run_is_settled_over_several_turns_and_leaves_whole(watched: Watched) -> None:
    """Its spans are more than are built in one turn."""
    run = watched.open()
    durable(run, STARTED, 0)
    for number in range(SPANS_PER_TURN):
        durable(run, EventType.AGENT_THINKING, number)
    run.ended(Outcome.CANCELLED)
    await settled(watched)
    assert watched.queue.flush(WAIT_SECONDS)
    trace = watched.recorder.trace_of_run("run")
    assert trace.complete
    assert 1 + 2 * (1 + SPANS_PER_TURN) == len(trace)


async def test_a_trace_that_is_not_kept_is_not_handed_on(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good run that its share leaves out; it is settled as any other."""
    offered: list[object] = []
    monkeypatch.setattr(watched.queue, "offer", offered.append)
    run = watched.watch.open(identity_of(sampled=False), (), now=ns(0), unix_ns=OPENED_UNIX_NS)
    durable(run, STARTED, 0)
    run.ended(Outcome.CANCELLED)
    await settled(watched)
    assert ([], 1) == (offered, len(calls(watched, "run_settled")))


@pytest.mark.parametrize("step", ["build", "finish", "leave"])
async def test_a_run_that_cannot_be_settled_keeps_no_other_from_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is said, with its traceback, and it is forgotten."""
    if step == "leave":
        offer = watched.queue.offer

        def offer_others(spans: list[object]) -> None:
            if len(spans) > 1:
                raise RuntimeError("no room")
            offer(spans)  # type: ignore[arg-type] # spans, whatever they are

        monkeypatch.setattr(watched.queue, "offer", offer_others)
    else:
        step_of = getattr(RunSpans, step)

        def fail(spans: RunSpans) -> object:
            if spans._ledger.last_seq:
                raise RuntimeError("no spans")
            return step_of(spans)

        monkeypatch.setattr(RunSpans, step, fail)
    broken, whole = watched.open("broken"), watched.open("whole")
    durable(broken, STARTED, 0)
    for run in (broken, whole):
        run.ended(Outcome.CANCELLED)
    await settled(watched)
    [call] = calls(watched, "run_not_settled")
    assert ("error", "broken", True) == (call.method_name, call.kwargs["run_id"], call.kwargs["exc_info"])
    assert ["whole"] == [one.kwargs["run_id"] for one in calls(watched, "run_settled")]
    assert {} == watched.watch.settling.runs
