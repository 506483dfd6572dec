"""Reading the embedded log: the queries, and the few threads that run them beside the event loop.

Enters: a query. Leaves: what the port promises of it. Every query is one statement, so it sees one moment of the log.
"""

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tracewire.errors import LogUnavailableError
from tracewire.eventlog import Digest, RunRecord, RunSummary, StoredEvent, Turn
from tracewire.eventlog.sqlite_migrations import LONG, UNFINISHED
from tracewire.eventlog.sqlite_schema import connect_reader, describe, is_damage, tell_damage
from tracewire.events import decode_envelope
from tracewire_telemetry.vocabulary import Outcome

T = TypeVar("T")

READ_LOCK_WAIT_SECONDS: Final = 2.0
SEQ_MAX: Final = 2**63 - 1
"""The largest integer that SQLite holds; a larger one is refused by Python before SQLite sees it."""

_RECORD: Final = (
    "SELECT run_id, user_id, request_id, thread_id, agent, input, trace_id, root_span_id, started_unix_ns, sampled"
    " FROM runs"
)
_NEWEST: Final = "(SELECT MAX(seq) FROM events WHERE events.run_no = runs.run_no)"
_OLDEST: Final = "(SELECT MIN(seq) FROM events WHERE events.run_no = runs.run_no)"
_SUMMARY: Final = (
    "SELECT run_id, user_id, request_id, thread_id, agent, trace_id, root_span_id, started_unix_ns,"  # noqa: S608 # no value of anybody's
    f" COALESCE(last_seq, {_NEWEST}, 0), acked_seq, outcome, ended_unix_ns, COALESCE({_OLDEST}, 1) FROM runs"
)
# The inner query reads indexes alone: 0.8 s for a million runs.
_WITHOUT_STAMPS: Final = (
    "run_no IN (SELECT run_no FROM runs WHERE NOT EXISTS (SELECT 1 FROM stamps WHERE stamps.run_no = runs.run_no))"
)
RUN: Final = f"{_SUMMARY} WHERE run_id = ?"
RUN_OF_REQUEST: Final = f"{_SUMMARY} WHERE user_id = ? AND request_id = ?"
RUNS: Final = f"{_SUMMARY} WHERE user_id = ? ORDER BY run_id DESC LIMIT ?"
RUNS_BEFORE: Final = f"{_SUMMARY} WHERE user_id = ? AND run_id < ? ORDER BY run_id DESC LIMIT ?"
RUNS_UNFINISHED: Final = f"{_SUMMARY} WHERE user_id = ? AND {UNFINISHED} ORDER BY run_id DESC LIMIT ?"
RUNS_OPEN: Final = f"{_SUMMARY} WHERE outcome IS NULL ORDER BY run_id"
RUNS_UNSETTLED: Final = f"{_SUMMARY} WHERE {_WITHOUT_STAMPS} AND outcome IS NOT NULL ORDER BY run_id"
RECORD: Final = f"{_RECORD} WHERE run_id = ?"
RECORD_OF_REQUEST: Final = f"{_RECORD} WHERE user_id = ? AND request_id = ?"
EVENTS: Final = (
    "SELECT seq, body FROM events WHERE run_no = (SELECT run_no FROM runs WHERE run_id = ?) AND seq > ?"
    " ORDER BY seq LIMIT ?"
)
TURNS: Final = (
    "SELECT run_id, input, body FROM runs JOIN events ON events.run_no = runs.run_no AND events.seq = runs.last_seq"
    " WHERE user_id = ? AND thread_id = ? AND outcome = 'completed' ORDER BY run_id DESC LIMIT ?"
)
ENDED: Final = "SELECT run_id FROM runs WHERE outcome IS NOT NULL AND ended_unix_ns < ? ORDER BY ended_unix_ns LIMIT ?"
LONG_ENDED: Final = f"{_SUMMARY} WHERE {LONG} AND last_seq > ?1 AND last_seq - {_OLDEST} >= ?1 LIMIT ?2"
LONG_OPEN: Final = f"{_SUMMARY} WHERE outcome IS NULL AND {_NEWEST} - {_OLDEST} >= ?1 LIMIT ?2"
DIGEST: Final = (
    f"SELECT COALESCE({_OLDEST}, 1), digests.body"  # noqa: S608 # no value of anybody's
    " FROM runs JOIN digests ON digests.run_no = runs.run_no"
    " WHERE run_id = ?"
)
BYTES_USED: Final = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
STAMPS: Final = "SELECT body FROM stamps WHERE run_no = (SELECT run_no FROM runs WHERE run_id = ?)"

Row = tuple[Any, ...]
"""As SQLite gives it: what the columns hold is known to the query alone."""


def record_of(row: Row) -> RunRecord:
    """A row of `RECORD` and `RECORD_OF_REQUEST`."""
    values = list(row)
    values[5] = msgspec.json.decode(values[5])
    values[9] = bool(values[9])
    return RunRecord(*values)


def summary_of(row: Row) -> RunSummary:
    """A row of the queries that begin with `RUN`."""
    values = list(row)
    values[10] = None if row[10] is None else Outcome(row[10])
    return RunSummary(*values)


def turn_of(row: Row) -> Turn:
    """A row of `TURNS`: the output is what the run's terminal event says."""
    run_id, asked, body = row
    return Turn(run_id, msgspec.json.decode(asked), decode_envelope(body).data["output"])


def event_of(row: Row) -> StoredEvent:
    """A row of `EVENTS`."""
    return StoredEvent(*row)


def run_id_of(row: Row) -> str:
    """A row of `ENDED`."""
    return str(row[0])


def digest_of(row: Row) -> Digest:
    """A row of `DIGEST`."""
    return Digest(*row)


def bytes_of(row: Row) -> int:
    """A row of `BYTES_USED`."""
    return int(row[0])


def body_of(row: Row) -> bytes:
    """A row of `STAMPS`."""
    return bytes(row[0])


class SqliteReader:
    """Runs queries in threads of its own, each with a connection that cannot write.

    `damage` says that a query met a broken page, which no later one will mend; `None` until then.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tracewire-log-reader")
        self._threads = threads
        self.damage: str | None = None
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._connections: list[sqlite3.Connection] = []
        self._running: set[asyncio.Future[Any]] = set()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that blocks in one of the threads."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, function)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await future

    async def open(self, data_dir: Path) -> None:
        """Open the connections.

        Raises:
            LogUnavailableError: the database cannot be opened.
        """
        for _ in range(self._threads):
            connection = await self.call(lambda: connect_reader(data_dir, lock_wait_seconds=READ_LOCK_WAIT_SECONDS))
            self._connections.append(connection)
            self._idle.put(connection)

    async def close(self) -> None:
        """Wait for the reads that are under way, then let go of the threads and connections."""
        if self._running:
            await asyncio.wait(set(self._running))
        self._pool.shutdown()
        while self._connections:
            self._connections.pop().close()

    async def read(self, shape: Callable[[Row], T], sql: str, *values: str | int) -> list[T]:
        """Every row of a query, shaped in the thread.

        Raises:
            LogUnavailableError: the database cannot be read.
        """
        return await self.call(lambda: self._read(shape, sql, values))

    async def first(self, shape: Callable[[Row], T], sql: str, *values: str | int) -> T | None:
        """The first row of a query, or `None` where it has none.

        Raises:
            LogUnavailableError: the database cannot be read.
        """
        rows = await self.read(shape, sql, *values)
        return rows[0] if rows else None

    def _read(self, shape: Callable[[Row], T], sql: str, values: Sequence[str | int]) -> list[T]:
        # There are as many connections as threads, so a thread never waits for one.
        connection = self._idle.get()
        try:
            rows = connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if is_damage(error):
                self.damage = tell_damage(error)
                raise LogUnavailableError(self.damage) from error
            raise LogUnavailableError(f"the event log cannot be read: {describe(error)}") from error
        finally:
            self._idle.put(connection)
        return [shape(row) for row in rows]
