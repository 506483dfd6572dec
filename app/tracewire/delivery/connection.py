"""One ready socket of a user: the runs that it follows, and what is written to it.

Enters: durable envelopes from the emitter, control frames from the gateway. Leaves: bytes, written to the socket's
transport. Next: the client, whose acks come back through `acknowledge`.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import structlog

from tracewire.delivery.deltas import WaitingDeltas
from tracewire.delivery.outbox import JOINING_BYTES, Outbox, Queued
from tracewire_telemetry.carried import Replay
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import CloseCode
from tracewire_telemetry.watch import OpenRun

_log = structlog.get_logger("tracewire.delivery")
FRAMES_PER_TURN: Final = 64
"""Frames written before the event loop gets its turn: 20,000 at once would hold it for 77 ms."""
LINES_BYTES_MAX: Final = 32 * 1024
"""Size of a frame of `tracewire.v1.lines` past which no further object joins it."""

CUT_SECONDS: Final = 1.0
"""How long the socket of a client that is slow or silent may take over its close before it is aborted."""


class Transport(Protocol):
    """What a connection writes to: one WebSocket, as the server's protocol class gives it."""

    @property
    def writable(self) -> bool:
        """Whether the peer takes more; when it does again, `on_writable` of the connection is called."""

    def stuck_ns(self, now: int) -> int:
        """For how long the peer has taken nothing of what waits for it; 0 where nothing waits."""

    @property
    def last_life_ns(self) -> int:
        """When the peer last gave a sign of life, monotonic nanoseconds."""

    def ping(self) -> None:
        """Ask for a sign of life, of the kind that the peer's protocol answers by itself."""

    def write_text(self, body: bytes) -> None:
        """Write one text frame; a transport that is closed swallows it."""

    def close(self, code: CloseCode) -> None:
        """Say goodbye with a code, and let go."""

    def abort(self) -> None:
        """Let go at once."""


class Followed:
    """A run that a socket follows. Not live: what it lacks is being read from the log, up to `seen_seq` at least, which
    is durable when it is set. `first_seq` is where it began.
    """

    __slots__ = ("deltas", "first_seq", "live", "next_seq", "replay", "run", "seen_seq", "socket")

    def __init__(self, run: OpenRun | None, socket: int, next_seq: int, *, live: bool) -> None:
        self.run = run
        self.socket = socket
        self.first_seq = next_seq
        self.next_seq = next_seq
        self.seen_seq = 0
        self.live = live
        self.deltas: WaitingDeltas | None = None
        self.replay: Replay | None = None

    def replayed(self, first_seq: int, last_seq: int, started_ns: int, now: int) -> None:
        """Note events of a settled run that were read back: the run's own ledger takes nothing more."""
        if self.replay is None:
            self.replay = Replay(self.socket, first_seq, last_seq, started_ns, now)
        else:
            self.replay.last_seq, self.replay.ended_ns, self.replay.acked_ns = last_seq, now, 0


class Connection:
    """One socket of one user. It queues from its making, and writes from `open` on.

    A `reader` (SSE) cannot ack, and follows what it asked for alone: its chain ends at the socket.
    """

    def __init__(
        self,
        connection_id: str,
        user_id: str,
        transport: Transport,
        outbox: Outbox,
        *,
        lines: bool,
        metrics: Metrics,
        reader: bool = False,
    ) -> None:
        self.id = connection_id
        self.user_id = user_id
        self.outbox = outbox
        self.reader = reader
        self.follows: dict[str, Followed] = {}
        self.has_acked = False
        self.first_event_ns = 0
        self._said_unacknowledging = False
        self.closed = False
        self._transport = transport
        self._lines = lines
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._draining = True
        self._opened = False
        self._progress = asyncio.Event()

    # Following runs.

    def follow(self, run_id: str, run: OpenRun | None, *, next_seq: int = 1, live: bool = True) -> Followed:
        """Follow a run from `next_seq` on, replacing what was followed of it before."""
        socket = 0
        if run is not None:
            # Before the old one is let go: a run without followers would settle here as if its user were away.
            socket = run.attached(acking=self.has_acked, reader=self.reader, after_seq=next_seq - 1, peer=self)
        self.unfollow(run_id)
        followed = self.follows[run_id] = Followed(run, socket, next_seq, live=live)
        return followed

    def unfollow(self, run_id: str) -> None:
        """Follow the run no more; its ledger is told."""
        followed = self.follows.pop(run_id, None)
        if followed is not None and followed.run is not None:
            followed.run.detached(followed.socket)

    def forget_settled(self) -> None:
        """Stop following runs that are settled, so that a long-lived socket does not remember them all.

        One whose terminal event is still owed is followed until it came.
        """
        settled = [
            run_id
            for run_id, followed in self.follows.items()
            if followed.live
            and followed.run is not None
            and followed.run.ledger.settled_ns
            and not followed.run.owes_end
        ]
        for run_id in settled:
            del self.follows[run_id]

    # Writing.

    def open(self, ready: bytes) -> None:
        """Begin to write, with this frame first; what was queued since the connection was attached follows it."""
        self._opened = True
        self.outbox.push_front(Queued(ready, time.monotonic_ns()))
        self._drain()

    def offer(self, run_id: str, seq: int, body: bytes) -> bool:
        """Queue a live event if this socket follows its run and has all that precedes it; whether it did."""
        followed = self.follows.get(run_id)
        if followed is None or self.closed:
            return False
        followed.seen_seq = seq
        if not followed.live or seq < followed.next_seq:
            return False
        if seq > followed.next_seq:
            if followed.run is not None:
                followed.run.passed_over(followed.next_seq, seq - 1)
            self.close(CloseCode.RESYNC)
            return False
        followed.next_seq = seq + 1
        queued = Queued(body, time.monotonic_ns(), followed.run, followed.socket, seq)
        # SSE gives each envelope as the log holds it; over a socket, who reads slowly gets deltas joined.
        if self.outbox.bytes > JOINING_BYTES and not self._transport.writable and not self.reader:
            followed.deltas = self.outbox.join(queued, followed.deltas)
            self._drain_soon()
        else:
            self._push_event(queued)
        return True

    def send(self, frame: bytes) -> None:
        """Queue a control frame."""
        if not self.closed:
            self._push(Queued(frame, time.monotonic_ns()))

    def _push(self, queued: Queued) -> None:
        self.outbox.push(queued)
        self._drain_soon()

    def _push_event(self, queued: Queued) -> None:
        self.outbox.push(queued)
        if self._lines:
            self._drain_soon()  # what else comes in this turn shares its frame
        elif not self._draining:
            self._drain()

    def _drain_soon(self) -> None:
        if not self._draining:
            self._draining = True
            self._loop.call_soon(self._drain)

    def on_writable(self) -> None:
        """The transport takes more."""
        self._progress.set()
        if len(self.outbox):
            self._drain_soon()

    def _drain(self, budget: int = FRAMES_PER_TURN) -> None:
        """Write what waits, as long as the peer takes it and the loop's turn lasts."""
        self._draining = False
        while len(self.outbox) and self._transport.writable and not self.closed:
            if not budget:
                self._draining = True
                self._loop.call_soon(self._drain)
                return
            budget -= 1
            if self._lines and len(self.outbox) > 1:
                self._write_lines()
            else:
                queued = self.outbox.pop()
                self._transport.write_text(queued.body)
                self._written((queued,))
        if not len(self.outbox):
            self._progress.set()
        elif self.outbox.overfull(time.monotonic_ns()):
            self.cut_slow()

    def _write_lines(self) -> None:
        batch: list[Queued] = []
        size = 0
        while len(self.outbox) and size < LINES_BYTES_MAX and len(batch) < FRAMES_PER_TURN:
            queued = self.outbox.pop()
            size += len(queued.body) + 1
            batch.append(queued)
        self._transport.write_text(b"\n".join([queued.body for queued in batch]))
        self._written(batch)

    def _written(self, batch: Iterable[Queued]) -> None:
        now = time.monotonic_ns()
        for queued in batch:
            if queued.run is not None:
                if not queued.run.ledger.settled_ns:
                    for seq in range(queued.first_seq or queued.seq, queued.seq + 1):
                        queued.run.ledger.written(queued.socket, seq, now)
                self.first_event_ns = self.first_event_ns or now

    def write_replayed(self, followed: Followed, bodies: Sequence[bytes], started_ns: int) -> int:
        """Write the next events of a followed run as they were read back from the log, past the outbox and its bounds.

        As many as the peer takes; how many that were.
        """
        count = 0
        while count < len(bodies) and self._transport.writable:
            frame = self._frame_of(bodies, count) if self._lines else bodies[count : count + 1]
            self._transport.write_text(b"\n".join(frame))
            count += len(frame)
        if count:
            now, first_seq = time.monotonic_ns(), followed.next_seq
            last_seq = first_seq + count - 1
            followed.next_seq += count
            self.first_event_ns = self.first_event_ns or now
            if followed.run is not None and not followed.run.ledger.settled_ns:
                followed.run.ledger.replayed(followed.socket, first_seq, last_seq, started_ns, now)
            else:
                followed.replayed(first_seq, last_seq, started_ns, now)
        return count

    @staticmethod
    def _frame_of(bodies: Sequence[bytes], start: int) -> Sequence[bytes]:
        end, size = start, 0
        while end < len(bodies) and size < LINES_BYTES_MAX:
            size += len(bodies[end]) + 1
            end += 1
        return bodies[start:end]

    async def drained(self) -> bool:
        """Wait until nothing waits and the peer takes more; whether the socket is still there then."""
        while not self.closed and (len(self.outbox) or not self._transport.writable):
            self._progress.clear()
            await self._progress.wait()
        return not self.closed

    # Ends.

    def too_slow(self, now: int) -> bool:
        """Whether the peer is to be cut off at `now`, monotonic nanoseconds: too much waits for it, or for too long, or
        it takes nothing of what was written to it, as one may that stalls in a replay, where nothing is queued.
        """
        return self.outbox.overfull(now) or self._transport.stuck_ns(now) > self.outbox.age_ns_max

    def cut_slow(self) -> None:
        """Cut the socket off: it reads too slowly. Its client resumes from the log."""
        if not self.closed:
            _log.info("socket_too_slow", connection_id=self.id, user_id=self.user_id, unwritten_bytes=self.outbox.bytes)
            self._metrics.client_too_slow()
            self.close(CloseCode.TOO_SLOW)
            self._loop.call_later(CUT_SECONDS, self._transport.abort)

    @property
    def last_life_ns(self) -> int:
        """When the peer last gave a sign of life, monotonic nanoseconds."""
        return self._transport.last_life_ns

    def probe(self) -> None:
        """Ask the peer for a sign of life."""
        if not self.closed:
            self._transport.ping()

    def resync(self) -> None:
        """Have the client come back and resume: it lacks something, or has not acked it."""
        if not self.closed:
            _log.info("socket_resynced", connection_id=self.id, user_id=self.user_id)
            self.close(CloseCode.RESYNC)

    def cut_silent(self) -> None:
        """Let go of a peer that showed no life when it was asked to; not at once: one that reads can be told why."""
        if not self.closed:
            _log.info("socket_silent", connection_id=self.id, user_id=self.user_id)
            self.close(CloseCode.SILENT)
            self._loop.call_later(CUT_SECONDS, self._transport.abort)

    def note_unacknowledging(self) -> None:
        """Say once that the client was due an ack and has never sent one; a gauge counts it as long as it stays."""
        if not self._said_unacknowledging:
            self._said_unacknowledging = True
            _log.warning("client_unacknowledging", connection_id=self.id, user_id=self.user_id)

    def close(self, code: CloseCode) -> None:
        """Write what waits if the peer takes it, then close with this code."""
        if not self.closed and self._opened and code is not CloseCode.TOO_SLOW:
            self._drain(len(self.outbox))  # which cuts it off where it is too slow
        if self.closed:
            return
        self.closed = True
        self._progress.set()
        self._metrics.closed(code)
        self._transport.close(code)

    def detach(self) -> None:
        """The socket is gone: it follows nothing more."""
        self.closed = True
        self._progress.set()
        self.outbox.clear()
        for run_id in list(self.follows):
            self.unfollow(run_id)
