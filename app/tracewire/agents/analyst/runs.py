"""The runs of a recording: which frames are whose, and how they are numbered.

Pure. Enters: the frames of a `Reading`. Leaves: `Run`s for the checks, without those that are somebody else's.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from tracewire.agents.analyst.frames import STRONG_SEQ_FIELDS, Frame
from tracewire.agents.analyst.names import CLIENT_FRAMES, SERVER_FRAMES, folded
from tracewire.agents.analyst.ranges import holes, merged, size
from tracewire.agents.analyst.strangers import Stranger
from tracewire_telemetry.vocabulary import TERMINAL_TYPES


class Run(Struct, frozen=True):
    """The frames of one run in the order of their arrival.

    `distinct` leaves out repeats and is in the order of seq where there is one. `number_field` names the field that
    numbers the events; `None`: they carry no sequence numbers that can be believed. `shared_numbers`: the numbers
    count the events of the socket, over all its runs. `accepted` is the frame that announced the run's start;
    `announced` the highest last seq that a control frame, or the log, gave for it, and where.
    """

    label: str
    run_id: str
    frames: tuple[Frame, ...]
    distinct: tuple[Frame, ...]
    number_field: str | None
    shared_numbers: bool = False
    resumes: tuple[Frame, ...] = ()
    accepted: Frame | None = None
    announced: tuple[int, Frame | None] | None = None

    @property
    def events(self) -> tuple[Frame, ...]:
        """The distinct frames that are events."""
        return tuple(frame for frame in self.distinct if frame.event is not None)

    @property
    def terminal(self) -> Frame | None:
        """The first terminal event, if there is one."""
        return next((frame for frame in self.distinct if frame.event in TERMINAL_TYPES), None)

    @property
    def numbered(self) -> tuple[Frame, ...]:
        """The frames that carry one of the run's numbers, in the order of their arrival."""
        return _numbered(self.frames, self.number_field)


class Found(Struct, frozen=True):
    """What a recording holds.

    A run of which every frame is foreign is not among `runs`. `streams` stand for the sockets whose events are numbered
    over all their runs; otherwise there are none. `unanswered` are requests neither accepted nor rejected.
    """

    runs: tuple[Run, ...]
    unanswered: tuple[Frame, ...] = ()
    streams: tuple[Run, ...] = ()


def find_runs(
    frames: Sequence[Frame],
    strangers: Sequence[Stranger] = (),
    known_last_seqs: Mapping[str, int] | None = None,
) -> Found:
    """Sort attributed frames into runs. `known_last_seqs` is what the log says of each run's end."""
    foreign = {id(stranger.frame) for stranger in strangers}
    notes = _Notes(known_last_seqs or {})
    by_run: dict[str, list[Frame]] = {}
    for frame in frames:
        kind = folded(frame.name)
        notes.take(frame, kind)
        for run_id, _ in frame.announced if kind == "runaccepted" else ():
            by_run.setdefault(run_id, [])
        if frame.run_id is not None and _belongs(frame, kind):
            by_run.setdefault(frame.run_id, []).append(frame)
    runs: list[Run] = []
    for run_id, own in by_run.items():
        is_run = run_id in notes.accepted or any(frame.event is not None for frame in own)
        if is_run and not (own and all(id(frame) in foreign for frame in own)):
            runs.append(notes.added_to(_run(f"run {len(runs) + 1}", run_id, own)))
    found = Found(runs=tuple(runs), unanswered=_unanswered(frames))
    return found if notes.accepted or known_last_seqs else _with_streams(found)


class _Notes:
    """What control frames say of runs."""

    def __init__(self, known_last_seqs: Mapping[str, int]) -> None:
        self.accepted: dict[str, Frame] = {}
        self._resumes: dict[str, list[Frame]] = defaultdict(list)
        self._last_seqs: dict[str, tuple[int, Frame | None]] = {
            run_id: (last_seq, None) for run_id, last_seq in known_last_seqs.items()
        }

    def take(self, frame: Frame, kind: str) -> None:
        """Note what the frame says. What a client claims to have is no announcement."""
        for run_id, last_seq in frame.announced:
            if kind == "runaccepted":
                self.accepted.setdefault(run_id, frame)
            elif kind in ("resume", "resumed"):
                self._resumes[run_id].append(frame)
            if last_seq is not None and kind != "resume" and last_seq > self._last_seqs.get(run_id, (-1, None))[0]:
                self._last_seqs[run_id] = (last_seq, frame)

    def added_to(self, run: Run) -> Run:
        """The run with what was said of it."""
        return msgspec.structs.replace(
            run,
            resumes=tuple(self._resumes.get(run.run_id, ())),
            accepted=self.accepted.get(run.run_id),
            announced=self._last_seqs.get(run.run_id),
        )


def _belongs(frame: Frame, kind: str) -> bool:
    """Events, a backend's frames in between, and the user's answers; an ack carries a seq, and is no event."""
    if frame.sent:
        return kind == "provideinput"
    return frame.event is not None or (kind not in SERVER_FRAMES and kind not in CLIENT_FRAMES)


def _run(label: str, run_id: str, arrived: Sequence[Frame]) -> Run:
    frames = _in_time(arrived)
    field = _number_field(frames)
    return Run(
        label=label,
        run_id=run_id,
        frames=frames,
        distinct=_distinct(frames, field),
        number_field=field,
    )


def _in_time(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The file's order is the order of arrival, but a HAR lists one socket after the other."""
    if len({frame.socket for frame in frames}) > 1 and all(frame.time is not None for frame in frames):
        return tuple(sorted(frames, key=lambda frame: frame.time or 0.0))
    return tuple(frames)


def _number_field(frames: Sequence[Frame]) -> str | None:
    """The field that numbers the events: at least half of them have it, and a weak one counts one by one."""
    events = sum(frame.event is not None for frame in frames)
    fields = Counter(frame.seq_field for frame in frames if frame.seq_field is not None and not frame.sent)
    for field, count in fields.most_common(1):
        if 2 * count < events:
            return None
        if field in STRONG_SEQ_FIELDS:
            return field
        seqs = sorted({frame.seq for frame in _numbered(frames, field) if frame.seq is not None})
        steps = sum(right - left == 1 for left, right in itertools.pairwise(seqs))
        return field if len(seqs) > 2 and 2 * steps >= len(seqs) - 1 else None
    return None


def _numbered(frames: Iterable[Frame], field: str | None) -> tuple[Frame, ...]:
    return tuple(frame for frame in frames if field is not None and frame.seq_field == field and not frame.sent)


def _distinct(frames: Iterable[Frame], field: str | None) -> tuple[Frame, ...]:
    """Without what is contained in another frame, or, where nothing is numbered, equal to an earlier one."""
    keyed: list[tuple[int, int, Frame]] = []
    digests: set[int] = set()
    latest = 0
    for frame in frames:
        if frame.sent:
            continue
        if field is not None and frame.seq_field == field:
            first, latest = frame.span
            keyed.append((first, latest, frame))
        elif frame.digest is None or frame.digest not in digests:
            keyed.append((latest, latest + 1, frame))
            if frame.digest is not None:
                digests.add(frame.digest)
    if field is None:
        return tuple(frame for _, _, frame in keyed)
    kept: list[Frame] = []
    covered = -1
    for _, last, frame in sorted(keyed, key=lambda item: (item[0], -item[1] if item[2].seq_field == field else 1)):
        if frame.seq_field == field:
            if last <= covered:
                continue
            covered = last
        kept.append(frame)
    return tuple(kept)


def _with_streams(found: Found) -> Found:
    """Look whether the numbers count the socket's events: no two runs share one, and together they have fewer holes."""
    runs = found.runs
    if len(runs) < 2 or any(run.number_field is None for run in runs):
        return found
    spans = [[frame.span for frame in run.numbered] for run in runs]
    together = merged(span for own in spans for span in own)
    holes_apart = sum(size(holes(merged(own))) for own in spans)
    if sum(size(merged(own)) for own in spans) != size(together) or holes_apart <= size(holes(together)):
        return found
    by_socket: dict[int, list[Frame]] = defaultdict(list)
    for run in runs:
        for frame in run.frames:
            by_socket[frame.socket].append(frame)
    return msgspec.structs.replace(
        found,
        runs=tuple(msgspec.structs.replace(run, shared_numbers=True) for run in runs),
        streams=tuple(
            _run(f"socket {socket}", f"socket {socket}", sorted(frames, key=lambda frame: (frame.line, frame.part)))
            for socket, frames in sorted(by_socket.items())
        ),
    )


def _unanswered(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Requests of this recording that got no answer in it."""
    answered = {
        frame.request_id for frame in frames if folded(frame.name) in ("runaccepted", "rejected") and frame.request_id
    }
    requests = [frame for frame in frames if folded(frame.name) == "startrun" and frame.request_id]
    return tuple(frame for frame in requests if frame.request_id not in answered)
