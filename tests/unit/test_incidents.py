"""Incidents under a virtual clock: what opens one, what joins it, how it ends, and what the sockets are asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from opentelemetry.sdk.resources import Resource
from structlog.testing import CapturingLogger

from tracewire_telemetry import incidents
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.user_gauge import UserGauge
from tracewire_telemetry.vocabulary import EventType, IncidentState, Link, Outcome
from tracewire_telemetry.watch import OpenRun, Watch
from unit.ledgers import OPENED_NS, OPENED_UNIX_NS, PATIENT, identity_of, ns

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
OPEN, HEALED, USER_GONE, LOST = IncidentState
WAIT_SECONDS = 10.0


class NotingPeer:
    """A socket that notes what it is asked. It shows life at `life_ns`."""

    def __init__(self, *, has_acked: bool = True, life_ns: int = 1 << 62) -> None:
        self.has_acked = has_acked
        self.last_life_ns = life_ns
        self.asked: list[str] = []

    def probe(self) -> None:
        self.asked.append("probe")

    def resync(self) -> None:
        self.asked.append("resync")

    def cut_silent(self) -> None:
        self.asked.append("cut_silent")

    def note_unacknowledging(self) -> None:
        self.asked.append("note_unacknowledging")


class Scene:
    """A watch whose clock is the test's, and the rows that its incidents became."""

    def __init__(self) -> None:
        self.metrics = Metrics(version="1", users=UserGauge(slots=5, least_seconds=10, hashed=False))
        tracing = RunTracing(Resource({}), version="1", share=1.0, recording=False, dropped=self.metrics.spans_dropped)
        self.watch = Watch(self.metrics, tracing, None, deadlines=LinkDeadlines())
        self.rows: dict[str, Incident] = {}
        self.failing = False

    async def store(self, changed: Sequence[Incident]) -> None:
        """What the event log does with incidents."""
        if self.failing:
            raise OSError("disk full")
        self.rows.update({incident.incident_id: incident for incident in changed})

    async def drop_stamps(self, _run_id: str, _stamps: bytes) -> None:
        """Stamps are not looked at here."""

    async def row(self) -> Incident:
        """The one incident there is, once the log has all that is known of it."""
        assert await self.watch.incidents.flush()
        [row] = self.rows.values()
        return row

    def open(self, engine: EngineDeadlines = PATIENT, **identity: Any) -> OpenRun:
        """Accept a run."""
        return self.watch.open(identity_of(**identity), (), now=OPENED_NS, unix_ns=OPENED_UNIX_NS, engine=engine)

    def follow(self, run: OpenRun, at_ms: float, peer: NotingPeer) -> int:
        """A socket follows the run."""
        socket = run.ledger.attached(ns(at_ms), acking=peer.has_acked)
        run.peers[socket] = peer
        self.watch.look_by(run, ns(at_ms))
        return socket

    def leave(self, run: OpenRun, socket: int, at_ms: float) -> None:
        """The socket is gone."""
        run.peers.pop(socket, None)
        run.ledger.detached(socket, ns(at_ms))
        self.watch.look_by(run, ns(at_ms))

    def tick(self, at_ms: float) -> None:
        """Let the watch look."""
        self.watch.tick(ns(at_ms))

    def value(self, name: str, **labels: str) -> float | None:
        """One metric."""
        return self.metrics.registry.get_sample_value(f"tracewire_{name}", labels)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A watch that stores what it finds."""
    made = Scene()
    made.watch.start(made.drop_stamps, made.store)
    yield made
    made.failing = False
    await asyncio.wait_for(made.watch.close(), WAIT_SECONDS)


def durable(run: OpenRun, event_type: EventType, at_ms: float) -> int:
    """Stamp engine, bridge and emitter."""
    seq = run.ledger.sequenced(run.ledger.emitted(event_type, ns(at_ms)), ns(at_ms))
    run.ledger.committed(seq, ns(at_ms))
    return seq


def written(run: OpenRun, socket: int, event_type: EventType, at_ms: float) -> int:
    """Stamp all links but the client."""
    seq = durable(run, event_type, at_ms)
    run.ledger.written(socket, seq, ns(at_ms))
    return seq


async def test_further_events_at_the_same_link_join_the_incident_of_the_first(scene: Scene) -> None:
    """Its type, its first seq and its `since` stay those of the first; each is counted under its own type."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    written(run, socket, THINKING, 4_000)
    scene.tick(10_000)
    first = await scene.row()
    scene.tick(14_000)
    second = await scene.row()
    assert (first.state, first.link, first.event_type, first.first_seq, first.last_seq, first.count) == (
        OPEN, Link.CLIENT, "agent_started", 1, 1, 1,
    )  # fmt: skip
    assert (second.event_type, second.first_seq, second.last_seq, second.count) == ("agent_started", 1, 2, 2)
    assert OPENED_UNIX_NS + 10_000_000_000 == first.since_unix_ns == second.since_unix_ns
    assert [scene.value("events_missing_total", event_type=kind, link="client") for kind in (STARTED, THINKING)] == [
        1,
        1,
    ]
    assert list(scene.metrics.users.series()) == [(("ada", "agent_started", "client"), 2)]


async def test_an_incident_of_a_canary_is_kept_and_healed_and_counted_nowhere(scene: Scene) -> None:
    """It opens, closes its socket and ends as any other; no metric that pages for users knows of it, not even one that
    an earlier process left open.
    """
    scene.watch.origins.add("service-account-7")
    for user_id in ("canary", "canary-detection", "service-account-7"):
        run = scene.open(run_id=user_id, user_id=user_id)
        peer = NotingPeer()
        socket = scene.follow(run, 0, peer)
        written(run, socket, STARTED, 0)
        scene.tick(10_000)
        assert (peer.asked, (await scene.row()).state) == (["resync"], OPEN)
        run.ledger.acknowledged(socket, 1, ns(11_000))
        scene.watch.incidents.review(run.ledger, run.incidents, ns(11_000))
        row = await scene.row()
        assert (row.state, row.user_id, row.link) == (HEALED, user_id, Link.CLIENT)
        scene.rows.clear()
        scene.watch.incidents.adopt([replace(row, state=OPEN)], now=ns(12_000), heal_seconds=30)
        scene.watch.incidents.acknowledged(user_id, 1, ns(12_000), OPENED_UNIX_NS)
        assert (await scene.row()).state is HEALED
        scene.rows.clear()
    assert scene.value("events_missing_total", event_type=STARTED, link="client") == 0
    assert scene.value("events_healed_total", link="client") == 0
    assert (list(scene.metrics.users.series()), scene.metrics.users.users_affected) == ([], 0)


async def test_an_incident_at_the_client_closes_the_socket_that_owes_the_ack(scene: Scene) -> None:
    """It is asked to come back; a reader beside it is left alone."""
    run = scene.open()
    peer = NotingPeer()
    socket = scene.follow(run, 0, peer)
    written(run, socket, STARTED, 0)
    scene.tick(10_000)
    assert peer.asked == ["resync"]


async def test_an_incident_heals_by_the_ack_of_its_last_event_and_says_how_late(scene: Scene) -> None:
    """An ack of the first alone is not enough."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    written(run, socket, THINKING, 0)
    scene.tick(10_000)
    run.ledger.acknowledged(socket, 1, ns(11_000))
    scene.watch.incidents.review(run.ledger, run.incidents, ns(11_000))
    assert (await scene.row()).state is OPEN
    run.ledger.acknowledged(socket, 2, ns(12_500))
    scene.watch.incidents.review(run.ledger, run.incidents, ns(12_500))
    row = await scene.row()
    assert (row.state, row.late_seconds, row.ended_unix_ns) == (HEALED, 2.5, OPENED_UNIX_NS + 12_500_000_000)
    assert scene.value("events_healed_total", link="client") == 2


async def test_a_user_who_does_not_come_back_is_gone(scene: Scene) -> None:
    """30 s after the last socket went, which the incident itself had closed; the run is open all the while."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    scene.tick(10_000)
    scene.leave(run, socket, 10_100)
    scene.tick(40_099)
    assert (await scene.row()).state is OPEN
    scene.tick(40_100)
    assert (await scene.row()).state is USER_GONE


async def test_a_run_with_an_open_incident_is_settled_when_that_can_heal_no_more(scene: Scene) -> None:
    """The user is there and does not ack: 30 s after the end it is lost, and the run is settled."""
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, COMPLETED, 0)
    run.ledger.ended(Outcome.COMPLETED, ns(5))
    scene.watch.run_ended(run)
    scene.tick(10_000)
    scene.tick(39_999)
    assert list(scene.watch.runs) == ["run"]
    scene.tick(40_000)
    assert scene.watch.runs == {}
    assert (await scene.row()).state is LOST


async def test_a_required_type_that_never_came_is_lost_at_once(scene: Scene) -> None:
    """Nothing can heal it, so nobody waits; the series is shown long enough to be scraped all the same."""
    run = scene.watch.open(identity_of(required=(THINKING,)), (), now=ns(0), unix_ns=OPENED_UNIX_NS, engine=PATIENT)
    durable(run, COMPLETED, 0)
    run.ended(Outcome.COMPLETED)
    assert scene.watch.runs == {}
    row = await scene.row()
    assert (row.state, row.link, row.event_type, row.first_seq) == (LOST, Link.ENGINE, "agent_thinking", None)
    assert list(scene.metrics.users.series()) == [(("ada", "agent_thinking", "engine"), 1)]


async def test_an_agent_that_speaks_again_heals_its_silence_at_the_next_tick(scene: Scene) -> None:
    """And may fall silent again, which is an incident of its own."""
    run = scene.open(EngineDeadlines(5, 60, 60))
    durable(run, STARTED, 0)
    scene.tick(1_000)
    scene.tick(60_000)
    assert (await scene.row()).event_type == "next"
    durable(run, THINKING, 100_000)
    scene.tick(101_000)
    row = await scene.row()
    assert (row.state, row.late_seconds) == (HEALED, 40.0)
    scene.tick(160_000)
    assert await scene.watch.incidents.flush()
    assert [one.state for one in scene.rows.values()] == [HEALED, OPEN]


async def test_a_silent_socket_is_asked_and_then_let_go_without_an_incident(scene: Scene) -> None:
    """Its events are pending."""
    run = scene.open()
    peer = NotingPeer(life_ns=0)
    socket = scene.follow(run, 0, peer)
    written(run, socket, STARTED, 0)
    for at_ms in range(10_000, 15_001, 250):
        scene.tick(at_ms)
    assert peer.asked == ["probe", "cut_silent"]
    assert await scene.watch.incidents.flush()
    assert (scene.rows, run.ledger.pending) == ({}, 1)


async def test_a_client_that_never_acked_is_noted_and_left_alone(scene: Scene) -> None:
    """No incident, no close."""
    run = scene.open()
    peer = NotingPeer(has_acked=False)
    socket = scene.follow(run, 0, peer)
    written(run, socket, STARTED, 0)
    scene.tick(10_000)
    assert peer.asked == ["note_unacknowledging"]
    assert await scene.watch.incidents.flush()
    assert scene.rows == {}


async def test_a_client_that_acked_another_run_owes_the_acks_of_this_one_too(scene: Scene) -> None:
    """It was attached before its first ack, of whichever run."""
    run = scene.open()
    peer = NotingPeer(has_acked=False)
    socket = scene.follow(run, 0, peer)
    written(run, socket, STARTED, 0)
    peer.has_acked = True
    scene.tick(10_000)
    assert peer.asked == ["resync"]


async def test_two_seconds_in_which_the_loop_stood_still_are_nobodys_fault(scene: Scene) -> None:
    """What was due in them is looked at again after as much time as was left."""
    run = scene.open()
    scene.follow(run, 0, NotingPeer())
    run.ledger.emitted(STARTED, ns(0))
    scene.watch.stalled(ns(900), ns(2_900))
    scene.tick(2_900)
    assert await scene.watch.incidents.flush()
    assert scene.rows == {}
    scene.tick(3_000)
    assert (await scene.row()).link is Link.BRIDGE


async def test_what_the_log_does_not_take_is_offered_again_in_its_newest_state(scene: Scene) -> None:
    """Nothing of an incident is lost with a disk that was full for a while."""
    scene.failing = True
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    scene.tick(10_000)
    assert not await scene.watch.incidents.flush()
    run.ledger.acknowledged(socket, 1, ns(11_000))
    scene.watch.incidents.review(run.ledger, run.incidents, ns(11_000))
    scene.failing = False
    assert (await scene.row()).state is HEALED


def adopted(run_id: str, link: Link, last_seq: int | None) -> Incident:
    """An incident that an earlier process left open."""
    return Incident(
        f"id-{run_id}", run_id, "ada", "five", "0" * 32, link, "agent_thinking", last_seq, last_seq, 1, OPENED_UNIX_NS
    )


async def test_incidents_of_an_earlier_process_heal_by_an_ack_or_end_in_time(scene: Scene) -> None:
    """Those whose events are durable; one whose event died with the process is lost at once."""
    known = scene.watch.incidents
    known.adopt(
        [adopted("healed", Link.CLIENT, 3), adopted("left", Link.CLIENT, 3), adopted("dead", Link.BRIDGE, None)],
        now=ns(0),
        heal_seconds=30,
    )
    assert scene.metrics.users.users_affected == 1
    known.acknowledged("healed", 2, ns(1_000), OPENED_UNIX_NS + 1)
    known.acknowledged("healed", 3, ns(2_000), OPENED_UNIX_NS + 2_000_000_000)
    known.acknowledged("unknown", 3, ns(2_000), OPENED_UNIX_NS)
    known.expire(ns(29_999), OPENED_UNIX_NS)
    assert await known.flush()
    assert {run_id: scene.rows[f"id-{run_id}"].state for run_id in ("healed", "dead")} == {
        "healed": HEALED,
        "dead": LOST,
    }
    assert (scene.rows["id-healed"].late_seconds, "id-left" in scene.rows) == (2.0, False)
    known.expire(ns(30_000), OPENED_UNIX_NS)
    assert await known.flush()
    assert scene.rows["id-left"].state is USER_GONE


async def test_an_incident_is_logged_when_it_opens_and_when_it_ends(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With user, run, trace, type, seq and link; and nothing else is said of it."""
    capturing = CapturingLogger()
    monkeypatch.setattr(
        incidents, "_log", structlog.wrap_logger(capturing, processors=[lambda _logger, _name, event: ((), event)])
    )
    run = scene.open()
    socket = scene.follow(run, 0, NotingPeer())
    written(run, socket, STARTED, 0)
    written(run, socket, THINKING, 0)
    scene.tick(10_000)
    run.ledger.acknowledged(socket, 2, ns(11_000))
    scene.watch.incidents.review(run.ledger, run.incidents, ns(11_000))
    said = [call.kwargs for call in capturing.calls]
    assert [record["event"] for record in said] == ["incident_opened", "incident_ended"]
    assert {"user_id": "ada", "run_id": "run", "link": "client", "event_type": "agent_started"}.items() <= said[
        0
    ].items()
    assert {"state": "healed", "late_seconds": 1.0, "count": 2}.items() <= said[1].items()
