"""What is SQLite's own about the embedded log: its file, its groups, its retries, and how it fails."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tracewire.errors import EventLogError, LogUnavailableError, SchemaError, SequenceError
from tracewire.eventlog import RunRecord, sqlite_reader
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.eventlog.sqlite_migrations import SCHEMA_VERSION
from tracewire.eventlog.sqlite_writes import Applier
from tracewire_telemetry.vocabulary import Outcome


def record(run_id: str, user_id: str = "ada") -> RunRecord:
    return RunRecord(run_id, user_id, run_id, "thread", "analyst", None, "0" * 32, "0" * 16, 1)


def database(folder: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None))


@contextlib.asynccontextmanager
async def opened(log: SqliteEventLog) -> AsyncIterator[SqliteEventLog]:
    try:
        await log.open()
        yield log
    finally:
        await log.close()


# --- the file -------------------------------------------------------------------------------------------------------


async def test_the_database_is_as_durable_as_the_design_asks(tmp_path: Path) -> None:
    """WAL, FULL, our application id and version; nobody but the owner can read it; no WAL is left after closing."""
    async with opened(SqliteEventLog(tmp_path / "new" / "data")) as log:
        await log.accept(record("run"))
        connection = log._writer._connection
        for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("user_version", SCHEMA_VERSION)):
            assert (expected,) == connection.execute(f"PRAGMA {pragma}").fetchone()
        for file in (tmp_path / "new" / "data").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {tmp_path / "new" / "data" / "events.db"} == set((tmp_path / "new" / "data").iterdir())


async def test_an_append_is_in_the_file_when_it_returns(tmp_path: Path) -> None:
    """Another connection reads the event while the log is open."""
    async with opened(SqliteEventLog(tmp_path)) as log:
        await log.accept(record("run"))
        await log.append("run", 1, b"event")
        with database(tmp_path) as other:
            assert other.execute("SELECT run_no, seq, body FROM events").fetchall() == [(1, 1, b"event")]


def _foreign(path: Path) -> None:
    with database(path.parent) as connection:
        connection.execute("CREATE TABLE notes (text)")


def _newer(path: Path) -> None:
    asyncio.run(_made(path.parent))
    with database(path.parent) as connection:
        connection.execute("PRAGMA user_version = 99")


def _cut(path: Path) -> None:
    asyncio.run(_made(path.parent))
    os.truncate(path, path.stat().st_size // 2)


async def _made(folder: Path) -> None:
    async with opened(SqliteEventLog(folder)) as log:
        await log.accept(record("run"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 1000), "no database or is damaged"),
        (_foreign, "no Tracewire log"),
        (_newer, "upgrade Tracewire"),
        (_cut, "damaged"),
    ],
    ids=["no database", "another program's", "newer", "cut off"],
)
def test_a_file_that_is_no_log_of_ours_is_refused_and_left_alone(tmp_path: Path, spoil, said: str) -> None:
    """The error says what is wrong and what to do, and the file stays byte for byte what it was."""
    path = tmp_path / "events.db"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=said):
        asyncio.run(_made(tmp_path))
    assert before == path.read_bytes()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the folder should be, and a folder where the file should be."""
    (tmp_path / "file").touch()
    (tmp_path / "events.db").mkdir()
    for folder in (tmp_path / "file" / "data", tmp_path):
        log = SqliteEventLog(folder)
        with pytest.raises(LogUnavailableError, match=str(folder / "events.db")):
            await log.open()
        await log.close()


async def test_a_lock_of_another_process_is_waited_for_within_bounds(tmp_path: Path) -> None:
    """Opening fails with a sentence while the database is held, and can be tried again with the same object."""
    await _made(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        log = SqliteEventLog(tmp_path, commit_retry_seconds=0.05)
        stack.push_async_callback(log.close)
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogUnavailableError, match="another process holds"):
                await log.open()
        await log.open()
        assert (await log.run("run")).last_seq == 0


async def test_a_log_whose_file_is_gone_does_not_pretend(tmp_path: Path) -> None:
    """Commits to a file without a name would be lost: they fail, until the file is back."""
    async with opened(SqliteEventLog(tmp_path, commit_retry_seconds=0, probe_interval_seconds=0)) as log:
        await log.accept(record("run"))
        (tmp_path / "events.db").rename(tmp_path / "moved.db")
        with pytest.raises(LogUnavailableError):
            await log.append("run", 1, b"event")
        (tmp_path / "events.db").touch()
        with pytest.raises(LogUnavailableError, match="no longer the file"):
            await log.append("run", 1, b"event")
        (tmp_path / "moved.db").rename(tmp_path / "events.db")
        assert await log.health() is None
        await log.append("run", 1, b"event")


@pytest.mark.parametrize(
    ("sql", "values", "index"),
    [
        (sqlite_reader.RUN, 1, "sqlite_autoindex_runs_1"),
        (sqlite_reader.RUN_OF_REQUEST, 2, "sqlite_autoindex_runs_2"),
        (sqlite_reader.RUNS, 2, "runs_of_user"),
        (sqlite_reader.RUNS_BEFORE, 3, "runs_of_user"),
        (sqlite_reader.RUNS_UNFINISHED, 2, "runs_unfinished"),
        (sqlite_reader.RUNS_OPEN, 0, "runs_open"),
        (sqlite_reader.TURNS, 3, "turns_of_thread"),
        (sqlite_reader.EVENTS, 3, "sqlite_autoindex_events_1"),
    ],
)
async def test_each_query_goes_by_its_index(tmp_path: Path, sql: str, values: int, index: str) -> None:
    """No query scans a table or sorts what it found."""
    await _made(tmp_path)
    with database(tmp_path) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", ["1"] * values)]
    assert any(index in step for step in plan)
    assert not [step for step in plan if "TEMP B-TREE" in step or (step.startswith("SCAN") and "USING" not in step)]


# --- groups ---------------------------------------------------------------------------------------------------------


async def test_the_appends_of_one_turn_are_one_commit(tmp_path: Path) -> None:
    """Whatever is handed over in one turn of the loop costs one commit, which is reported on the loop."""
    commits: list[tuple[float, threading.Thread]] = []

    def observe(seconds: float) -> None:
        commits.append((seconds, threading.current_thread()))

    async with opened(SqliteEventLog(tmp_path, observe_commit=observe)) as log:
        await asyncio.gather(*(log.accept(record(f"run-{n}")) for n in range(300)))
        await asyncio.gather(*(log.append(f"run-{n}", 1, b"event") for n in range(300)))
        assert len(commits) == 2
        assert all(seconds > 0 and thread is threading.main_thread() for seconds, thread in commits)


async def test_an_event_that_comes_alone_is_one_statement(tmp_path: Path) -> None:
    """Each statement waits for the interpreter's lock again: BEGIN and COMMIT are for those that come together."""
    statements: list[str] = []
    async with opened(SqliteEventLog(tmp_path)) as log:
        await log.accept(record("run"))
        await log.append("run", 1, b"event")  # where the run ends is read once
        assert log._writer is not None
        assert log._writer._connection is not None
        log._writer._connection.set_trace_callback(statements.append)
        await log.append("run", 2, b"event")
        assert ["INSERT"] == [statement.split()[0] for statement in statements]
        with pytest.raises(SequenceError):
            await log.append("run", 2, b"again")
        await log.append("run", 3, b"event", outcome=Outcome.COMPLETED)
        with pytest.raises(SequenceError):
            await log.append("run", 4, b"after the end")
        assert [b"event"] * 3 == [event.body for event in await log.replay("run", 0, limit=9)]


async def test_a_group_has_a_limit(tmp_path: Path) -> None:
    """What waits beyond it is committed by the next group, in order."""
    commits: list[float] = []
    log = SqliteEventLog(tmp_path, group_writes_max=10, observe_commit=commits.append)
    async with opened(log):
        await log.accept(record("run"))
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            appends = []
            for seq in range(1, 26):
                appends.append(log.append("run", seq, b"event"))
                await asyncio.sleep(0)
            other.execute("ROLLBACK")
        await asyncio.gather(*appends)
        assert len(commits) >= 1 + 3


async def test_a_commit_that_fails_is_tried_again(tmp_path: Path) -> None:
    """A lock that goes away within the time is not even noticed."""
    async with opened(SqliteEventLog(tmp_path, commit_retry_seconds=60)) as log:
        await log.accept(record("run"))
        loop, tried = asyncio.get_running_loop(), asyncio.Event()
        log._writer._connection.set_trace_callback(lambda _: loop.call_soon_threadsafe(tried.set))
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            append = log.append("run", 1, b"event")
            await tried.wait()
        await append
        log._writer._connection.set_trace_callback(None)
        assert await log.health() is None


async def test_in_trouble_nobody_waits_for_the_retries_again(tmp_path: Path) -> None:
    """The first group of a failure is tried for the whole time; those after it, once each."""
    async with opened(SqliteEventLog(tmp_path, commit_retry_seconds=60)) as log:
        await log.accept(record("run"))
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            log._writer._trouble = "the first group failed"
            async with asyncio.timeout(30):
                with pytest.raises(LogUnavailableError, match="SQLITE_BUSY"):
                    await log.append("run", 1, b"event")
        await log.append("run", 1, b"event")
        assert log._writer._trouble is None


async def test_health_probes_no_oftener_than_it_should(tmp_path: Path) -> None:
    """Within the interval the last answer stands, although the log would take a write again."""
    log = SqliteEventLog(tmp_path, commit_retry_seconds=0, probe_interval_seconds=3600)
    async with opened(log):
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogUnavailableError):
                await log.accept(record("run"))
            assert "database is locked" in await log.health()
        assert "database is locked" in await log.health()
        await log.accept(record("run"))
        assert await log.health() is None


async def test_an_ack_is_written_without_anything_else_to_write(tmp_path: Path) -> None:
    """By its timer, joined with the others of its run, in a commit of its own."""
    committed = asyncio.Event()
    log = SqliteEventLog(tmp_path, ack_flush_seconds=0, observe_commit=lambda _: committed.set())
    async with opened(log):
        await log.accept(record("run"))
        for seq in (1, 2, 3):
            await log.append("run", seq, b"event")
        committed.clear()
        log.ack("run", 1)
        log.ack("run", 2)
        await committed.wait()
        assert not log._acks
        with database(tmp_path) as other:
            assert other.execute("SELECT acked_seq FROM runs").fetchone() == (2,)


async def test_a_record_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    """Text that is no Unicode, a run id that is taken: each refused by itself, beside a record that is fine."""
    async with opened(SqliteEventLog(tmp_path)) as log:
        await log.accept(record("taken"))
        answers = await asyncio.gather(
            log.accept(record("\ud800")),
            log.accept(record("fine")),
            log.accept(record("taken", user_id="bob")),
            return_exceptions=True,
        )
        assert [EventLogError, EventLogError] == [type(a) for a in answers if isinstance(a, Exception)]
        assert [run.run_id for run in await log.runs("ada", limit=9)] == ["taken", "fine"]


async def test_a_body_that_is_none_is_refused(tmp_path: Path) -> None:
    """No row that the table refuses is passed over in silence."""
    async with opened(SqliteEventLog(tmp_path)) as log:
        await log.accept(record("run"))
        with pytest.raises(EventLogError, match="NOT NULL"):
            await log.append("run", 1, None)
        await log.append("run", 1, b"event")


async def test_ended_runs_take_no_memory(tmp_path: Path) -> None:
    """What the writer keeps of a run goes with its terminal event, and an append to an ended run keeps nothing."""
    async with opened(SqliteEventLog(tmp_path)) as log:
        await log.accept(record("run"))
        await log.append("run", 1, b"event")
        assert set(log._writer._applier._tails) == {"run"}
        await log.append("run", 2, b"end", outcome=Outcome.COMPLETED)
        with pytest.raises(SequenceError):
            await log.append("run", 3, b"event")
        assert not log._writer._applier._tails


# --- failing --------------------------------------------------------------------------------------------------------


async def test_a_commit_that_hangs_shows_in_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that neither answers nor fails is told from one that is fine by how long it has been at it."""
    release = threading.Event()
    apply = Applier.apply
    monkeypatch.setattr(Applier, "apply", lambda *arguments: release.wait() and apply(*arguments))
    async with opened(SqliteEventLog(tmp_path, commit_stall_seconds=0)) as log:
        assert await log.health() is None
        append = log.append("run", 1, b"event")
        await asyncio.sleep(0)
        assert "stalled" in await log.health()
        release.set()
        with pytest.raises(SequenceError):
            await append
        assert await log.health() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_a_writer_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ends the thread; who waits is told, and so is everybody after."""

    def fail(*_: object) -> None:
        raise AssertionError("nobody foresaw this")

    monkeypatch.setattr(Applier, "apply", fail)
    async with opened(SqliteEventLog(tmp_path)) as log:
        for _ in range(2):
            with pytest.raises(LogUnavailableError, match="writer thread has ended"):
                await log.accept(record("run"))
        assert "restart" in await log.health()


async def test_an_append_that_crosses_the_end_of_the_writer_is_told(tmp_path: Path) -> None:
    """Handed over when the thread has ended but the loop does not know it yet."""
    async with opened(SqliteEventLog(tmp_path)) as log:
        log._writer.stop()
        log._writer.join()
        with pytest.raises(LogUnavailableError, match="writer thread has ended"):
            await log.append("run", 1, b"event")


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tracewire.errors import LogUnavailableError
from tracewire.eventlog import RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog

async def main():
    log = SqliteEventLog(Path(sys.argv[1]), commit_retry_seconds=0, probe_interval_seconds=0)
    await log.open()
    await log.accept(RunRecord("run", "ada", "run", "thread", "analyst", None, "0" * 32, "0" * 16, 1))
    await log.append("run", 1, b"event")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.bytes_on_disk, hard))
    seq = 1
    try:
        while True:
            await log.append("run", seq + 1, bytes(50_000))
            seq += 1
    except LogUnavailableError as error:
        print("failed", error)
    print("health", await log.health())
    print("stored", [event.seq for event in await log.replay("run", 0, limit=99)] == list(range(1, seq + 1)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print("health", await log.health())
    await log.append("run", seq + 1, bytes(50_000))
    print("last", (await log.run("run")).last_seq == seq + 1)
    await log.close()

asyncio.run(main())
"""


async def test_a_file_that_cannot_grow_is_survived(tmp_path: Path) -> None:
    """A write that the system refuses half-way fails with SQLite's own word for it, and the same seq goes in later."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_DISK, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    failed, health, stored, health_after, last = output.decode().splitlines()
    assert failed.startswith("failed the event log cannot be written: ")
    assert "SQLITE_" in failed
    assert failed.removeprefix("failed ") == health.removeprefix("health ")
    assert [stored, health_after, last] == ["stored True", "health None", "last True"]
