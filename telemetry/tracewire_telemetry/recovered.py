"""What is left of a run after a crash: its trace and its stamps, made from what is durable of it.

Enters: a run that has ended and was never settled, as the event log holds it. Leaves: stamps for the log, all of them
unknown; then its trace (root, tools, `create` and `process` of every event), marked `tracewire.recovered`.

**Nothing leaves twice.** The spans of an open run are held in the process, so a crash takes them with it. A run's
stamps are durable before its spans leave, here as in the watch: a run with stamps was handed to the exporter, whatever
became of it, and is not handed over again; one without never was. A crash in the moment between the two costs the
trace, which is the harmless side: lost telemetry leaves no span, and looks like no loss of an event.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from msgspec import Struct

from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.ledger import RunIdentity, RunLedger
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.origins import Origins
from tracewire_telemetry.spans import SPANS_PER_TURN, RunSpans, RunTracing, ToolSpan
from tracewire_telemetry.stamps import encode_stamps, unknown_stamps
from tracewire_telemetry.vocabulary import EventType, Outcome, ToolStatus, Verdict

QUEUE_PAUSE_SECONDS: Final = 0.05
"""How often the export queue is looked at while it is half full: a crash may have left more runs than it holds."""


class DurableEvent(Struct, frozen=True):
    """One event as the log holds it; `unix_ns` is its envelope's time. The rest goes with the tool events."""

    event_type: EventType
    unix_ns: int
    tool_call_id: str = ""
    tool_name: str = ""
    status: ToolStatus | None = None


class DurableRun(Struct, frozen=True):
    """An ended run as the log holds it: its events from seq 1 on, and how far its user has acked it."""

    identity: RunIdentity
    started_unix_ns: int
    ended_unix_ns: int
    outcome: Outcome
    acked_seq: int
    events: Sequence[DurableEvent]


class RunRecovery:
    """Settles runs whose ledgers a crash took."""

    def __init__(
        self, metrics: Metrics, tracing: RunTracing, queue: TraceQueue | None, origins: Origins | None = None
    ) -> None:
        self.origins = origins or Origins()
        self._metrics = metrics
        self._tracing = tracing
        self._queue = queue

    async def settle(self, run: DurableRun, store: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Keep the run's stamps, then count its verdicts and hand its trace over. What `store` raises is let out, and
        then nothing else was done.

        What nobody had acked is `no_socket`. When an acked event was acked is not known: it is given no verdict.
        """
        ledger = _ledger_of(run)
        await store(run.identity.run_id, encode_stamps(unknown_stamps(ledger)))
        self._metrics.delivered(_verdicts(run), run.identity.origin)
        spans = self._tracing.open(ledger, (), recovered=True)
        for _ in chain(_trace_tools(spans, run, ledger), spans.build()):
            await asyncio.sleep(0)
        trace = spans.finish()
        if trace and self._queue is not None:
            self._queue.offer(trace)

    async def wait_for_room(self) -> None:
        """Wait until the export queue is at most half full."""
        while self._queue is not None and self._queue.half_full:  # noqa: ASYNC110 # a thread empties it
            await asyncio.sleep(QUEUE_PAUSE_SECONDS)


def _ledger_of(run: DurableRun) -> RunLedger:
    """A ledger on the wall clock: each event crossed engine, bridge and emitter at its envelope's time."""
    start = run.started_unix_ns
    ledger = RunLedger(run.identity, LinkDeadlines(), now=start, unix_ns=start)
    latest = start
    for event in run.events:
        at = max(start, event.unix_ns)  # a stepped clock must not put an event before its run
        seq = ledger.sequenced(ledger.emitted(event.event_type, at), at)
        ledger.committed(seq, at)
        latest = max(latest, at)
    ledger.acked = min(run.acked_seq, ledger.last_seq)
    # Past `ended`, which would find required types missing: what a run owed was said when it ended.
    ledger.outcome, ledger.ended_ns = run.outcome, max(latest, run.ended_unix_ns)
    ledger.settled_ns = ledger.ended_ns
    return ledger


def _trace_tools(spans: RunSpans, run: DurableRun, ledger: RunLedger) -> Iterator[None]:
    """The spans of the run's tool calls, a turn of the event loop's worth at a time."""
    open_tools: dict[str, tuple[ToolSpan, int]] = {}
    for seq, event in enumerate(run.events, start=1):
        at = ledger.engine[seq - 1]
        if event.event_type is EventType.TOOL_EXECUTING:
            open_tools[event.tool_call_id] = spans.start_tool(seq, event.tool_name, event.tool_call_id), at
        elif event.event_type is EventType.TOOL_COMPLETED and event.tool_call_id in open_tools:
            tool, began = open_tools.pop(event.tool_call_id)
            tool.end(event.status or ToolStatus.CANCELLED, max(began, at))
        if not seq % SPANS_PER_TURN:
            yield


def _verdicts(run: DurableRun) -> Counter[tuple[EventType, Verdict]]:
    return Counter(
        (event.event_type, Verdict.NO_SOCKET)
        for event in run.events[run.acked_seq :]
        if event.event_type is not EventType.AGENT_DELTA
    )
