"""A replay at its edges: how much is asked of the log and kept of it, what is no longer there, and when it began."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from tracewire.delivery.replay import HELD_BYTES_MAX, PAGE_EVENTS, PAGE_EVENTS_FIRST, catch_up
from tracewire.errors import EventsExpiredError
from tracewire.eventlog import EventLog, StoredEvent
from unit.sockets import Socket, accepted_run, committed, turns

WAIT_SECONDS = 10.0


class AskedLog:
    """A log that notes how it was asked: run, after which seq, and for how many."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.bodies = list(bodies)
        self.asked: list[tuple[str, int, int]] = []
        self.on_read: Callable[[], None] = lambda: None

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """As the port says."""
        self.asked.append((run_id, after_seq, limit))
        found = [StoredEvent(seq, body) for seq, body in enumerate(self.bodies, start=1) if seq > after_seq]
        self.on_read()
        return found[:limit]

    @property
    def port(self) -> EventLog:
        """What `catch_up` uses of the port."""
        return cast("EventLog", self)


async def test_a_long_replay_asks_for_a_small_page_first_and_for_whole_ones_then() -> None:
    """Each from where the one before ended; in turns of the loop alone, without a wait."""
    socket, log = Socket(), AskedLog([b"%d" % number for number in range(200)])
    followed = socket.connection.follow("run", None, live=False)
    task = asyncio.create_task(catch_up(socket.connection, log.port, "run", followed))
    await turns(30)
    assert (True, log.bodies) == (task.done(), socket.transport.frames)
    pages = [(0, PAGE_EVENTS_FIRST), (32, PAGE_EVENTS), (96, PAGE_EVENTS), (160, PAGE_EVENTS)]
    assert [("run", after_seq, limit) for after_seq, limit in pages] == log.asked
    await task


async def test_a_long_replay_leaves_the_loop_a_turn_between_its_pages() -> None:
    """Also where neither the log nor the peer makes it wait."""
    socket, log = Socket(), AskedLog([b"x"] * 1_000)
    followed = socket.connection.follow("run", None, live=False)
    task = asyncio.create_task(catch_up(socket.connection, log.port, "run", followed))
    most = before = 0
    while not task.done():
        await turns(1)
        most, before = max(most, len(socket.transport.frames) - before), len(socket.transport.frames)
    assert (PAGE_EVENTS, 1_000) == (most, before)


@pytest.mark.parametrize(("over", "again"), [(0, []), (1, [("run", 1, 1), ("run", 2, 2)])])
async def test_what_is_kept_for_a_peer_that_takes_no_more_is_bounded_to_the_byte(
    over: int, again: list[tuple[str, int, int]]
) -> None:
    """At the bound it is kept; past it, it is let go of and read again, by as many as the peer took before."""
    socket = Socket()
    log = AskedLog([b"1", b"2" * (HELD_BYTES_MAX // 2), b"3" * (HELD_BYTES_MAX // 2 + over)])
    socket.transport.frames_max = 1
    followed = socket.connection.follow("run", None, live=False)
    task = asyncio.create_task(catch_up(socket.connection, log.port, "run", followed))
    await turns(5)
    assert [b"1"] == socket.transport.frames
    socket.resume()
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert (log.bodies, True) == (socket.transport.frames, followed.live)
    assert [("run", 0, PAGE_EVENTS_FIRST), *again] == log.asked


async def test_what_is_due_and_no_longer_in_the_log_is_said() -> None:
    """Its run is named. What was written before stays written."""
    socket, log = Socket(), AskedLog([])
    followed = socket.connection.follow("run", None, next_seq=3, live=False)
    followed.seen_seq = 3
    with pytest.raises(EventsExpiredError) as expired:
        await asyncio.wait_for(catch_up(socket.connection, log.port, "run", followed), WAIT_SECONDS)
    assert (str(EventsExpiredError("run", 0)), 0) == (str(expired.value), expired.value.first_seq)
    assert ([], False) == (socket.transport.frames, followed.live)


async def test_a_run_without_an_event_for_this_socket_goes_live_at_once() -> None:
    """It had all that there is, or nothing has happened yet."""
    for next_seq in (1, 3):
        socket, log = Socket(), AskedLog([b"1", b"2"][: next_seq - 1])
        followed = socket.connection.follow("run", None, next_seq=next_seq, live=False)
        await asyncio.wait_for(catch_up(socket.connection, log.port, "run", followed), WAIT_SECONDS)
        assert ([], True) == (socket.transport.frames, followed.live)
        assert [("run", next_seq - 1, PAGE_EVENTS_FIRST)] == log.asked


async def test_what_becomes_durable_during_a_read_that_finds_nothing_is_read_next() -> None:
    """It was not due when the log was asked: nothing has expired."""
    socket, run, log = Socket(), accepted_run(), AskedLog([])
    followed = socket.connection.follow("run", run, live=False)

    def happen() -> None:
        if not log.bodies:
            log.bodies.append(b"1")
            socket.connection.offer("run", committed(run), b"1")

    log.on_read = happen
    await asyncio.wait_for(catch_up(socket.connection, log.port, "run", followed), WAIT_SECONDS)
    assert ([b"1"], True, 2) == (socket.transport.frames, followed.live, len(log.asked))


async def test_a_replay_began_when_the_log_was_asked() -> None:
    """Not when it answered: what the user waited for is both."""
    socket, run = Socket(), accepted_run()
    committed(run)
    log = AskedLog([b"1"])
    read_ns: list[int] = []
    log.on_read = lambda: read_ns.append(time.monotonic_ns())
    followed = socket.connection.follow("run", run, live=False)
    before = time.monotonic_ns()
    await asyncio.wait_for(catch_up(socket.connection, log.port, "run", followed), WAIT_SECONDS)
    [replay] = run.ledger.replays
    assert before <= replay.started_ns <= read_ns[0] <= run.ledger.socket[0]
