"""One thing that waits to be written to a socket."""

from typing import NamedTuple

from tracewire_telemetry.watch import OpenRun


class Queued(NamedTuple):
    """One frame's worth: the bytes, and for an event the run, the socket's ordinal in its ledger and the seq.

    `first_seq` is that of the first of joined deltas, 0 for any other.
    """

    body: bytes
    queued_ns: int
    run: OpenRun | None = None
    socket: int = 0
    seq: int = 0
    first_seq: int = 0
