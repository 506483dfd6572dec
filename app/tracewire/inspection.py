"""What there is to say of a data folder without changing anything in it."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from tracewire.eventlog.sqlite_schema import DATABASE_NAME
from tracewire.gateway.auth import DEVELOPMENT_SECRET_FILE


def inspect_folder(folder: Path) -> Iterator[str]:
    """One line for each thing worth knowing: existence, rights, the secret, the event log."""
    if not folder.exists():
        yield f"data folder {folder}: none yet; `tracewire serve` makes it"
        return
    if not folder.is_dir():
        yield f"data folder {folder}: is no folder"
        return
    rights = "writable" if os.access(folder, os.W_OK | os.X_OK) else "NOT WRITABLE"
    yield f"data folder {folder}: {rights}"
    secret = folder / DEVELOPMENT_SECRET_FILE
    if secret.exists():
        mode = stat.S_IMODE(secret.stat().st_mode)
        said = "for its owner alone" if mode & 0o077 == 0 else f"READABLE BY OTHERS (mode {mode:o}); chmod 600 it"
        yield f"  development secret: {said}"
    database = folder / DATABASE_NAME
    if database.exists():
        yield f"  event log: {_database(database)}"


def _database(database: Path) -> str:
    # Reading a log that nobody has open would leave SQLite's side files behind, unless it is read as immutable.
    how = "mode=ro" if database.with_name(f"{database.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?{how}", uri=True)) as connection:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            runs, unfinished = connection.execute("SELECT count(*), count(*) - count(outcome) FROM runs").fetchone()
    except sqlite3.Error as error:
        return f"cannot be read ({error})"
    return f"{database.stat().st_size} bytes, schema {schema}, {runs} runs, {unfinished} without a terminal event"
