"""Databases of older schemas are brought up to date, and whatever interrupts that leaves them whole."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.old_logs import ENDED_RUN, OPEN_RUN, USER, VERSIONS, set_version, tables_of, write_old_log
from tracewire.errors import LogUnavailableError, SchemaError
from tracewire.eventlog import sqlite_migrations
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.eventlog.sqlite_migrations import SCHEMA_VERSION, STEPS


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(folder)
    try:
        await log.open()
        yield log
    finally:
        await log.close()


def version_of(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "events.db")) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize(("version", "from_release"), [(1, True), *((version, False) for version in VERSIONS)], ids=str)
async def test_a_log_of_an_older_schema_is_migrated_and_read(tmp_path: Path, version: int, from_release: bool) -> None:
    """It ends with the tables of a new one, its runs are what they were, and it takes new events."""
    write_old_log(tmp_path / "old", version, from_release=from_release)
    async with opened(tmp_path / "new"):
        pass
    async with opened(tmp_path / "old") as log:
        assert [(OPEN_RUN, 1, 0), (ENDED_RUN, 2, 1)] == [
            (run.run_id, run.last_seq, run.acked_seq) for run in await log.unfinished(USER, limit=9)
        ]
        assert [1, 2] == [event.seq for event in await log.replay(ENDED_RUN, 0, limit=9)]
        await log.append(OPEN_RUN, 2, b"{}")
        assert [ENDED_RUN] == list(await log.ended_runs(before_unix_ns=3, limit=9))
    assert tables_of(tmp_path / "new") == tables_of(tmp_path / "old")
    assert SCHEMA_VERSION == version_of(tmp_path / "old")


async def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """The error names both versions, and the database is not touched."""
    write_old_log(tmp_path, SCHEMA_VERSION)
    set_version(tmp_path, SCHEMA_VERSION + 1)
    with pytest.raises(
        SchemaError, match=rf"schema {SCHEMA_VERSION + 1}; this one knows {SCHEMA_VERSION}\); upgrade Tracewire"
    ):
        async with opened(tmp_path):
            pass
    assert SCHEMA_VERSION + 1 == version_of(tmp_path)


async def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step that fails half-way nothing stays; the steps before it do, and the next opening goes on from there."""
    write_old_log(tmp_path, 1)
    broken = (*STEPS, "CREATE TABLE half (a);\nCREATE TABLE runs (a);\n")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_migrations, "STEPS", broken)
        patch.setattr(sqlite_migrations, "SCHEMA_VERSION", len(broken))
        with pytest.raises(LogUnavailableError, match="table runs already exists"):
            async with opened(tmp_path):
                pass
    assert SCHEMA_VERSION == version_of(tmp_path)
    assert "half" not in dict(tables_of(tmp_path))
    async with opened(tmp_path) as log:
        assert 2 == (await log.run(ENDED_RUN)).last_seq


async def test_a_page_that_is_broken_is_found_at_opening(tmp_path: Path) -> None:
    """Also one that opening itself has no need of: the error names the file and says what to do."""
    write_old_log(tmp_path, SCHEMA_VERSION)
    path = tmp_path / "events.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executemany("INSERT INTO events VALUES (9, ?, ?)", [(seq, bytes(1000)) for seq in range(1, 2001)])
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek(size * (pages // 2))
        file.write(b"\xff" * size * 4)
    with pytest.raises(SchemaError, match=r"events\.db is .*damaged: .*; move .* away"):
        async with opened(tmp_path):
            pass
