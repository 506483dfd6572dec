"""What a recording is once it has been read: frames in the order of their arrival, each with its place in the file."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from tracewire.errors import TracewireError
from tracewire.events import Receipt
from tracewire_telemetry.vocabulary import EventType

FRAMES_MAX: Final = 200_000
"""Frames of a recording that are read, at most, with what is none among them. Real ones of 16 MiB have 50,000; made-up
ones have millions, and would take minutes and gigabytes.
"""

UNREADABLE_SHOWN_MAX: Final = 5
"""How many unreadable lines are named; the others are counted."""

STRONG_SEQ_FIELDS: Final = ("seq", "sequence", "sequence_number", "sequenceNumber", "seq_no", "seqNo", "event_seq")
"""Fields that hold a sequence number wherever they are met."""

WEAK_SEQ_FIELDS: Final = ("event_id", "eventId", "index", "offset", "id")
"""Fields that may hold one. They are believed only where they count one by one."""


WITHOUT_ID: Final = "without id"
"""Begins the made-up id of a run whose events carry none."""


class UnreadableError(TracewireError):
    """A file that is no recording. The message says what was found and what was expected."""

    code = "unreadable_recording"


class Source(StrEnum):
    """What a reading was made from. It decides how a place is cited."""

    LINES = "lines"
    ARRAY = "array"
    HAR = "har"
    LOG = "log"


class Frame(Struct, frozen=True, gc=False):
    """One frame, in one shape for every backend.

    `name` is the type as it was written, `event` what it stands for, if it is an event of a run. `socket` counts from
    1, `line` is the line, message or seq that is cited, `part` the object within it where it holds several, else 0.
    `time` is when it arrived, or else its own time, in seconds of the epoch. `failure` is how a tool call failed, where
    it did. `announced` holds (run id, last seq) of a control frame that names runs. `digest` is there where two equal
    ones can only be the same event.
    """

    socket: int
    line: int
    part: int
    name: str
    event: EventType | None = None
    sent: bool = False
    time: float | None = None
    run_id: str | None = None
    seq: int | None = None
    first_seq: int | None = None
    seq_field: str | None = None
    user_id: str | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    failure: str | None = None
    request_id: str | None = None
    code: str | None = None
    truncated: tuple[str, ...] = ()
    receipt: Receipt | None = None
    announced: tuple[tuple[str, int | None], ...] = ()
    digest: int | None = None

    @property
    def span(self) -> tuple[int, int]:
        """First and last seq that the frame stands for; only for a frame that has one."""
        assert self.seq is not None  # noqa: S101 - callers have looked
        first = self.seq if self.first_seq is None else min(self.first_seq, self.seq)
        return first, self.seq


class Unreadable(Struct, frozen=True):
    """A line or message that is no frame, and why."""

    place: str
    why: str


class Reading(Struct, frozen=True):
    """A recording, read. `places` counts the lines or messages looked at, `unreadable` those that hold no frame.

    `empty_sockets` counts the sockets of a HAR whose messages were not exported. `cut` says that `FRAMES_MAX` was met,
    so that the end of the recording is unknown.
    """

    source: Source
    name: str
    frames: tuple[Frame, ...]
    places: int
    unreadable: int = 0
    unreadable_first: tuple[Unreadable, ...] = ()
    empty_sockets: int = 0
    cut: bool = False

    @property
    def sockets(self) -> tuple[int, ...]:
        """The numbers of the sockets that have frames."""
        return tuple(sorted({frame.socket for frame in self.frames}))

    def cite(self, frame: Frame) -> str:
        """Where a reader finds the frame in the file."""
        return place(self.source, frame.socket, frame.line, frame.part)


def place(source: Source, socket: int, line: int, part: int = 0) -> str:
    """A place in words: `line 17`, `socket 1, message 17`, with `(object 2)` where a message holds several."""
    within = f" (object {part})" if part else ""
    if source is Source.HAR:
        return f"socket {socket}, message {line}{within}"
    if source is Source.ARRAY:
        return f"frame {line}{within}"
    return f"seq {line}" if source is Source.LOG else f"line {line}{within}"
