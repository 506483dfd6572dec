"""The emitter of a drill's run: it loses one event at the emitter or at the socket, or holds on behind it.

Enters, leaves, next: as `UserWebSocketEmitter`. Only `DrilledFactory` makes one, for the run that a drill is armed for.
"""

import time
from typing import Self

from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.drills import Drill
from tracewire.events import Envelope
from tracewire_telemetry.vocabulary import EventType, Link, Outcome


class DrilledEmitter(UserWebSocketEmitter):
    """Emits one run, and once does not.

    The run waits behind what was lost until that is noticed. Otherwise the client would see a gap and close it by
    itself, and the incident would be one of many events.
    """

    _drill: Drill
    _lost_seq = 0

    @classmethod
    def in_place_of(cls, emitter: UserWebSocketEmitter, drill: Drill) -> Self:
        """The same run's emitter, with the drill."""
        drilled = cls(emitter.user_id, emitter.run_id, emitter._log, emitter._connections, emitter._ledger)
        drilled._drill = drill
        return drilled

    async def _emit(self, event_type: EventType, envelope: Envelope, outcome: Outcome | None = None) -> EmitOutcome:
        drill = self._drill
        if drill.loses(event_type, Link.EMITTER):
            await drill.hold()
        unwritten, unacked = drill.loses(event_type, Link.SOCKET), drill.loses(event_type, Link.CLIENT)
        self._lost_seq = envelope.seq if unwritten else 0
        emitted = await super()._emit(event_type, envelope, outcome)
        if unwritten or unacked:
            await drill.hold()
        return emitted

    def _deliver(self, seq: int, body: bytes) -> int:
        if seq != self._lost_seq:
            return super()._deliver(seq, body)
        self.durable_seq = seq
        self._ledger.committed(seq, time.monotonic_ns())
        for connection in self._connections.of(self.user_id):
            followed = connection.follows.get(self.run_id)
            if followed is not None:
                followed.seen_seq = seq
                if followed.live:
                    followed.next_seq = seq + 1  # as if it had been queued
        return 0
