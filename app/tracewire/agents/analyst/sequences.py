"""The numbers of a run's events: what is missing, what came twice, what came in the wrong order.

Pure. What counts as missing is decided over all sockets of the recording: an event that one socket lost and another
brought is healed, not missing. What counts as a repeat is decided on each socket for itself, because all sockets of a
user that follow a run get all of it; and a `resume` begins anew, except that what it says the client has must not come
again.
"""

from collections.abc import Sequence

from msgspec import Struct

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.names import folded
from tracewire.agents.analyst.ranges import Range, common, holes, merged
from tracewire.agents.analyst.runs import Run


class Gap(Struct, frozen=True):
    """Missing numbers, both ends included, and the frames next to them where there are such."""

    first: int
    last: int
    before: Frame | None = None
    after: Frame | None = None

    @property
    def size(self) -> int:
        """How many events are missing."""
        return self.last - self.first + 1


class Repeat(Struct, frozen=True):
    """A frame that came again. `conflicting`: it has the number of another event."""

    original: Frame | None
    again: Frame
    conflicting: bool = False


class Sequences(Struct, frozen=True):
    """What the numbers of a run say.

    `gaps` lie within what arrived. `head` is what the first number leaves out: missing if the run began on the
    recording (`head_missing`), else from before it. `tail` is what was announced beyond the last number; its `after`
    is the frame that announced it. `healed` numbers came on another socket or after a resume. `late` frames have a
    lower number than one before them on their socket. Without numbers only `repeats` can be told.
    """

    numbered: bool
    shared: bool = False
    first_seq: int | None = None
    last_seq: int | None = None
    gaps: tuple[Gap, ...] = ()
    head: Gap | None = None
    head_missing: bool = False
    tail: Gap | None = None
    healed: tuple[Range, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    late: tuple[Frame, ...] = ()

    @property
    def missing(self) -> tuple[Gap, ...]:
        """Every gap that stands for lost events: before, within and after what arrived."""
        head = (self.head,) if self.head is not None and self.head_missing else ()
        tail = (self.tail,) if self.tail is not None else ()
        return (*head, *self.gaps, *tail)


def check_sequences(run: Run) -> Sequences:
    """Hold the run's numbers against each other, and against what was announced."""
    if not run.frames and run.announced is not None and run.announced[0] > 0:
        return Sequences(numbered=True, tail=Gap(1, run.announced[0], after=run.announced[1]))
    if run.number_field is None:
        return Sequences(numbered=False, repeats=_equal_frames(run))
    repeats, late, segments = _walk(run)
    if run.shared_numbers:
        return Sequences(numbered=True, shared=True, repeats=repeats, late=late)
    gaps, first, last = _gaps(run)
    union = merged(frame.span for frame in run.numbered)
    lost = holes(union)
    healed = [hole for segment in segments for hole in _without(holes(segment), lost)]
    lowest = min(first, 1)
    head = Gap(lowest, first - 1, after=run.distinct[0]) if first > 1 else None
    tail = None
    if run.announced is not None and run.announced[0] > last:
        tail = Gap(last + 1, run.announced[0], after=run.announced[1])
    return Sequences(
        numbered=True,
        first_seq=first,
        last_seq=last,
        gaps=gaps,
        head=head,
        head_missing=run.accepted is not None,
        tail=tail,
        healed=tuple(merged(healed)),
        repeats=repeats,
        late=late,
    )


def _gaps(run: Run) -> tuple[tuple[Gap, ...], int, int]:
    """The gaps between distinct frames in the order of seq, and the first and last number."""
    gaps: list[Gap] = []
    before: Frame | None = None
    first = last = 0
    for frame in run.distinct:
        if frame.seq_field != run.number_field:
            continue
        begin, end = frame.span
        if before is None:
            first = begin
        elif begin > last + 1:
            gaps.append(Gap(last + 1, begin - 1, before=before, after=frame))
        if before is None or end > last:
            before, last = frame, end
    return tuple(gaps), first, last


class _Segment:
    """What one socket has brought of a run since its last resume."""

    def __init__(self, held_seq: int = -1) -> None:
        self.held_seq = held_seq
        self.seen: dict[int, Frame] = {}
        self.spans: list[Range] = []
        self.highest = -1


def _walk(run: Run) -> tuple[tuple[Repeat, ...], tuple[Frame, ...], list[list[Range]]]:
    """Go through the frames as they came: repeats, late frames, and the ranges of each segment."""
    repeats: list[Repeat] = []
    late: list[Frame] = []
    closed: list[_Segment] = []
    open_segments: dict[int, _Segment] = {}
    for frame in _with_resumes(run):
        if frame.announced:
            held = dict(frame.announced).get(run.run_id) if folded(frame.name) == "resume" else None
            previous = open_segments.get(frame.socket)
            if previous is not None and previous.seen:
                closed.append(previous)
            if held is None and previous is not None and not previous.seen:
                continue  # `resumed` answers a `resume` that has begun the segment
            open_segments[frame.socket] = _Segment(-1 if held is None else held)
            continue
        segment = open_segments.setdefault(frame.socket, _Segment())
        first, last = frame.span
        original = segment.seen.get(last)
        if original is not None or last <= segment.held_seq:
            conflicting = original is not None and original.event is not frame.event
            repeats.append(Repeat(original, frame, conflicting=conflicting))
            continue
        if last < segment.highest:
            late.append(frame)
        segment.seen[last] = frame
        segment.spans.append((first, last))
        segment.highest = max(segment.highest, last)
    segments = [merged(segment.spans) for segment in (*closed, *open_segments.values())]
    return tuple(repeats), tuple(late), segments


def _with_resumes(run: Run) -> Sequence[Frame]:
    """The run's numbered frames with its resumes between them, as the file has them on each socket."""
    if not run.resumes:
        return run.numbered
    return sorted((*run.numbered, *run.resumes), key=lambda frame: (frame.socket, frame.line, frame.part))


def _without(ranges: Sequence[Range], removed: Sequence[Range]) -> list[Range]:
    """What of the ranges is in none of the removed ones."""
    if not ranges:
        return []
    kept_between = holes(merged([(ranges[0][0] - 2, ranges[0][0] - 2), *removed, (ranges[-1][1] + 2,) * 2]))
    return common(ranges, kept_between)


def _equal_frames(run: Run) -> tuple[Repeat, ...]:
    """Frames without numbers are the same event if they are equal to the letter, on one socket."""
    seen: dict[tuple[int, int], Frame] = {}
    repeats: list[Repeat] = []
    for frame in run.frames:
        if frame.digest is None or frame.sent:
            continue
        original = seen.setdefault((frame.socket, frame.digest), frame)
        if original is not frame:
            repeats.append(Repeat(original, frame))
    return tuple(repeats)
