"""What sockets carried of one run, as its ledger keeps it: live writes, acks and replays. Moments are monotonic
nanoseconds; a socket is named by its ordinal in the ledger.
"""

from array import array
from dataclasses import dataclass

from msgspec import Struct


@dataclass(slots=True)
class Send:
    """The live writes to one socket: `stamps[i]` belongs to seq `first_seq + i`."""

    first_seq: int
    stamps: "array[int]"


class Ack(Struct, frozen=True):
    """One ack that moved the run on: it settled `first_seq`..`last_seq`, and came over `socket`."""

    first_seq: int
    last_seq: int
    socket: int
    at_ns: int


class Replay(Struct):
    """Events read back from the log for one socket after a resume."""

    socket: int
    first_seq: int
    last_seq: int
    started_ns: int
    ended_ns: int
    acked_ns: int = 0
