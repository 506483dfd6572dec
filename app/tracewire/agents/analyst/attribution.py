"""Which run an event belongs to, where the backend leaves that to the order of the frames. Pure."""

from collections.abc import Iterable

import msgspec

from tracewire.agents.analyst.frames import WITHOUT_ID, Frame
from tracewire_telemetry.vocabulary import TERMINAL_TYPES, EventType


def attributed(frames: Iterable[Frame]) -> tuple[Frame, ...]:
    """Give each event a run: one without an id (AG-UI sends it at both ends only) is of its socket's current run."""
    current: dict[int, str] = {}
    starts: dict[int, int | None] = {}
    ended: set[int] = set()
    unnamed = 0
    with_runs: list[Frame] = []
    for frame in frames:
        if frame.sent or (frame.event is None and frame.run_id is not None):
            with_runs.append(frame)
            continue
        if frame.run_id is not None:
            if current.get(frame.socket) != frame.run_id:
                ended.discard(frame.socket)
            current[frame.socket] = frame.run_id
        elif frame.event is not None or (frame.socket in current and frame.socket not in ended):
            again = frame.socket not in ended and starts.get(frame.socket, -1) == frame.digest
            begins = frame.event is EventType.AGENT_STARTED and not again
            if frame.event is not None and (begins or frame.socket not in current):
                unnamed += 1
                current[frame.socket] = f"{WITHOUT_ID} {unnamed}"
                starts[frame.socket] = frame.digest
                ended.discard(frame.socket)
            frame = msgspec.structs.replace(frame, run_id=current[frame.socket])
        if frame.event in TERMINAL_TYPES:
            ended.add(frame.socket)
        with_runs.append(frame)
    return tuple(with_runs)
