"""How many frames a user may send: what is over it waits, is refused, and in the end closes the socket.

An ack of what was just sent costs nothing, since there cannot be more of them than events: however a client acks, one
by one or in batches, none is refused. Any other ack, and a pong, waits for its turn, and so does what follows it on its
socket.
"""

import time

from tracewire.allowances import Allowance, UserAllowances
from tracewire.delivery.connection import Connection
from tracewire.errors import RejectedError
from tracewire.gateway import frames
from tracewire.gateway.frames import ClientFrame
from tracewire.gateway.protocol import BadFrames
from tracewire_telemetry.vocabulary import RejectCode

BURST_SECONDS = 5
"""A user may send at once what is allowed in so many seconds, and then has to go slower."""
RUNS_REMEMBERED_MAX = 256


def frame_allowances(frames_per_second_max: int) -> UserAllowances:
    """What the users of a server may send."""
    return UserAllowances(frames_per_second_max, frames_per_second_max * BURST_SECONDS)


class FrameRate:
    """What one socket sends: before sign-in by an allowance of its own, then by its user's.

    Args:
        users: the allowances of all users.
        frames_per_second_max: of each; as many refusals within a minute are flooding.
    """

    def __init__(self, users: UserAllowances, frames_per_second_max: int) -> None:
        self._users = users
        self._own = Allowance(frames_per_second_max, frames_per_second_max * BURST_SECONDS, now=time.monotonic_ns())
        self._refused = BadFrames(frames_per_second_max)
        self._acked: dict[str, int] = {}
        self.flooding = False

    def admit(self, frame: ClientFrame, connection: Connection | None, now: int) -> float:
        """Take the frame's price at `now` (monotonic nanoseconds); the seconds that it has to wait first, or 0.

        Raises:
            RejectedError: `rate_limited`. `flooding` says whether it was one too many.
        """
        match frame:
            case frames.Ack():
                return 0.0 if self._advances(frame, connection) else self._take(connection, now, 1)
            case frames.Pong():
                return self._take(connection, now, 1)
            case frames.Resume():
                wait = self._take(connection, now, max(1, len(frame.runs)))
            case _:
                wait = self._take(connection, now, 1)
        if wait:
            self.flooding = self._refused.count(now)
            raise RejectedError(
                RejectCode.RATE_LIMITED, "you send frames too fast; wait, then send it again", retry_after_seconds=wait
            )
        return 0.0

    def _take(self, connection: Connection | None, now: int, count: int) -> float:
        if connection is None:
            return self._own.take(now, count)
        return self._users.take(connection.user_id, now, count)

    def _advances(self, ack: frames.Ack, connection: Connection | None) -> bool:
        """Whether it acks events that this socket was sent and that none acked here before."""
        followed = connection.follows.get(ack.run_id) if connection is not None else None
        if followed is None or not self._acked.get(ack.run_id, 0) < ack.seq < followed.next_seq:
            return False
        self._acked.pop(ack.run_id, None)
        self._acked[ack.run_id] = ack.seq
        if len(self._acked) > RUNS_REMEMBERED_MAX:
            del self._acked[next(iter(self._acked))]
        return True
