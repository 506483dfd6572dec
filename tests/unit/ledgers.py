"""A run's ledger under a clock that the test sets: every moment is milliseconds since the run was asked for."""

from typing import Any, Final

from tracewire_telemetry.deadlines import Look, awaited, look, settled
from tracewire_telemetry.ledger import Missing, RunIdentity, RunLedger
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.vocabulary import EventType, Outcome

MS: Final = 1_000_000
OPENED_NS: Final = 7_000_000 * MS
OPENED_UNIX_NS: Final = 1_700_000_000_000 * MS
TRACE_ID: Final = 0xA1B2C3D4E5F60718293A4B5C6D7E8F90
ROOT_SPAN_ID: Final = 0x1122334455667788


def identity_of(run_id: str = "run", **changes: Any) -> RunIdentity:
    """The identity of a run of Ada's."""
    values: dict[str, Any] = {
        "run_id": run_id,
        "user_id": "ada",
        "thread_id": "thread",
        "agent": "five",
        "trace_id": TRACE_ID,
        "root_span_id": ROOT_SPAN_ID,
    }
    return RunIdentity(**(values | changes))


def ns(at_ms: float) -> int:
    """A moment of the virtual clock as the ledger counts it."""
    return OPENED_NS + int(at_ms * MS)


def unix_ns(at_ms: float) -> int:
    """The same moment as wall-clock time."""
    return OPENED_UNIX_NS + int(at_ms * MS)


PATIENT: Final = EngineDeadlines(1_000_000, 1_000_000, 1_000_000)
"""For scenarios that are not about the engine: an agent may be silent for days."""


class LedgerScript:
    """Writes the stamps of a ledger as a scenario tells them."""

    def __init__(
        self, *, deadlines: LinkDeadlines | None = None, engine: EngineDeadlines = PATIENT, **identity: Any
    ) -> None:
        self.ledger = RunLedger(
            identity_of(**identity),
            deadlines or LinkDeadlines(),
            now=OPENED_NS,
            unix_ns=OPENED_UNIX_NS,
            engine=engine,
        )
        self.life: dict[int, int] = {}
        self.stalled_ns = 0

    def emitted(self, event_type: EventType, at_ms: float) -> int:
        """Stamp the engine; gives the ordinal."""
        return self.ledger.emitted(event_type, ns(at_ms))

    def sequenced(self, event_type: EventType, at_ms: float) -> int:
        """Stamp engine and bridge, 1 ms apart; gives the seq."""
        return self.ledger.sequenced(self.emitted(event_type, at_ms), ns(at_ms + 1))

    def durable(self, event_type: EventType, at_ms: float) -> int:
        """Stamp engine, bridge and emitter, 1 ms apart; gives the seq."""
        seq = self.sequenced(event_type, at_ms)
        self.ledger.committed(seq, ns(at_ms + 2))
        return seq

    def sent(self, event_type: EventType, at_ms: float, *sockets: int) -> int:
        """Stamp engine, bridge, emitter and these sockets, 1 ms apart; gives the seq."""
        seq = self.durable(event_type, at_ms)
        for offset, socket in enumerate(sockets):
            self.ledger.written(socket, seq, ns(at_ms + 3 + offset))
        return seq

    def attached(self, at_ms: float = 0, *, acking: bool = True) -> int:
        """A socket follows the run, by default one whose client is known to ack."""
        return self.ledger.attached(ns(at_ms), acking=acking)

    def acknowledged(self, socket: int, seq: int, at_ms: float) -> int:
        """The client acks 1..`seq`."""
        return self.ledger.acknowledged(socket, seq, ns(at_ms))

    def ended(self, at_ms: float, outcome: Outcome = Outcome.COMPLETED) -> None:
        """The run has its terminal event."""
        self.ledger.ended(outcome, ns(at_ms))

    def detached(self, socket: int, at_ms: float = 0) -> None:
        """The socket is gone."""
        self.ledger.detached(socket, ns(at_ms))

    def look(self, at_ms: float) -> Look:
        """What a look at this moment finds. Sockets of which `life` says nothing are alive."""
        return self.look_ns(ns(at_ms))

    def look_ns(self, now: int) -> Look:
        """The same, in nanoseconds of the clock."""
        return look(self.ledger, now, lambda socket: self.life.get(socket, now + 1), lambda _: self.stalled_ns)

    def overdue(self, at_ms: float) -> list[Missing]:
        """What is declared missing at this moment."""
        return self.look(at_ms).missing

    @property
    def settled(self) -> bool:
        """Whether the run is."""
        return settled(self.ledger)

    @property
    def next_deadline_ns(self) -> int | None:
        """When the first event becomes overdue at a link, the engine left out."""
        return min((due.at_ns for due in awaited(self.ledger) if due.key), default=None)
