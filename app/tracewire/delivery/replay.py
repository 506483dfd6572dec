"""Reading back what a socket lacks of a run, until it has caught up and follows live.

Enters: a followed run that is not live. Leaves: its events from the log, in order, once; then the run is live. However
live events race it: those that pass meanwhile are in the log already, and are read from there.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from tracewire.delivery.connection import Connection, Followed
from tracewire.errors import EventsExpiredError
from tracewire.eventlog import EventLog, StoredEvent

PAGE_EVENTS: int = 64
"""Events read and written at once, so that a long replay does not hold the event loop."""
PAGE_EVENTS_FIRST: int = 32
"""Events of the first page: it is not known yet how large they are, nor how much the peer takes."""
HELD_BYTES_MAX: Final = 64 * 1024
"""What a replay keeps of a page for a peer that takes no more; the rest is read again: an event may have 64 KiB."""


async def catch_up(connection: Connection, log: EventLog, run_id: str, followed: Followed) -> None:
    """Replay the run to this socket from `followed.next_seq` on, at the pace at which it reads, then go live.

    Raises:
        EventsExpiredError: what comes next is no longer kept. What was written before is whole.
        LogUnavailableError: the log cannot be read.
    """
    limit = min(PAGE_EVENTS_FIRST, PAGE_EVENTS)
    while await _may_go_on(connection, run_id, followed):
        started_ns = time.monotonic_ns()
        due_seq = followed.seen_seq
        events = await log.replay(run_id, followed.next_seq - 1, limit=limit)
        if not events and due_seq >= followed.next_seq:
            raise EventsExpiredError(run_id, 0)
        bodies = _told(events, followed)
        at_the_end = len(events) < limit
        del events
        limit = min(2 * limit, PAGE_EVENTS)
        while bodies and await _may_go_on(connection, run_id, followed):
            written = connection.write_replayed(followed, bodies, started_ns)
            del bodies[:written]
            if sum(map(len, bodies)) > HELD_BYTES_MAX:
                limit, at_the_end = max(written, 1), False
                bodies.clear()
        if at_the_end and not bodies and followed.seen_seq < followed.next_seq:
            # What became durable since the log was read would have been seen.
            followed.live = True
            return
        await asyncio.sleep(0)


def _told(events: Sequence[StoredEvent], followed: Followed) -> list[bytes]:
    """The bodies of those events that the run's emitter knows to be durable.

    A reader can see a commit before the loop is told of it. Such an event comes live in a moment; written earlier it
    would be stamped by the socket before the emitter, and its ack refused as one of an event that is not there yet.
    """
    known_seq = events[-1].seq if events else 0
    if followed.run is not None and not followed.run.ledger.ended_ns:
        known_seq = followed.run.ledger.committed_count
    return [event.body for event in events if event.seq <= known_seq]


async def _may_go_on(connection: Connection, run_id: str, followed: Followed) -> bool:
    """Wait until the peer takes more; whether this replay is still wanted then."""
    return await connection.drained() and connection.follows.get(run_id) is followed
