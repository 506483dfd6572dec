"""The event log: what makes an event durable before any client sees it.

Enters: a run's record, then encoded envelopes in the order of their seq. Leaves: the same bytes, replayed.
Next: nobody; the emitter waits here for the commit. `EventLog` is the port; `sqlite` the embedded default.
One conformance suite (`tests/integration/test_eventlog_conformance.py`) runs against every implementation.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import IncidentState, Link, Outcome


class RunRecord(Struct, frozen=True):
    """What is durable of a run before `run_accepted` is sent.

    `input` is any JSON value. `trace_id` (128 bits) and `root_span_id` (64 bits) are lower-case hex.
    `started_unix_ns` is wall-clock time. `sampled` is whether the share of good runs keeps its trace.
    """

    run_id: str
    user_id: str
    request_id: str
    thread_id: str
    agent: str
    input: Any
    trace_id: str
    root_span_id: str
    started_unix_ns: int
    sampled: bool = True


class RunSummary(Struct, frozen=True):
    """A run as the log knows it now. `outcome` is `None` while it is open; `acked_seq` is the user's, by any device.

    `first_seq` is the oldest event that is kept: above 1 where older ones have expired.
    """

    run_id: str
    user_id: str
    request_id: str
    thread_id: str
    agent: str
    trace_id: str
    root_span_id: str
    started_unix_ns: int
    last_seq: int
    acked_seq: int
    outcome: Outcome | None = None
    ended_unix_ns: int | None = None
    first_seq: int = 1

    @property
    def open(self) -> bool:
        """Whether the run has no terminal event yet."""
        return self.outcome is None


class Accepted(Struct, frozen=True):
    """The answer to `accept`: the run's record, and whether this call made it or an earlier one did."""

    record: RunRecord
    created: bool


class StoredEvent(Struct, frozen=True):
    """One row of the log: `body` is the envelope exactly as it was appended."""

    seq: int
    body: bytes


class Turn(Struct, frozen=True):
    """An earlier, completed run of a thread: what was asked and what came of it."""

    run_id: str
    input: Any
    output: Any


class Digest(Struct, frozen=True):
    """What `trim` kept of the events before `first_seq`: `body` is opaque to the log."""

    first_seq: int
    body: bytes


class Removed(Struct, frozen=True):
    """What one `remove` took out. `events` counts those of runs that are not gone whole yet, too."""

    runs: int
    events: int


class IncidentQuery(Struct, frozen=True):
    """Which incidents to read, `limit` at most; what is `None` does not matter.

    `before_id` is the incident after which a page goes on; `since_unix_ns` leaves out those that were opened earlier.
    """

    limit: int
    before_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    link: Link | None = None
    event_type: str | None = None
    state: IncidentState | None = None
    since_unix_ns: int | None = None


class EventLog(Protocol):
    """Durable, ordered events of runs. Safe to call from one event loop; every method may raise
    `LogUnavailableError`, and whatever raises has written nothing.
    """

    async def open(self) -> None:
        """Take hold of the storage.

        Raises:
            SchemaError: what is there is no log, is damaged, or comes from a newer version.
            LogUnavailableError: it cannot be read or written.
        """

    async def close(self) -> None:
        """Commit what was handed over, then let go. Idempotent. Later calls raise `LogUnavailableError`."""

    async def accept(self, record: RunRecord) -> Accepted:
        """Make a run's record durable, once for each (user, request id).

        The same request again (same agent and input) answers with the record that is there.

        Raises:
            RequestIdReusedError: the id stands for a run with another agent or input.
        """

    def append(
        self,
        run_id: str,
        seq: int,
        body: bytes,
        *,
        outcome: Outcome | None = None,
        on_durable: Callable[[], object] | None = None,
    ) -> "asyncio.Future[None]":
        """Append one event; it is durable when the future is done. `outcome` is given with the terminal event alone.

        `on_durable` is called in the event loop once the event is durable, before anybody who waits for the future
        goes on, and whoever was cancelled meanwhile; what it raises, the future tells.

        Cancelling the future or who awaits it does not take the event back: a cancelled awaiter gets its
        `CancelledError` once the outcome is known, and the future tells that outcome.

        Raises (the future):
            SequenceError: `seq` is not the run's next, or the run is unknown or has ended. No seq is consumed.
            LogUnavailableError: it could not be committed. No seq is consumed.
            EventLogError: the storage refuses this very body; it fails alone. No seq is consumed.
        """

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """The run's events with a seq above `after_seq`, in order, `limit` at most; empty where there are none.

        Raises:
            EventsExpiredError: the first of them are no longer kept.
        """

    async def run(self, run_id: str) -> RunSummary | None:
        """The run, or `None` where the log holds none of that id."""

    async def record(self, run_id: str) -> RunRecord | None:
        """The run's record as it was accepted, or `None`."""

    async def run_of_request(self, user_id: str, request_id: str) -> RunSummary | None:
        """The run that this user's request id stands for, or `None`."""

    async def runs(self, user_id: str, *, limit: int, before_run_id: str | None = None) -> Sequence[RunSummary]:
        """The user's runs, newest first (ids are UUIDv7), those older than `before_run_id` where it is given."""

    async def unfinished(self, user_id: str, *, limit: int) -> Sequence[RunSummary]:
        """The user's open runs, and ended ones not acked to their end, newest first."""

    async def open_runs(self) -> Sequence[RunSummary]:
        """Every run of every user that has no terminal event."""

    async def unsettled_runs(self) -> Sequence[RunSummary]:
        """Every run of every user that has ended and has no stamps, oldest first. It may look at all runs."""

    async def turns(self, user_id: str, thread_id: str, *, limit: int) -> Sequence[Turn]:
        """The newest `limit` completed runs of a user's thread, oldest first."""

    def ack(self, run_id: str, seq: int) -> None:
        """Note that the user has processed 1..`seq`. Never moves back; durable with the next commit, or soon."""

    async def store_stamps(self, run_id: str, stamps: bytes) -> None:
        """Keep a settled run's stamps (JSON, opaque to the log). A second call for a run replaces the first.

        Raises:
            UnknownRunError: no such run was accepted.
        """

    async def stamps(self, run_id: str) -> bytes | None:
        """What `store_stamps` kept of the run, or `None`."""

    # Retention. A run loses its oldest events first, and its record with the last of them.

    async def ended_runs(self, *, before_unix_ns: int, limit: int) -> Sequence[str]:
        """The ids of runs that ended before this time, those that ended first coming first."""

    async def long_runs(self, *, events_max: int, limit: int) -> Sequence[RunSummary]:
        """Runs of which more than `events_max` events are kept, open ones too. `events_max` is 100 at least."""

    async def trim(self, run_id: str, first_seq: int, digest: bytes) -> None:
        """Drop the run's events before `first_seq`, and keep `digest` in place of all that were ever dropped.

        Raises:
            SequenceError: the run has no event `first_seq`: its newest event is never dropped.
        """

    async def digest(self, run_id: str) -> Digest | None:
        """What the last `trim` of the run kept; `None` where there was none."""

    async def remove(self, run_ids: Sequence[str], *, events_max: int, bytes_max: int) -> Removed:
        """Remove ended runs, in this order, until that many events or bytes are gone: call it again for the rest.

        Open runs and unknown ones are passed over.
        """

    async def bytes_used(self) -> int:
        """What the log would take on disk without the room that was freed and is used again."""

    # Incidents.

    async def store_incidents(self, incidents: Sequence[Incident]) -> None:
        """Keep these as they are now, by their id; all of them or, where it raises, none."""

    async def incidents(self, query: IncidentQuery) -> Sequence[Incident]:
        """The incidents that the query asks for, newest first."""

    async def health(self) -> str | None:
        """`None` while the log takes writes; otherwise one sentence saying why it does not."""

    @property
    def oldest_uncommitted_seconds(self) -> float:
        """Age of the oldest write that was handed over and is not committed; 0 where there is none."""

    @property
    def bytes_on_disk(self) -> int:
        """What the log takes on disk, in bytes."""
