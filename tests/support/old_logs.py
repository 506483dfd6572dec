"""Databases of the event log as earlier schemas left them, with two runs of one user in each."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from tracewire.eventlog.sqlite_migrations import APPLICATION_ID, SCHEMA_VERSION, STEPS
from tracewire.events import AgentCompleted, AgentStarted, Envelope, Receipt, encode_envelope
from tracewire_telemetry.vocabulary import EventType

USER: Final = "ada"
ENDED_RUN: Final = "01970001-0000-7000-8000-000000000000"
OPEN_RUN: Final = "01970002-0000-7000-8000-000000000000"
VERSIONS: Final = range(1, SCHEMA_VERSION + 1)
RELEASED: Final = Path(__file__).parents[1] / "fixtures" / "eventlog"


def write_old_log(folder: Path, version: int, *, from_release: bool = False) -> None:
    """Make `events.db` of this schema version. `from_release`: from the tables as that release made them, not from
    today's steps. Its events are durable, and nothing of it is left in a WAL.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        if from_release:
            connection.executescript((RELEASED / f"schema_{version}.sql").read_text())
        else:
            for step in STEPS[:version]:
                connection.executescript(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        _insert_runs(connection)


def set_version(folder: Path, version: int) -> None:
    """Let the database say that it is of this schema version."""
    with contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def tables_of(folder: Path) -> list[tuple[str, str]]:
    """Every table and index of the database, by its name, as SQLite shows it."""
    with contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [(name, sql) for name, sql in rows]


def _insert_runs(connection: sqlite3.Connection) -> None:
    for run_no, run_id in enumerate((ENDED_RUN, OPEN_RUN), start=1):
        connection.execute(
            "INSERT INTO runs (run_no, run_id, user_id, request_id, thread_id, agent, trace_id, root_span_id,"
            " started_unix_ns, sampled, input) VALUES (?,?,?,?,'thread','analyst',?,?,1,1,?)",
            (run_no, run_id, USER, f"request-{run_no}", "0" * 31 + "1", "0" * 15 + "1", b'"why?"'),
        )
        _insert_event(connection, run_no, run_id, 1, AgentStarted("hello"))
    _insert_event(
        connection, 1, ENDED_RUN, 2, AgentCompleted("done", 1.0, Receipt(2, {"agent_started": 1, "agent_completed": 1}))
    )
    connection.execute(
        "UPDATE runs SET outcome = 'completed', ended_unix_ns = 2, last_seq = 2, acked_seq = 1 WHERE run_no = 1"
    )


def _insert_event(
    connection: sqlite3.Connection, run_no: int, run_id: str, seq: int, event: AgentStarted | AgentCompleted
) -> None:
    time, parent = "2025-06-01T00:00:00.000000Z", f"00-{1:032x}-{1:016x}-01"
    body = encode_envelope(Envelope(EventType(event.type), run_id, seq, time, "analyst", parent, event))
    connection.execute("INSERT INTO events VALUES (?,?,?)", (run_no, seq, body))
