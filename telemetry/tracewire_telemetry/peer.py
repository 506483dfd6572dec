"""What the watch asks of a socket."""

from typing import Protocol


class Peer(Protocol):
    """The socket that follows a run, as the watch sees it."""

    @property
    def has_acked(self) -> bool:
        """Whether its client has ever acked anything, of whichever run."""

    @property
    def last_life_ns(self) -> int:
        """When it last gave a sign of life, monotonic nanoseconds."""

    def probe(self) -> None:
        """Ask for a sign of life, of the kind that every WebSocket answers by itself."""

    def resync(self) -> None:
        """Have the client come back and resume: it is alive, and lacks or has not acked something."""

    def cut_silent(self) -> None:
        """Let go of it: it is dead."""

    def note_unacknowledging(self) -> None:
        """Say, once, that its client was due an ack and has never sent one."""
