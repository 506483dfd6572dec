"""The event log of a simulated server: the port, in memory, with a disk that outlives the process.

As in `SqliteEventLog` writes are grouped, committed one group after the other, and answered a moment after the commit;
reads see what is committed. A crash keeps what was committed and nothing else, whether it was answered or not.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from tracewire.errors import LogUnavailableError, RequestIdReusedError, SequenceError, UnknownRunError
from tracewire.eventlog import Accepted, Digest, IncidentQuery, Removed, RunRecord, RunSummary, StoredEvent, Turn
from tracewire.eventlog.sqlite_writes import Pending
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import Outcome

ACK_FLUSH_SECONDS = 0.05
COMMIT_SECONDS = (0.0, 0.00001, 0.0001, 0.001, 0.01)
ANSWER_SECONDS = (0.0, 0.00001, 0.0001, 0.002)
READ_SECONDS = (0.0, 0.00001, 0.0001, 0.003)


class StoredRun:
    """One run on the disk."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.bodies: list[bytes] = []
        self.acked = 0
        self.outcome: Outcome | None = None

    def summary(self, acked: int) -> RunSummary:
        """As the port tells it."""
        record, last_seq = self.record, len(self.bodies)
        return RunSummary(
            record.run_id,
            record.user_id,
            record.request_id,
            record.thread_id,
            record.agent,
            record.trace_id,
            record.root_span_id,
            record.started_unix_ns,
            last_seq,
            min(max(self.acked, acked), last_seq),
            self.outcome,
        )


class Disk:
    """What survives a crash. While it is `full` no commit succeeds; each takes `slow_seconds` more."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.requests: dict[tuple[str, str], str] = {}
        self.stamps: dict[str, bytes] = {}
        self.incidents: dict[str, Incident] = {}
        self.slow_seconds = 0.0
        self.full = False
        self.refused = 0
        self.on_ack: Callable[[str, int], None] = lambda _run_id, _seq: None

    def holds(self, run_id: str, seq: int) -> bool:
        """Whether this event is committed."""
        run = self.runs.get(run_id)
        return run is not None and 0 < seq <= len(run.bodies)


Write = Callable[[], Any]


class MemoryLog:
    """The port, for one life of a server."""

    def __init__(self, disk: Disk, random: Random) -> None:
        self._disk = disk
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[asyncio.Future[Any], Write]] = []
        self._writing = False
        self._acks: dict[str, int] = {}
        self._ack_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Nothing is to be taken hold of."""

    async def close(self) -> None:
        """Nothing is held."""

    # Writing.

    def _hand_over(self, future: asyncio.Future[Any], write: Write) -> None:
        self._waiting.append((future, write))
        if not self._writing:
            self._begin_commit()

    def _begin_commit(self) -> None:
        self._writing = True
        self._loop.call_later(self._random.choice(COMMIT_SECONDS) + self._disk.slow_seconds, self._commit)

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        results: list[tuple[asyncio.Future[Any], Any]] = []
        for future, write in group:
            try:
                if self._disk.full:
                    self._disk.refused += 1
                    raise LogUnavailableError("the disk is full")  # it stands for what SQLite raises
                results.append((future, write()))
            except Exception as error:  # noqa: BLE001 # the awaiter gets it
                results.append((future, error))
        self._loop.call_later(self._random.choice(ANSWER_SECONDS), self._answer, results)

    def _answer(self, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # a crash may come before who awaits it is told, which is nobody's mistake
            elif isinstance(future, Pending):
                future.durable()
            else:
                future.set_result(result)
        self._writing = False
        if self._waiting:
            self._begin_commit()

    async def accept(self, record: RunRecord) -> Accepted:
        """As the port says."""
        disk = self._disk

        def write() -> Accepted:
            earlier = disk.requests.get((record.user_id, record.request_id))
            if earlier is not None:
                found = disk.runs[earlier].record
                if (found.agent, found.input) != (record.agent, record.input):
                    raise RequestIdReusedError(record.request_id)
                return Accepted(found, False)
            disk.requests[record.user_id, record.request_id] = record.run_id
            disk.runs[record.run_id] = StoredRun(record)
            return Accepted(record, True)

        future: asyncio.Future[Accepted] = self._loop.create_future()
        self._hand_over(future, write)
        return await future

    def append(
        self,
        run_id: str,
        seq: int,
        body: bytes,
        *,
        outcome: Outcome | None = None,
        on_durable: Callable[[], object] | None = None,
    ) -> "asyncio.Future[None]":
        """As the port says."""
        disk = self._disk

        def write() -> None:
            run = disk.runs.get(run_id)
            if run is None or run.outcome is not None or seq != len(run.bodies) + 1:
                raise SequenceError(f"seq {seq} is not the next of run {run_id}")
            run.bodies.append(body)
            run.outcome = outcome

        future = Pending(on_durable, loop=self._loop)
        self._hand_over(future, write)
        return future

    def ack(self, run_id: str, seq: int) -> None:
        """As the port says."""
        if seq > self._acks.get(run_id, 0):
            self._acks[run_id] = seq
            if self._ack_timer is None:
                self._ack_timer = self._loop.call_later(ACK_FLUSH_SECONDS, self._flush_acks)

    def _flush_acks(self) -> None:
        self._ack_timer = None
        for run_id, seq in list(self._acks.items()):
            future = self._loop.create_future()
            future.add_done_callback(lambda done, run_id=run_id, seq=seq: self._ack_flushed(run_id, seq, done))
            self._hand_over(future, lambda run_id=run_id, seq=seq: self._write_ack(run_id, seq))

    def _write_ack(self, run_id: str, seq: int) -> None:
        self._disk.on_ack(run_id, seq)
        run = self._disk.runs[run_id]
        run.acked = max(run.acked, seq)

    def _ack_flushed(self, run_id: str, seq: int, done: "asyncio.Future[None]") -> None:
        if done.exception() is not None:
            if self._ack_timer is None:
                self._ack_timer = self._loop.call_later(ACK_FLUSH_SECONDS, self._flush_acks)
        elif self._acks.get(run_id) == seq:
            del self._acks[run_id]

    async def store_stamps(self, run_id: str, stamps: bytes) -> None:
        """As the port says."""

        def write() -> None:
            if run_id not in self._disk.runs:
                raise UnknownRunError(run_id)
            self._disk.stamps[run_id] = stamps

        future: asyncio.Future[None] = self._loop.create_future()
        self._hand_over(future, write)
        await future

    async def store_incidents(self, incidents: Sequence[Incident]) -> None:
        """As the port says."""

        def write() -> None:
            self._disk.incidents.update((incident.incident_id, incident) for incident in incidents)

        future: asyncio.Future[None] = self._loop.create_future()
        self._hand_over(future, write)
        await future

    # Reading.

    async def _read(self) -> None:
        await asyncio.sleep(self._random.choice(READ_SECONDS))

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """As the port says."""
        await self._read()
        run = self._disk.runs.get(run_id)
        bodies = run.bodies[after_seq : after_seq + limit] if run is not None else []
        found = [StoredEvent(seq, body) for seq, body in enumerate(bodies, start=after_seq + 1)]
        await self._read()  # the answer's way back: what is committed meanwhile is not in it
        return found

    async def run(self, run_id: str) -> RunSummary | None:
        """As the port says."""
        acked = self._acks.get(run_id, 0)
        await self._read()
        run = self._disk.runs.get(run_id)
        return run.summary(acked) if run is not None else None

    async def record(self, run_id: str) -> RunRecord | None:
        """As the port says."""
        await self._read()
        run = self._disk.runs.get(run_id)
        return run.record if run is not None else None

    async def run_of_request(self, user_id: str, request_id: str) -> RunSummary | None:
        """As the port says."""
        run_id = self._disk.requests.get((user_id, request_id))
        return await self.run(run_id) if run_id is not None else None

    async def _summaries(self) -> list[RunSummary]:
        acks = dict(self._acks)
        await self._read()
        return [run.summary(acks.get(run_id, 0)) for run_id, run in reversed(self._disk.runs.items())]

    async def runs(self, user_id: str, *, limit: int, before_run_id: str | None = None) -> Sequence[RunSummary]:
        """As the port says; nobody asks for the pages here."""
        return [run for run in await self._summaries() if run.user_id == user_id][:limit]

    async def unfinished(self, user_id: str, *, limit: int) -> Sequence[RunSummary]:
        """As the port says."""
        summaries = await self._summaries()
        mine = [run for run in summaries if run.user_id == user_id and (run.open or run.acked_seq < run.last_seq)]
        return mine[:limit]

    async def open_runs(self) -> Sequence[RunSummary]:
        """As the port says."""
        return [run for run in await self._summaries() if run.open]

    async def unsettled_runs(self) -> Sequence[RunSummary]:
        """As the port says."""
        ended = [run for run in await self._summaries() if not run.open and run.run_id not in self._disk.stamps]
        return ended[::-1]

    async def incidents(self, query: IncidentQuery) -> Sequence[Incident]:
        """As the port says, for the one query that is made here: of those in a state, a page after another."""
        await self._read()
        kept = sorted(self._disk.incidents.values(), key=lambda incident: incident.incident_id, reverse=True)
        return [
            replace(incident)
            for incident in kept
            if (query.state is None or incident.state is query.state)
            and (query.before_id is None or incident.incident_id < query.before_id)
        ][: query.limit]

    async def turns(self, user_id: str, thread_id: str, *, limit: int) -> Sequence[Turn]:
        """No agent here looks at earlier turns."""
        return ()

    async def stamps(self, run_id: str) -> bytes | None:
        """As the port says."""
        await self._read()
        return self._disk.stamps.get(run_id)

    # Retention, which does not run here: the schedules are over before anything is old.

    async def ended_runs(self, *, before_unix_ns: int, limit: int) -> Sequence[str]:
        """None is old."""
        return ()

    async def long_runs(self, *, events_max: int, limit: int) -> Sequence[RunSummary]:
        """None is long."""
        return ()

    async def trim(self, run_id: str, first_seq: int, digest: bytes) -> None:
        """Never asked for."""
        raise NotImplementedError

    async def digest(self, run_id: str) -> Digest | None:
        """Nothing was trimmed."""
        await self._read()
        return None

    async def remove(self, run_ids: Sequence[str], *, events_max: int, bytes_max: int) -> Removed:
        """Never asked for."""
        raise NotImplementedError

    async def bytes_used(self) -> int:
        """Nobody looks at it here."""
        return 0

    async def health(self) -> str | None:
        """As the port says."""
        return "the disk is full" if self._disk.full else None

    @property
    def oldest_uncommitted_seconds(self) -> float:
        """Nobody looks at it here."""
        return 0.0

    @property
    def bytes_on_disk(self) -> int:
        """Nobody looks at it here."""
        return len(msgspec.json.encode(list(self._disk.stamps)))
