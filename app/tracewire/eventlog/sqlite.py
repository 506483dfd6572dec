"""The embedded event log: SQLite in the data folder, one thread that writes, a few that read.

Enters: records and envelopes, on the event loop. Leaves: the same bytes, once they are on the disk.
Next: `sqlite_writer` commits what each turn of the loop handed over; `sqlite_reader` answers questions.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import msgspec

from tracewire.errors import EventLogError, EventsExpiredError, LogUnavailableError
from tracewire.eventlog import Accepted, Digest, IncidentQuery, Removed, RunRecord, RunSummary, StoredEvent, Turn
from tracewire.eventlog import sqlite_reader as reader
from tracewire.eventlog.sqlite_incidents import incident_of, incidents_query
from tracewire.eventlog.sqlite_schema import DATABASE_NAME, open_database
from tracewire.eventlog.sqlite_writer import Settled, SqliteWriter
from tracewire.eventlog.sqlite_writes import (
    Accept,
    Ack,
    Append,
    Batch,
    Pending,
    Probe,
    Remove,
    Result,
    StoreIncidents,
    StoreStamps,
    Trim,
    Write,
)
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import Outcome

_NOT_OPEN: Final = "the event log is not open"
_CLOSED: Final = "the event log is closed"
_WRITER_LOST: Final = "the event log cannot be written: its writer thread has ended; restart the server"


class SqliteEventLog:
    """`EventLog` on SQLite: WAL, `synchronous=FULL`, so that what was acknowledged outlives a power cut.

    One process at a time: whoever starts it keeps a second server out of the folder. An object is opened once.
    Writes are committed and answered in the order handed over; those of one turn of the event loop are one batch.

    Args:
        data_dir: the folder of `events.db`; made where there is none.
        commit_retry_seconds: how long a commit that fails is tried again before its writes fail; also how long
            `open` waits for another process's lock.
        commit_stall_seconds: how long the writer may take over one group before `health` calls it stalled.
        ack_flush_seconds: how long an ack stays in memory alone, at most; acks of a run are joined meanwhile.
        probe_interval_seconds: how often `health` tries a write while the log is in trouble, at most.
        group_writes_max: how many writes make a transaction full.
        row_bytes_max: an event or a run's record larger than this is refused with `EventLogError`, alone.
        reader_threads: how many reads go on at a time; more of them wait in line.
        observe_commit: called on the event loop with the seconds of each commit, retries included.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        commit_retry_seconds: float = 2.0,
        commit_stall_seconds: float = 5.0,
        ack_flush_seconds: float = 0.25,
        probe_interval_seconds: float = 1.0,
        group_writes_max: int = 4096,
        row_bytes_max: int = 16 * 1024 * 1024,
        reader_threads: int = 2,
        observe_commit: Callable[[float], None] | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._commit_retry_seconds = commit_retry_seconds
        self._commit_stall_seconds = commit_stall_seconds
        self._ack_flush_seconds = ack_flush_seconds
        self._probe_interval_seconds = probe_interval_seconds
        self._group_writes_max = group_writes_max
        self._row_bytes_max = row_bytes_max
        self._observe_commit = observe_commit
        self._reader = reader.SqliteReader(reader_threads)
        self._writer: SqliteWriter | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closed = asyncio.Event()
        self._refusal: str | None = _NOT_OPEN
        self._trouble: str | None = None
        self._probe_at = 0.0
        self._turn: Batch = []
        self._turn_began = 0.0
        self._progress_at = 0.0
        self._uncommitted: deque[tuple[float, Batch]] = deque()
        self._acks: dict[str, int] = {}
        self._ack_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        if self._refusal != _NOT_OPEN:
            raise LogUnavailableError(self._refusal or "the event log is open already")
        self._loop = asyncio.get_running_loop()
        call_on_loop = self._loop.call_soon_threadsafe
        connection = await self._reader.call(
            lambda: open_database(
                self._data_dir,
                lock_wait_seconds=self._commit_retry_seconds,
                row_bytes_max=self._row_bytes_max,
            )
        )
        try:
            await self._reader.open(self._data_dir)
        except BaseException:
            connection.close()
            raise
        self._writer = SqliteWriter(
            self._data_dir / DATABASE_NAME,
            connection,
            commit_retry_seconds=self._commit_retry_seconds,
            group_writes_max=self._group_writes_max,
            row_bytes_max=self._row_bytes_max,
            on_settled=lambda settled: call_on_loop(self._settle, settled),
            on_ended=lambda: call_on_loop(self._end),
        )
        self._refusal = None
        self._writer.start()

    async def close(self) -> None:
        if self._refusal != _CLOSED:
            await self._let_go()
        await self._closed.wait()

    async def accept(self, record: RunRecord) -> Accepted:
        encoded = msgspec.json.encode(record.input, order="deterministic")
        future = self._future()
        self._hand_over(Accept(future, record, encoded))
        return cast("Accepted", await future)

    def append(
        self,
        run_id: str,
        seq: int,
        body: bytes,
        *,
        outcome: Outcome | None = None,
        on_durable: Callable[[], object] | None = None,
    ) -> asyncio.Future[None]:
        if self._refusal is not None:
            refused = Pending()
            refused.set_exception(LogUnavailableError(self._refusal))
            return refused
        future = Pending(on_durable, loop=self._loop)
        self._hand_over(Append(future, run_id, seq, body, outcome))
        return future

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        self._require_open()
        after_seq = min(after_seq, reader.SEQ_MAX)
        events = await self._reader.read(reader.event_of, reader.EVENTS, run_id, after_seq, max(limit, 0))
        if events and events[0].seq > max(after_seq, 0) + 1:
            raise EventsExpiredError(run_id, events[0].seq)
        return events

    async def run(self, run_id: str) -> RunSummary | None:
        return next(iter(await self._summaries(reader.RUN, run_id)), None)

    async def record(self, run_id: str) -> RunRecord | None:
        self._require_open()
        return await self._reader.first(reader.record_of, reader.RECORD, run_id)

    async def run_of_request(self, user_id: str, request_id: str) -> RunSummary | None:
        return next(iter(await self._summaries(reader.RUN_OF_REQUEST, user_id, request_id)), None)

    async def runs(self, user_id: str, *, limit: int, before_run_id: str | None = None) -> Sequence[RunSummary]:
        if before_run_id is None:
            return await self._summaries(reader.RUNS, user_id, max(limit, 0))
        return await self._summaries(reader.RUNS_BEFORE, user_id, before_run_id, max(limit, 0))

    async def unfinished(self, user_id: str, *, limit: int) -> Sequence[RunSummary]:
        limit = max(limit, 0)
        # A run whose last ack is in memory only still counts as unfinished on disk: ask for as many more.
        summaries = await self._summaries(reader.RUNS_UNFINISHED, user_id, limit + len(self._acks))
        return [run for run in summaries if run.open or run.acked_seq < run.last_seq][:limit]

    async def open_runs(self) -> Sequence[RunSummary]:
        return await self._summaries(reader.RUNS_OPEN)

    async def unsettled_runs(self) -> Sequence[RunSummary]:
        return await self._summaries(reader.RUNS_UNSETTLED)

    async def turns(self, user_id: str, thread_id: str, *, limit: int) -> Sequence[Turn]:
        self._require_open()
        newest_first = await self._reader.read(reader.turn_of, reader.TURNS, user_id, thread_id, max(limit, 0))
        return newest_first[::-1]

    def ack(self, run_id: str, seq: int) -> None:
        self._require_open()
        if seq > self._acks.get(run_id, 0):
            self._acks[run_id] = seq
            self._set_ack_timer()

    async def store_stamps(self, run_id: str, stamps: bytes) -> None:
        future = self._future()
        self._hand_over(StoreStamps(future, run_id, stamps))
        await future

    async def stamps(self, run_id: str) -> bytes | None:
        self._require_open()
        return await self._reader.first(reader.body_of, reader.STAMPS, run_id)

    async def ended_runs(self, *, before_unix_ns: int, limit: int) -> Sequence[str]:
        self._require_open()
        return await self._reader.read(reader.run_id_of, reader.ENDED, before_unix_ns, limit)

    async def long_runs(self, *, events_max: int, limit: int) -> Sequence[RunSummary]:
        ended = await self._summaries(reader.LONG_ENDED, events_max, limit)
        return ended + await self._summaries(reader.LONG_OPEN, events_max, limit)

    async def trim(self, run_id: str, first_seq: int, digest: bytes) -> None:
        future = self._future()
        self._hand_over(Trim(future, run_id, first_seq, digest))
        await future

    async def digest(self, run_id: str) -> Digest | None:
        self._require_open()
        return await self._reader.first(reader.digest_of, reader.DIGEST, run_id)

    async def remove(self, run_ids: Sequence[str], *, events_max: int, bytes_max: int) -> Removed:
        future = self._future()
        self._hand_over(Remove(future, tuple(run_ids), events_max, bytes_max))
        return cast("Removed", await future)

    async def bytes_used(self) -> int:
        self._require_open()
        return await self._reader.first(reader.bytes_of, reader.BYTES_USED) or 0

    async def store_incidents(self, incidents: Sequence[Incident]) -> None:
        future = self._future()
        self._hand_over(StoreIncidents(future, incidents))
        await future

    async def incidents(self, query: IncidentQuery) -> Sequence[Incident]:
        self._require_open()
        sql, values = incidents_query(query)
        return await self._reader.read(incident_of, sql, *values)

    async def health(self) -> str | None:
        if self._refusal is not None:
            return self._refusal
        if self._reader.damage is not None:
            return self._reader.damage
        if self._stalled:
            await asyncio.sleep(0)  # a loop that was blocked itself has the writer's answer still in its queue
            if self._stalled:
                return f"the event log is stalled: no commit has come to an end for {self._commit_stall_seconds:g} s"
        if self._trouble is not None and time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + self._probe_interval_seconds
            future = self._future()
            self._hand_over(Probe(future))
            with suppress(EventLogError, TimeoutError):  # what came of it is in `_trouble`
                async with asyncio.timeout(self._commit_stall_seconds):
                    await future
        return self._trouble

    @property
    def oldest_uncommitted_seconds(self) -> float:
        if self._uncommitted:
            return time.monotonic() - self._uncommitted[0][0]
        return time.monotonic() - self._turn_began if self._turn else 0.0

    @property
    def bytes_on_disk(self) -> int:
        return sum(_size(self._data_dir / name) for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"))

    @property
    def _stalled(self) -> bool:
        """The writer has something to do, and neither ended nor failed at anything for too long."""
        return bool(self._uncommitted) and time.monotonic() - self._progress_at > self._commit_stall_seconds

    # --- handing over, and the way back --------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._refusal is not None:
            raise LogUnavailableError(self._refusal)

    def _future(self) -> asyncio.Future[Accepted | Removed | None]:
        self._require_open()
        return self._loop.create_future()

    def _hand_over(self, write: Write) -> None:
        if not self._turn:
            self._turn_began = time.monotonic()
            self._loop.call_soon(self._flush)
        self._turn.append(write)

    def _flush(self) -> None:
        """Give the writer what this turn of the loop handed over."""
        if self._turn and self._writer is not None:
            batch, self._turn = self._turn, []
            if not self._uncommitted:
                self._progress_at = time.monotonic()
            self._uncommitted.append((self._turn_began, batch))
            self._writer.hand_over(batch)

    def _settle(self, settled: Settled) -> None:
        """Answer those who wait for the oldest batches, in the order handed over."""
        self._trouble = settled.trouble
        self._progress_at = time.monotonic()
        results = iter(settled.results)
        for _ in range(settled.batches):
            _, batch = self._uncommitted.popleft()
            for write, result in zip(batch, results, strict=False):  # the results go on with the next batch
                self._answer(write, result)
        if settled.commit_seconds is not None and self._observe_commit is not None:
            self._observe_commit(settled.commit_seconds)

    def _answer(self, write: Write, result: Result) -> None:
        if isinstance(write, Append):
            if isinstance(result, EventLogError):
                write.future.set_exception(result)
            else:
                write.future.durable()
        elif isinstance(write, Ack):
            if isinstance(result, LogUnavailableError):
                self._set_ack_timer()
            elif self._acks.get(write.run_id) == write.seq:
                del self._acks[write.run_id]
        elif not write.future.done():
            if isinstance(result, EventLogError):
                write.future.set_exception(result)
            else:
                write.future.set_result(result)

    def _set_ack_timer(self) -> None:
        if self._ack_timer is None and self._refusal is None:
            self._ack_timer = self._loop.call_later(self._ack_flush_seconds, self._flush_acks)

    def _flush_acks(self) -> None:
        self._ack_timer = None
        for run_id, seq in self._acks.items():
            self._hand_over(Ack(run_id, seq))

    async def _summaries(self, sql: str, *values: str | int) -> list[RunSummary]:
        """The runs of a query, with the acks that are not on the disk yet."""
        self._require_open()
        # Those of now: by the time the rows are there, an ack may have left memory for the disk behind their back.
        acks = dict(self._acks)
        summaries = await self._reader.read(reader.summary_of, sql, *values)
        return [_with_ack(run, acks.get(run.run_id, 0)) for run in summaries]

    # --- closing -------------------------------------------------------------------------------------------------

    async def _let_go(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        self._flush_acks()
        self._flush()
        self._refusal = _CLOSED
        try:
            # First: SQLite tidies up when the last connection closes, which has to be the one that can write.
            await self._reader.close()
        finally:
            if self._writer is None:
                self._closed.set()
            else:
                self._writer.stop()

    def _end(self) -> None:
        """The writer thread has ended: because of `close`, or of an error that nobody foresaw."""
        if self._writer is not None:
            self._writer.join()
        if self._refusal is None:
            self._refusal = _WRITER_LOST
        self._flush()
        while self._uncommitted:
            _, batch = self._uncommitted.popleft()
            for write in batch:
                self._answer(write, LogUnavailableError(self._refusal))
        self._closed.set()


def _with_ack(run: RunSummary, acked_seq: int) -> RunSummary:
    acked_seq = min(acked_seq, run.last_seq)
    return run if acked_seq <= run.acked_seq else msgspec.structs.replace(run, acked_seq=acked_seq)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
