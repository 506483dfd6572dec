"""The ledger under load, without a clock: runs whose events each take almost as long as their deadlines allow.

    python -m tests.soak.ledger 10000000

Every event crosses each link one nanosecond before its deadline, or at once, as a seeded source of chance has it. The
wall-clock anchor of each run is stepped by hours, which must change nothing; the process stands still for two seconds
every so often, and the events of that time are as much later.
"""

import random
import sys
import time
from dataclasses import dataclass
from typing import Final

from tracewire_telemetry.deadlines import look, settled
from tracewire_telemetry.ledger import RunIdentity, RunLedger
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.vocabulary import EventType, Outcome

STALL_NS: Final = 2_000_000_000
HOUR_NS: Final = 3_600_000_000_000
EVENTS_PER_RUN: Final = (3, 400)
_TYPES: Final = (EventType.AGENT_THINKING, EventType.AGENT_DELTA, EventType.AGENT_DELTA)


@dataclass
class Counted:
    """What came of a soak."""

    runs: int = 0
    events: int = 0
    acked: int = 0
    incidents: int = 0


class _Run:
    def __init__(self, number: int, chance: random.Random, late_after: int) -> None:
        self.chance = chance
        self.now = chance.randrange(1, HOUR_NS)
        self.stalls: list[tuple[int, int]] = []
        identity = RunIdentity(f"run-{number}", "ada", "thread", "five", number + 1, 1)
        unix_ns = self.now + chance.randrange(-HOUR_NS, HOUR_NS)
        self.ledger = RunLedger(identity, LinkDeadlines(), now=self.now, unix_ns=unix_ns, engine=EngineDeadlines())
        self.socket = self.ledger.attached(self.now, acking=True)
        self.incidents = 0
        self.late_after = late_after
        self.due_ns: int | None = None

    def wait(self, limit_ns: int) -> None:
        """Let almost so much time pass, or none; look when a look is due, and just before the end."""
        waited = self.chance.choice((0, limit_ns - 1, limit_ns - 1))
        if self.late_after == 0:
            waited = limit_ns + 1
        self.late_after -= 1
        if waited and not self.chance.randrange(50):
            self.stalls.append((self.now, self.now + STALL_NS))
            self.now += STALL_NS
        self.now += waited
        if waited:
            self.look()

    def look(self) -> None:
        found = look(self.ledger, self.now, lambda _: self.now, self._stalled)
        self.incidents += len(found.missing)

    def _stalled(self, since_ns: int) -> int:
        return sum(ended - max(began, since_ns) for began, ended in self.stalls if ended > since_ns)

    def event(self, event_type: EventType) -> None:
        """One event crosses every link, each almost too late."""
        ledger, limits = self.ledger, self.ledger.limits
        ordinal = ledger.emitted(event_type, self.now)
        self.wait(limits.bridge)
        seq = ledger.sequenced(ordinal, self.now)
        self.wait(limits.emitter)
        ledger.committed(seq, self.now)
        if not self.chance.randrange(100):  # the user is away for a day, and gets it from the log
            ledger.detached(self.socket, self.now)
            self.now += self.chance.randrange(24) * HOUR_NS
            self.stalls.append((self.now, self.now))
            ledger.awaiting_input = True
            self.look()
            ledger.input_awaited(False, self.now)
            self.socket = ledger.attached(self.now, acking=True)
            self.wait(limits.socket)
            ledger.replayed(self.socket, seq, seq, self.now, self.now)
        else:
            self.wait(limits.socket)
            self._written(seq)
        self.wait(limits.client)
        ledger.acknowledged(self.socket, seq, self.now)

    def _written(self, seq: int) -> None:
        send = self.ledger.sends.get(self.socket)
        if send is not None and send.first_seq + len(send.stamps) != seq:
            self.ledger.replayed(self.socket, seq, seq, self.now, self.now)
        else:
            self.ledger.written(self.socket, seq, self.now)


def soak(events: int, *, seed: int, late_at_event: int = -1) -> Counted:
    """Let so many events cross the ledgers of as many runs as they need; one of them too late where it is asked for."""
    chance, counted = random.Random(seed), Counted()
    while counted.events < events:
        wanted = chance.randint(*EVENTS_PER_RUN)
        late = 4 * (late_at_event - counted.events) if 0 <= late_at_event - counted.events < wanted else -1
        run = _Run(counted.runs, chance, late)
        run.wait(run.ledger.limits.start)
        run.event(EventType.AGENT_STARTED)
        for number in range(wanted):
            run.event(_TYPES[number % len(_TYPES)])
            if not number % 16:
                run.wait(run.ledger.limits.idle - run.ledger.limits.socket - run.ledger.limits.client)
        run.event(EventType.AGENT_COMPLETED)
        run.ledger.ended(Outcome.COMPLETED, run.now)
        run.now += HOUR_NS
        run.look()
        assert settled(run.ledger)
        counted.runs += 1
        counted.events += run.ledger.last_seq
        counted.acked += run.ledger.acked
        counted.incidents += run.incidents
    return counted


def main(events: int) -> int:
    """Soak, and print what came of it; the exit code."""
    began = time.perf_counter()
    counted = soak(events, seed=1)
    seconds = time.perf_counter() - began
    print(f"{counted.events} events in {counted.runs} runs: {counted.incidents} incidents ({seconds:.0f} s)")
    return int(counted.incidents > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000))
