"""The user's own runs, read from the event log into the same form as a recording."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from tracewire.agents.analyst.frames import Reading, Source
from tracewire.agents.analyst.messages import Message
from tracewire.agents.analyst.reading import collect
from tracewire.eventlog import EventLog, RunSummary, StoredEvent

RUNS_MAX: Final = 20
"""How many runs are looked at, the newest first."""

EVENTS_MAX: Final = 20_000
"""How many events are read over all of them; runs beyond it are named, not read."""

PAGE_EVENTS: Final = 1000
"""How many events are asked of the log at a time."""


class OwnRuns(Struct, frozen=True):
    """Runs, newest first, and the events of those that were read. `left_out` were not: `EVENTS_MAX` was met."""

    summaries: tuple[RunSummary, ...]
    events: Mapping[str, Sequence[StoredEvent]]
    left_out: tuple[str, ...] = ()


async def list_runs(log: EventLog, user_id: str, *, without: str, named: Sequence[str] = ()) -> tuple[RunSummary, ...]:
    """The user's newest runs but the one that asks; or those that are named, if they are the user's."""
    if named:
        found = [await log.run(run_id) for run_id in named[:RUNS_MAX]]
        return tuple(run for run in found if run is not None and run.user_id == user_id)
    runs = await log.runs(user_id, limit=RUNS_MAX + 1)
    return tuple(run for run in runs if run.run_id != without)[:RUNS_MAX]


async def read_runs(log: EventLog, summaries: Sequence[RunSummary]) -> OwnRuns:
    """The events of the runs, page by page, up to `EVENTS_MAX` over all."""
    events: dict[str, Sequence[StoredEvent]] = {}
    left_out: list[str] = []
    room = EVENTS_MAX
    for summary in summaries:
        if summary.last_seq > room:
            left_out.append(summary.run_id)
            continue
        rows: list[StoredEvent] = []
        while True:
            page = await log.replay(summary.run_id, rows[-1].seq if rows else summary.first_seq - 1, limit=PAGE_EVENTS)
            rows.extend(page)
            if len(page) < PAGE_EVENTS or len(rows) >= room:
                break
        events[summary.run_id] = rows[:room]
        room -= len(events[summary.run_id])
    return OwnRuns(summaries=tuple(summaries), events=events, left_out=tuple(left_out))


def reading_of(own: OwnRuns) -> Reading:
    """The runs as a reading, one socket a run, cited by seq. Pure; up to `EVENTS_MAX` events are decoded."""
    return collect("your own runs", Source.LOG, _messages(own))


def _messages(own: OwnRuns) -> Iterator[Message]:
    for socket, rows in enumerate(own.events.values(), start=1):
        for row in rows:
            yield Message(line=row.seq, body=row.body, socket=socket, sent=False)


def started_at(summary: RunSummary) -> str:
    """When the run started, to the second."""
    return datetime.fromtimestamp(summary.started_unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def seconds_taken(summary: RunSummary) -> float | None:
    """How long the run took, if it has ended."""
    if summary.ended_unix_ns is None:
        return None
    return (summary.ended_unix_ns - summary.started_unix_ns) / 1e9
