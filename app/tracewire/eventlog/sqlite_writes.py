"""The writes that the embedded log takes, and what each does to the database.

Enters: the writes of one group, and a connection in a transaction. Leaves: a result for each. Nothing here begins,
commits or retries: that is `sqlite_writer`'s.
"""

import sqlite3
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from tracewire.errors import EventLogError, RequestIdReusedError, SequenceError, UnknownRunError
from tracewire.eventlog import Accepted, Removed, RunRecord
from tracewire.eventlog.sqlite_incidents import STORE_INCIDENT, values_of
from tracewire.eventlog.sqlite_migrations import SCHEMA_VERSION
from tracewire.eventlog.sqlite_reader import RECORD_OF_REQUEST, record_of
from tracewire.eventlog.sqlite_schema import describe
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import Outcome


class Pending(Future[None]):
    """An event on its way to the disk: what nobody can take back, nobody can cancel.

    A task that is cancelled while it waits for this one goes on waiting, and is cancelled when this one is done.
    """

    __slots__ = ("_on_durable",)

    def __init__(
        self, on_durable: Callable[[], object] | None = None, *, loop: AbstractEventLoop | None = None
    ) -> None:
        super().__init__(loop=loop)
        self._on_durable = on_durable

    def durable(self) -> None:
        """It is on the disk: call who is to be called, then let go on who waits, with what the call raised."""
        try:
            if self._on_durable is not None:
                self._on_durable()
        except Exception as error:  # noqa: BLE001 # the awaiter gets it
            self.set_exception(error)
        else:
            self.set_result(None)

    def cancel(self, msg: object = None) -> bool:
        return False


class Append(Struct, eq=False):
    """One event. Each has a future of its own, so that no caller can disturb another."""

    future: Pending
    run_id: str
    seq: int
    body: bytes
    outcome: Outcome | None


class Accept(Struct, eq=False):
    """A run's record; `input` is its canonical encoding, so that equal JSON values are equal bytes."""

    future: Future[Accepted | Removed | None]
    record: RunRecord
    input: bytes


class StoreStamps(Struct, eq=False):
    future: Future[Accepted | Removed | None]
    run_id: str
    stamps: bytes


class Trim(Struct, eq=False):
    future: Future[Accepted | Removed | None]
    run_id: str
    first_seq: int
    digest: bytes


class Remove(Struct, eq=False):
    """Removes ended runs until so much is gone; it is answered with how much that was."""

    future: Future[Accepted | Removed | None]
    run_ids: tuple[str, ...]
    events_max: int
    bytes_max: int


class StoreIncidents(Struct, eq=False):
    future: Future[Accepted | Removed | None]
    incidents: Sequence[Incident]


class Probe(Struct, eq=False):
    """A write that changes nothing, to find out whether the disk takes one."""

    future: Future[Accepted | Removed | None]


class Ack(Struct, eq=False):
    """Nobody waits for it."""

    run_id: str
    seq: int


Write = Append | Accept | StoreStamps | StoreIncidents | Trim | Remove | Probe | Ack
Batch = list[Write]
Result = Accepted | Removed | EventLogError | None
"""What became of a write: done, done with an answer, or why not."""

# What one write can be the cause of; the rest is the log's own. Out of place (at BEGIN or COMMIT) it is the log's too.
POISON: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)

# Rows in one statement: one entry into SQLite, and one hand-over of the interpreter's lock, for all of them. Powers of
# two keep the prepared statements to eight. OR FAIL, because undoing one statement alone, which nobody here asks for,
# costs a copy of every page that it touches: three times the price of the insert.
_INSERT: Final = "INSERT OR FAIL INTO events (run_no, seq, body) VALUES"
_INSERTS: Final = tuple((rows, f"{_INSERT} {','.join(['(?,?,?)'] * rows)}") for rows in (128, 64, 32, 16, 8, 4, 2, 1))
_INSERT_ONE: Final = "INSERT INTO events (run_no, seq, body) VALUES (?,?,?)"
_TAIL: Final = (
    "SELECT run_no, COALESCE(last_seq, (SELECT MAX(seq) FROM events WHERE events.run_no = runs.run_no), 0), outcome"
    " FROM runs WHERE run_id = ?"
)
_END: Final = "UPDATE runs SET outcome = ?, ended_unix_ns = ?, last_seq = ? WHERE run_no = ?"
_ACCEPT: Final = (
    "INSERT INTO runs (run_id, user_id, request_id, thread_id, agent, input, trace_id, root_span_id, started_unix_ns,"
    " sampled) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (user_id, request_id) DO NOTHING"
)
_ACK: Final = (
    "UPDATE runs SET acked_seq = MIN(?, COALESCE("
    "last_seq, (SELECT MAX(seq) FROM events WHERE events.run_no = runs.run_no), 0))"
    " WHERE run_id = ? AND acked_seq < ?"
)
_STAMPS: Final = (
    "INSERT INTO stamps (run_no, body) SELECT run_no, ? FROM runs WHERE run_id = ?"
    " ON CONFLICT (run_no) DO UPDATE SET body = excluded.body"
)


_DIGEST: Final = (
    "INSERT INTO digests (run_no, body) VALUES (?,?) ON CONFLICT (run_no) DO UPDATE SET body = excluded.body"
)
_ENDED_RUN: Final = (
    "SELECT run_no, last_seq, LENGTH(input) + COALESCE((SELECT LENGTH(body) FROM stamps"
    " WHERE stamps.run_no = runs.run_no), 0) FROM runs WHERE run_id = ? AND outcome IS NOT NULL"
)
_LENGTHS: Final = "SELECT seq, LENGTH(body) FROM events WHERE run_no = ? ORDER BY seq LIMIT ?"


class _Tail:
    """Where an open run ends, committed or in the transaction that is under way."""

    __slots__ = ("last_seq", "outcome", "run_no")

    def __init__(self, run_no: int, last_seq: int, outcome: str | None) -> None:
        self.run_no = run_no
        self.last_seq = last_seq
        self.outcome = outcome


class Applier:
    """Applies writes in order, and knows where each open run ends without asking the database for every append."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    def forget(self) -> None:
        """What was applied was rolled back: where runs end is read again."""
        self._tails.clear()

    def settle(self, writes: Sequence[Write]) -> None:
        """What was applied is committed: runs that ended need no tail any more."""
        for write in writes:
            if isinstance(write, Append) and write.outcome is not None:
                self._tails.pop(write.run_id, None)

    def apply_alone(self, connection: sqlite3.Connection, write: Write) -> Result:
        """One write of a group that held a row which SQLite refuses: if it is this one, it fails, and alone."""
        connection.execute("SAVEPOINT alone")
        result: Result
        try:
            [result] = self.apply(connection, (write,))
        except POISON as error:
            connection.execute("ROLLBACK TO alone")
            self._tails.clear()
            result = EventLogError(f"the event log refuses this {type(write).__name__.lower()}: {describe(error)}")
        connection.execute("RELEASE alone")
        return result

    def apply(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Result]:
        """A result for each write. Where this raises, the transaction must be rolled back, and `forget` called."""
        results: list[Result] = []
        rows: list[int | bytes] = []
        tails = self._tails
        for write in writes:
            if isinstance(write, Append):
                tail = tails.get(write.run_id) or self._load_tail(connection, write.run_id)
                if tail is None or write.seq != tail.last_seq + 1 or tail.outcome is not None:
                    results.append(_refusal(write, tail))
                    continue
                tail.last_seq = write.seq
                rows += (tail.run_no, write.seq, write.body)
                if write.outcome is not None:
                    tail.outcome = write.outcome.value
                    connection.execute(_END, (tail.outcome, time.time_ns(), write.seq, tail.run_no))
                results.append(None)
            else:
                results.append(_apply_other(connection, write))
        _insert(connection, rows)
        return results

    def apply_at_once(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> bool:
        """Append and commit, in one statement, where the group is one event within a run; tell whether it was.

        Each statement hands the interpreter's lock over and waits for it again, behind whatever the loop does: with
        BEGIN and COMMIT around it, an event that comes alone waits three times as often. Where this raises, nothing
        was applied.
        """
        if len(writes) != 1:
            return False
        [write] = writes
        if not isinstance(write, Append) or write.outcome is not None:
            return False
        tail = self._tails.get(write.run_id)
        if tail is None or write.seq != tail.last_seq + 1 or tail.outcome is not None:
            return False
        connection.execute(_INSERT_ONE, (tail.run_no, write.seq, write.body))
        tail.last_seq = write.seq
        return True

    def _load_tail(self, connection: sqlite3.Connection, run_id: str) -> _Tail | None:
        """A run's tail, kept while the run is open; `None` where there is no such run."""
        row = connection.execute(_TAIL, (run_id,)).fetchone()
        if row is None:
            return None
        tail = _Tail(*row)
        if tail.outcome is None:
            self._tails[run_id] = tail
        return tail


def _refusal(write: Append, tail: _Tail | None) -> SequenceError:
    if tail is None:
        return SequenceError(f"no run {write.run_id} was accepted: seq {write.seq} was not appended")
    if tail.outcome is not None:
        return SequenceError(f"run {write.run_id} ended ({tail.outcome}) with seq {tail.last_seq}, not {write.seq}")
    return SequenceError(f"seq {write.seq} is not the next of run {write.run_id}, which is {tail.last_seq + 1}")


def _apply_other(
    connection: sqlite3.Connection, write: Accept | StoreStamps | StoreIncidents | Trim | Remove | Probe | Ack
) -> Result:
    match write:
        case Accept():
            return _accept(connection, write)
        case Ack(run_id, seq):
            connection.execute(_ACK, (seq, run_id, seq))
        case StoreStamps():
            if connection.execute(_STAMPS, (write.stamps, write.run_id)).rowcount == 0:
                return UnknownRunError(f"no run {write.run_id} was accepted: its stamps were not kept")
        case Trim():
            return _trim(connection, write)
        case Remove():
            return _remove(connection, write)
        case StoreIncidents():
            connection.executemany(STORE_INCIDENT, [values_of(incident) for incident in write.incidents])
        case Probe():
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return None


def _accept(connection: sqlite3.Connection, write: Accept) -> Result:
    record = write.record
    values = msgspec.structs.astuple(msgspec.structs.replace(record, input=write.input))
    if connection.execute(_ACCEPT, values).rowcount == 1:
        return Accepted(record, created=True)
    row = connection.execute(RECORD_OF_REQUEST, (record.user_id, record.request_id)).fetchone()
    existing = record_of(row)
    if existing.agent == record.agent and row[5] == write.input:
        return Accepted(existing, created=False)
    return RequestIdReusedError(
        f"request id {record.request_id} stands for run {existing.run_id}, which has another agent or input; "
        "use a new id for a new request"
    )


def _trim(connection: sqlite3.Connection, write: Trim) -> Result:
    row = connection.execute(_TAIL, (write.run_id,)).fetchone()
    if row is None or write.first_seq > row[1]:
        return SequenceError(f"run {write.run_id} has no event {write.first_seq} at which its log could begin")
    connection.execute("DELETE FROM events WHERE run_no = ? AND seq < ?", (row[0], write.first_seq))
    connection.execute(_DIGEST, (row[0], write.digest))
    return None


def _remove(connection: sqlite3.Connection, write: Remove) -> Removed:
    runs = events = size = 0
    for run_id in write.run_ids:
        row = connection.execute(_ENDED_RUN, (run_id,)).fetchone()
        if row is None:
            continue
        run_no, last_seq, kept_beside = row
        up_to = 0
        # The length of a body is known without reading it.
        for seq, length in connection.execute(_LENGTHS, (run_no, write.events_max)):
            if events >= write.events_max or size >= write.bytes_max:
                break
            up_to, events, size = seq, events + 1, size + length
        connection.execute("DELETE FROM events WHERE run_no = ? AND seq <= ?", (run_no, up_to))
        if up_to < last_seq:
            break
        for table in ("stamps", "digests", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_no = ?", (run_no,))  # noqa: S608 # one of ours
        connection.execute("DELETE FROM incidents WHERE run_id = ?", (run_id,))
        runs, size = runs + 1, size + kept_beside
    return Removed(runs, events)


def _insert(connection: sqlite3.Connection, rows: list[int | bytes]) -> None:
    """Insert rows given as one flat list of run number, seq, body, run number and so on."""
    start = 0
    left = len(rows) // 3
    for count, sql in _INSERTS:
        while left >= count:
            connection.execute(sql, rows[start : start + 3 * count])
            start += 3 * count
            left -= count
