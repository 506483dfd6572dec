"""Incidents at their edges: when they are looked at again, what they say of their end, and who is told how loudly."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import CapturedCall, CapturingLogger

from tracewire_telemetry import incidents
from tracewire_telemetry.incidents import STORE_RETRY_SECONDS, Incident, due_ns, waits_until
from tracewire_telemetry.vocabulary import EventType, IncidentState, Link, Outcome
from unit.ledgers import OPENED_UNIX_NS, ns
from unit.test_incidents import NotingPeer, Scene, durable, written

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
OPEN, HEALED, USER_GONE, LOST = IncidentState
WAIT_SECONDS = 10.0
SECOND_NS = 1_000_000_000


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A watch that stores what it finds."""
    made = Scene()
    made.watch.start(made.drop_stamps, made.store)
    yield made
    made.failing = False
    await asyncio.wait_for(made.watch.close(), WAIT_SECONDS)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[CapturedCall]:
    """What is logged, with the level at which."""
    capturing = CapturingLogger()
    logger = structlog.wrap_logger(capturing, processors=[lambda _logger, _name, event: ((), event)])
    monkeypatch.setattr(incidents, "_log", logger)
    return capturing.calls


async def test_an_open_incident_is_looked_at_when_something_can_come_of_it(scene: Scene) -> None:
    """At the next step where a stamp alone heals it; at the client, where an ack is said, only when it is given up."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    run.ledger.emitted(STARTED, ns(0))
    scene.tick(1_000)
    assert [Link.BRIDGE] == list(run.incidents)
    assert ns(2_000) + run.ledger.limits.step == due_ns(run.ledger, run.incidents, ns(2_000))
    assert 0 == waits_until(run.ledger, run.incidents)

    acked = scene.open(run_id="acked")
    socket = scene.follow(acked, 0, NotingPeer())
    written(acked, socket, STARTED, 0)
    scene.tick(10_000)
    assert [Link.CLIENT] == list(acked.incidents)
    assert due_ns(acked.ledger, acked.incidents, ns(11_000)) is None
    acked.ledger.acking.clear()
    assert ns(11_000) + acked.ledger.limits.step == due_ns(acked.ledger, acked.incidents, ns(11_000))
    acked.ledger.acking.add(socket)
    scene.leave(acked, socket, 12_000)
    assert ns(42_000) == due_ns(acked.ledger, acked.incidents, ns(12_500))
    acked.ledger.ended(Outcome.COMPLETED, ns(11_500))
    assert ns(41_500) == waits_until(acked.ledger, acked.incidents)
    assert ns(41_500) == due_ns(acked.ledger, acked.incidents, ns(12_500))


async def test_what_cannot_come_is_not_waited_for(scene: Scene) -> None:
    """What its agent owed, what the bridge was told to forget, and what the log has another event for."""
    run = scene.open(required=(THINKING,))
    durable(run, STARTED, 0)
    run.ledger.ended(Outcome.COMPLETED, ns(5))
    assert 0 == waits_until(run.ledger, run.incidents)

    waiting = scene.open(run_id="waiting")
    ordinal = waiting.ledger.emitted(STARTED, ns(0))
    waiting.ledger.emitted(THINKING, ns(500))
    scene.tick(1_000)
    waiting.ledger.ended(Outcome.WORKER_LOST, ns(1_200))
    assert ns(31_200) == waits_until(waiting.ledger, waiting.incidents)
    waiting.ledger.withdrawn(ordinal)
    assert 0 == waits_until(waiting.ledger, waiting.incidents)

    replaced = scene.open(run_id="replaced")
    replaced.ledger.sequenced(replaced.ledger.emitted(STARTED, ns(0)), ns(0))
    scene.tick(2_000)
    replaced.ledger.ended(Outcome.WORKER_LOST, ns(3_000))
    assert ns(33_000) == waits_until(replaced.ledger, replaced.incidents)
    replaced.ledger.replaced_from = 1
    assert 0 == waits_until(replaced.ledger, replaced.incidents)


async def test_an_incident_says_whose_it_is_and_when_it_ended(scene: Scene) -> None:
    """User, run, agent, trace, link, type and seqs; the wall clock of its end, also where the user went."""
    run = scene.open(agent="six")
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    written(run, socket, THINKING, 0)
    scene.tick(10_000)
    row = await scene.row()
    identity = run.ledger.identity
    assert Incident(
        row.incident_id, "run", "ada", "six", f"{identity.trace_id:032x}", Link.CLIENT, "agent_started", 1, 2, 2,
        OPENED_UNIX_NS + 10 * SECOND_NS,
    ) == row  # fmt: skip
    scene.leave(run, socket, 10_100)
    scene.tick(40_100)
    row = await scene.row()
    expected = (USER_GONE, OPENED_UNIX_NS + 40 * SECOND_NS + 100_000_000, None)
    assert expected == (row.state, row.ended_unix_ns, row.late_seconds)


@pytest.mark.parametrize(("gone", "expected"), [(True, USER_GONE), (False, LOST)])
async def test_a_run_that_is_settled_gives_up_what_is_open(scene: Scene, gone: bool, expected: IncidentState) -> None:
    """Whose user is not there is gone; who is there has lost it. At the bridge it is lost whoever is there."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    run.ledger.emitted(THINKING, ns(9_500))
    scene.tick(10_500)
    assert {Link.CLIENT, Link.BRIDGE} == set(run.incidents)
    if gone:
        scene.leave(run, socket, 11_000)
    scene.watch.incidents.give_up(run.ledger, run.incidents, ns(12_000))
    assert await scene.watch.incidents.flush()
    states = {row.link: (row.state, row.ended_unix_ns) for row in scene.rows.values()}
    at = OPENED_UNIX_NS + 12 * SECOND_NS
    assert {Link.CLIENT: (expected, at), Link.BRIDGE: (LOST, at)} == states
    assert {} == run.incidents


async def test_what_heals_in_a_moment_was_late_by_nothing(scene: Scene) -> None:
    """Not by a second, nor by less than nothing where the clock of the ack was before the deadline's."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    scene.tick(10_000)
    run.ledger.acknowledged(socket, 1, ns(10_000))
    scene.watch.incidents.review(run.ledger, run.incidents, ns(10_000))
    row = await scene.row()
    assert (HEALED, 0.0, OPENED_UNIX_NS + 10 * SECOND_NS) == (row.state, row.late_seconds, row.ended_unix_ns)


async def test_what_an_earlier_process_left_open_is_counted_when_it_heals_and_ends_by_its_link(scene: Scene) -> None:
    """As many events as were missing; at once is late by nothing; in the log it ends when it was acked or given up."""
    known = scene.watch.incidents
    left = {
        name: Incident(f"id-{name}", name, "ada", "five", "0" * 32, link, "agent_thinking", 1, 3, 2, OPENED_UNIX_NS)
        for name, link in (("acked", Link.CLIENT), ("socket", Link.SOCKET), ("log", Link.EMITTER))
    }
    known.adopt(left.values(), now=ns(0), heal_seconds=30)
    assert [(("ada", "agent_thinking", link), 2) for link in ("client", "socket", "emitter")] == list(
        scene.metrics.users.series()
    )
    known.acknowledged("acked", 3, ns(500), OPENED_UNIX_NS)
    assert 2 == scene.value("events_healed_total", link="client")
    known.expire(ns(30_000), OPENED_UNIX_NS + 30 * SECOND_NS)
    assert await known.flush()
    rows = {row.run_id: (row.state, row.ended_unix_ns, row.late_seconds) for row in scene.rows.values()}
    given_up = OPENED_UNIX_NS + 30 * SECOND_NS
    assert {
        "acked": (HEALED, OPENED_UNIX_NS, 0.0),
        "socket": (USER_GONE, given_up, None),
        "log": (LOST, given_up, None),
    } == rows
    known.expire(ns(100_000), given_up)
    assert [] == list(scene.metrics.users.series())


async def test_a_users_incident_is_a_warning_and_a_canarys_is_not(scene: Scene, said: list[CapturedCall]) -> None:
    """Both say whose origin it is."""
    for user_id in ("ada", "canary"):
        run = scene.open(run_id=f"run of {user_id}", user_id=user_id)
        run.ledger.emitted(STARTED, ns(0))
    scene.tick(1_000)
    levels = {call.kwargs["user_id"]: (call.method_name, call.kwargs["origin"]) for call in said}
    assert {"ada": ("warning", "user"), "canary": ("info", "canary")} == levels


async def test_what_the_log_does_not_take_is_said_and_offered_again_by_itself(
    scene: Scene, said: list[CapturedCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how many and why; after a moment, and until it is taken."""
    pauses: list[float] = []
    paused = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        scene.failing = len(pauses) < 2
        paused.set()

    monkeypatch.setattr(incidents.asyncio, "sleep", pause)
    scene.failing = True
    run = scene.open()
    run.ledger.emitted(STARTED, ns(0))
    scene.tick(1_000)
    async with asyncio.timeout(WAIT_SECONDS):
        while not scene.rows:
            paused.clear()
            await paused.wait() if len(pauses) < 2 else await asyncio.wait({asyncio.create_task(scene.row())})
    failures = [call for call in said if call.kwargs["event"] == "incidents_not_stored"]
    assert [("error", 1, "disk full")] * 2 == [
        (call.method_name, call.kwargs["count"], call.kwargs["error"]) for call in failures
    ]
    assert [STORE_RETRY_SECONDS] * 2 == [seconds for seconds in pauses if seconds == STORE_RETRY_SECONDS][:2]
