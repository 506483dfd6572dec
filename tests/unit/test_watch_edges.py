"""The watch at its edges: counts that differ, runs that end past their stations, who left, and what is due when."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tracewire_telemetry import watch as watch_module
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.user_gauge import SeriesKey
from tracewire_telemetry.vocabulary import EventType, IncidentState, Link, Outcome
from tracewire_telemetry.watch import OpenRun
from unit.ledgers import MS, OPENED_UNIX_NS, identity_of, ns
from unit.test_incidents import NotingPeer, Scene, durable, written

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
WAIT_SECONDS = 10.0


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A watch that stores what it finds."""
    made = Scene()
    made.watch.start(made.drop_stamps, made.store)
    yield made
    await asyncio.wait_for(made.watch.close(), WAIT_SECONDS)


def three(scene: Scene) -> tuple[OpenRun, int]:
    """A run of three events, written to a socket that acks."""
    run = scene.watch.open(identity_of(), (), now=time.monotonic_ns(), unix_ns=OPENED_UNIX_NS)
    socket = run.attached(acking=True, peer=NotingPeer())
    now = time.monotonic_ns()
    for _ in range(3):
        seq = run.ledger.sequenced(run.ledger.emitted(THINKING, now), now)
        run.ledger.committed(seq, now)
        run.ledger.written(socket, seq, now)
    return run, socket


async def test_a_count_that_differs_is_an_incident_until_one_is_right_that_goes_as_far(scene: Scene) -> None:
    """An ack without a count says nothing of it, nor does a right one of less; whose socket it was is noted."""
    run, socket = three(scene)
    assert 2 == run.acknowledged(socket, 2, 2)
    assert {} == run.incidents
    assert 1 == run.acknowledged(socket, 3, 2)
    opened = await scene.row()
    assert run.ledger.miscounted is not None
    now = run.ledger.miscounted.at_ns
    assert (Link.CLIENT, 3, IncidentState.OPEN) == (opened.link, opened.first_seq, opened.state)
    assert opened.since_unix_ns == run.ledger.unix_ns(now)
    for seq, count in ((3, None), (2, 2)):
        run.acknowledged(socket, seq, count)
        assert IncidentState.OPEN is (await scene.row()).state
    run.acknowledged(socket, 3, 3)
    assert IncidentState.HEALED is (await scene.row()).state
    assert [socket] * 2 == [ack.socket for ack in run.ledger.acks]
    assert 0 == len(run.incidents)


async def test_who_leaves_a_run_is_asked_nothing_more_of_it(scene: Scene) -> None:
    """The other goes on; when the last has left, what is unacked is pending from then on."""
    run = scene.open()
    first, second = (run.attached(acking=True, peer=NotingPeer()) for _ in range(2))
    before = time.monotonic_ns()
    run.detached(first)
    assert {second} == set(run.peers) == run.ledger.followers
    run.detached(second)
    assert ({}, set()) == (run.peers, run.ledger.followers)
    assert before <= run.ledger.left_ns <= time.monotonic_ns()
    assert before < run.ledger.due_ns <= time.monotonic_ns() + run.ledger.limits.step


async def test_a_run_that_was_ended_past_its_stations_has_the_moment_and_outcome_of_that(scene: Scene) -> None:
    """Of its last event, where that is later; one that its stations did not end, ends now."""
    owed = scene.open(run_id="owed")
    durable(owed, STARTED, 0)
    owed.ended(Outcome.LOG_UNAVAILABLE, durable=False)
    ended_ns = owed.ledger.ended_ns
    later = ended_ns + 5 * MS
    for moment in (later, ended_ns - MS):
        owed.ledger.bridge.append(moment)
        owed.ledger.types.append(owed.ledger.types[0])
        for column in (owed.ledger.engine, owed.ledger.emitter, owed.ledger.socket, owed.ledger.client):
            column.append(moment)
    owed.ledger.committed_count = 3
    owed.ended_past_stations(Outcome.COMPLETED)
    assert (ended_ns, Outcome.LOG_UNAVAILABLE) == (owed.ledger.ended_ns, owed.ledger.outcome)
    assert owed.owes_end is False

    crashed = scene.open(run_id="crashed")
    durable(crashed, STARTED, 0)
    crashed.ended_past_stations(Outcome.WORKER_LOST)
    assert (Outcome.WORKER_LOST, {}) == (crashed.ledger.outcome, scene.watch.runs)


async def test_what_the_log_has_in_an_events_place_is_known_from_which_seq_on(scene: Scene) -> None:
    """Where the stations counted as the log does, nothing is replaced and the stamps are made."""
    run = scene.open()
    durable(run, STARTED, 0)
    run.logged_past_stations(2, [EventType.TOOL_COMPLETED, EventType.AGENT_ERROR])
    assert (0, 3, 3) == (run.ledger.replaced_from, run.ledger.last_seq, run.ledger.committed_count)
    run.logged_past_stations(3, [EventType.AGENT_ERROR])
    assert (3, 3) == (run.ledger.replaced_from, run.ledger.last_seq)


async def test_what_a_socket_was_not_given_is_missing_from_that_moment(scene: Scene) -> None:
    """By the clock of the process, and shown so."""
    run = scene.open()
    run.attached(acking=True, peer=NotingPeer())
    durable(run, STARTED, 0)
    durable(run, THINKING, 0)
    before = time.monotonic_ns()
    run.passed_over(1, 1)
    [lost] = run.ledger.missing
    assert before <= lost.at_ns <= time.monotonic_ns()
    assert [(("ada", "agent_started", "socket"), 1)] == list(scene.metrics.users.series())
    scene.metrics.users.end(SeriesKey("ada", "agent_started", Link.SOCKET), 1, time.monotonic_ns())
    scene.metrics.users.expire(lost.at_ns + 9_000 * MS)
    assert 1 == scene.metrics.users.users_affected


async def test_an_end_is_counted_with_how_long_the_run_took(scene: Scene) -> None:
    """In seconds, by agent and outcome."""
    run = scene.open()
    durable(run, STARTED, 0)
    run.ledger.ended(Outcome.CANCELLED, ns(2_500))
    scene.watch.run_ended(run)
    assert 2.5 == scene.value("run_seconds_sum", agent="other")
    assert 1 == scene.value("runs_total", agent="other", outcome="cancelled")


async def test_runs_that_are_settled_are_waited_for_and_for_no_longer(scene: Scene) -> None:
    """By whoever stops the server: until all are, or the limit has passed."""
    await asyncio.wait_for(scene.watch.wait_for_acks(60), WAIT_SECONDS)
    first, second = scene.open(run_id="first"), scene.open(run_id="second")
    began = time.monotonic()
    await asyncio.wait_for(scene.watch.wait_for_acks(0.05), WAIT_SECONDS)
    assert time.monotonic() - began >= 0.05
    first.ended(Outcome.CANCELLED)
    waiting = asyncio.create_task(scene.watch.wait_for_acks(60))
    await asyncio.sleep(0)
    assert not waiting.done()
    second.ended(Outcome.CANCELLED)
    await asyncio.wait_for(waiting, WAIT_SECONDS)


async def test_what_an_earlier_process_left_open_heals_by_acks_of_runs_that_are_not_here(scene: Scene) -> None:
    """And is given up after as long as what is open here."""
    left = [
        Incident(f"id-{name}", name, "ada", "five", "0" * 32, Link.CLIENT, event_type, 1, 2, 1, OPENED_UNIX_NS)
        for name, event_type in (("acked", "agent_thinking"), ("left", "agent_started"))
    ]
    scene.watch.adopt(left)
    scene.watch.acknowledged_elsewhere("acked", 1)
    scene.watch.acknowledged_elsewhere("acked", 2)
    now = time.monotonic_ns()
    scene.watch.incidents.expire(now + 29_000 * MS, OPENED_UNIX_NS)
    assert await scene.watch.incidents.flush()
    assert {"id-acked": IncidentState.HEALED} == {name: row.state for name, row in scene.rows.items()}
    assert scene.rows["id-acked"].ended_unix_ns == pytest.approx(time.time_ns(), abs=60e9)
    scene.watch.incidents.expire(now + 31_000 * MS, OPENED_UNIX_NS)
    assert await scene.watch.incidents.flush()
    assert IncidentState.USER_GONE is scene.rows["id-left"].state


async def test_a_tick_looks_at_as_many_runs_as_it_is_told_and_says_whether_more_are_due(scene: Scene) -> None:
    """The rest is looked at by the next."""
    for number in range(3):
        run = scene.open(run_id=f"run-{number}", user_id=f"user-{number}")
        run.ledger.emitted(STARTED, ns(0))
    assert scene.watch.tick(ns(1_000), looks_max=2) is True
    assert 2 == scene.metrics.users.users_affected
    assert scene.watch.tick(ns(1_000), looks_max=2) is False
    assert 3 == scene.metrics.users.users_affected


async def test_a_socket_that_acked_another_run_owes_acks_here_and_is_let_go_when_it_is_silent(scene: Scene) -> None:
    """What it owed is pending at once, and it is told why."""
    run = scene.open()
    peer = NotingPeer(life_ns=0)
    socket = scene.follow(run, 0, peer)
    written(run, socket, STARTED, 0)
    for at_ms in range(10_000, 15_001, 250):
        scene.tick(at_ms)
    assert ["probe", "cut_silent"] == peer.asked
    assert ({}, set(), 1) == (run.peers, run.ledger.followers, run.ledger.pending)


async def test_a_turn_that_is_late_excuses_what_was_due_meanwhile_and_one_in_time_nothing() -> None:
    """From the last turn to this one, past what was waited for on purpose."""
    scene = Scene()  # whose watch does not tick by itself
    began = time.monotonic_ns()
    turned_ns, lag_seconds = scene.watch._turn(began - 2_000 * MS, 0.25)
    assert began <= turned_ns <= time.monotonic_ns()
    assert lag_seconds == pytest.approx((turned_ns - began) / 1e9 + 1.75)
    assert turned_ns - (began - 2_000 * MS) == scene.watch._stalls.since(began - 2_000 * MS)
    _, lag_seconds = scene.watch._turn(time.monotonic_ns(), 100.0)
    assert 0.0 == lag_seconds
    assert turned_ns - (began - 2_000 * MS) == scene.watch._stalls.since(began - 2_000 * MS)


async def test_a_tick_of_many_runs_leaves_the_loop_its_turns_and_looks_at_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run a turn here; by itself, and it says when it last did."""
    monkeypatch.setattr(watch_module, "LOOKS_PER_TURN", 1)
    long_ago = time.monotonic_ns() - 60_000 * MS
    for number in range(5):
        identity = identity_of(f"run-{number}", user_id=f"user-{number}")
        run = scene.watch.open(identity, (), now=long_ago, unix_ns=OPENED_UNIX_NS)
        run.ledger.emitted(STARTED, long_ago)
    others_turns = 0
    async with asyncio.timeout(WAIT_SECONDS):
        while scene.metrics.users.users_affected < 5:
            await asyncio.sleep(0)
            others_turns += 0 < scene.metrics.users.users_affected < 5
    assert others_turns > 0
    async with asyncio.timeout(WAIT_SECONDS):
        while not scene.watch.last_tick_unix_seconds:
            await asyncio.sleep(0)
    assert time.time() - 60 < scene.watch.last_tick_unix_seconds <= time.time()


async def test_a_scrape_finds_gone_what_is_over(scene: Scene) -> None:
    """Also where no tick has come since."""
    scene.metrics.users.add(SeriesKey("ada", "next", Link.ENGINE), 1, 1)
    scene.metrics.users.end(SeriesKey("ada", "next", Link.ENGINE), 1, 1)
    scene.watch.flush_open_runs()
    assert [] == list(scene.metrics.users.series())


async def test_what_is_kept_of_settled_runs_hides_no_open_one(scene: Scene) -> None:
    """The look at a run that is gone is passed over, and the next is taken."""
    gone, there = scene.open(run_id="gone"), scene.open(run_id="there")
    gone.ledger.emitted(STARTED, ns(0))
    there.ledger.emitted(STARTED, ns(100))
    gone.ledger.withdrawn(1)
    gone.ended(Outcome.CANCELLED)
    assert ["there"] == list(scene.watch.runs)
    scene.tick(1_100)
    assert 1 == scene.metrics.users.users_affected
    assert "there" == (await scene.row()).run_id
