"""The thread that writes the embedded log: it commits what waits, as one group, in one transaction.

Enters: batches of writes, one for each turn of the event loop that had any. Leaves: a `Settled` for each group, handed
back to the loop. Next: `sqlite`, which answers those who wait. Only this thread touches the connection that writes.
"""

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from msgspec import Struct

from tracewire.errors import LogUnavailableError
from tracewire.eventlog.sqlite_schema import WAL_BYTES_KEPT, connect_writer, describe, is_damage, tell_damage
from tracewire.eventlog.sqlite_writes import POISON, Applier, Batch, Result, Write

RETRY_INTERVAL_SECONDS: Final = 0.02
GROUPS_A_LOOK: Final = 32
"""Groups that are committed between two looks at how long the write-ahead log is."""
READERS_WAIT_MS: Final = 200
"""How long the writer waits for those who read what the write-ahead log holds, so that it can begin anew."""

# What a write or the log can fail at. Anything else is a mistake in this program, and ends the thread.
_FAILURES: Final = (sqlite3.Error, OSError, MemoryError, OverflowError, TypeError, ValueError)


class Settled(Struct, eq=False):
    """What became of the oldest `batches` batches: a result for each of their writes, in the order handed over.

    `commit_seconds` is how long the commit took with its retries; `None` where it failed.
    `trouble` is one sentence saying why the log takes no writes; `None` where it does.
    """

    batches: int
    results: list[Result]
    commit_seconds: float | None
    trouble: str | None


class SqliteWriter:
    """Commits batches in the order handed over. `on_settled` and `on_ended` are called in this thread.

    A group that cannot be committed is tried again for `commit_retry_seconds`, then fails as a whole; while the log
    is in trouble, each later group is tried once, so that nobody waits that long for what is known.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        commit_retry_seconds: float,
        group_writes_max: int,
        row_bytes_max: int,
        on_settled: Callable[[Settled], object],
        on_ended: Callable[[], object],
    ) -> None:
        self._path = path
        self._inode = path.stat().st_ino
        self._wal = path.with_name(path.name + "-wal")
        self._wal_bytes_max = WAL_BYTES_KEPT
        self._groups = 0
        self._connection: sqlite3.Connection | None = connection
        self._commit_retry_seconds = commit_retry_seconds
        self._group_writes_max = group_writes_max
        self._row_bytes_max = row_bytes_max
        self._on_settled = on_settled
        self._on_ended = on_ended
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._trouble: str | None = None
        self._applier = Applier()
        self._thread = threading.Thread(target=self._run, name="tracewire-log-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hand_over(self, batch: Batch) -> None:
        """Queue a batch. The queue is as long as there are callers waiting, and has no other bound."""
        self._batches.put(batch)

    def stop(self) -> None:
        """Commit what was handed over, then end. A group that fails from now on is not tried again."""
        self._stopping.set()
        self._batches.put(None)

    def join(self) -> None:
        """Wait for the thread; after `on_ended` that takes no time."""
        self._thread.join()

    def _run(self) -> None:
        try:
            last = False
            while not last:
                batches, last = self._gather()
                if batches:
                    self._on_settled(self._commit(batches))
                    self._shorten_wal()
        finally:
            if self._connection is not None:
                self._connection.close()
            self._on_ended()

    def _gather(self) -> tuple[list[Batch], bool]:
        """Every batch that waits, up to the group's limit, and whether it is the last group."""
        batches: list[Batch] = []
        writes = 0
        batch = self._batches.get()
        while batch is not None:
            batches.append(batch)
            writes += len(batch)
            if writes >= self._group_writes_max:
                return batches, False
            try:
                batch = self._batches.get_nowait()
            except queue.Empty:
                return batches, False
        return batches, True

    def _commit(self, batches: list[Batch]) -> Settled:
        writes = batches[0] if len(batches) == 1 else list(chain.from_iterable(batches))
        began = time.monotonic()
        give_up_at = began if self._trouble else began + self._commit_retry_seconds
        alone = False
        while True:
            try:
                results = self._transact(writes, alone=alone)
            except _FAILURES as error:
                self._roll_back()
                if isinstance(error, POISON) and not alone:
                    alone = True
                elif time.monotonic() >= give_up_at or self._stopping.wait(RETRY_INTERVAL_SECONDS):
                    self._trouble = _trouble_of(error)
                    # One exception each: a shared one would gather the tracebacks of all who raise it.
                    return Settled(
                        len(batches), [LogUnavailableError(self._trouble) for _ in writes], None, self._trouble
                    )
            else:
                self._trouble = None
                return Settled(len(batches), results, time.monotonic() - began, None)

    def _transact(self, writes: Sequence[Write], *, alone: bool) -> list[Result]:
        # SQLite goes on writing to a file that was removed or replaced, and what it commits there is gone.
        if os.stat(self._path).st_ino != self._inode:  # noqa: PTH116 - half the price, once for every commit
            raise FileNotFoundError(f"{self._path.name} is no longer the file that was opened")
        if self._connection is None:
            self._connection = connect_writer(self._path, row_bytes_max=self._row_bytes_max)
        connection = self._connection
        if not alone and self._applier.apply_at_once(connection, writes):
            return [None]
        connection.execute("BEGIN IMMEDIATE")
        if alone:
            results = [self._applier.apply_alone(connection, write) for write in writes]
        else:
            results = self._applier.apply(connection, writes)
        connection.execute("COMMIT")
        self._applier.settle(writes)
        return results

    def _shorten_wal(self) -> None:
        """Begin the write-ahead log anew once it is too long: while others always read, it never would by itself.

        Whoever comes to read meanwhile reads the database and is in nobody's way. Where one read lasts longer than the
        writer waits, it is tried again when the log has grown by half of what is kept.
        """
        self._groups += 1
        connection = self._connection
        if self._groups % GROUPS_A_LOOK:
            return
        try:
            size = os.stat(self._wal).st_size  # noqa: PTH116 - half the price
            if size <= self._wal_bytes_max or connection is None:
                return
            connection.execute(f"PRAGMA busy_timeout = {READERS_WAIT_MS}")
            try:
                (busy, *_pages) = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute("PRAGMA busy_timeout = 0")
        except (OSError, sqlite3.Error):
            return  # what is wrong with the file the next commit meets too, and says
        self._wal_bytes_max = size + WAL_BYTES_KEPT // 2 if busy else WAL_BYTES_KEPT

    def _roll_back(self) -> None:
        """Leave nothing of a transaction that failed."""
        self._applier.forget()
        if self._connection is None:
            return
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._connection.close()
            self._connection = None


def _trouble_of(error: Exception) -> str:
    if isinstance(error, sqlite3.Error) and is_damage(error):
        return tell_damage(error)
    return f"the event log cannot be written: {describe(error)}"
