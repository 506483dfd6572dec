"""Reading back what a socket lacks of a run, until it has caught up and follows live.

Enters: a followed run that is not live. Leaves: its events from the log, in order, once; then the run is live. However
live events race it: those that pass meanwhile are in the log already, and are read from there.
"""

import asyncio
import time

from tracewire.delivery.connections import Connection, Followed
from tracewire.errors import EventsExpiredError
from tracewire.eventlog import EventLog

PAGE_EVENTS: int = 64
"""Events read and written at once, so that a long replay does not hold the event loop."""


async def catch_up(connection: Connection, log: EventLog, run_id: str, followed: Followed) -> None:
    """Replay the run to this socket from `followed.next_seq` on, at the pace at which it reads, then go live.

    Raises:
        EventsExpiredError: what comes next is no longer kept. What was written before is whole.
        LogUnavailableError: the log cannot be read.
    """
    while await _may_go_on(connection, run_id, followed):
        started_ns = time.monotonic_ns()
        due_seq = followed.seen_seq
        events = await log.replay(run_id, followed.next_seq - 1, limit=PAGE_EVENTS)
        for event in events:
            # One at a time: a page of large events would otherwise pile up behind a peer that reads slowly.
            if not await _may_go_on(connection, run_id, followed):
                return
            connection.write_replayed(followed, event.body, started_ns)
        if events:
            await asyncio.sleep(0)
        elif due_seq >= followed.next_seq:
            raise EventsExpiredError(run_id, 0)
        elif followed.seen_seq < followed.next_seq:
            followed.live = True
            return


async def _may_go_on(connection: Connection, run_id: str, followed: Followed) -> bool:
    """Wait until the peer takes more; whether this replay is still wanted then."""
    return await connection.drained() and connection.follows.get(run_id) is followed
