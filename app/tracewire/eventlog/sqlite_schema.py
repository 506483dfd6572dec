"""The database file of the embedded log: its tables, its version, and what is wrong with it in one sentence.

Enters: the data folder. Leaves: connections that are ready to use.
Next: `sqlite_writer` takes the one that writes, `sqlite_reader` those that read.
"""

import sqlite3
from pathlib import Path
from typing import Final

from tracewire.errors import LogUnavailableError, SchemaError

DATABASE_NAME: Final = "events.db"
APPLICATION_ID: Final = 0x54574C47
"""`TWLG`: what tells our file from any other SQLite database."""

SCHEMA_VERSION: Final = 1
WAL_PAGES_BEFORE_CHECKPOINT: Final = 4096
WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
WRITER_CACHE_KIB: Final = 16 * 1024

UNFINISHED: Final = "(outcome IS NULL OR acked_seq < last_seq)"
"""Word for word the condition of the index `runs_unfinished`: SQLite uses a partial index only for the same text."""

# `runs.last_seq` is set with the outcome: while a run is open, its last seq is the highest in `events`, so that an
# append touches one table. `input` comes last: a summary then never reads the pages that a long input spills into.
# `events` is a plain rowid table: WITHOUT ROWID, or the run's id as the key, writes up to twice as much.
_TABLES: Final = f"""
CREATE TABLE runs (
  run_no INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL UNIQUE,
  user_id TEXT NOT NULL,
  request_id TEXT NOT NULL,
  thread_id TEXT NOT NULL,
  agent TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  root_span_id TEXT NOT NULL,
  started_unix_ns INTEGER NOT NULL,
  sampled INTEGER NOT NULL,
  acked_seq INTEGER NOT NULL DEFAULT 0,
  last_seq INTEGER,
  outcome TEXT,
  ended_unix_ns INTEGER,
  input BLOB NOT NULL,
  UNIQUE (user_id, request_id)
);
CREATE INDEX runs_of_user ON runs (user_id, run_id);
CREATE INDEX runs_unfinished ON runs (user_id, run_id) WHERE {UNFINISHED};
CREATE INDEX runs_open ON runs (run_id) WHERE outcome IS NULL;
CREATE INDEX turns_of_thread ON runs (user_id, thread_id, run_id) WHERE outcome = 'completed';
CREATE TABLE events (
  run_no INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  body BLOB NOT NULL,
  UNIQUE (run_no, seq)
);
CREATE TABLE stamps (
  run_no INTEGER PRIMARY KEY,
  body BLOB NOT NULL
);
"""

_DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


def open_database(data_dir: Path, *, lock_wait_seconds: float, row_bytes_max: int) -> sqlite3.Connection:
    """The connection that writes, to a database that has the tables; made where there was none.

    Raises:
        SchemaError: the file is no log of ours, is damaged, or is newer than this program.
        LogUnavailableError: the folder or the file cannot be written, or another process holds it.
    """
    path = data_dir / DATABASE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm files the permissions of this one: what users said is the owner's alone.
        path.touch(mode=0o600)
    except OSError as error:
        raise LogUnavailableError(
            f"the event log cannot be opened: {path} cannot be written ({error.strerror}); "
            "choose a data folder that this process may write to"
        ) from error
    try:
        connection = _connect(path, "rw", lock_wait_seconds)
    except sqlite3.Error as error:
        raise _opening_error(path, error) from error
    try:
        _check_identity(connection, path)
        _prepare_writer(connection, row_bytes_max)
        _establish_schema(connection)
        # From here on the writer waits for a lock in its own way, which `close` can interrupt.
        connection.execute("PRAGMA busy_timeout = 0")
    except sqlite3.Error as error:
        connection.close()
        raise _opening_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_writer(path: Path, *, row_bytes_max: int) -> sqlite3.Connection:
    """Another connection that writes, to a database that `open_database` has opened before; it waits for no lock.

    Raises:
        sqlite3.Error: the file cannot be opened, or is gone: it is never made again.
    """
    connection = _connect(path, "rw", 0)
    try:
        _prepare_writer(connection, row_bytes_max)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(data_dir: Path, *, lock_wait_seconds: float) -> sqlite3.Connection:
    """A connection that can only read.

    Raises:
        LogUnavailableError: the file cannot be opened.
    """
    path = data_dir / DATABASE_NAME
    try:
        return _connect(path, "ro", lock_wait_seconds)
    except sqlite3.Error as error:
        raise LogUnavailableError(f"the event log cannot be opened: {path}: {describe(error)}") from error


def describe(error: Exception) -> str:
    """What SQLite or the system said, with SQLite's own name for it where there is one."""
    name = getattr(error, "sqlite_errorname", None)
    text = str(error) or type(error).__name__
    return f"{text} ({name})" if name else text


def _connect(path: Path, mode: str, lock_wait_seconds: float) -> sqlite3.Connection:
    """Without the module's own transactions; used by one thread at a time, which need not be the one that opened it."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=lock_wait_seconds,
        isolation_level=None,
        check_same_thread=False,
    )


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours, before anything is written to it: to set WAL is to write."""
    application_id, version, tables = (
        connection.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT COUNT(*) FROM sqlite_schema")
    )
    if application_id != APPLICATION_ID and (application_id, version, tables) != (0, 0, 0):
        raise SchemaError(f"{path} is a database, but no Tracewire log; move it away, or choose another data folder")
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"{path} was written by a newer Tracewire (schema {version}; this one knows {SCHEMA_VERSION}); "
            "upgrade Tracewire, or choose another data folder"
        )


def _prepare_writer(connection: sqlite3.Connection, row_bytes_max: int) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_BEFORE_CHECKPOINT}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, row_bytes_max)


def _establish_schema(connection: sqlite3.Connection) -> None:
    """Make the tables where there are none; either way end with a write, because SQLite opens a file that it may not
    write without a word.
    """
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _opening_error(path: Path, error: sqlite3.Error) -> SchemaError | LogUnavailableError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGE_CODES:
        return SchemaError(
            f"{path} is no database or is damaged: {describe(error)}; "
            "move it away together with its -wal and -shm files, or restore it from a copy"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogUnavailableError(
            f"the event log cannot be opened: another process holds {path}: {describe(error)}; stop that process"
        )
    return LogUnavailableError(f"the event log cannot be opened: {path}: {describe(error)}")
