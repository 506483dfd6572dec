"""The ledger's clock: knows every open run, looks at each when something of it may be overdue, and settles it.

Enters: runs as they are accepted, acks, ends, sockets that come and go. Leaves: incidents (`incidents.py`), pings and
closes of the sockets that owe something, and settled runs (`settling.py`).

One heap holds the moment of each run's next look, and no timer is set for an event. Stamps do not touch it, but for
one comparison: an event that is emitted while nothing of its run is looked at soon brings the look forward. A run has
two entries at most that count, the next and a later one that is kept for afterwards.
"""

import asyncio
import contextlib
import heapq
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.trace import SpanContext

from tracewire_telemetry import deadlines, incidents
from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.incidents import Incident, Incidents, IncidentStore, RunIncidents
from tracewire_telemetry.ledger import RunIdentity, RunLedger
from tracewire_telemetry.limits import NS_PER_SECOND, EngineDeadlines, LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.origins import Origins
from tracewire_telemetry.peer import Peer
from tracewire_telemetry.settling import Settling, StampStore
from tracewire_telemetry.spans import RunSpans, RunTracing
from tracewire_telemetry.stalls import Stalls
from tracewire_telemetry.vocabulary import EventType, Outcome

TICK_SECONDS: Final = 0.25
LOOKS_PER_TURN: Final = 200
"""Runs looked at before the event loop gets its turn, so that a tick with 100,000 of them delays no event."""
STALE_LOOKS_MAX: Final = 4_096
"""Looks at settled runs that are kept until they are due, which for a patient agent may be hours."""
STALL_SECONDS: Final = 0.05
"""A tick that is later than this has been kept waiting by the loop: so were all events."""
_NEVER: Final = 1 << 62


class OpenRun:
    """One run from its acceptance to its settlement: its ledger, its live spans, and who watches it.

    Links stamp the ledger themselves; what can settle a run, or bring a deadline forward, goes through here.
    """

    __slots__ = ("_watch", "incidents", "later_ns", "ledger", "owes_end", "peers", "spans")

    def __init__(self, watch: "Watch", ledger: RunLedger, spans: RunSpans) -> None:
        self._watch = watch
        self.ledger = ledger
        self.spans = spans
        self.owes_end = False
        self.peers: dict[int, Peer] = {}
        self.incidents: RunIncidents = {}
        self.later_ns = 0

    def attached(self, *, acking: bool, reader: bool = False, after_seq: int = 0, peer: Peer | None = None) -> int:
        """A socket follows the run from after this seq on; the ordinal that names it in the ledger."""
        now = time.monotonic_ns()
        socket = self.ledger.attached(now, acking=acking, reader=reader, after_seq=after_seq)
        if peer is not None:
            self.peers[socket] = peer
        self._watch.look_by(self, now + self.ledger.limits.step)
        return socket

    def detached(self, socket: int) -> None:
        """The socket follows the run no more."""
        now = time.monotonic_ns()
        self.peers.pop(socket, None)
        self.ledger.detached(socket, now)
        self._watch.look_by(self, now + self.ledger.limits.step)
        self._watch.consider(self)

    def acknowledged(self, socket: int, seq: int, count: int | None = None) -> int:
        """A client has processed 1..`seq`, `count` events by its own count; how many events that settles."""
        ledger, now = self.ledger, time.monotonic_ns()
        fresh = ledger.acknowledged(socket, seq, now)
        if count is not None and count != seq:
            lost = ledger.counted_otherwise(seq, now)
            if lost is not None:
                self._watch.incidents.declare(ledger, self.incidents, lost, now)
        elif count is not None and ledger.miscounted is not None and seq >= (ledger.miscounted.seq or 0):
            ledger.miscounted = None
        if self.incidents:
            self._watch.incidents.review(ledger, self.incidents, now)
        if ledger.ended_ns:
            self._watch.consider(self)
        return fresh

    @property
    def awaiting_input(self) -> bool:
        """Whether the agent waits for its user."""
        return self.ledger.awaiting_input

    @awaiting_input.setter
    def awaiting_input(self, awaited: bool) -> None:
        now = time.monotonic_ns()
        self.ledger.input_awaited(awaited, now)
        self._watch.look_by(self, now + self.ledger.limits.step)

    def ended(self, outcome: Outcome, *, durable: bool = True) -> None:
        """The run has its terminal event. Not durable: it could not be logged yet, and is owed to who follows; the run
        is settled when it was (`ended_past_stations`).
        """
        self.owes_end = not durable
        now = time.monotonic_ns()
        for lost in self.ledger.ended(outcome, now):
            self._watch.incidents.declare(self.ledger, self.incidents, lost, now)
        self._watch.run_ended(self)

    def logged_past_stations(self, first_seq: int, event_types: Sequence[EventType]) -> None:
        """The log has taken these last events of the run, from this seq on, past the stations that should have."""
        ledger, now = self.ledger, time.monotonic_ns()
        if first_seq != ledger.last_seq + 1:
            ledger.replaced_from = first_seq  # the stations lost count: what they stamped stays as it is
            return
        for event_type in event_types:
            ledger.committed(ledger.sequenced(ledger.emitted(event_type, now), now), now)

    def ended_past_stations(self, outcome: Outcome) -> None:
        """The run's terminal event is in the log, past its stations, or never will be as far as this process goes."""
        self.owes_end = False
        if not self.ledger.ended_ns:
            self.ended(outcome)
            return
        self.ledger.ended_ns = max(self.ledger.ended_ns, *self.ledger.bridge[-1:])
        self._watch.consider(self)

    def passed_over(self, first_seq: int, last_seq: int) -> None:
        """A later event was handed to a socket that has not been given these."""
        now = time.monotonic_ns()
        for lost in deadlines.passed_over(self.ledger, first_seq, last_seq, now):
            self._watch.incidents.declare(self.ledger, self.incidents, lost, now)

    def last_life_ns(self, socket: int) -> int:
        """When a socket that follows last gave a sign of life; one that nobody knows is alive."""
        peer = self.peers.get(socket)
        return peer.last_life_ns if peer is not None else _NEVER


class Watch:
    """Watches the open runs of one server. `start` it in the loop in which its runs live."""

    def __init__(
        self,
        metrics: Metrics,
        tracing: RunTracing,
        queue: TraceQueue | None,
        *,
        deadlines: LinkDeadlines,
    ) -> None:
        self.runs: dict[str, OpenRun] = {}
        self.origins = Origins()
        self.incidents = Incidents(metrics, self.origins)
        self.last_tick_unix_seconds = 0.0
        self.loop_lag_seconds = 0.0
        self._metrics = metrics
        self._tracing = tracing
        self._deadlines = deadlines
        self._heap: list[tuple[int, str]] = []
        self._stalls = Stalls()
        self.settling = Settling(metrics, queue)
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, store: StampStore, store_incidents: IncidentStore | None = None) -> None:
        """Begin to tick and to settle; the stores keep the stamps of settled runs, and incidents."""
        self._tasks = [
            asyncio.create_task(self._tick_forever()),
            asyncio.create_task(self.settling.settle_forever(store)),
        ]
        if store_incidents is not None:
            self._tasks.append(asyncio.create_task(self.incidents.store_forever(store_incidents)))

    async def close(self) -> None:
        """Settle what can be settled, then stop. Incidents that are open stay so in the log."""
        await self.settling.idle.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.incidents.flush()

    async def wait_for_acks(self, limit_seconds: float) -> None:
        """Wait until every run is settled, for so long at most: a client may never ack."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await self._none_open.wait()

    def open(
        self,
        identity: RunIdentity,
        links: Sequence[SpanContext],
        *,
        now: int,
        unix_ns: int,
        engine: EngineDeadlines = EngineDeadlines(),  # noqa: B008 # frozen
    ) -> OpenRun:
        """Watch a run that was asked for at `now` (monotonic) and `unix_ns` (wall clock)."""
        ledger = RunLedger(identity, self._deadlines, now=now, unix_ns=unix_ns, engine=engine)
        run = OpenRun(self, ledger, self._tracing.open(ledger, links))
        self.runs[identity.run_id] = run
        self._none_open.clear()
        ledger.look_at(_NEVER)
        ledger.wake = lambda due_ns: self.look_by(run, due_ns)
        self.look_by(run, now + min(ledger.limits.start, ledger.limits.idle))
        return run

    def adopt(self, left_open: Sequence[Incident]) -> None:
        """Take over the incidents of an earlier process, whose runs are closed."""
        self.incidents.adopt(left_open, now=time.monotonic_ns(), heal_seconds=self._deadlines.heal_seconds)

    def acknowledged_elsewhere(self, run_id: str, seq: int) -> None:
        """A user has acked 1..`seq` of a run that is not, or no more, watched here."""
        self.incidents.acknowledged(run_id, seq, time.monotonic_ns(), time.time_ns())

    def run_ended(self, run: OpenRun) -> None:
        """Count a run's end, and settle it if nothing is left to wait for."""
        ledger = run.ledger
        outcome = ledger.outcome or Outcome.WORKER_LOST
        self._metrics.run_ended(ledger.identity.agent, outcome, (ledger.ended_ns - ledger.opened_ns) / 1e9)
        self.look_by(run, ledger.ended_ns + ledger.limits.step)
        self.consider(run)

    def consider(self, run: OpenRun, now: int | None = None) -> None:
        """Settle the run if it is done, and nothing of it that is missing may still come."""
        ledger = run.ledger
        if ledger.settled_ns or run.owes_end or not deadlines.settled(ledger):
            return
        now = time.monotonic_ns() if now is None else now
        if run.incidents:
            self.incidents.review(ledger, run.incidents, now)
            if now < incidents.waits_until(ledger, run.incidents):
                return
            self.incidents.give_up(ledger, run.incidents, now)
        ledger.settled_ns = now
        ledger.look_at(0)
        run.peers.clear()
        self.runs.pop(ledger.identity.run_id, None)
        if not self.runs:
            self._none_open.set()
        self.settling.add(run)

    # Deadlines.

    def look_by(self, run: OpenRun, due_ns: int) -> None:
        """Look at the run at this moment at the latest."""
        ledger = run.ledger
        if due_ns >= ledger.due_ns:
            return
        if not run.later_ns and ledger.due_ns != _NEVER:
            run.later_ns = ledger.due_ns
        ledger.look_at(due_ns)
        heapq.heappush(self._heap, (due_ns, ledger.identity.run_id))

    def tick(self, now: int, *, looks_max: int = _NEVER) -> bool:
        """Look at every run that is due at `now`, monotonic nanoseconds; whether more are due than were looked at."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            if not looks_max:
                return True
            due_ns, run_id = heapq.heappop(heap)
            run = self.runs.get(run_id)
            if run is None or run.ledger.due_ns != due_ns:
                continue  # settled, or an entry that an earlier one has replaced
            looks_max -= 1
            self._look(run, now)
        self.incidents.expire(now, time.time_ns())
        if len(heap) > STALE_LOOKS_MAX + 4 * len(self.runs):  # a run has two that count: half of them at least go
            heap[:] = [entry for entry in heap if self._counts(*entry)]
            heapq.heapify(heap)
        return False

    def _counts(self, due_ns: int, run_id: str) -> bool:
        run = self.runs.get(run_id)
        return run is not None and due_ns in (run.ledger.due_ns, run.later_ns)

    def _look(self, run: OpenRun, now: int) -> None:
        ledger = run.ledger
        ledger.look_at(_NEVER)
        if len(ledger.acking) < len(run.peers):
            ledger.acking.update(socket for socket, peer in run.peers.items() if peer.has_acked)
        found = deadlines.look(ledger, now, run.last_life_ns, self._stalls.since)
        moments = [found.due_ns] if found.due_ns else []
        if found.missing or run.incidents:
            for lost in found.missing:
                self.incidents.declare(ledger, run.incidents, lost, now)
            self.incidents.review(ledger, run.incidents, now)
            review_ns = incidents.due_ns(ledger, run.incidents, now)
            moments += [review_ns] if review_ns is not None else []
        self._next_look(run, max(now + 1, min(moments)) if moments else _NEVER)
        if found.missing or found.ping or found.dead or found.excused:
            self._act(run, found)
        self.consider(run, now)

    def _next_look(self, run: OpenRun, due_ns: int) -> None:
        """Use the entry that is kept for later where it comes soon enough: each entry less is one less to sift."""
        later_ns = run.later_ns
        if later_ns and later_ns <= due_ns:
            run.later_ns = 0
            run.ledger.look_at(later_ns)
        elif due_ns < _NEVER:
            run.ledger.look_at(due_ns)
            heapq.heappush(self._heap, (due_ns, run.ledger.identity.run_id))

    def _act(self, run: OpenRun, found: deadlines.Look) -> None:
        """What a look asks of the sockets. Any of it may detach the socket from the run."""
        peers = run.peers
        for socket in found.excused:
            if socket in peers:
                peers[socket].note_unacknowledging()
        for socket in found.ping:
            if socket in peers:
                peers[socket].probe()
        for socket in found.blamed:
            if socket in peers:
                peers[socket].resync()
        for socket in found.dead:
            peer = peers.get(socket)
            run.detached(socket)  # at once: what it owed is pending, or another socket's
            if peer is not None:
                peer.cut_silent()

    def stalled(self, began_ns: int, ended_ns: int) -> None:
        """The loop stood still in between: what was due then is late by no fault of its own."""
        self._stalls.note(began_ns, ended_ns)

    async def _tick_forever(self) -> None:
        turned_ns = time.monotonic_ns()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            turned_ns, self.loop_lag_seconds = self._turn(turned_ns, TICK_SECONDS)
            self.last_tick_unix_seconds = time.time()
            while self.tick(turned_ns, looks_max=LOOKS_PER_TURN):
                await asyncio.sleep(0)
                turned_ns, _ = self._turn(turned_ns, 0.0)

    def _turn(self, last_ns: int, waited_seconds: float) -> tuple[int, float]:
        """It is the watch's turn again, after so long a wait since its last: now, and how late that is.

        From turn to turn without a gap, and not by `loop.time()`, which uvloop sets once for all that runs in a turn: a
        stall between the timer and the tick, or between two turns of a tick, would excuse nobody.
        """
        now = time.monotonic_ns()
        lag_seconds = max(0.0, (now - last_ns) / NS_PER_SECOND - waited_seconds)
        if lag_seconds > STALL_SECONDS:
            self.stalled(last_ns, now)
        return now, lag_seconds

    # What the metrics show.

    def flush_open_runs(self) -> None:
        """Bring the metrics up to date with the runs that are open; called at every scrape."""
        self._metrics.users.expire(time.monotonic_ns())
        for run in self.runs.values():
            self._metrics.flush(run.ledger)

    @property
    def events_open(self) -> int:
        """Events of runs that are not settled."""
        return sum(run.ledger.last_seq for run in self.runs.values())

    @property
    def open_count(self) -> int:
        """Runs without a terminal event."""
        return sum(1 for run in self.runs.values() if not run.ledger.ended_ns)

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest open run that awaits no input; 0 where there is none."""
        now = time.monotonic_ns()
        ages = (
            now - run.ledger.opened_ns
            for run in self.runs.values()
            if not run.ledger.ended_ns and not run.awaiting_input
        )
        return max(ages, default=0) / NS_PER_SECOND
