"""The delivery score of a run: how much of what a user waits for has arrived, out of 100.

It is taken twice, from what a client got and from what the run's trace proves, and the two need not agree: an ack is
cumulative, so that behind a gap the trace proves nothing, though the client may have got it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from support.wire import Frame
from tracewire_telemetry.testing.spans import RecordedSpan

WEIGHTS: Final = {
    "agent_started": 20,
    "agent_thinking": 15,
    "tool_executing": 10,
    "tool_completed": 15,
    "agent_completed": 40,
}
WHOLE: Final = 100


def score(types: Iterable[str]) -> int:
    """The weights of the critical types among these, each once."""
    return sum(WEIGHTS.get(event_type, 0) for event_type in set(types))


def received_score(events: Sequence[Frame]) -> int:
    """The score of a run by the events that a client got."""
    return score(event["type"] for event in events)


def proven_score(trace: Iterable[RecordedSpan]) -> int:
    """The score of a run by its trace: an event counts that was settled, and not by having gone missing."""
    return score(
        span.attributes["tracewire.event.type"]
        for span in trace
        if span.name.startswith("settle ") and span.status != "error" and "tracewire.event.type" in span.attributes
    )
