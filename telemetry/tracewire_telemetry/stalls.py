"""When the event loop stood still: nobody is late by that. Pure: it is told the time."""

from collections import deque
from typing import Final

STALLS_KEPT: Final = 256


class Stalls:
    """The last stalls of one event loop, monotonic nanoseconds."""

    def __init__(self) -> None:
        self._stalls: deque[tuple[int, int]] = deque(maxlen=STALLS_KEPT)

    def note(self, began_ns: int, ended_ns: int) -> None:
        """The loop stood still in between: what was due then is late by no fault of its own."""
        self._stalls.append((began_ns, ended_ns))

    def since(self, since_ns: int) -> int:
        """For how many nanoseconds since that moment it stood still."""
        total = 0
        for began_ns, ended_ns in reversed(self._stalls):
            if ended_ns <= since_ns:
                break
            total += ended_ns - max(began_ns, since_ns)
        return total
