"""What becomes of a run that is settled: once, its metrics, its spans and its stamps; then it is forgotten.

Enters: settled runs, from the watch. Leaves: verdicts and exemplars, a whole trace to the exporter's queue, the stamps
to the event log.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import structlog
from opentelemetry.sdk.trace import ReadableSpan

from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX
from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunSpans
from tracewire_telemetry.stamps import encode_stamps, stamps_of
from tracewire_telemetry.verdicts import stamps_lost

SETTLED_AT_ONCE_MAX: Final = 32
"""Runs whose stamps wait for one commit; fewer where their spans are many, which are held meanwhile."""
_log = structlog.get_logger("tracewire.watch")

StampStore = Callable[[str, bytes], Awaitable[None]]
"""Keeps a settled run's stamps: run id, and what `encode_stamps` made of them."""


class SettledRun(Protocol):
    """A run as it is settled."""

    ledger: RunLedger
    spans: RunSpans


class Settling:
    """Settles runs, in the order added, in a task of its own with turns of the event loop between them."""

    def __init__(self, metrics: Metrics, queue: TraceQueue | None) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self.runs: dict[str, SettledRun] = {}
        """Settled runs whose stamps are not stored yet."""
        self._metrics = metrics
        self._queue = queue
        self._waiting: deque[SettledRun] = deque()
        self._wake = asyncio.Event()

    def add(self, run: SettledRun) -> None:
        """Settle this run soon; `idle` is set when all are done."""
        self.runs[run.ledger.identity.run_id] = run
        self._waiting.append(run)
        self.idle.clear()
        self._wake.set()

    async def settle_forever(self, store: StampStore) -> None:
        """Settle what was added, and what will be."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._settle_group(store)
            self.idle.set()

    async def _settle_group(self, store: StampStore) -> None:
        """Settle some runs whose stamps are stored together: a commit each would hold up thousands that end at once."""
        group: list[_Prepared] = []
        spans = 0
        while self._waiting and len(group) < SETTLED_AT_ONCE_MAX and spans < SPANS_PER_RUN_MAX:
            run = self._waiting.popleft()
            try:
                prepared = await self._prepare(run)
            except Exception:  # noqa: BLE001 # one run that cannot be settled must not keep all others from it
                self._give_up(run)
            else:
                group.append(prepared)
                spans += len(prepared.spans)
            await asyncio.sleep(0)
        # Stamps first: after a crash, a run that has them is taken to have left, and does not leave again.
        await asyncio.gather(*(self._store(prepared, store) for prepared in group))
        for prepared in group:
            try:
                self._leave(prepared)
            except Exception:  # noqa: BLE001 # as above
                self._give_up(prepared.run)
            await asyncio.sleep(0)

    async def _prepare(self, run: SettledRun) -> "_Prepared":
        ledger = run.ledger
        self._metrics.flush(ledger)
        self._metrics.settled(ledger)
        self._note_lost_stamps(ledger)
        for _ in run.spans.build():
            await asyncio.sleep(0)
        return _Prepared(run, run.spans.finish(), encode_stamps(stamps_of(ledger)))

    async def _store(self, prepared: "_Prepared", store: StampStore) -> None:
        run_id = prepared.run.ledger.identity.run_id
        try:
            await store(run_id, prepared.stamps)
        except Exception as error:  # noqa: BLE001 # the log may be gone: the run is settled all the same, and this is said
            _log.error("stamps_not_stored", run_id=run_id, error=str(error))
        finally:
            self.runs.pop(run_id, None)

    def _leave(self, prepared: "_Prepared") -> None:
        ledger = prepared.run.ledger
        identity = ledger.identity
        if prepared.spans and self._queue is not None:
            self._queue.offer(prepared.spans)
            self._metrics.trace_kept(ledger)
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

    def _note_lost_stamps(self, ledger: RunLedger) -> None:
        lost = stamps_lost(ledger)
        for link, count in lost.items():
            self._metrics.stamps_lost(link, count)
        if lost:
            _log.warning(
                "stamps_lost",
                user_id=ledger.identity.user_id,
                run_id=ledger.identity.run_id,
                trace_id=f"{ledger.identity.trace_id:032x}",
                links={link.value: count for link, count in lost.items()},
            )

    def _give_up(self, run: SettledRun) -> None:
        _log.exception("run_not_settled", run_id=run.ledger.identity.run_id)
        self.runs.pop(run.ledger.identity.run_id, None)


class _Prepared(NamedTuple):
    """A settled run whose stamps and spans are ready to go."""

    run: SettledRun
    spans: list[ReadableSpan]
    stamps: bytes
