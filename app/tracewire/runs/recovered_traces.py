"""Traces of runs that ended and were never settled, because the server that ran them was killed: exported at the next
start, in the background.

Enters: the log, once the runs that a crash left open are closed. Leaves: each such run's trace, made from its record
and its events. Next: `tracewire_telemetry.recovered`, which says why nothing leaves twice.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import structlog

from tracewire.errors import EventLogError, LogUnavailableError
from tracewire.eventlog import EventLog, RunSummary
from tracewire.events import ReceivedEnvelope, decode_envelope
from tracewire_telemetry.ledger import NS_PER_SECOND, RunIdentity
from tracewire_telemetry.recovered import DurableEvent, DurableRun, RunRecovery
from tracewire_telemetry.vocabulary import ToolStatus

PAGE_EVENTS: Final = 500
RETRY_SECONDS: Final = 1.0
_log = structlog.get_logger("tracewire.recovery")


class RecoveredTraces:
    """Looks once which runs are unsettled, and settles them one after the other."""

    def __init__(self, log: EventLog, recovery: RunRecovery) -> None:
        self._log = log
        self._recovery = recovery
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the runs, and begin. Call it before any run is accepted: one of this process would be taken for lost.

        Raises:
            LogUnavailableError: the log cannot be read.
        """
        unsettled = await self._log.unsettled_runs()
        if unsettled:
            self._task = asyncio.create_task(self._settle_all(unsettled))

    async def close(self) -> None:
        """Stop after the run that is under way: the next start goes on with the others."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _settle_all(self, runs: Sequence[RunSummary]) -> None:
        for done, run in enumerate(runs):
            await self._wait_for_room()
            while not self._closing.is_set():
                try:
                    await self._settle(run)
                except LogUnavailableError as error:
                    _log.warning("trace_not_recovered_yet", run_id=run.run_id, error=str(error))
                    await self._pause(RETRY_SECONDS)
                    continue
                except (EventLogError, msgspec.DecodeError, ValueError) as error:
                    _log.error("trace_not_recovered", run_id=run.run_id, error=str(error))
                break
            if self._closing.is_set():
                _log.info("traces_left_to_recover", runs=len(runs) - done - 1)
                return
        _log.info("traces_recovered", runs=len(runs))

    async def _settle(self, run: RunSummary) -> None:
        record = await self._log.record(run.run_id)
        if record is None or run.outcome is None:
            return
        identity = RunIdentity(
            run_id=run.run_id,
            user_id=run.user_id,
            thread_id=run.thread_id,
            agent=run.agent,
            trace_id=int(run.trace_id, 16),
            root_span_id=int(run.root_span_id, 16),
            sampled=record.sampled,
            origin=self._recovery.origins.of(run.user_id),
        )
        events: list[DurableEvent] = []
        while page := await self._log.replay(run.run_id, len(events), limit=PAGE_EVENTS):
            if page[0].seq != len(events) + 1:
                raise EventLogError(f"its events begin with seq {page[0].seq}")
            events += [_durable(decode_envelope(stored.body)) for stored in page]
        ended_unix_ns = run.ended_unix_ns or run.started_unix_ns
        await self._recovery.settle(
            DurableRun(identity, run.started_unix_ns, ended_unix_ns, run.outcome, run.acked_seq, events),
            self._log.store_stamps,
        )

    async def _wait_for_room(self) -> None:
        room = asyncio.create_task(self._recovery.wait_for_room())
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait((room, closing), return_when=asyncio.FIRST_COMPLETED)
        for task in (room, closing):
            task.cancel()
        await asyncio.gather(room, closing, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return


def _durable(envelope: ReceivedEnvelope) -> DurableEvent:
    time = datetime.fromisoformat(envelope.time)
    unix_ns = int(time.replace(microsecond=0).timestamp()) * NS_PER_SECOND + time.microsecond * 1000
    data = envelope.data
    status = data.get("status")
    return DurableEvent(
        envelope.type,
        unix_ns,
        tool_call_id=data.get("tool_call_id", ""),
        tool_name=data.get("tool_name", ""),
        status=None if status is None else ToolStatus(status),
    )
