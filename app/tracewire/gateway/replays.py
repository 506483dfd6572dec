"""The replays to one connection of runs that are settled: each gets a trace of its own, once.

Enters: replays as they begin and catch up, acks. Leaves: a trace when the client has acked the range; without its
`settle` where another replay takes the place of this one, or the connection goes.
"""

import time

from tracewire.delivery.connection import Followed
from tracewire_telemetry.replayed import ReplayedRun, ReplayTracing


class SettledReplays:
    """Replays that go on, or whose ack is awaited. What a run's own ledger took of them is no concern of this."""

    def __init__(self, tracing: ReplayTracing) -> None:
        self._tracing = tracing
        self._open: dict[str, tuple[ReplayedRun, Followed]] = {}

    def begin(self, run: ReplayedRun, followed: Followed) -> None:
        """A replay of this run begins, in place of one that may still wait for its ack."""
        self._end(run.run_id)
        self._open[run.run_id] = run, followed

    def caught_up(self, run_id: str, followed: Followed) -> None:
        """A replay has come to its end."""
        _, current = self._open.get(run_id, (None, None))
        if current is followed and (followed.replay is None or followed.replay.acked_ns):
            self._end(run_id)

    def acked(self, run_id: str, seq: int) -> None:
        """The client has processed 1..`seq` of a run."""
        if run_id not in self._open:
            return
        _, followed = self._open[run_id]
        replay = followed.replay
        if replay is None or replay.acked_ns or seq < replay.last_seq:
            return
        replay.acked_ns = time.monotonic_ns()
        if followed.live:
            self._end(run_id)

    def close(self) -> None:
        """The connection is gone."""
        for run_id in list(self._open):
            self._end(run_id)

    def _end(self, run_id: str) -> None:
        run, followed = self._open.pop(run_id, (None, None))
        if run is not None and followed is not None and followed.replay is not None:
            self._tracing.replayed(run, followed.replay)
