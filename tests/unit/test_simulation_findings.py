"""What the simulation found in delivery and telemetry, each told without it."""

import asyncio
from collections.abc import Sequence
from typing import cast

from tracewire.delivery.replay import catch_up
from tracewire.eventlog import EventLog, StoredEvent
from tracewire_telemetry.ledger import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Outcome
from unit.ledgers import LedgerScript
from unit.sockets import Socket, accepted_run, committed, turns

WAIT_SECONDS = 10.0


class AheadLog:
    """A log in which readers see `bodies`, whether or not the emitter was told of them."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._bodies = bodies

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """As the port says."""
        await asyncio.sleep(0)
        return [StoredEvent(seq, body) for seq, body in enumerate(self._bodies, start=1) if seq > after_seq][:limit]


async def test_what_the_emitter_was_not_told_of_comes_live_and_not_from_the_log() -> None:
    """A reader can see a commit first. Written then, the event would be acked before it counts as committed."""
    socket, run = Socket(), accepted_run()
    committed(run)
    log = cast("EventLog", AheadLog([b"1", b"2"]))
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    await asyncio.wait_for(catch_up(socket.connection, log, "run", followed), WAIT_SECONDS)
    assert ([b"1"], True) == (socket.transport.frames, followed.live)
    committed(run)
    socket.connection.offer("run", 2, b"2")
    await turns(5)
    assert [b"1", b"2"] == socket.transport.frames


async def test_an_ended_run_is_read_from_the_log_to_its_end() -> None:
    """One whose chain broke was closed in the log alone, past its emitter."""
    socket, run = Socket(), accepted_run()
    committed(run)
    socket.connection.follow("run", run)
    run.ended(Outcome.WORKER_LOST)
    log = cast("EventLog", AheadLog([b"1", b"2"]))
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    await asyncio.wait_for(catch_up(socket.connection, log, "run", followed), WAIT_SECONDS)
    assert [b"1", b"2"] == socket.transport.frames


async def test_a_resume_over_the_socket_that_follows_does_not_settle_the_run() -> None:
    """Between the old following and the new one nobody seems to follow: an ended run would count as one whose user is
    away, with its last events undelivered.
    """
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    committed(run)
    run.ended(Outcome.COMPLETED)
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    assert (0, {followed.socket}) == (run.ledger.settled_ns, run.ledger.followers)


async def test_what_leaves_the_outbox_after_the_run_was_settled_is_not_stamped() -> None:
    """A settled run's stamps are counted and stored; later ones would differ from both."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    socket.transport.writable = False
    socket.connection.offer("run", committed(run), b"1")
    run.ended(Outcome.COMPLETED)
    run.acknowledged(0, 1)
    assert run.ledger.settled_ns
    socket.resume()
    await turns(5)
    assert ([b"1"], [0]) == (socket.transport.frames, list(run.ledger.socket))


def test_the_event_that_takes_a_refused_one_s_seq_is_counted_too() -> None:
    """A scrape between the two has counted the refused one at engine and bridge, which it did cross."""
    metrics, script = Metrics(version="1"), LedgerScript(deadlines=LinkDeadlines())
    seq = script.sequenced(EventType.AGENT_THINKING, 1)
    metrics.flush(script.ledger)
    script.ledger.revoked(seq)
    script.durable(EventType.AGENT_ERROR, 2)
    metrics.flush(script.ledger)
    error = EVENT_TYPES.index(EventType.AGENT_ERROR)
    assert [1, 1, 1, 0, 0] == [counts[error] for counts in metrics.events]
