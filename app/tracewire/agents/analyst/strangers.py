"""Frames that are not the socket's user's: contamination, and how it is known.

Pure. Two rules. A frame that carries the id of another user than the socket's (`ready` names it; else the first frame
that names one). An event of a run that the socket never announced, on a socket that announces its runs.
"""

from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from tracewire.agents.analyst.frames import WITHOUT_ID, Frame
from tracewire.agents.analyst.names import folded


class Stranger(Struct, frozen=True):
    """A frame that is not this socket's user's, and how that is known."""

    frame: Frame
    why: str


def find_strangers(frames: Sequence[Frame]) -> tuple[Stranger, ...]:
    """The foreign frames in the order of their arrival."""
    users: dict[int, str] = {}
    first_users: dict[int, str] = {}
    announced: dict[int, set[str]] = defaultdict(set)
    opened: set[int] = set()
    for frame in frames:
        announced[frame.socket].update(run_id for run_id, _ in frame.announced)
        if frame.sent:
            continue
        if folded(frame.name) == "ready":
            opened.add(frame.socket)
            if frame.user_id is not None:
                users.setdefault(frame.socket, frame.user_id)
        elif frame.user_id is not None:
            first_users.setdefault(frame.socket, frame.user_id)
    strangers: list[Stranger] = []
    for frame in frames:
        if frame.sent or frame.event is None or frame.run_id is None:
            continue
        strange_run = frame.run_id not in announced[frame.socket] and not frame.run_id.startswith(WITHOUT_ID)
        user = users.get(frame.socket) or first_users.get(frame.socket)
        if frame.user_id is not None and frame.user_id != user:
            strangers.append(Stranger(frame, f"it carries user `{frame.user_id}`, and the socket is `{user}`'s"))
        elif frame.socket in opened and announced[frame.socket] and strange_run:
            strangers.append(Stranger(frame, f"run `{frame.run_id}` was never accepted or announced on this socket"))
    return tuple(strangers)
