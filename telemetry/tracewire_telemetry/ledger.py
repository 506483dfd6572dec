"""The ledger of one run: which event has crossed which link, and when. Pure: it is told the time.

The hot path only stamps: one slot a link in a column of 64-bit integers, nanoseconds of a monotonic clock. From these
columns come the metrics, the spans and the verdicts (`metrics.py`, `spans.py`, `report`). One wall-clock anchor turns
a stamp into a date, so that a stepped wall clock changes nothing.

Seqs count from 1 without gaps; the stamps of seq `n` stand at index `n - 1`. 0 is "not stamped".
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tracewire_telemetry.carried import Ack, Replay, Send
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Link, Origin, Outcome, Verdict

NS_PER_SECOND: Final = 1_000_000_000
IN_TIME_NS: Final = 2 * NS_PER_SECOND
"""An event acked within 2 s of the engine's stamp is in time (the objective of telemetry.md §3)."""

_TYPE_INDEX: Final = {event_type: index for index, event_type in enumerate(EVENT_TYPES)}
_DELTA: Final = _TYPE_INDEX[EventType.AGENT_DELTA]


class LinkDeadlines(Struct, frozen=True):
    """How long an event may take to each link, in seconds, from the later of the previous stamp and the moment
    at which a live socket carries the run.
    """

    bridge_seconds: float = 1.0
    emitter_seconds: float = 2.0
    socket_seconds: float = 6.0
    client_seconds: float = 10.0


class RunIdentity(Struct, frozen=True):
    """Whose run it is and where its trace hangs. `trace_id` has 128 bits, `root_span_id` 63."""

    run_id: str
    user_id: str
    thread_id: str
    agent: str
    trace_id: int
    root_span_id: int
    sampled: bool = True
    origin: Origin = Origin.USER
    required: tuple[EventType, ...] = ()


class Missing(Struct, frozen=True):
    """An event that a link has not taken by its deadline. `seq` is `None` where it never got one."""

    link: Link
    event_type: EventType
    seq: int | None
    since_ns: int
    at_ns: int


class RunLedger:
    """What every event of one open run has crossed. Each method is one stamp; `now` is monotonic nanoseconds."""

    __slots__ = (
        "_client_cursor",
        "_gone",
        "_ordinals",
        "_socket_cursor",
        "_sockets",
        "_unsequenced",
        "acked",
        "acking",
        "acks",
        "bridge",
        "carried_since",
        "client",
        "committed_count",
        "deadlines",
        "emitter",
        "ended_ns",
        "engine",
        "excused",
        "flushed",
        "followers",
        "identity",
        "missing",
        "opened_ns",
        "opened_unix_ns",
        "outcome",
        "readers",
        "replays",
        "sends",
        "settled_ns",
        "socket",
        "types",
        "waiting",
    )

    def __init__(self, identity: RunIdentity, deadlines: LinkDeadlines, *, now: int, unix_ns: int) -> None:
        """`now` and `unix_ns` are the same moment, at which the run was asked for, on the two clocks."""
        self.identity = identity
        self.deadlines = deadlines
        self.opened_ns = now
        self.opened_unix_ns = unix_ns
        self.types = bytearray()
        self.engine: array[int] = array("q")
        self.bridge: array[int] = array("q")
        self.emitter: array[int] = array("q")
        self.socket: array[int] = array("q")
        self.client: array[int] = array("q")
        self.waiting: dict[int, tuple[EventType, int]] = {}
        self.followers: set[int] = set()
        self.acking: set[int] = set()
        self.readers: set[int] = set()
        self.sends: dict[int, Send] = {}
        self.acks: list[Ack] = []
        self.replays: list[Replay] = []
        self.missing: list[Missing] = []
        self.excused: set[int] = set()
        self.committed_count = 0
        self.acked = 0
        self.carried_since = 0
        self.ended_ns = 0
        self.settled_ns = 0
        self.outcome: Outcome | None = None
        self.flushed = [0, 0, 0, 0, 0]
        self._ordinals = 0
        self._sockets = 0
        self._unsequenced: dict[int, int] = {}
        self._gone: set[int] = set()
        self._socket_cursor = 0
        self._client_cursor = 0

    # The stamps, in the order of the links.

    def emitted(self, event_type: EventType, now: int) -> int:
        """The engine hands an event to the bridge. Returns the ordinal by which the bridge names it."""
        self._ordinals += 1
        self.waiting[self._ordinals] = (event_type, now)
        return self._ordinals

    def withdrawn(self, ordinal: int) -> None:
        """The bridge refused the event, and its caller was told: nothing is owed for it."""
        self.waiting.pop(ordinal, None)
        self._unsequenced.pop(ordinal, None)

    def sequenced(self, ordinal: int, now: int) -> int:
        """The bridge gives the event its seq, which is returned."""
        event_type, emitted_ns = self.waiting.pop(ordinal)
        late = self._unsequenced.pop(ordinal, None)
        self.types.append(_TYPE_INDEX[event_type])
        self.engine.append(emitted_ns)
        self.bridge.append(now)
        self.emitter.append(0)
        self.socket.append(0)
        self.client.append(0)
        if late is not None:
            self.missing[late] = replace(self.missing[late], seq=len(self.types))
            self._gone.add(len(self.types))
        return len(self.types)

    def revoked(self, seq: int) -> None:
        """The log did not take the event: its seq, the newest, is free again."""
        if seq != len(self.types):
            raise ValueError(f"only the newest seq, {len(self.types)}, can be revoked, not {seq}")
        for column in (self.types, self.engine, self.bridge, self.emitter, self.socket, self.client):
            column.pop()
        if seq in self._gone:
            self._gone.remove(seq)
            self.missing = [replace(lost, seq=None) if lost.seq == seq else lost for lost in self.missing]

    def committed(self, seq: int, now: int) -> None:
        """The emitter has the event in the log."""
        self.emitter[seq - 1] = now
        self.committed_count = seq

    def attached(self, now: int, *, acking: bool = False, reader: bool = False, after_seq: int = 0) -> int:
        """A socket follows the run from now on. Returns the ordinal that names it here.

        `acking` says that the socket's client is known to send acks, `reader` that it cannot: its chain ends at the
        socket. What a reader has had elsewhere, up to `after_seq`, no socket owes it.
        """
        self._sockets += 1
        if not self.followers:
            self.carried_since = now
        self.followers.add(self._sockets)
        if acking:
            self.acking.add(self._sockets)
        if reader:
            self.readers.add(self._sockets)
            self._excuse_read(1, min(after_seq, len(self.types)))
        return self._sockets

    def detached(self, socket: int) -> None:
        """The socket is gone, or follows the run no more."""
        self.followers.discard(socket)
        for reader in self.followers & self.readers:
            send = self.sends.get(reader)
            if send is not None:
                self._excuse_read(send.first_seq, send.first_seq + len(send.stamps) - 1)
            for replay in self.replays:
                if replay.socket == reader:
                    self._excuse_read(replay.first_seq, replay.last_seq)

    def written(self, socket: int, seq: int, now: int) -> None:
        """A live event was written to a socket."""
        send = self.sends.get(socket)
        if send is None:
            self.sends[socket] = Send(seq, array("q", (now,)))
        else:
            send.stamps.append(now)
        if not self.socket[seq - 1]:
            self.socket[seq - 1] = now
        if socket in self.readers:
            self._excuse_read(seq, seq)

    def replayed(self, socket: int, first_seq: int, last_seq: int, started_ns: int, now: int) -> None:
        """Events were read back from the log and written to a socket."""
        previous = next((replay for replay in reversed(self.replays) if replay.socket == socket), None)
        if previous is not None and previous.last_seq == first_seq - 1:
            previous.last_seq, previous.ended_ns, previous.acked_ns = last_seq, now, 0
        else:
            self.replays.append(Replay(socket, first_seq, last_seq, started_ns, now))
        for index in range(first_seq - 1, min(last_seq, len(self.socket))):  # as in `acknowledged`
            if not self.socket[index]:
                self.socket[index] = now
        if socket in self.readers:
            self._excuse_read(first_seq, last_seq)

    def _excuse_read(self, first_seq: int, last_seq: int) -> None:
        """What a reader got is owed no ack, unless somebody who can ack follows too."""
        if not self.followers <= self.readers:
            return
        for seq in range(max(first_seq, self.acked + 1), last_seq + 1):
            if seq not in self._gone:
                self._gone.add(seq)
                self.excused.add(seq)

    def acknowledged(self, socket: int, seq: int, now: int) -> int:
        """The client has processed 1..`seq`. Returns how many events that settles."""
        self.acking.add(socket)
        seq = min(seq, self.last_seq)  # a run whose chain broke was closed in the log alone
        fresh = seq - self.acked
        if fresh <= 0:
            return 0
        self.client[self.acked : seq] = array("q", (now,)) * fresh
        self.acks.append(Ack(self.acked + 1, seq, socket, now))
        self.acked = seq
        for replay in self.replays:
            if not replay.acked_ns and replay.last_seq <= seq:
                replay.acked_ns = now
        return fresh

    def ended(self, outcome: Outcome, now: int) -> None:
        """The run has its terminal event; what it owed and did not show is missing at the engine."""
        self.outcome = outcome
        self.ended_ns = now
        if outcome is Outcome.COMPLETED:
            shown = set(self.types)
            for event_type in self.identity.required:
                if _TYPE_INDEX[event_type] not in shown:
                    self.missing.append(Missing(Link.ENGINE, event_type, None, now, now))

    # Verdicts.

    @property
    def last_seq(self) -> int:
        """The newest seq that the bridge gave."""
        return len(self.types)

    def event_type(self, seq: int) -> EventType:
        """The type of one event."""
        return EVENT_TYPES[self.types[seq - 1]]

    def is_delta(self, seq: int) -> bool:
        """Whether the event is an `agent_delta`."""
        return self.types[seq - 1] == _DELTA

    @property
    def pending(self) -> int:
        """Durable events that nobody has acked while no socket follows the run."""
        return 0 if self.followers else sum(1 for _ in self._unsettled())

    @property
    def settled(self) -> bool:
        """Whether the run has ended and each of its events is acked, missing, excused or pending."""
        if not self.ended_ns or len(self.waiting) > len(self._unsequenced) or self._uncommitted():
            return False
        return not self.followers or next(self._unsettled(), None) is None

    def _uncommitted(self) -> bool:
        """Whether an event is on its way to the log and not yet given up for missing."""
        return any(seq not in self._gone for seq in range(self.committed_count + 1, len(self.types) + 1))

    def _unsettled(self) -> Iterator[int]:
        return (seq for seq in range(self.acked + 1, len(self.types) + 1) if seq not in self._gone)

    def next_deadline_ns(self) -> int | None:
        """The moment at which the first thing becomes overdue if nothing happens until then; `None` for never."""
        moments = [overdue.at_ns for overdue in self._candidates()]
        return min(moments, default=None)

    def overdue(self, now: int) -> list[Missing]:
        """Declare missing what is past its deadline, and say what that is. Nothing is declared twice.

        An unacked event behind an earlier unsettled one is blocked, not missing, until that one is settled. Where no
        follower's client has ever acked, the chain ends at the socket: such events are excused, not missing.
        """
        found: list[Missing] = []
        while True:
            late = [candidate for candidate in self._candidates() if candidate.at_ns <= now]
            if not late:
                return found
            for missing in late:
                if missing.seq is None:
                    ordinal = next(o for o in self.waiting if o not in self._unsequenced)
                    self._unsequenced[ordinal] = len(self.missing)
                else:
                    self._gone.add(missing.seq)
                if missing.link is Link.CLIENT and self.acking.isdisjoint(self.followers):
                    self.excused.add(missing.seq or 0)
                else:
                    self.missing.append(missing)
                    found.append(missing)

    def _candidates(self) -> Iterator[Missing]:
        """For each link the event that becomes overdue first, and when."""
        deadlines = self.deadlines
        for ordinal, (event_type, emitted_ns) in self.waiting.items():
            if ordinal not in self._unsequenced:
                at = emitted_ns + int(deadlines.bridge_seconds * NS_PER_SECOND)
                yield Missing(Link.BRIDGE, event_type, None, emitted_ns, at)
                break
        committed = self.committed_count
        index = self._first_owed(committed, self.emitter, len(self.types))
        if index < len(self.types):
            yield self._candidate(Link.EMITTER, index, self.bridge[index], deadlines.emitter_seconds)
        if not self.followers:
            return
        index = self._socket_cursor = self._first_owed(max(self._socket_cursor, self.acked), self.socket, committed)
        if index < committed:
            # What a replay has yet to reach is not late as long as it gets on, however slowly its peer reads.
            replayed = (replay.ended_ns for replay in self.replays if replay.socket in self.followers)
            since = max(self.emitter[index], self.carried_since, *replayed)
            yield self._candidate(Link.SOCKET, index, since, deadlines.socket_seconds)
        index = self._client_cursor = self._first_owed(max(self._client_cursor, self.acked), self.client, committed)
        if index < committed and self.socket[index]:
            since = max(self.socket[index], self.carried_since)
            yield self._candidate(Link.CLIENT, index, since, deadlines.client_seconds)

    def _first_owed(self, index: int, column: "array[int]", end: int) -> int:
        """The first event from `index` on that this link has not taken and that is not settled without it."""
        while index < end and (column[index] or index + 1 in self._gone):
            index += 1
        return index

    def _candidate(self, link: Link, index: int, since: int, seconds: float) -> Missing:
        event_type = EVENT_TYPES[self.types[index]]
        return Missing(link, event_type, index + 1, since, since + int(seconds * NS_PER_SECOND))

    def missing_seqs(self) -> dict[int, Missing]:
        """The missing events that have a seq."""
        return {missing.seq: missing for missing in self.missing if missing.seq is not None}

    def verdict(self, seq: int, missing: dict[int, Missing]) -> Verdict:
        """What became of one event's delivery; `missing` is `missing_seqs()`."""
        if seq in missing:
            return Verdict.MISSING
        acked_ns = self.client[seq - 1]
        if not acked_ns:
            return Verdict.NO_SOCKET
        return Verdict.IN_TIME if acked_ns - self.engine[seq - 1] <= IN_TIME_NS else Verdict.LATE

    def verdicts(self) -> Counter[tuple[EventType, Verdict]]:
        """One verdict for each event but deltas; to be asked when the run is settled."""
        missing = self.missing_seqs()
        counts = Counter(
            (self.event_type(seq), self.verdict(seq, missing))
            for seq in range(1, len(self.types) + 1)
            if not self.is_delta(seq)
        )
        for lost in self.missing:
            if lost.seq is None and lost.event_type is not EventType.AGENT_DELTA:
                counts[lost.event_type, Verdict.MISSING] += 1
        return counts

    @property
    def delivery_max_ns(self) -> int:
        """The longest way from engine to ack among the events that were acked."""
        engine, client = self.engine, self.client
        return max((client[i] - engine[i] for i in range(min(self.acked, len(engine))) if client[i]), default=0)

    def unix_ns(self, monotonic_ns: int) -> int:
        """A stamp as wall-clock time."""
        return self.opened_unix_ns + monotonic_ns - self.opened_ns
