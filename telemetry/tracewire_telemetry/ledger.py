"""The ledger of one run: which event has crossed which link, and when. Pure: it is told the time.

The hot path only stamps: one slot a link in a column of 64-bit integers, nanoseconds of a monotonic clock. From these
columns come the deadlines, the verdicts, the metrics and the spans (`deadlines.py`, `verdicts.py`, `metrics.py`,
`chain.py`). One wall-clock anchor turns a stamp into a date, so that a stepped wall clock changes nothing.

Seqs count from 1 without gaps; the stamps of seq `n` stand at index `n - 1`. 0 is "not stamped".
"""

from array import array
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from tracewire_telemetry.carried import Ack, Replay, Send
from tracewire_telemetry.limits import NS_PER_SECOND as NS_PER_SECOND  # for those who read the ledger's stamps
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines, limits_of
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Link, Origin, Outcome

TYPE_INDEX: Final = {event_type: index for index, event_type in enumerate(EVENT_TYPES)}
_DELTA: Final = TYPE_INDEX[EventType.AGENT_DELTA]


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


class Missing(Struct):
    """An event that a link has not taken by its deadline. `seq` is `None` as long as it has none.

    `event_type` is the event's, or `next` where the engine fell silent.
    """

    link: Link
    event_type: str
    seq: int | None
    since_ns: int
    at_ns: int


def _nobody_waits(_: int) -> None:
    pass


class RunLedger:
    """What every event of one open run has crossed. Each method is one stamp; `now` is monotonic nanoseconds.

    `gone` holds the events that are settled without an ack, by their seq, or by the negative of their ordinal where
    they have none: as `Missing`, or as `None` where they are excused (nobody who could ack them follows).
    `replaced_from`, where it is not 0, is the first seq that stands for another event in the log than here.
    `due_ns` is when somebody looks at the deadlines next; what makes one earlier calls `wake` with that moment.
    """

    __slots__ = (
        "_ordinals",
        "_sockets",
        "_wake_before_ns",
        "acked",
        "acking",
        "acks",
        "active_ns",
        "awaiting_input",
        "bridge",
        "carried_since",
        "client",
        "committed_count",
        "cursors",
        "due_ns",
        "emitter",
        "ended_ns",
        "engine",
        "flushed",
        "followers",
        "gone",
        "identity",
        "left_ns",
        "limits",
        "miscounted",
        "opened_ns",
        "opened_unix_ns",
        "outcome",
        "readers",
        "replaced_from",
        "replays",
        "sends",
        "settled_ns",
        "silent",
        "socket",
        "suspected",
        "types",
        "waiting",
        "wake",
        "woken",
    )

    def __init__(
        self,
        identity: RunIdentity,
        deadlines: LinkDeadlines,
        *,
        now: int,
        unix_ns: int,
        engine: EngineDeadlines = EngineDeadlines(),  # noqa: B008 # frozen
    ) -> None:
        """`now` and `unix_ns` are the same moment, at which the run was asked for, on the two clocks."""
        self.identity = identity
        self.limits = limits_of(deadlines, engine)
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
        self.gone: dict[int, Missing | None] = {}
        self.silent: Missing | None = None
        self.miscounted: Missing | None = None
        self.suspected = (0, 0)
        self.woken = (0, 0)
        self.awaiting_input = False
        self.active_ns = 0
        self.committed_count = 0
        self.replaced_from = 0
        self.acked = 0
        self.carried_since = 0
        self.left_ns = now
        self.ended_ns = 0
        self.settled_ns = 0
        self.outcome: Outcome | None = None
        self.flushed = [0, 0, 0, 0, 0]
        self.cursors = [0, 0, 0]
        self.due_ns = 0
        self.wake: Callable[[int], None] = _nobody_waits
        self._ordinals = 0
        self._sockets = 0
        self._wake_before_ns = 0

    def look_at(self, due_ns: int) -> None:
        """Somebody looks at the deadlines at this moment. 0: nobody does, and nothing is to wake anybody."""
        self.due_ns = due_ns
        self._wake_before_ns = due_ns - self.limits.step

    # The stamps, in the order of the links.

    def emitted(self, event_type: EventType, now: int) -> int:
        """The engine hands an event to the bridge. Returns the ordinal by which the bridge names it."""
        self._ordinals += 1
        self.waiting[self._ordinals] = (event_type, now)
        if now < self._wake_before_ns:
            self.wake(now + self.limits.step)
        return self._ordinals

    def withdrawn(self, ordinal: int) -> None:
        """The bridge refused the event, and its caller was told: nothing is owed for it."""
        self.waiting.pop(ordinal, None)

    def sequenced(self, ordinal: int, now: int) -> int:
        """The bridge gives the event its seq, which is returned."""
        event_type, emitted_ns = self.waiting.pop(ordinal)
        self.types.append(TYPE_INDEX[event_type])
        self.engine.append(emitted_ns)
        self.bridge.append(now)
        self.emitter.append(0)
        self.socket.append(0)
        self.client.append(0)
        if self.gone:
            self._renamed(-ordinal, len(self.types))
        return len(self.types)

    def revoked(self, seq: int) -> None:
        """The log did not take the event: its seq, the newest, is free again."""
        if seq != len(self.types):
            raise ValueError(f"only the newest seq, {len(self.types)}, can be revoked, not {seq}")
        for column in (self.types, self.engine, self.bridge, self.emitter, self.socket, self.client):
            column.pop()
        self.flushed = [min(count, seq - 1) for count in self.flushed]
        self.cursors = [0, 0, 0]
        self._ordinals += 1
        self._renamed(seq, -self._ordinals)

    def _renamed(self, before: int, key: int) -> None:
        lost = self.gone.pop(before, None)
        if lost is not None:
            lost.seq = key if key > 0 else None
            self.gone[key] = lost

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

    def detached(self, socket: int, now: int) -> None:
        """The socket is gone, or follows the run no more."""
        if socket in self.followers:
            self.followers.remove(socket)
            self.left_ns = now
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
            if seq > send.first_seq + len(send.stamps):  # stamps before it were lost
                send.stamps.extend([0] * (seq - send.first_seq - len(send.stamps)))
            send.stamps.append(now)
        if seq > self.committed_count:  # it is durable, whatever became of that stamp
            self.committed_count = seq
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
        if self.followers <= self.readers:
            for seq in range(max(first_seq, self.acked + 1), last_seq + 1):
                self.gone.setdefault(seq, None)

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

    def input_awaited(self, awaited: bool, now: int) -> None:
        """The agent waits for its user from now on, or no more."""
        self.awaiting_input = awaited
        self.active_ns = now

    def ended(self, outcome: Outcome, now: int) -> list[Missing]:
        """The run has its terminal event; what it owed and never emitted is missing at the engine, and returned."""
        self.outcome = outcome
        self.ended_ns = now
        if outcome is not Outcome.COMPLETED:
            return []
        shown: set[str] = {EVENT_TYPES[index] for index in set(self.types)}
        shown.update(event_type for event_type, _ in self.waiting.values())
        shown.update(lost.event_type for lost in self.missing)
        owed = [event_type for event_type in self.identity.required if event_type not in shown]
        return [self.never_emitted(event_type, now, now) for event_type in owed]

    # What is settled without an ack.

    def never_emitted(self, event_type: str, since_ns: int, at_ns: int) -> Missing:
        """An event that the engine owes and has not emitted."""
        self._ordinals += 1
        lost = self.gone[-self._ordinals] = Missing(Link.ENGINE, event_type, None, since_ns, at_ns)
        return lost

    def counted_otherwise(self, seq: int, now: int) -> Missing | None:
        """The client promised 1..`seq` and has counted another number of events: which is taken for missing.

        `None` where such a promise stands already, or the event was missing before.
        """
        if self.miscounted is not None or not 0 < seq <= self.last_seq or self.gone.get(seq) is not None:
            return None
        lost = self.miscounted = Missing(Link.CLIENT, self.event_type(seq), seq, now, now)
        self.gone[seq] = lost
        return lost

    @property
    def missing(self) -> list[Missing]:
        """Every event that was declared missing, those that came after all too, in the order of declaration."""
        return [lost for lost in self.gone.values() if lost is not None] if self.gone else []

    @property
    def excused(self) -> set[int]:
        """The seqs for which no ack is owed."""
        return {key for key, lost in self.gone.items() if lost is None}

    @property
    def last_seq(self) -> int:
        """The newest seq that the bridge gave."""
        return len(self.types)

    def event_type(self, seq: int) -> EventType:
        """The type of one event."""
        return EVENT_TYPES[self.types[seq - 1]]

    def known_ns(self, seq: int) -> int:
        """The earliest that is known of an event: its stamp at the engine, or at a later link if that one was lost."""
        index = seq - 1
        return self.engine[index] or self.bridge[index] or self.emitter[index] or self.socket[index] or self.opened_ns

    def is_delta(self, seq: int) -> bool:
        """Whether the event is an `agent_delta`."""
        return self.types[seq - 1] == _DELTA

    @property
    def in_flight(self) -> bool:
        """Whether an event is on its way to the log, and not given up for missing."""
        if self.waiting and any(-ordinal not in self.gone for ordinal in self.waiting):
            return True
        return any(seq not in self.gone for seq in range(self.committed_count + 1, len(self.types) + 1))

    @property
    def pending(self) -> int:
        """Durable events that nobody has acked while no socket follows the run."""
        if self.followers:
            return 0
        return sum(seq not in self.gone for seq in range(self.acked + 1, len(self.types) + 1))

    def unix_ns(self, monotonic_ns: int) -> int:
        """A stamp as wall-clock time."""
        return self.opened_unix_ns + monotonic_ns - self.opened_ns
