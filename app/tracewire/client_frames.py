"""What the server's frames mean to the Python client: starts, runs, gaps, acks.

Enters: lines of the connection, one after the other. Leaves: envelopes to the runs of the client's callers, and frames
to the connection. Next: `ClientRun`.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from tracewire.client_connection import ServerConnection
from tracewire.client_run import (
    ClientError,
    ClientRun,
    ConnectionFailedError,
    EventsMissingError,
    ListedRun,
    RequestRejectedError,
)
from tracewire.events import ReceivedEnvelope, decode_envelope
from tracewire_telemetry.vocabulary import EVENT_TYPES, TERMINAL_TYPES

ACK_EVENTS: Final = 16
ACK_SECONDS: Final = 0.1
RESUMES_WITHOUT_PROGRESS_MAX: Final = 3
"""So often a run's missing event is asked for before the run is said to be broken."""
FINISHED_RUNS_MAX: Final = 100
"""Ended runs whose last ack is kept, in case the connection took it with it: as many as `ready` lists."""
_EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)
_FOR_NOW: Final = frozenset({"draining", "log_unavailable", "not_ready", "rate_limited"})
"""Refusals of a `resume` after which another connection may have it."""


class _Peek(Struct, frozen=True):
    type: str
    run_id: str | None = None
    request_id: str | None = None


class Start:
    """A `start_run` that is not answered yet, and how many callers wait for it."""

    def __init__(self, frame: dict[str, Any]) -> None:
        self.frame = frame
        self.accepted: asyncio.Future[ClientRun] = asyncio.get_running_loop().create_future()
        self.callers = 0


_peek = msgspec.json.Decoder(_Peek)


class ClientFrames:
    """What one client knows of its runs, whichever connection carries them.

    `runs` are those of which something is still to come or to be acked; `starting` those that are not accepted yet.
    """

    def __init__(
        self, connection: ServerConnection, on_rejected: Callable[[RequestRejectedError], None] | None
    ) -> None:
        self.ready: dict[str, Any] = {}
        self.runs: dict[str, ClientRun] = {}
        self.starting: dict[str, Start] = {}
        self._connection = connection
        self._on_rejected = on_rejected
        self._finished: dict[str, int] = {}
        self._unacked = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._sends: set[asyncio.Task[None]] = set()

    @property
    def listed(self) -> tuple[ListedRun, ...]:
        """The runs of the newest `ready`."""
        return tuple(msgspec.convert(self.ready.get("runs", ()), tuple[ListedRun, ...]))

    # Frames in.

    async def take(self, line: bytes) -> None:
        """Take one line that the server has sent.

        Raises:
            msgspec.DecodeError: it is no frame.
            ConnectionClosed: the answer to it could not be sent.
        """
        peeked = _peek.decode(line)
        if peeked.type in _EVENT_NAMES:
            await self._take_envelope(decode_envelope(line))
            return
        frame: dict[str, Any] = msgspec.json.decode(line)
        match peeked.type:
            case "ready":
                self.ready = frame
                await self._catch_up()
                # Only now: who starts a run on hearing it would otherwise have it sent twice.
                self._connection.became_ready(frame["heartbeat_seconds"])
            case "run_accepted":
                await self._accepted(frame)
            case "rejected":
                self._rejected(frame)
            case "resumed":
                self._resumed(frame)
            case "ping":
                await self._connection.send({"type": "pong", "id": frame["id"]})
            case "authenticated":
                self._connection.token_renewed(frame["expires_at"])
            case "draining":
                self._connection.draining(frame["retry_after_seconds"])
            case _:
                pass  # `unavailable`, whose close follows, and what later versions add

    async def _take_envelope(self, envelope: ReceivedEnvelope) -> None:
        run = self.runs.get(envelope.run_id)
        if run is None:
            return
        last_seq = run.last_seq
        if not run._take(envelope):
            await self._fill_gap(run)
            return
        self._connection.made_progress()
        if run.last_seq > last_seq:
            run._fruitless = 0
        self._unacked += 1
        if envelope.type in TERMINAL_TYPES or self._unacked >= ACK_EVENTS:
            await self.send_acks()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._ack_soon)

    async def _fill_gap(self, run: ClientRun) -> None:
        """Ask for what is missing, once: what comes until the server answers is behind the same gap."""
        if run._resuming:
            return
        run._fruitless += 1
        if run._fruitless > RESUMES_WITHOUT_PROGRESS_MAX:
            self._lose(run.run_id, EventsMissingError(run.run_id, run.last_seq + 1, RESUMES_WITHOUT_PROGRESS_MAX))
            return
        await self.send_acks()
        await self.resume([run])

    async def _accepted(self, frame: dict[str, Any]) -> None:
        start = self.starting.get(frame["request_id"])
        mine = start is not None and not start.accepted.done()
        known = self.runs.get(frame["run_id"])
        if known is None or (mine and (known._watched or known.terminal is not None)):
            run = ClientRun(self.send, frame["run_id"], frame["request_id"], frame["thread_id"], watched=not mine)
            self.runs[run.run_id] = run
            if known is not None:  # its events went to nobody, or to the caller before this one
                await self.resume([run])
        else:
            run = known
            run.thread_id = frame["thread_id"]
        if start is not None and mine:
            start.accepted.set_result(run)

    def _rejected(self, frame: dict[str, Any]) -> None:
        error = RequestRejectedError(frame["code"], frame["message"], frame.get("retry_after_seconds"))
        if frame["frame"] == "resume":
            if "run_id" in frame and error.code not in _FOR_NOW:
                self._lose(frame["run_id"], error)
            else:
                self._connection.drop(f"{error.code}: {error}", error.retry_after_seconds or 0.0)
            return
        start = self.starting.get(frame.get("request_id") or "")
        if start is not None and not start.accepted.done():
            if error.code == "draining" and self._connection.reconnect:
                return  # the close follows, and the next connection repeats the start
            start.accepted.set_exception(error)
        elif self._on_rejected is not None:
            self._on_rejected(error)

    def _resumed(self, frame: dict[str, Any]) -> None:
        run = self.runs.get(frame["run_id"])
        if run is None:
            return
        run._resuming = False
        if not frame["recovered"]:
            reason = frame["reason"]
            told = f"run {run.run_id} cannot be resumed after event {run.last_seq}: "
            if reason == "expired":
                told += f"the server keeps its events only from {frame['from_seq']} on"
            else:
                told += "the server has no such run of this user, or no longer"
            self._lose(run.run_id, RequestRejectedError(reason, told))
        elif run.terminal is not None:
            self._finish(run)  # the resume was the ack of its end

    def _lose(self, run_id: str, error: ClientError) -> None:
        """Of this run nothing more will come: whoever waits for it must be told."""
        run = self.runs.pop(run_id, None)
        if run is not None and run.terminal is None:
            run._fail(error)

    def give_up(self, failure: ConnectionFailedError) -> None:
        """Tell everybody who waits that nothing more will come."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        for run in self.runs.values():
            if run.terminal is None:
                run._fail(failure)
        self.runs.clear()
        for start in self.starting.values():
            if not start.accepted.done():
                start.accepted.set_exception(failure)

    async def _catch_up(self) -> None:
        """On a new connection: resume the runs that are not acked to their end, repeat the starts that were not
        answered, and the last acks that a lost connection may have taken with it.
        """
        await self.resume(self.runs.values())
        for start in list(self.starting.values()):
            if not start.accepted.done():
                await self._connection.send(start.frame)
        for listed in self.listed:
            seq = self._finished.get(listed.run_id, 0)
            if seq > listed.acked_seq and listed.run_id not in self.runs:
                await self._connection.send({"type": "ack", "run_id": listed.run_id, "seq": seq, "count": seq})

    # Frames out.

    async def send(self, frame: dict[str, Any]) -> None:
        """Send one frame over a ready connection, once there is one; over the next, if that one is closed by then.

        Raises:
            ConnectionFailedError: there will be none.
        """
        while True:
            await self._connection.until_ready()
            try:
                await self._connection.send(frame)
            except ConnectionClosed:
                await asyncio.sleep(0)  # until whoever reads has noticed it too
            else:
                return

    async def resume(self, runs: Iterable[ClientRun]) -> None:
        """Ask for what these runs lack."""
        asked = {}
        for run in runs:
            run._resuming = True
            asked[run.run_id] = run.last_seq
        if asked:
            await self._connection.send({"type": "resume", "runs": asked})

    def _ack_soon(self) -> None:
        self._ack_timer = None
        task = asyncio.create_task(self.send_acks())
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def send_acks(self) -> None:
        """Send the acks that are due."""
        self._unacked = 0
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        for run in list(self.runs.values()):
            frame = run._ack()
            if frame is not None:
                try:
                    await self._connection.send(frame)
                except ConnectionClosed:
                    continue  # the next connection's resume is an ack too
            # A start of the same request that is not answered yet will ask for this run: see `_accepted`.
            start = self.starting.get(run.request_id)
            asked_for = run._resuming or (start is not None and not start.accepted.done())
            if run.terminal is not None and run._acked == run.last_seq and not asked_for:
                self._finish(run)

    def _finish(self, run: ClientRun) -> None:
        if self.runs.get(run.run_id) is run:
            del self.runs[run.run_id]
        self._finished[run.run_id] = run.last_seq
        if len(self._finished) > FINISHED_RUNS_MAX:
            del self._finished[next(iter(self._finished))]
