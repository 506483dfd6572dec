"""Station two: gives each event of a run its seq, its time and its trace context, and holds it against the contract.

Enters: agent events of one run, from its engine. Leaves: envelopes, in order and without gaps; exactly one terminal
event, with its receipt. Next: `UserWebSocketEmitter`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from tracewire.bridge.contract import AFTER_END, RunContract
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.errors import ContractBrokenError, RunEndedError, WiringError
from tracewire.events import (
    AgentCancelled,
    AgentCompleted,
    AgentError,
    Envelope,
    Event,
    Receipt,
    TerminalEvent,
    Timestamps,
    ToolCompleted,
    ToolExecuting,
)
from tracewire_telemetry.chain import envelope_traceparents
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, RunErrorCode, ToolStatus
from tracewire_telemetry.watch import OpenRun

Emit = Callable[[Envelope], Awaitable[EmitOutcome]]

LEFT_OPEN = "the run ended while the tool was executing"
_log = structlog.get_logger("tracewire.bridge")


class AgentWebSocketBridge:
    """Sequences one run. Emits of one run wait for each other; those of different runs do not.

    Raises:
        WiringError: there is no emitter, it is bound to another user or run (L4), or it lacks an emit method (L5).
    """

    def __init__(self, emitter: UserWebSocketEmitter, run: OpenRun, metrics: Metrics) -> None:
        identity = run.ledger.identity
        if emitter is None:
            raise WiringError("L4", f"the bridge of run {identity.run_id} was given no emitter")
        if (emitter.user_id, emitter.run_id) != (identity.user_id, identity.run_id):
            raise WiringError(
                "L4",
                f"the bridge of {identity.user_id}'s run {identity.run_id} was given the emitter of "
                f"{emitter.user_id}'s run {emitter.run_id}",
            )
        self.emitter = emitter
        self.contract = RunContract()
        self._ledger = run.ledger
        self._identity = identity
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._emits = emit_methods(emitter)
        self._tool_starts: dict[str, int] = {}
        self._timestamps = Timestamps()
        self._traceparent = envelope_traceparents(identity)
        self._said_after_end = False

    async def emit(self, event: Event, ordinal: int) -> EmitOutcome:
        """Sequence and pass on one event that the engine stamped with `ordinal`; returns when it is durable.

        Raises:
            RunEndedError: the run has its terminal event.
            ContractBrokenError: the event does not fit what came before.
            NotSerializableError: it cannot be written as JSON.
            LogUnavailableError: the log does not take it.
            WiringError: the emit method returned without having made it durable (L5).
        """
        try:
            async with self._lock:
                return await self._pass_on(event, ordinal)
        finally:
            self._ledger.withdrawn(ordinal)

    async def complete(self, output: Any, ordinal: int) -> TerminalEvent:
        """End the run with `agent_completed`; tools that were left open are closed first, as cancelled."""
        return await self._end(
            ordinal, lambda receipt: AgentCompleted(output, self._run_duration_ms(), receipt), EventType.AGENT_COMPLETED
        )

    async def fail(self, code: RunErrorCode, message: str, *, retryable: bool, ordinal: int) -> TerminalEvent:
        """End the run with `agent_error`; open tools are closed first."""
        return await self._end(
            ordinal, lambda receipt: AgentError(code, message, retryable, receipt), EventType.AGENT_ERROR
        )

    async def cancel(self, reason: str, ordinal: int) -> TerminalEvent:
        """End the run with `agent_cancelled`; open tools are closed first."""
        return await self._end(ordinal, lambda receipt: AgentCancelled(reason, receipt), EventType.AGENT_CANCELLED)

    async def _end(
        self, ordinal: int, make: Callable[[Receipt], TerminalEvent], event_type: EventType
    ) -> TerminalEvent:
        try:
            async with self._lock:
                for tool_call_id, tool_name in list(self.contract.open_tools.items()):
                    # A tool that cannot be closed must not cost the run its terminal event.
                    with contextlib.suppress(WiringError):
                        await self._close_tool(tool_call_id, tool_name)
                receipt = Receipt(self._ledger.last_seq + 1, self.contract.receipt_counts(event_type))
                event = make(receipt)
                await self._pass_on(event, ordinal)
                return event
        finally:
            self._ledger.withdrawn(ordinal)

    async def _close_tool(self, tool_call_id: str, tool_name: str) -> None:
        event = ToolCompleted(
            tool_call_id,
            tool_name,
            ToolStatus.CANCELLED,
            None,
            self.tool_duration_ms(tool_call_id),
            error=LEFT_OPEN,
        )
        await self._pass_on(event, self._ledger.emitted(event.type, time.monotonic_ns()))

    async def _pass_on(self, event: Event, ordinal: int) -> EmitOutcome:
        event_type = event.type
        is_tool = isinstance(event, ToolExecuting | ToolCompleted)
        tool_call_id = event.tool_call_id if isinstance(event, ToolExecuting | ToolCompleted) else None
        violation = self.contract.check(event_type, tool_call_id)
        if violation is not None:
            if violation.rule == AFTER_END and not self._said_after_end:
                self._said_after_end = True
                _log.warning(
                    "emitted_after_end",
                    user_id=self._identity.user_id,
                    run_id=self._identity.run_id,
                    event_type=event_type.value,
                )
            raise (RunEndedError if violation.rule == AFTER_END else ContractBrokenError)(violation.message)
        emit = self._emits[event_type]
        seq = self._ledger.sequenced(ordinal, time.monotonic_ns())
        try:
            outcome = await emit(self._envelope(event, seq))
            if self.emitter.durable_seq < seq:
                raise WiringError("L5", f"emit_{event_type.value} returned, and the log does not hold seq {seq}")
            return outcome
        finally:
            # Also where the caller was cancelled: what the log holds has happened, what it does not hold has not.
            if self.emitter.durable_seq >= seq:
                self.contract.apply(event_type, tool_call_id, event.tool_name if is_tool else "")  # type: ignore[union-attr] # narrowed by is_tool
                if is_tool:
                    self._tool_passed(event)
            else:
                self._ledger.revoked(seq)

    def _envelope(self, event: Event, seq: int) -> Envelope:
        return Envelope(
            event.type,
            self._identity.run_id,
            seq,
            self._timestamps.now(),
            self._identity.agent,
            self._traceparent(seq),
            event,
        )

    def _tool_passed(self, event: Event) -> None:
        if isinstance(event, ToolExecuting):
            self._tool_starts[event.tool_call_id] = time.monotonic_ns()
        elif isinstance(event, ToolCompleted):
            self._tool_starts.pop(event.tool_call_id, None)
            self._metrics.tool_ended(event.tool_name, event.status, event.duration_ms / 1e3)

    def tool_duration_ms(self, tool_call_id: str) -> float:
        """How long this tool call has been executing, in milliseconds; 0 where it is not."""
        started = self._tool_starts.get(tool_call_id)
        return round((time.monotonic_ns() - started) / 1e6, 3) if started else 0.0

    def _run_duration_ms(self) -> float:
        return round((time.monotonic_ns() - self._ledger.opened_ns) / 1e6, 3)


def emit_methods(emitter: UserWebSocketEmitter) -> dict[EventType, Emit]:
    """The emitter's method for each type of event, found by name once.

    Raises:
        WiringError: L5, naming every method that is missing.
    """
    methods = {event_type: getattr(emitter, f"emit_{event_type.value}", None) for event_type in EVENT_TYPES}
    missing = [f"emit_{event_type.value}" for event_type, method in methods.items() if not callable(method)]
    if missing:
        raise WiringError("L5", f"the emitter lacks {', '.join(missing)}")
    return {event_type: method for event_type, method in methods.items() if method is not None}
