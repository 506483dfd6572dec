"""Station three: makes an envelope durable, then hands it to each of its user's sockets that follow the run.

Enters: sequenced envelopes of one run of one user, from the bridge. Leaves: their bytes, in the log and queued to
sockets. Next: `Connection.offer`. Durable before delivered: no client sees what the log does not hold.
"""

import time

from msgspec import Struct

from tracewire.delivery.connections import Connections
from tracewire.errors import WiringError
from tracewire.eventlog import EventLog
from tracewire.events import AgentError, Envelope, encode_envelope
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.vocabulary import EventType, Outcome


class EmitOutcome(Struct, frozen=True):
    """What became of one emit: the event is durable, and was queued to this many sockets. 0: it is pending."""

    seq: int
    queued_to: int

    @property
    def pending(self) -> bool:
        """Whether no socket of the user follows the run: a later resume reads the event from the log."""
        return self.queued_to == 0


class UserWebSocketEmitter:
    """Emits the envelopes of one run to one user, and to nobody else.

    Each method returns after the commit and says what happened; a failure raises, and consumes no seq.
    `durable_seq` is the newest seq that the log holds, also where the caller was cancelled while it waited.
    """

    def __init__(self, user_id: str, run_id: str, log: EventLog, connections: Connections, ledger: RunLedger) -> None:
        if not user_id:
            raise WiringError("L4", "an emitter needs the id of the user to whom it is bound")
        self.user_id = user_id
        self.run_id = run_id
        self.durable_seq = 0
        self._log = log
        self._connections = connections
        self._ledger = ledger

    async def emit_agent_started(self, envelope: Envelope) -> EmitOutcome:
        """Emit the first event of a run."""
        return await self._emit(EventType.AGENT_STARTED, envelope)

    async def emit_agent_thinking(self, envelope: Envelope) -> EmitOutcome:
        """Emit a thought."""
        return await self._emit(EventType.AGENT_THINKING, envelope)

    async def emit_tool_executing(self, envelope: Envelope) -> EmitOutcome:
        """Emit the beginning of a tool call."""
        return await self._emit(EventType.TOOL_EXECUTING, envelope)

    async def emit_tool_completed(self, envelope: Envelope) -> EmitOutcome:
        """Emit the end of a tool call."""
        return await self._emit(EventType.TOOL_COMPLETED, envelope)

    async def emit_agent_delta(self, envelope: Envelope) -> EmitOutcome:
        """Emit a piece of streamed text."""
        return await self._emit(EventType.AGENT_DELTA, envelope)

    async def emit_input_required(self, envelope: Envelope) -> EmitOutcome:
        """Emit a question to the user."""
        return await self._emit(EventType.INPUT_REQUIRED, envelope)

    async def emit_agent_completed(self, envelope: Envelope) -> EmitOutcome:
        """Emit the terminal event of a run that reached its end."""
        return await self._emit(EventType.AGENT_COMPLETED, envelope, Outcome.COMPLETED)

    async def emit_agent_error(self, envelope: Envelope) -> EmitOutcome:
        """Emit the terminal event of a run that failed."""
        assert isinstance(envelope.data, AgentError)  # noqa: S101 # the bridge dispatches by type
        return await self._emit(EventType.AGENT_ERROR, envelope, Outcome(envelope.data.code.value))

    async def emit_agent_cancelled(self, envelope: Envelope) -> EmitOutcome:
        """Emit the terminal event of a run that was cancelled."""
        return await self._emit(EventType.AGENT_CANCELLED, envelope, Outcome.CANCELLED)

    async def _emit(self, event_type: EventType, envelope: Envelope, outcome: Outcome | None = None) -> EmitOutcome:
        if envelope.type is not event_type or envelope.run_id != self.run_id:
            raise WiringError("L4", f"an emitter of run {self.run_id} was given {envelope.type} of {envelope.run_id}")
        body = encode_envelope(envelope)
        seq = envelope.seq
        queued_to = 0

        def deliver() -> None:
            nonlocal queued_to
            queued_to = self._deliver(seq, body)

        # In the very turn in which the commit is known, also where the caller is cancelled meanwhile: sockets do not
        # wait until the loop comes to this task again.
        await self._log.append(self.run_id, seq, body, outcome=outcome, on_durable=deliver)
        return EmitOutcome(seq, queued_to)

    def _deliver(self, seq: int, body: bytes) -> int:
        self.durable_seq = seq
        self._ledger.committed(seq, time.monotonic_ns())
        return sum(connection.offer(self.run_id, seq, body) for connection in self._connections.of(self.user_id))
