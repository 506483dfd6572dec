"""The runs of one ready socket: started, acked and resumed by its frames.

Enters: frames that `SocketSession` has read. Leaves: runs to `RunService`, acks to the log and to the runs' ledgers.
"""

import asyncio
from collections.abc import Callable

import structlog

from tracewire.delivery.connection import Connection, Followed
from tracewire.delivery.replay import catch_up
from tracewire.errors import EventLogError, EventsExpiredError, RejectedError
from tracewire.eventlog import EventLog, RunSummary
from tracewire.gateway import frames
from tracewire.gateway.frames import ServerFrame, encode_frame
from tracewire.gateway.replays import SettledReplays
from tracewire.runs.run import RunState, state_of
from tracewire.runs.service import AcceptedRun, RunService, StartRun
from tracewire_telemetry.chain import TraceContext
from tracewire_telemetry.replayed import ReplayedRun
from tracewire_telemetry.sdk import Telemetry
from tracewire_telemetry.vocabulary import CloseCode, RejectCode, ResumeOutcome

_log = structlog.get_logger("tracewire.gateway")


class SocketRuns:
    """What the frames of one socket do to its user's runs.

    Args:
        connection: the socket's, attached.
        runs: of all users.
        log: where what was missed is read from.
        telemetry: of the server.
        handshake: the context of the handshake's span, to which the runs' traces link.
        reject: tells the client that one run of a `resume` is refused.
        close: closes the socket.
    """

    def __init__(
        self,
        connection: Connection,
        runs: RunService,
        log: EventLog,
        telemetry: Telemetry,
        handshake: TraceContext | None,
        *,
        reject: Callable[[str, RejectedError], None],
        close: Callable[[CloseCode], None],
    ) -> None:
        self._connection = connection
        self._runs = runs
        self._log = log
        self._metrics = telemetry.metrics
        self._replays = SettledReplays(telemetry.replays)
        self._handshake = handshake
        self._reject = reject
        self._close = close
        self._tasks: set[asyncio.Task[None]] = set()

    def listing(self, run: RunSummary) -> frames.RunListing:
        """The run as `ready` lists it."""
        return frames.RunListing(
            run.run_id, run.request_id, run.agent, self.state_of(run).value, run.last_seq, run.acked_seq
        )

    def state_of(self, run: RunSummary) -> RunState:
        """What the run is at."""
        open_run = self._runs.open_run(self._connection.user_id, run.run_id)
        return state_of(run, awaiting_input=bool(open_run and open_run.awaiting_input))

    async def start(self, frame: frames.StartRunFrame) -> None:
        """Start the run, or find the one that the same request started, which is then followed here.

        Raises:
            RejectedError: it says what was wrong and what to do.
        """
        connection = self._connection
        request = StartRun(frame.request_id, frame.input, frame.agent, frame.thread_id, frame.traceparent)
        accepted = await self._runs.accept(connection.user_id, request, handshake=self._handshake)
        announcement = encode_frame(announce(accepted))
        if accepted.created:
            self._runs.start(accepted, lambda follower: follower.send(announcement))
            return
        run_id = accepted.context.run_id
        followed = connection.follows.get(run_id)
        # A settled run is about to be forgotten here; who asks for it again gets it again, whenever that is, unless it
        # is being read back from its first event on.
        again = followed is None or (
            (followed.run is None or followed.run.ledger.settled_ns) and (followed.live or followed.first_seq > 1)
        )
        if again:
            connection.unfollow(run_id)  # what is read back of it for an earlier frame would come between
        connection.send(announcement)
        if again:
            await self._follow_again(run_id)

    async def _follow_again(self, run_id: str) -> None:
        """Give a run that was started before from its first event on, or say that its beginning has expired."""
        run = await self._runs.find(self._connection.user_id, run_id)
        if run.first_seq > 1:
            self._tell_expired(run)
        else:
            self._follow_from(run, 1)

    async def ack(self, frame: frames.Ack) -> None:
        """Note that the client has processed a run's events up to a seq.

        Raises:
            RejectedError: `unknown_run`, or `ack_ahead`.
        """
        connection = self._connection
        followed = connection.follows.get(frame.run_id)
        run = followed.run if followed is not None else None
        if run is None or run.ledger.settled_ns or run.ledger.replaced_from:
            summary = await self._runs.find(connection.user_id, frame.run_id)
            last_seq = summary.last_seq
            run = self._runs.open_run(connection.user_id, frame.run_id)
        else:
            last_seq = run.ledger.committed_count
        if frame.seq > last_seq:
            raise RejectedError(RejectCode.ACK_AHEAD, f"run {frame.run_id} has {last_seq} events; ack at most that")
        connection.has_acked = True
        if frame.count is not None and frame.count != frame.seq:
            _log.warning(
                "ack_count_differs", user_id=connection.user_id, run_id=frame.run_id, seq=frame.seq, count=frame.count
            )
        if frame.seq:
            self._log.ack(frame.run_id, frame.seq)
            self._replays.acked(frame.run_id, frame.seq)
        if run is not None:
            run.acknowledged(followed.socket if followed is not None else 0, frame.seq, frame.count)
        else:
            self._runs.acknowledged_elsewhere(frame.run_id, frame.seq)

    async def resume(self, run_id: str, last_seq: int) -> None:
        """Follow a run from the event after `last_seq` on; what the client is told is said here."""
        connection = self._connection
        try:
            run = await self._runs.find(connection.user_id, run_id)
        except RejectedError:
            self._metrics.resumed(ResumeOutcome.UNKNOWN_RUN)
            self._send(frames.Resumed(run_id, False, None, 0, 0, reason=ResumeOutcome.UNKNOWN_RUN.value))
            return
        if last_seq > run.last_seq:
            message = f"run {run_id} has {run.last_seq} events; resume after at most that"
            self._reject(run_id, RejectedError(RejectCode.ACK_AHEAD, message))
            return
        connection.has_acked = True
        socket = 0
        if last_seq:
            self._replays.acked(run_id, last_seq)
        if last_seq + 1 < run.first_seq:
            self._tell_expired(run)
        else:
            self._metrics.resumed(ResumeOutcome.RECOVERED)
            self._send(frames.Resumed(run_id, True, self.state_of(run).value, last_seq + 1, run.last_seq))
            socket = self._follow_from(run, last_seq + 1)
        if last_seq:
            self._log.ack(run_id, last_seq)
            open_run = self._runs.open_run(connection.user_id, run_id)
            if open_run is not None:
                open_run.acknowledged(socket, last_seq)
            else:
                self._runs.acknowledged_elsewhere(run_id, last_seq)

    def _tell_expired(self, run: RunSummary) -> None:
        """Say where the log now begins. The run is followed no more: what came of it would be a part."""
        self._metrics.resumed(ResumeOutcome.EXPIRED)
        _log.info("resume_expired", user_id=run.user_id, run_id=run.run_id, first_seq=run.first_seq)
        self._connection.unfollow(run.run_id)
        state, reason = self.state_of(run).value, ResumeOutcome.EXPIRED.value
        self._send(frames.Resumed(run.run_id, False, state, run.first_seq, run.last_seq, reason=reason))

    def _follow_from(self, summary: RunSummary, seq: int) -> int:
        run_id = summary.run_id
        run = self._runs.open_run(self._connection.user_id, run_id)
        followed = self._connection.follow(run_id, run, next_seq=seq, live=False)
        followed.seen_seq = summary.last_seq
        self._replays.begin(ReplayedRun(run_id, summary.user_id, summary.trace_id, summary.root_span_id), followed)
        task = asyncio.create_task(self._catch_up(run_id, followed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return followed.socket

    async def _catch_up(self, run_id: str, followed: Followed) -> None:
        try:
            await catch_up(self._connection, self._log, run_id, followed)
            self._replays.caught_up(run_id, followed)
        except EventsExpiredError as error:
            # It overtook the reader, who is told when it resumes from where it is.
            _log.info("replay_expired", user_id=self._connection.user_id, run_id=run_id, error=str(error))
            self._close(CloseCode.RESYNC)
        except EventLogError as error:
            _log.error("replay_failed", user_id=self._connection.user_id, run_id=run_id, error=str(error))
            self._send(frames.Unavailable(RejectCode.LOG_UNAVAILABLE.value))
            self._close(CloseCode.UNAVAILABLE)

    def _send(self, frame: ServerFrame) -> None:
        self._connection.send(encode_frame(frame))

    def stop(self) -> None:
        """The socket is gone: nothing more is read back for it."""
        for task in self._tasks:
            task.cancel()
        self._replays.close()


def announce(accepted: AcceptedRun) -> frames.RunAccepted:
    """The `run_accepted` of a run."""
    context = accepted.context
    return frames.RunAccepted(context.request_id, context.run_id, context.thread_id)
