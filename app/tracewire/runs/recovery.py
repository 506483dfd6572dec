"""What a crash left open is closed: at the next start, or at once where one run's chain broke under it.

No client waits for a run that nobody runs any more.
"""

from typing import Final

import structlog

from tracewire.bridge.contract import RunContract
from tracewire.delivery.connections import Connections
from tracewire.delivery.replay import catch_up
from tracewire.errors import EventLogError
from tracewire.eventlog import EventLog, RunSummary
from tracewire.events import (
    AgentError,
    Envelope,
    Event,
    Receipt,
    Timestamps,
    ToolCompleted,
    decode_envelope,
    encode_envelope,
)
from tracewire_telemetry.chain import envelope_traceparents
from tracewire_telemetry.ledger import RunIdentity
from tracewire_telemetry.vocabulary import EventType, Outcome, RunErrorCode, ToolStatus
from tracewire_telemetry.watch import OpenRun

MESSAGE: Final = "the server stopped while the run was open; start it again"
PAGE_EVENTS: Final = 500
_log = structlog.get_logger("tracewire.recovery")


async def close_lost_runs(log: EventLog) -> int:
    """End every run without a terminal event with `agent_error{worker_lost}`, its open tools closed; how many.

    Raises:
        LogUnavailableError: the log cannot be read or written.
    """
    lost = await log.open_runs()
    for run in lost:
        await _close(log, run, MESSAGE)
        _log.warning("run_lost_at_start", user_id=run.user_id, run_id=run.run_id, trace_id=run.trace_id)
    return len(lost)


async def close_crashed_run(
    log: EventLog, connections: Connections, user_id: str, run_id: str, watched: OpenRun | None, why: str
) -> None:
    """End a run whose stations could not end it themselves with `agent_error{worker_lost}`, past them all: straight
    into the log, and from there to the sockets that follow it.
    """
    try:
        run = await log.run(run_id)
        if run is None or not run.open:
            return
        await _close(log, run, why)
        if watched is not None and not watched.ledger.ended_ns:
            watched.ended(Outcome.WORKER_LOST)
        for connection in connections.of(user_id):
            followed = connection.follows.get(run_id)
            if followed is not None:
                again = connection.follow(run_id, None, next_seq=followed.next_seq, live=False)
                await catch_up(connection, log, run_id, again)
    except EventLogError as error:
        _log.error("run_not_closed", user_id=user_id, run_id=run_id, error=str(error))


async def _close(log: EventLog, run: RunSummary, message: str) -> None:
    contract, last_seq = await _read(log, run)
    identity = RunIdentity(
        run.run_id, run.user_id, run.thread_id, run.agent, int(run.trace_id, 16), int(run.root_span_id, 16)
    )

    timestamps, traceparent = Timestamps(), envelope_traceparents(identity)

    async def append(event: Event, outcome: Outcome | None = None) -> None:
        nonlocal last_seq
        last_seq += 1
        envelope = Envelope(event.type, run.run_id, last_seq, timestamps.now(), run.agent, traceparent(last_seq), event)
        await log.append(run.run_id, last_seq, encode_envelope(envelope), outcome=outcome)

    for tool_call_id, tool_name in list(contract.open_tools.items()):
        await append(ToolCompleted(tool_call_id, tool_name, ToolStatus.CANCELLED, None, 0.0, error=message))
        contract.apply(EventType.TOOL_COMPLETED, tool_call_id)
    receipt = Receipt(last_seq + 1, contract.receipt_counts(EventType.AGENT_ERROR))
    await append(AgentError(RunErrorCode.WORKER_LOST, message, True, receipt), Outcome.WORKER_LOST)


async def _read(log: EventLog, run: RunSummary) -> tuple[RunContract, int]:
    """The contract as the run's durable events left it, and the newest seq."""
    contract, last_seq = RunContract(), 0
    while events := await log.replay(run.run_id, last_seq, limit=PAGE_EVENTS):
        for stored in events:
            envelope = decode_envelope(stored.body)
            contract.apply(envelope.type, envelope.data.get("tool_call_id"), envelope.data.get("tool_name", ""))
            last_seq = stored.seq
    return contract, last_seq
