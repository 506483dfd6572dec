"""The schema of the embedded log, as the ordered steps that lead to it.

Enters: a database of any version up to this program's. Leaves: one of this program's version. A new database takes
every step, an older one those that it lacks, so that both end with the same tables.

A step that was ever released is never changed. A new one is one more entry of `STEPS`.
"""

import sqlite3
from typing import Final

APPLICATION_ID: Final = 0x54574C47
"""`TWLG`: what tells our file from any other SQLite database."""

UNFINISHED: Final = "(outcome IS NULL OR acked_seq < last_seq)"
LONG: Final = "last_seq > 100"
"""Word for word the conditions of partial indexes: SQLite uses one only for the same text. Runs of fewer events than
`LONG` says are never too long, and cost that index nothing.
"""

# `runs.last_seq` is set with the outcome: while a run is open, its last seq is the highest in `events`, so that an
# append touches one table. `input` comes last: a summary then never reads the pages that a long input spills into.
# `events` is a plain rowid table: WITHOUT ROWID, or the run's id as the key, writes up to twice as much.
_TABLES: Final = """
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
CREATE INDEX runs_unfinished ON runs (user_id, run_id) WHERE (outcome IS NULL OR acked_seq < last_seq);
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

# What retention asks: which runs ended first, which are too long, and what a run was before its log begins.
_RETENTION: Final = """
CREATE INDEX runs_by_end ON runs (ended_unix_ns) WHERE outcome IS NOT NULL;
CREATE INDEX runs_long ON runs (last_seq) WHERE last_seq > 100;
CREATE TABLE digests (
  run_no INTEGER PRIMARY KEY,
  body BLOB NOT NULL
);
"""

# The ids are UUIDv7: their order is that of the openings.
_INCIDENTS: Final = """
CREATE TABLE incidents (
  incident_id TEXT PRIMARY KEY,
  run_id TEXT NOT NULL,
  user_id TEXT NOT NULL,
  agent TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  link TEXT NOT NULL,
  event_type TEXT NOT NULL,
  first_seq INTEGER,
  last_seq INTEGER,
  count INTEGER NOT NULL,
  since_unix_ns INTEGER NOT NULL,
  state TEXT NOT NULL,
  ended_unix_ns INTEGER,
  late_seconds REAL
);
CREATE INDEX incidents_of_user ON incidents (user_id, incident_id);
CREATE INDEX incidents_of_run ON incidents (run_id, incident_id);
CREATE INDEX incidents_by_state ON incidents (state, incident_id);
"""

STEPS: Final = (_TABLES, _RETENTION, _INCIDENTS)
"""`STEPS[n]` takes version n to n + 1: statements, each ending with `;` at the end of its line."""

SCHEMA_VERSION: Final = len(STEPS)


def migrate(connection: sqlite3.Connection) -> None:
    """Take every step that the database lacks, each in one transaction: what is interrupted is where it was before.

    Raises:
        sqlite3.Error: a step failed, and left nothing behind.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    # Ends with a write in any case, because SQLite opens a file that it may not write without a word.
    for target in range(min(version + 1, SCHEMA_VERSION), SCHEMA_VERSION + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in STEPS[target - 1].split(";\n") if target > version else ():
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {target}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
