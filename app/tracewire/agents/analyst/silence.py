"""How long a run was silent, and whether anything was expected of it meanwhile.

Pure. Silence while a tool is open or input is awaited is the tool's or the user's, not a stall; it is told apart.
"""

import itertools
from collections import Counter
from typing import Final

from msgspec import Struct

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.runs import Run
from tracewire_telemetry.vocabulary import TERMINAL_TYPES, EventType

STALL_SECONDS: Final = 10.0
"""Silence from here on is a stall, if neither a tool nor the user was being waited for."""


class Silence(Struct, frozen=True):
    """Time between two frames of a run. `waiting_for` is `a tool`, `input` or nothing."""

    seconds: float
    before: Frame
    after: Frame
    waiting_for: str | None = None


class Pace(Struct, frozen=True):
    """`timed` is false where the recording has no times. `quiet_end_seconds` is how long the recording goes on after
    the last event of a run that has no terminal event.
    """

    timed: bool
    started_at: float | None = None
    duration_seconds: float | None = None
    longest: Silence | None = None
    stalls: tuple[Silence, ...] = ()
    quiet_end_seconds: float | None = None


def measure_silence(run: Run, recording_ends_at: float | None) -> Pace:
    """The silences between the frames of the run, in the order of their arrival."""
    frames = [frame for frame in run.frames if frame.time is not None]
    if not frames:
        return Pace(timed=False)
    silences: list[Silence] = []
    open_calls: Counter[str | None] = Counter()
    ending = {_call(frame) for frame in frames if frame.event is EventType.TOOL_COMPLETED}
    awaits_input = False
    for before, after in itertools.pairwise(frames):
        _follow(before, open_calls, ending)
        if before.event in TERMINAL_TYPES:
            continue
        if before.event is EventType.INPUT_REQUIRED:
            awaits_input = True
        elif before.event is not None or before.sent:
            awaits_input = False
        in_tool = bool(open_calls) or before.event is EventType.TOOL_EXECUTING
        waiting_for = "input" if awaits_input else "a tool" if in_tool else None
        seconds = (after.time or 0.0) - (before.time or 0.0)
        silences.append(Silence(seconds=seconds, before=before, after=after, waiting_for=waiting_for))
    started_at = min(frame.time for frame in frames if frame.time is not None)
    ended_at = max(frame.time for frame in frames if frame.time is not None)
    quiet_end = None
    if run.terminal is None and recording_ends_at is not None:
        quiet_end = max(0.0, recording_ends_at - ended_at)
    return Pace(
        timed=True,
        started_at=started_at,
        duration_seconds=ended_at - started_at,
        longest=max(silences, key=lambda silence: silence.seconds, default=None),
        stalls=tuple(s for s in silences if s.seconds >= STALL_SECONDS and s.waiting_for is None),
        quiet_end_seconds=quiet_end,
    )


def _call(frame: Frame) -> str | None:
    """What tells a call from another: its id, or for a backend that sends none, its tool's name."""
    return frame.tool_call_id or frame.tool_name


def _follow(frame: Frame, open_calls: Counter[str | None], ending: set[str | None]) -> None:
    """Keep count of the open tools. One whose end never comes excuses the silence right behind its start alone."""
    call = _call(frame)
    if frame.event is EventType.TOOL_EXECUTING and (call in ending or None in ending):
        open_calls[call] += 1
    elif frame.event is EventType.TOOL_COMPLETED and open_calls:
        ended = call if call in open_calls else next(iter(open_calls))
        open_calls[ended] -= 1
        if not open_calls[ended]:
            del open_calls[ended]
    elif frame.event in TERMINAL_TYPES:
        open_calls.clear()
