"""Retention: what has expired leaves the log in the background, a little at a time.

Enters: the log, the recordings, and how much of them is to be kept. Leaves: runs that ended too long ago, or first
where the log is too large, whole; of a run with too many events, the oldest. Open runs are never removed. Next: nobody;
who asks for what is gone is told that it has expired.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from tracewire.errors import EventLogError
from tracewire.eventlog import EventLog, Removed, RunSummary, StoredEvent
from tracewire.runs.digest import apply_events, digest_of, restore_contract
from tracewire.runs.recordings import RecordingStore
from tracewire.settings import Settings
from tracewire_telemetry import catalog
from tracewire_telemetry.metrics import Metrics

BATCH_RUNS: Final = 32
BATCH_EVENTS: Final = 128
BATCH_BYTES: Final = 256 * 1024
"""What one commit removes, at most: it is in the way of the events that are committed with it and right after it."""
PAUSE_SHARE: Final = 3.0
"""Pause after a batch, in times of what the batch took: retention has a quarter of the log at most."""
PAUSE_SHARE_URGENT: Final = 0.5
"""The same while the log is a tenth over its bound: whoever fills it faster than it is emptied fills the disk."""
PAUSE_SECONDS_MIN: Final = 0.002
LOOKED_AT_MAX: Final = 256
NANOSECONDS_PER_HOUR: Final = 3_600_000_000_000
T = TypeVar("T")
_ALL_TIME: Final = 2**63 - 1
_log = structlog.get_logger("tracewire.retention")


class Swept(Struct):
    """What one sweep removed: by age, by size, from runs that were too long, and of recordings."""

    runs_by_age: int = 0
    runs_by_size: int = 0
    events: int = 0
    recordings: int = 0

    def __bool__(self) -> bool:
        return bool(self.runs_by_age or self.runs_by_size or self.events or self.recordings)


class Retention:
    """Sweeps the log every `retention_sweep_seconds`.

    Args:
        settings: how much is kept, and how often that is looked at.
        log: open.
        recordings: of all users.
        metrics: of the server.
        watched: whether a run's delivery is still being looked at; such a run is not removed yet.
        threads: where recordings are looked through.
        unix_ns: the clock.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        recordings: RecordingStore,
        metrics: Metrics,
        *,
        watched: Callable[[str], bool],
        threads: Executor,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._recordings = recordings
        self._metrics = metrics
        self._settings = settings
        self._watched = watched
        self._threads = threads
        self._unix_ns = unix_ns
        self.bytes_used = 0
        """What the log used on disk at the end of the last sweep."""
        self._over_bound = False
        self._task: asyncio.Task[None] | None = None
        metrics.gauge(catalog.EVENTLOG_USED_BYTES, lambda: self.bytes_used)

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._sweep_forever())

    async def stop(self) -> None:
        """Sweep no more; a batch that is under way is committed or not, as any other write."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep_forever(self) -> None:
        interval_seconds = self._settings.retention_sweep_seconds
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.sweep()
            except (EventLogError, OSError) as error:
                _log.warning("retention_failed", error=str(error), retry_seconds=interval_seconds)
            except Exception:  # noqa: BLE001 # a row that cannot be read must not end retention for all others
                _log.exception("retention_failed", retry_seconds=interval_seconds)

    async def sweep(self) -> Swept:
        """Remove all that has expired by now.

        Raises:
            EventLogError: the log takes no writes; what was removed before is gone.
            OSError: a recording cannot be removed.
        """
        swept = Swept()
        try:
            await self._remove_aged(swept)
            await self._remove_oversize(swept)
            for run in await self._log.long_runs(events_max=self._settings.run_events_max, limit=LOOKED_AT_MAX):
                await self._shorten(run, swept)
            swept.recordings = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._recordings.remove_unused, self._expired_unix_ns / 1e9
            )
            self.bytes_used = await self._log.bytes_used()
        finally:
            if swept:
                self._metrics.expired(swept.runs_by_age, swept.runs_by_size, swept.events)
                _log.info(
                    "retention_removed",
                    runs_by_age=swept.runs_by_age,
                    runs_by_size=swept.runs_by_size,
                    events=swept.events,
                    recordings=swept.recordings,
                )
        return swept

    async def _remove_aged(self, swept: Swept) -> None:
        before_unix_ns = self._expired_unix_ns
        while expired := await self._ended(before_unix_ns):
            removed = await self._batch(expired)
            swept.runs_by_age += removed.runs
            swept.events += removed.events
            if not removed.events:
                return  # the next sweep tries again

    async def _remove_oversize(self, swept: Swept) -> None:
        bound = self._settings.retention_bytes
        while bound and (used := await self._log.bytes_used()) > bound:
            ended = await self._ended(_ALL_TIME)
            if not ended:
                if not self._over_bound:
                    _log.warning("retention_over_bound", bytes_used=used, bytes_max=bound, why="no run has ended")
                self._over_bound = True
                return
            # One at a time, so that nobody loses more than the bound asks for.
            removed = await self._batch(ended[:1], urgent=used > 1.1 * bound)
            swept.runs_by_size += removed.runs
            swept.events += removed.events
            if not removed.events:
                return
        self._over_bound = False

    @property
    def _expired_unix_ns(self) -> int:
        return self._unix_ns() - int(self._settings.retention_hours * NANOSECONDS_PER_HOUR)

    async def _ended(self, before_unix_ns: int) -> Sequence[str]:
        ended = await self._log.ended_runs(before_unix_ns=before_unix_ns, limit=LOOKED_AT_MAX)
        return [run_id for run_id in ended if not self._watched(run_id)][:BATCH_RUNS]

    async def _batch(self, run_ids: Sequence[str], *, urgent: bool = False) -> Removed:
        share = PAUSE_SHARE_URGENT if urgent else PAUSE_SHARE
        return await _paced(self._log.remove(run_ids, events_max=BATCH_EVENTS, bytes_max=BATCH_BYTES), share)

    async def _shorten(self, run: RunSummary, swept: Swept) -> None:
        """Drop the oldest events of one run; what they were is kept in its digest."""
        first_seq, kept_from = run.first_seq, run.last_seq - self._settings.run_events_max + 1
        digest = await self._log.digest(run.run_id)
        contract = restore_contract(digest.body if digest is not None else None)
        while first_seq < kept_from:
            limit = min(BATCH_EVENTS, kept_from - first_seq)
            page = await self._log.replay(run.run_id, first_seq - 1, limit=limit)
            if not page:
                return  # the run was removed meanwhile
            for batch in _batches(page):
                apply_events(contract, batch)
                first_seq = batch[-1].seq + 1
                await _paced(self._log.trim(run.run_id, first_seq, digest_of(contract)))
                swept.events += len(batch)


async def _paced(write: Awaitable[T], share: float = PAUSE_SHARE) -> T:
    """Wait for a write, then leave the log to others for a while."""
    began = time.monotonic()
    result = await write
    await asyncio.sleep(max(PAUSE_SECONDS_MIN, share * (time.monotonic() - began)))
    return result


def _batches(events: Sequence[StoredEvent]) -> Iterator[Sequence[StoredEvent]]:
    """The events in batches of `BATCH_BYTES` at most; one that is larger is a batch alone."""
    start = size = 0
    for index, event in enumerate(events):
        if index > start and size + len(event.body) > BATCH_BYTES:
            yield events[start:index]
            start, size = index, 0
        size += len(event.body)
    yield events[start:]
