"""Whether a peer takes what is written to it. Pure: it is told the time."""


class Progress:
    """Notices, by looking now and then, a peer that takes nothing of what waits for it.

    `written` counts the bytes that were ever handed over for it; who writes adds to it.
    """

    __slots__ = ("_since_ns", "_taken", "written")

    def __init__(self) -> None:
        self.written = 0
        self._taken = 0
        self._since_ns = 0

    def stuck_ns(self, unsent_bytes: int, now: int) -> int:
        """For how long nothing was taken, by this look and those before; 0 where nothing waits.

        Counted are the bytes taken, not those that wait: the latter are the same at each look where a busy peer has
        just been written to.
        """
        taken = self.written - unsent_bytes
        if not unsent_bytes or not self._since_ns or taken > self._taken:
            self._taken = taken
            self._since_ns = now if unsent_bytes else 0
        return now - self._since_ns if self._since_ns else 0
