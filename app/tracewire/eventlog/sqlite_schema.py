"""The database file of the embedded log: how it is opened, and what is wrong with it in one sentence.

Enters: the data folder. Leaves: connections that are ready to use.
Next: `sqlite_writer` takes the one that writes, `sqlite_reader` those that read.
"""

import sqlite3
import time
from pathlib import Path
from typing import Final

from tracewire.errors import LogUnavailableError, SchemaError
from tracewire.eventlog.sqlite_migrations import APPLICATION_ID, SCHEMA_VERSION, migrate

DATABASE_NAME: Final = "events.db"
WAL_PAGES_BEFORE_CHECKPOINT: Final = 4096
WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
WRITER_CACHE_KIB: Final = 16 * 1024

CHECK_SECONDS: Final = 0.5
"""How long opening looks for damage, at most: all of a small log is read, the beginning of a large one."""
_CHECK_STEPS: Final = 10_000
"""Instructions of SQLite between two looks at the clock."""

_DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_WHAT_TO_DO: Final = f"move {DATABASE_NAME} away together with its -wal and -shm files, or restore it from a copy"


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
        _look_for_damage(connection, path)
        migrate(connection)
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
    # What has expired leaves no trace in the file: freed room is overwritten, which costs a removal about a tenth more.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, row_bytes_max)


def tell_damage(error: sqlite3.Error) -> str:
    """What to do about a file that broke under a running server."""
    return f"the event log is damaged: {describe(error)}; stop the server, then in the data folder: {_WHAT_TO_DO}"


def _look_for_damage(connection: sqlite3.Connection, path: Path) -> None:
    """Read as much as time allows: a page that is broken is otherwise met by whoever resumes the run on it."""
    give_up_at = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > give_up_at, _CHECK_STEPS)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    else:
        if found != "ok":
            raise SchemaError(f"{path} is damaged: {found.splitlines()[-1]}; {_WHAT_TO_DO}")
    finally:
        connection.set_progress_handler(None, 0)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, which neither time nor another try will mend."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE_CODES


def _opening_error(path: Path, error: sqlite3.Error) -> SchemaError | LogUnavailableError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if is_damage(error):
        return SchemaError(f"{path} is no database or is damaged: {describe(error)}; {_WHAT_TO_DO}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogUnavailableError(
            f"the event log cannot be opened: another process holds {path}: {describe(error)}; stop that process"
        )
    return LogUnavailableError(f"the event log cannot be opened: {path}: {describe(error)}")
