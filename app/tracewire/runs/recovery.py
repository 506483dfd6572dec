"""What a crash left open is closed: at the next start, or at once where one run's chain broke under it.

No client waits for a run that nobody runs any more.
"""

import asyncio
import time
from typing import Final

import structlog

from tracewire.bridge.contract import RunContract
from tracewire.delivery.connection import Connection, Followed
from tracewire.delivery.connections import Connections
from tracewire.delivery.replay import catch_up
from tracewire.errors import EventLogError, EventsExpiredError, LogUnavailableError
from tracewire.eventlog import EventLog, RunSummary
from tracewire.events import (
    AgentError,
    Envelope,
    Event,
    Receipt,
    Timestamps,
    ToolCompleted,
    encode_envelope,
)
from tracewire.runs.digest import apply_events, restore_contract
from tracewire_telemetry.chain import envelope_traceparents
from tracewire_telemetry.ledger import NS_PER_SECOND, RunIdentity
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import CloseCode, EventType, Outcome, RunErrorCode, ToolStatus
from tracewire_telemetry.watch import OpenRun

MESSAGE: Final = "the server stopped while the run was open; start it again"
PAGE_EVENTS: Final = 500
RETRY_SECONDS: Final = 1.0
_log = structlog.get_logger("tracewire.recovery")


async def close_lost_runs(log: EventLog, metrics: Metrics) -> int:
    """End every run without a terminal event with `agent_error{worker_lost}`, its open tools closed; their number.

    One that cannot be ended is named in the log, and does not keep the others from it. Their traces are the work of
    `recovered_traces`.

    Raises:
        LogUnavailableError: the log cannot be read or written.
    """
    lost = await log.open_runs()
    for run in lost:
        try:
            await _close(log, run, RunErrorCode.WORKER_LOST, MESSAGE)
        except LogUnavailableError:
            raise
        except Exception:  # noqa: BLE001 # a row that cannot be read must not keep the server from starting
            _log.exception("run_not_closed", user_id=run.user_id, run_id=run.run_id)
        else:
            seconds = (time.time_ns() - run.started_unix_ns) / NS_PER_SECOND
            metrics.run_ended(run.agent, Outcome.WORKER_LOST, max(0.0, seconds))
            _log.warning("run_lost_at_start", user_id=run.user_id, run_id=run.run_id, trace_id=run.trace_id)
    return len(lost)


async def close_broken_run(
    log: EventLog,
    connections: Connections,
    user_id: str,
    run_id: str,
    watched: OpenRun | None,
    code: RunErrorCode,
    why: str,
) -> None:
    """End a run whose stations could not end it themselves, past them all: straight into the log, as soon as it takes
    writes again, and from there to the sockets that follow it.
    """
    outcome = Outcome(code.value)
    while True:
        try:
            run = await log.run(run_id)
            if run is not None and run.open:
                appended = await _close(log, run, code, why)
                if watched is not None:
                    watched.logged_past_stations(*appended)
            elif watched is None or (watched.ledger.ended_ns and not watched.owes_end):
                return  # it was ended after all, and its sockets have been told
            elif run is not None and run.outcome is not None:
                outcome = run.outcome  # its station crashed behind its terminal event: that is how it ended
            break
        except LogUnavailableError as error:
            _log.warning("run_not_closed_yet", user_id=user_id, run_id=run_id, error=str(error))
            await asyncio.sleep(RETRY_SECONDS)
        except EventLogError as error:
            _log.error("run_not_closed", user_id=user_id, run_id=run_id, error=str(error))
            break
    # Followed anew before the run counts as ended: otherwise it could be settled as one that nobody follows.
    followers = [connection for connection in connections.of(user_id) if run_id in connection.follows]
    rest = [_follow_on(connection, run_id, watched) for connection in followers]
    if watched is not None:
        watched.ended_past_stations(outcome)
    await asyncio.gather(*(_tell(*followed, log, run_id) for followed in zip(followers, rest, strict=True)))


def _follow_on(connection: Connection, run_id: str, watched: OpenRun | None) -> Followed:
    next_seq = connection.follows[run_id].next_seq
    return connection.follow(run_id, watched, next_seq=next_seq, live=False)


async def _tell(connection: Connection, followed: Followed, log: EventLog, run_id: str) -> None:
    """Read the rest of the run from the log to a socket that follows it."""
    try:
        await catch_up(connection, log, run_id, followed)
    except EventLogError as error:
        _log.error("replay_failed", user_id=connection.user_id, run_id=run_id, error=str(error))
        connection.close(CloseCode.RESYNC)


async def _close(log: EventLog, run: RunSummary, code: RunErrorCode, message: str) -> tuple[int, list[EventType]]:
    """Append what ends the run; the seq of the first of these events, and the type of each."""
    contract, last_seq = await _read(log, run)
    record = await log.record(run.run_id)
    identity = RunIdentity(
        run.run_id,
        run.user_id,
        run.thread_id,
        run.agent,
        int(run.trace_id, 16),
        int(run.root_span_id, 16),
        sampled=record is None or record.sampled,
    )
    first_seq, appended = last_seq + 1, list[EventType]()
    timestamps, traceparent = Timestamps(), envelope_traceparents(identity)

    async def append(event: Event, outcome: Outcome | None = None) -> None:
        nonlocal last_seq
        last_seq += 1
        envelope = Envelope(event.type, run.run_id, last_seq, timestamps.now(), run.agent, traceparent(last_seq), event)
        await log.append(run.run_id, last_seq, encode_envelope(envelope), outcome=outcome)
        appended.append(event.type)

    for tool_call_id, tool_name in list(contract.open_tools.items()):
        await append(ToolCompleted(tool_call_id, tool_name, ToolStatus.CANCELLED, None, 0.0, error=message))
        contract.apply(EventType.TOOL_COMPLETED, tool_call_id)
    receipt = Receipt(last_seq + 1, contract.receipt_counts(EventType.AGENT_ERROR))
    await append(AgentError(code, message, True, receipt), Outcome(code.value))
    return first_seq, appended


async def _read(log: EventLog, run: RunSummary) -> tuple[RunContract, int]:
    """The contract as the run's durable events left it, expired ones too, and the newest seq."""
    while True:
        digest = await log.digest(run.run_id)
        contract = restore_contract(digest.body if digest is not None else None)
        last_seq = digest.first_seq - 1 if digest is not None else 0
        try:
            while events := await log.replay(run.run_id, last_seq, limit=PAGE_EVENTS):
                apply_events(contract, events)
                last_seq = events[-1].seq
        except EventsExpiredError:
            continue  # the window has moved meanwhile
        return contract, last_seq
