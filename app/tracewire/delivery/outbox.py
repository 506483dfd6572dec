"""What waits to be written to one socket. Pure: it is told the time.

Bounded by bytes and by age; nothing in it is ever dropped, and the events of a run are never reordered. Past a bound
its owner cuts the socket, whose client resumes from the log.
"""

from collections import deque
from typing import Final

from tracewire.delivery.deltas import WaitingDeltas
from tracewire.delivery.queued import Queued
from tracewire_telemetry.ledger import NS_PER_SECOND

__all__ = ["JOINING_BYTES", "Outbox", "Queued"]

JOINING_BYTES: Final = 16 * 1024
"""What waits for a peer that takes no more, past which deltas are joined; a peer that reads never comes to it."""
FRAME_BYTES: Final = 128
"""Counted for each frame that waits, beside its bytes: small ones take more memory around them than in them."""


class Outbox:
    """A queue of frames, at most `bytes_max` bytes and `age_seconds` old. `bytes` are those of the frames alone."""

    __slots__ = ("_bytes_max", "_queue", "age_ns_max", "bytes")

    def __init__(self, *, bytes_max: int, age_seconds: float) -> None:
        self._queue: deque[Queued | WaitingDeltas] = deque()
        self._bytes_max = bytes_max
        self.age_ns_max = int(age_seconds * NS_PER_SECOND)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, queued: Queued) -> None:
        """Queue one frame behind those that wait."""
        self._queue.append(queued)
        self.bytes += len(queued.body)

    def join(self, event: Queued, waiting: WaitingDeltas | None) -> WaitingDeltas | None:
        """Queue a run's next event, a delta within those of its run that wait where it can be added to them.

        `waiting` is what this gave for the run's event before, and what it gives is for the one after. A delta so
        overtakes events of other runs: order is owed within a run alone.
        """
        before = waiting.bytes if waiting is not None else 0
        if waiting is not None and waiting.add(event):
            self.bytes += waiting.bytes - before
            return waiting
        deltas = WaitingDeltas.of(event)
        self._queue.append(event if deltas is None else deltas)
        self.bytes += len(event.body)
        return deltas

    def push_front(self, queued: Queued) -> None:
        """Queue one frame before those that wait."""
        self._queue.appendleft(queued)
        self.bytes += len(queued.body)

    def pop(self) -> Queued:
        """Take the frame that has waited longest.

        Raises:
            IndexError: nothing waits.
        """
        queued = self._queue.popleft()
        if isinstance(queued, WaitingDeltas):
            queued = queued.take()
        self.bytes -= len(queued.body)
        return queued

    def overfull(self, now: int) -> bool:
        """Whether a bound is passed at `now`, monotonic nanoseconds."""
        if self.bytes + FRAME_BYTES * len(self._queue) > self._bytes_max:
            return True
        return bool(self._queue) and now - self._queue[0].queued_ns > self.age_ns_max

    def clear(self) -> None:
        """Forget everything: the socket is gone, and the log has it all."""
        self._queue.clear()
        self.bytes = 0
