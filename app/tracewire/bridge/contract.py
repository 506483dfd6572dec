"""The contract of a run, as pure code: what may follow what, and what is owed at the end.

The bridge asks it before an event gets its seq; the analyst holds recordings of other backends against it.
It knows no clock, no randomness and no I/O.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from tracewire_telemetry.vocabulary import TERMINAL_TYPES, EventType


class Violation(Struct, frozen=True):
    """One way in which an event does not fit its run. `rule` is a stable word, `message` says it to a person."""

    rule: str
    message: str


AFTER_END: Final = "after_end"
NOT_STARTED: Final = "not_started"
STARTED_TWICE: Final = "started_twice"
TOOL_REPEATED: Final = "tool_repeated"
TOOL_NOT_OPEN: Final = "tool_not_open"
TOOL_LEFT_OPEN: Final = "tool_left_open"


class RunContract:
    """The events of one run so far. `check` looks, `apply` records; what `check` names, `apply` must not be given."""

    __slots__ = ("counts", "ended", "open_tools", "seen_tools")

    def __init__(self) -> None:
        self.counts: Counter[EventType] = Counter()
        self.open_tools: dict[str, str] = {}
        self.seen_tools: set[str] = set()
        self.ended = False

    @property
    def started(self) -> bool:
        """Whether the run has its `agent_started`."""
        return self.counts[EventType.AGENT_STARTED] > 0

    def check(self, event_type: EventType, tool_call_id: str | None = None) -> Violation | None:
        """What is wrong with this event as the run's next, or `None`. `tool_call_id` goes with the tool events."""
        if self.ended:
            return Violation(AFTER_END, f"{event_type.value} comes after the run's terminal event")
        if event_type in TERMINAL_TYPES:
            if event_type is EventType.AGENT_COMPLETED and self.open_tools:
                names = ", ".join(sorted(self.open_tools.values()))
                return Violation(TOOL_LEFT_OPEN, f"the run completes while a tool is open: {names}")
            return None
        if event_type is EventType.AGENT_STARTED:
            return Violation(STARTED_TWICE, "the run has started already") if self.started else None
        if not self.started:
            return Violation(NOT_STARTED, f"{event_type.value} comes before agent_started")
        if event_type is EventType.TOOL_EXECUTING and tool_call_id in self.seen_tools:
            return Violation(TOOL_REPEATED, f"tool call {tool_call_id} was executing already")
        if event_type is EventType.TOOL_COMPLETED and tool_call_id not in self.open_tools:
            return Violation(TOOL_NOT_OPEN, f"tool call {tool_call_id} completes, but is not executing")
        return None

    def apply(self, event_type: EventType, tool_call_id: str | None = None, tool_name: str = "") -> None:
        """Record the event as having happened."""
        self.counts[event_type] += 1
        if event_type is EventType.TOOL_EXECUTING and tool_call_id is not None:
            self.open_tools[tool_call_id] = tool_name
            self.seen_tools.add(tool_call_id)
        elif event_type is EventType.TOOL_COMPLETED and tool_call_id is not None:
            self.open_tools.pop(tool_call_id, None)
        elif event_type in TERMINAL_TYPES:
            self.ended = True

    def missing(self, required: Iterable[EventType]) -> tuple[EventType, ...]:
        """The required types that the run has not shown, in the order given."""
        return tuple(event_type for event_type in required if not self.counts[event_type])

    def receipt_counts(self, terminal: EventType) -> dict[str, int]:
        """The counts that the receipt carries, `terminal` included, zeros left out."""
        counts = {event_type.value: n for event_type, n in self.counts.items() if n}
        counts[terminal.value] = counts.get(terminal.value, 0) + 1
        return counts
