"""What waits to be written to one socket. Pure: it is told the time.

Bounded by bytes and by age; nothing in it is ever dropped or reordered. Past a bound its owner cuts the socket, whose
client resumes from the log.
"""

from collections import deque
from typing import NamedTuple

from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.watch import OpenRun


class Queued(NamedTuple):
    """One frame's worth: the bytes, and for an event the run, the socket's ordinal in its ledger and the seq."""

    body: bytes
    queued_ns: int
    run: OpenRun | None = None
    socket: int = 0
    seq: int = 0


class Outbox:
    """A queue of frames, at most `bytes_max` bytes and `age_seconds` old."""

    __slots__ = ("_age_ns_max", "_bytes_max", "_queue", "bytes")

    def __init__(self, *, bytes_max: int, age_seconds: float) -> None:
        self._queue: deque[Queued] = deque()
        self._bytes_max = bytes_max
        self._age_ns_max = int(age_seconds * NS_PER_SECOND)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, queued: Queued) -> None:
        """Queue one frame behind those that wait."""
        self._queue.append(queued)
        self.bytes += len(queued.body)

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
        self.bytes -= len(queued.body)
        return queued

    def overfull(self, now: int) -> bool:
        """Whether a bound is passed at `now`, monotonic nanoseconds."""
        if self.bytes > self._bytes_max:
            return True
        return bool(self._queue) and now - self._queue[0].queued_ns > self._age_ns_max

    def clear(self) -> None:
        """Forget everything: the socket is gone, and the log has it all."""
        self._queue.clear()
        self.bytes = 0
