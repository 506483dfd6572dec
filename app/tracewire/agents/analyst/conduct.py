"""A run held against the contract that Tracewire's own bridge enforces, and against its receipt.

Pure. The rules are `tracewire.bridge.contract`'s. What a rule names is noted and then taken as if it had been right,
so that one lost event is one finding and not ten.
"""

from collections import Counter, deque
from collections.abc import Sequence

from msgspec import Struct

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.ranges import merged, size
from tracewire.agents.analyst.runs import Run
from tracewire.bridge import contract
from tracewire_telemetry.vocabulary import TERMINAL_TYPES, EventType


class Breach(Struct, frozen=True):
    """An event that does not fit. `rule` is the contract's word."""

    rule: str
    message: str
    frame: Frame


class Mismatch(Struct, frozen=True):
    """A type of which the receipt counts another number than arrived."""

    type: str
    announced: int
    arrived: int


class Conduct(Struct, frozen=True):
    """How the run behaved.

    `counts` are of distinct events, joined deltas counted as what they stand for. `left_open` are tools that were
    executing and never completed, `never_opened` the reverse. `breaches` hold all other rules. `mismatches` are there
    where the terminal event carried a receipt, and the recording does not begin in the middle of the run.
    """

    counts: dict[EventType, int]
    other_types: dict[str, int]
    terminal: Frame | None
    left_open: tuple[Frame, ...] = ()
    never_opened: tuple[Frame, ...] = ()
    breaches: tuple[Breach, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    receipt_seq_differs: bool = False
    truncated: tuple[Frame, ...] = ()


def check_contract(run: Run) -> Conduct:
    """Take the run's distinct events through the contract, one after the other."""
    begins_late = _begins_late(run)
    whole = run.accepted is not None or not begins_late
    progress = _Progress(begins_late=begins_late)
    for frame in run.events:
        progress.take(frame)
    counts = _counts(run)
    terminal = run.terminal
    receipt = terminal.receipt if terminal is not None else None
    return Conduct(
        counts=counts,
        other_types=dict(Counter(frame.name for frame in run.distinct if frame.event is None)),
        terminal=terminal,
        left_open=tuple(progress.left_open()),
        never_opened=tuple(progress.never_opened),
        breaches=tuple(progress.breaches),
        mismatches=_mismatches(run, counts, receipt.counts) if receipt is not None and whole else (),
        receipt_seq_differs=(
            receipt is not None
            and terminal is not None
            and terminal.seq_field == run.number_field is not None
            and receipt.last_seq != terminal.seq
        ),
        truncated=tuple(frame for frame in run.distinct if frame.truncated),
    )


def _begins_late(run: Run) -> bool:
    """Whether the first event says by its number that it is not the run's first."""
    first = run.events[0] if run.events else None
    return first is not None and first.seq_field == run.number_field is not None and first.span[0] > 1


class _Progress:
    """The contract of the run, told about each event whether it fits or not."""

    def __init__(self, *, begins_late: bool) -> None:
        self._contract = contract.RunContract()
        self._calls: dict[str, Frame] = {}
        self._by_name: dict[str | None, deque[str]] = {}
        self._tolerates_no_start = begins_late
        self.never_opened: list[Frame] = []
        self.breaches: list[Breach] = []
        self._abandoned: list[Frame] = []

    def take(self, frame: Frame) -> None:
        """Note what is wrong with the event, then put the contract where it would be had nothing been wrong."""
        assert frame.event is not None  # noqa: S101 - only events are taken
        call_id = self._call_id(frame)
        violation = self._contract.check(frame.event, call_id)
        if violation is not None and violation.rule == contract.NOT_STARTED:
            if not self._tolerates_no_start:
                self.breaches.append(Breach(violation.rule, violation.message, frame))
            self._contract.apply(EventType.AGENT_STARTED)
            violation = self._contract.check(frame.event, call_id)
        if violation is None:
            self._apply(frame, call_id)
        elif violation.rule == contract.TOOL_NOT_OPEN:
            self.never_opened.append(frame)
        elif violation.rule == contract.TOOL_LEFT_OPEN:
            self._abandon_open_calls()
            self._apply(frame, call_id)
        else:
            self.breaches.append(Breach(violation.rule, violation.message, frame))

    def left_open(self) -> Sequence[Frame]:
        """The tools that never completed, in the order of their start."""
        return [*self._abandoned, *(self._calls[call_id] for call_id in self._contract.open_tools)]

    def _apply(self, frame: Frame, call_id: str | None) -> None:
        assert frame.event is not None  # noqa: S101 - only events are taken
        self._contract.apply(frame.event, call_id, frame.tool_name or "")
        if frame.event is EventType.TOOL_EXECUTING and call_id is not None:
            self._calls[call_id] = frame

    def _abandon_open_calls(self) -> None:
        """Close what is open: the contract must not be given an end that it refuses."""
        for call_id, name in list(self._contract.open_tools.items()):
            self._abandoned.append(self._calls[call_id])
            self._contract.apply(EventType.TOOL_COMPLETED, call_id, name)

    def _call_id(self, frame: Frame) -> str | None:
        """The event's call id; for a backend that sends none, a made-up one: the oldest open call of that name ends."""
        if frame.event is EventType.TOOL_EXECUTING:
            call_id = frame.tool_call_id or f"{frame.tool_name} at {frame.socket}.{frame.line}.{frame.part}"
            self._by_name.setdefault(frame.tool_name, deque()).append(call_id)
            return call_id
        if frame.event is EventType.TOOL_COMPLETED and frame.tool_call_id is None:
            same_name = self._by_name.get(frame.tool_name, deque())
            while same_name:
                if (call_id := same_name.popleft()) in self._contract.open_tools:
                    return call_id
            return next(iter(self._contract.open_tools), "") if frame.tool_name is None else ""
        return frame.tool_call_id


def _counts(run: Run) -> dict[EventType, int]:
    """Distinct events by type. Joined deltas may overlap after a resume, so their numbers are counted, not they."""
    counts = Counter(frame.event for frame in run.distinct if frame.event is not None)
    deltas = [
        frame.span for frame in run.numbered if frame.event is EventType.AGENT_DELTA and frame.first_seq is not None
    ]
    if deltas:
        spans = [frame.span for frame in run.numbered if frame.event is EventType.AGENT_DELTA]
        counts[EventType.AGENT_DELTA] = size(merged(spans))
    return {event_type: counts[event_type] for event_type in EventType if counts[event_type]}


def _mismatches(run: Run, counts: dict[EventType, int], announced: dict[str, int]) -> tuple[Mismatch, ...]:
    """Types of which fewer arrived than the receipt says; more only where numbers rule out that one was split."""
    by_name = {event_type.value: count for event_type, count in counts.items()}
    names = [*announced, *(name for name in by_name if name not in announced and run.number_field is not None)]
    pairs = ((name, announced.get(name, 0), by_name.get(name, 0)) for name in names)
    return tuple(
        Mismatch(name, said, came) for name, said, came in pairs if came < said or (came > said and run.number_field)
    )


def ended_how(conduct: Conduct) -> str:
    """How the run ended, in a word or two."""
    terminal = conduct.terminal
    if terminal is None or terminal.event not in TERMINAL_TYPES:
        return "without an end"
    word = {
        EventType.AGENT_COMPLETED: "completed",
        EventType.AGENT_CANCELLED: "cancelled",
        EventType.AGENT_ERROR: "failed",
    }[terminal.event]
    return f"{word} ({terminal.code})" if terminal.code else word
