"""The ledger's clock: knows every open run, declares what is overdue, and settles what is done.

Enters: runs as they are accepted, acks, ends, sockets that come and go. Leaves: missing events (counted and logged),
and of each settled run its metrics, its spans and its stamps, once.
"""

import asyncio
import contextlib
import heapq
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from opentelemetry.trace import SpanContext

from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.ledger import NS_PER_SECOND, LinkDeadlines, Missing, RunIdentity, RunLedger
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunSpans, RunTracing
from tracewire_telemetry.stamps import encode_stamps, stamps_of
from tracewire_telemetry.vocabulary import EventType, Link, Outcome

TICK_SECONDS: Final = 0.25
_log = structlog.get_logger("tracewire.watch")

StampStore = Callable[[str, bytes], Awaitable[None]]
"""Keeps a settled run's stamps: run id, and what `encode_stamps` made of them."""


class OpenRun:
    """One run from its acceptance to its settlement: its ledger, its live spans, and who watches it.

    Links stamp the ledger themselves; what can settle a run goes through here.
    """

    __slots__ = ("_watch", "awaiting_input", "ledger", "owes_end", "spans")

    def __init__(self, watch: "Watch", ledger: RunLedger, spans: RunSpans) -> None:
        self._watch = watch
        self.ledger = ledger
        self.spans = spans
        self.awaiting_input = False
        self.owes_end = False

    def attached(self, *, acking: bool, reader: bool = False, after_seq: int = 0) -> int:
        """A socket follows the run from after this seq on; the ordinal that names it in the ledger."""
        return self.ledger.attached(time.monotonic_ns(), acking=acking, reader=reader, after_seq=after_seq)

    def detached(self, socket: int) -> None:
        """The socket follows the run no more."""
        self.ledger.detached(socket)
        self._watch.consider(self)

    def acknowledged(self, socket: int, seq: int) -> int:
        """A client has processed 1..`seq`; how many events that settles."""
        fresh = self.ledger.acknowledged(socket, seq, time.monotonic_ns())
        if self.ledger.ended_ns:
            self._watch.consider(self)
        return fresh

    def ended(self, outcome: Outcome, *, durable: bool = True) -> None:
        """The run has its terminal event. Not durable: it could not be logged yet, and is owed to who follows; the run
        is settled when it was (`ended_past_stations`).
        """
        self.owes_end = not durable
        self.ledger.ended(outcome, time.monotonic_ns())
        self._watch.run_ended(self)

    def logged_past_stations(self, first_seq: int, event_types: Sequence[EventType]) -> None:
        """The log has taken these last events of the run, from this seq on, past the stations that should have."""
        ledger, now = self.ledger, time.monotonic_ns()
        if first_seq != ledger.last_seq + 1:
            return  # the stations lost count: what they stamped stays as it is
        for event_type in event_types:
            ledger.committed(ledger.sequenced(ledger.emitted(event_type, now), now), now)

    def ended_past_stations(self, outcome: Outcome) -> None:
        """The run's terminal event is in the log, past its stations, or never will be as far as this process goes."""
        self.owes_end = False
        if not self.ledger.ended_ns:
            self.ended(outcome)
            return
        self.ledger.ended_ns = max(self.ledger.ended_ns, *self.ledger.bridge[-1:])
        self._watch.consider(self)


class Watch:
    """Watches the open runs of one server. `start` it in the loop in which its runs live."""

    def __init__(
        self,
        metrics: Metrics,
        tracing: RunTracing,
        queue: TraceQueue | None,
        *,
        deadlines: LinkDeadlines,
    ) -> None:
        self.runs: dict[str, OpenRun] = {}
        self.settling: dict[str, OpenRun] = {}
        """Settled runs whose stamps are not stored yet."""
        self.last_tick_unix_seconds = 0.0
        self.loop_lag_seconds = 0.0
        self._metrics = metrics
        self._tracing = tracing
        self._queue = queue
        self._deadlines = deadlines
        self._heap: list[tuple[int, str]] = []
        self._settled: deque[OpenRun] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._store: StampStore | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, store: StampStore) -> None:
        """Begin to tick and to settle; `store` keeps the stamps of settled runs."""
        self._store = store
        self._tasks = [asyncio.create_task(self._tick_forever()), asyncio.create_task(self._settle_forever())]

    async def close(self) -> None:
        """Settle what can be settled, then stop."""
        await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def wait_for_acks(self, limit_seconds: float) -> None:
        """Wait until every run is settled, for so long at most: a client may never ack."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await self._none_open.wait()

    def open(self, identity: RunIdentity, links: Sequence[SpanContext], *, now: int, unix_ns: int) -> OpenRun:
        """Watch a run that was asked for at `now` (monotonic) and `unix_ns` (wall clock)."""
        ledger = RunLedger(identity, self._deadlines, now=now, unix_ns=unix_ns)
        run = OpenRun(self, ledger, self._tracing.open(ledger, links))
        self.runs[identity.run_id] = run
        self._none_open.clear()
        heapq.heappush(self._heap, (now + NS_PER_SECOND, identity.run_id))
        return run

    def run_ended(self, run: OpenRun) -> None:
        """Count a run's end, and settle it if nothing is left to wait for."""
        ledger = run.ledger
        outcome = ledger.outcome or Outcome.WORKER_LOST
        self._metrics.run_ended(ledger.identity.agent, outcome, (ledger.ended_ns - ledger.opened_ns) / 1e9)
        for missing in ledger.missing:
            if missing.link is Link.ENGINE:
                self._report(run, missing)
        self.consider(run)

    def consider(self, run: OpenRun) -> None:
        """Settle the run if it is done."""
        ledger = run.ledger
        if ledger.settled_ns or run.owes_end or not ledger.settled:
            return
        ledger.settled_ns = time.monotonic_ns()
        self.runs.pop(ledger.identity.run_id, None)
        if not self.runs:
            self._none_open.set()
        self.settling[ledger.identity.run_id] = run
        self._settled.append(run)
        self._idle.clear()
        self._wake.set()

    def tick(self, now: int) -> None:
        """Declare what is overdue at `now`, monotonic nanoseconds."""
        while self._heap and self._heap[0][0] <= now:
            _, run_id = heapq.heappop(self._heap)
            run = self.runs.get(run_id)
            if run is None:
                continue
            for missing in run.ledger.overdue(now):
                self._report(run, missing)
            self.consider(run)
            # Whatever is stamped after this look is due a second later at the earliest: the shortest deadline.
            due = run.ledger.next_deadline_ns()
            soon = now + int(min(1.0, self._deadlines.bridge_seconds) * NS_PER_SECOND)
            heapq.heappush(self._heap, (soon if due is None else max(now + 1, min(due, soon)), run_id))

    def flush_open_runs(self) -> None:
        """Bring the metrics up to date with the runs that are open; called at every scrape."""
        for run in self.runs.values():
            self._metrics.flush(run.ledger)

    @property
    def events_open(self) -> int:
        """Events of runs that are not settled."""
        return sum(run.ledger.last_seq for run in self.runs.values())

    @property
    def open_count(self) -> int:
        """Runs without a terminal event."""
        return sum(1 for run in self.runs.values() if not run.ledger.ended_ns)

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest open run that awaits no input; 0 where there is none."""
        now = time.monotonic_ns()
        ages = (
            now - run.ledger.opened_ns
            for run in self.runs.values()
            if not run.ledger.ended_ns and not run.awaiting_input
        )
        return max(ages, default=0) / NS_PER_SECOND

    def _report(self, run: OpenRun, missing: Missing) -> None:
        identity = run.ledger.identity
        self._metrics.event_missing(missing)
        _log.warning(
            "event_missing",
            user_id=identity.user_id,
            run_id=identity.run_id,
            trace_id=f"{identity.trace_id:032x}",
            event_type=missing.event_type.value,
            seq=missing.seq,
            link=missing.link.value,
        )

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.loop_lag_seconds = max(0.0, loop.time() - due)
            self.last_tick_unix_seconds = time.time()
            self.tick(time.monotonic_ns())

    async def _settle_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._settled:
                run = self._settled.popleft()
                try:
                    await self._settle(run)
                except Exception:  # noqa: BLE001 # one run that cannot be settled must not keep all others from it
                    _log.exception("run_not_settled", run_id=run.ledger.identity.run_id)
                finally:
                    self.settling.pop(run.ledger.identity.run_id, None)
                await asyncio.sleep(0)
            self._idle.set()

    async def _settle(self, run: OpenRun) -> None:
        ledger = run.ledger
        identity = ledger.identity
        self._metrics.flush(ledger)
        self._metrics.settled(ledger)
        for _ in run.spans.build():
            await asyncio.sleep(0)
        spans = run.spans.finish()
        # Stamps first: after a crash, a run that has them is taken to have left, and does not leave again.
        try:
            if self._store is not None:
                await self._store(identity.run_id, encode_stamps(stamps_of(ledger)))
        except Exception as error:  # noqa: BLE001 # the log may be gone: the run is settled all the same, and this is said
            _log.error("stamps_not_stored", run_id=identity.run_id, error=str(error))
        if spans and self._queue is not None:
            self._queue.offer(spans)
        _log.info(
            "run_settled",
            user_id=identity.user_id,
            run_id=identity.run_id,
            trace_id=f"{identity.trace_id:032x}",
            agent=identity.agent,
            outcome=ledger.outcome,
            events=ledger.last_seq,
            pending=ledger.pending,
            missing=len(ledger.missing),
        )
