"""Reading back what a socket lacks of a run, until it has caught up and follows live.

Enters: a followed run that is not live. Leaves: its events from the log, in order, once; then the run is live. However
live events race it: those that pass meanwhile are in the log already, and are read from there.
"""

import asyncio
import time
from typing import Final

from tracewire.delivery.connections import Connection, Followed
from tracewire.errors import EventsExpiredError
from tracewire.eventlog import EventLog

PAGE_EVENTS: int = 64
"""Events read and written at once, so that a long replay does not hold the event loop."""
PAGE_EVENTS_FIRST: int = 16
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
        if not events:
            if due_seq >= followed.next_seq:
                raise EventsExpiredError(run_id, 0)
            if followed.seen_seq < followed.next_seq:
                followed.live = True
                return
            continue
        bodies = [event.body for event in events]
        del events
        limit = min(2 * limit, PAGE_EVENTS)
        while bodies and await _may_go_on(connection, run_id, followed):
            written = connection.write_replayed(followed, bodies, started_ns)
            del bodies[:written]
            if sum(map(len, bodies)) > HELD_BYTES_MAX:
                limit = max(written, 1)
                bodies.clear()
        await asyncio.sleep(0)


async def _may_go_on(connection: Connection, run_id: str, followed: Followed) -> bool:
    """Wait until the peer takes more; whether this replay is still wanted then."""
    return await connection.drained() and connection.follows.get(run_id) is followed
