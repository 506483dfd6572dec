"""What of a run is overdue, whom to ask before anybody is blamed, and what came after all. Pure.

Enters: a ledger, a moment, and two things that only the shell knows: when each socket last showed life, and how long
the process itself stood still. Leaves: a `Look`, which the watch acts upon.

Each link has a deadline, from the later of the previous stamp and the moment at which a live socket carries the run.

- *Blocked*: acks are cumulative, so that nobody can ack an event behind one that he has not got. Behind an event that
  is missing before the client, what was written and not acked is blocked for good: it is not missing, opens nothing
  and joins nothing, and is settled with the one that blocks it (its verdict is that one's). It counts again, from its
  own stamp, when that one is acked. Behind an event that is missing *at the client* nothing blocks: the client has
  them all and acks none, so each joins that incident at its own deadline.
- *Passed over*: what the only socket that follows was not given before a later event was. No deadline is waited for.
- *In its turn*: what tools that run side by side emit in one moment, the bridge passes on one by one, each when the log
  has the one before. Who waits behind one that is on its way to the log is not late by that.
- *Liveness before blame*: where no acking socket has shown life since the event was written, they are pinged first.
  Life before the last moment of the deadline does not count: the client may have died, or stood still, before it could
  ack. From the life that counts it has a moment to ack: it may have stood still until then.
- *The engine*: no `agent_started` in time, or silence, while no event is on its way to the log, or stuck on it. A
  tool that executes is activity until its own deadline; waiting for input is no silence.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct, field

from tracewire_telemetry.ledger import NS_PER_SECOND, TYPE_INDEX, Missing, RunLedger
from tracewire_telemetry.vocabulary import EVENT_TYPES, NEXT, EventType, Link

_EXECUTING: Final = TYPE_INDEX[EventType.TOOL_EXECUTING]
_COMPLETED: Final = TYPE_INDEX[EventType.TOOL_COMPLETED]
_STARTED: Final = TYPE_INDEX[EventType.AGENT_STARTED]
_ACK_NS: Final = NS_PER_SECOND
"""What a client has for its ack after it showed life again: twice what the wire asks of it. One whose process stood
still answers a ping the moment it goes on, and acks what it then reads a little later. No more than half the deadline.
"""
_FIRST_PONG_NS: Final = NS_PER_SECOND // 4
"""When a pinged socket is looked at first; then after twice as long, and so on until it must have answered."""

Life = Callable[[int], int]
"""When a socket, by its ordinal in the ledger, last showed life; monotonic nanoseconds. Later than now: nobody knows
when, and it is alive.
"""
Stalled = Callable[[int], int]
"""For how many nanoseconds since a moment the process stood still: nobody is late by them."""


class Look(Struct):
    """What one look at a run found. Sockets are named by their ordinals in the ledger.

    Attributes:
        missing: what was declared missing, by this look, once.
        blamed: sockets that are alive and lack, or did not ack, what is missing.
        ping: sockets that showed no life since the write; to be pinged.
        dead: sockets that did not answer in time.
        excused: sockets that were due an ack and whose clients have never sent one.
        due_ns: when to look again at the latest; `None` where nothing can become overdue by itself.
    """

    missing: list[Missing] = field(default_factory=list)
    blamed: set[int] = field(default_factory=set)
    ping: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    excused: set[int] = field(default_factory=set)
    due_ns: int | None = None


class Due(NamedTuple):
    """An event that a link has not taken yet. `key` is its seq, the negative of its ordinal, or 0 for the engine."""

    at_ns: int
    since_ns: int
    link: Link
    key: int


def look(ledger: RunLedger, now: int, life: Life, stalled: Stalled) -> Look:
    """Declare missing what is past its deadline at `now`, once, and say what else is to be done."""
    found = Look()
    if ledger.silent is not None and came(ledger, ledger.silent):
        ledger.silent = None
    while True:
        late, next_ns, on_its_way = False, 0, False
        for due in awaited(ledger):
            at_ns = due.at_ns
            if at_ns <= now:
                at_ns += stalled(due.since_ns)
                if at_ns <= now and due.link is Link.CLIENT:
                    at_ns = _client_overdue(ledger, due, now, life, stalled, found)
                elif at_ns <= now:
                    _declare(ledger, due, found)
                if at_ns <= now:
                    late = True
                    continue
            on_its_way |= due.link not in (Link.ENGINE, Link.CLIENT)
            next_ns = min(next_ns, at_ns) if next_ns else at_ns
        if not late:
            break
    if on_its_way:  # what is stamped meanwhile may be due a step later, before anything that is awaited now
        next_ns = min(next_ns, now + ledger.limits.step)
    found.due_ns = next_ns or None
    return found


def awaited(ledger: RunLedger) -> Iterator[Due]:
    """For each link the event that becomes overdue first, and when."""
    limits, gone = ledger.limits, ledger.gone
    committed, last = ledger.committed_count, len(ledger.types)
    # While one is on its way to the log the bridge is busy: it passes on one event of a run at a time.
    if committed == last or last in gone:
        lost = gone[last] if committed < last else None
        free_ns = lost.at_ns if lost is not None else ledger.emitter[committed - 1] if committed else 0
        for ordinal, (_, emitted_ns) in ledger.waiting.items():
            if -ordinal not in gone:
                since = max(emitted_ns, free_ns)
                yield Due(since + limits.bridge, since, Link.BRIDGE, -ordinal)
                break
    if committed < last:
        index = _first_owed(ledger, 0, committed, ledger.emitter, last)
        if index < last:
            since = ledger.bridge[index] or ledger.known_ns(index + 1)
            yield Due(since + limits.emitter, since, Link.EMITTER, index + 1)
    if not (ledger.waiting or committed < last or ledger.ended_ns or ledger.silent):
        yield from _silence(ledger)
    if not ledger.followers or ledger.acked >= committed:
        return
    index = _first_owed(ledger, 1, ledger.acked, ledger.socket, committed)
    if index < committed:
        # What a replay has yet to reach is not late as long as it gets on, however slowly its peer reads.
        replayed = (replay.ended_ns for replay in ledger.replays if replay.socket in ledger.followers)
        durable = ledger.emitter[index] or ledger.bridge[index] or ledger.known_ns(index + 1)
        since = max(durable, ledger.carried_since, *replayed)
        yield Due(since + limits.socket, since, Link.SOCKET, index + 1)
    index = _first_unacked(ledger, committed)
    if index < committed and ledger.socket[index]:
        since = max(ledger.socket[index], ledger.carried_since)
        yield Due(since + limits.client, since, Link.CLIENT, index + 1)


def _first_owed(ledger: RunLedger, cursor: int, index: int, column: "array[int]", end: int) -> int:
    """The first event from `index` on that this link has not taken and that is not settled without it."""
    gone = ledger.gone
    index = max(index, ledger.cursors[cursor])
    while index < end and (column[index] or index + 1 in gone):
        index += 1
    ledger.cursors[cursor] = index
    return index


def _first_unacked(ledger: RunLedger, end: int) -> int:
    """The first event that its client could ack and has not; `end` where there is none, or one before it blocks."""
    gone = ledger.gone
    index = max(ledger.acked, ledger.cursors[2])
    while index < end and index + 1 in gone:
        lost = gone[index + 1]
        if lost is not None and lost.link is not Link.CLIENT:
            return end
        index += 1
    ledger.cursors[2] = index
    return index


def _silence(ledger: RunLedger) -> Iterator[Due]:
    limits, types = ledger.limits, ledger.types
    if not types:
        yield Due(ledger.opened_ns + limits.start, ledger.opened_ns, Link.ENGINE, 0)
        return
    if ledger.awaiting_input:
        return
    since = max(ledger.engine[-1], ledger.emitter[-1], ledger.active_ns)
    if types.count(_EXECUTING) > types.count(_COMPLETED):
        since = max(since, ledger.engine[types.rindex(_EXECUTING)] + limits.tool)
    yield Due(since + limits.idle, since, Link.ENGINE, 0)


def _declare(ledger: RunLedger, due: Due, found: Look) -> None:
    if due.link is Link.ENGINE:
        event_type = NEXT if ledger.types else EventType.AGENT_STARTED
        lost = ledger.silent = ledger.never_emitted(event_type, due.since_ns, due.at_ns)
    else:
        seq = due.key if due.key > 0 else None
        event_type = ledger.waiting[-due.key][0] if seq is None else EVENT_TYPES[ledger.types[seq - 1]]
        lost = ledger.gone[due.key] = Missing(due.link, event_type, seq, due.since_ns, due.at_ns)
    if due.link is Link.SOCKET:
        found.blamed |= ledger.followers
    found.missing.append(lost)


def _client_overdue(ledger: RunLedger, due: Due, now: int, life: Life, stalled: Stalled, found: Look) -> int:
    """Excuse it, declare it missing, or find out who is alive: in that case when to look again."""
    witnesses = ledger.acking & ledger.followers
    if not witnesses:
        ledger.gone[due.key] = None
        found.excused |= ledger.followers - ledger.readers
        return now
    # An ack that was under way at the write shows life a moment later, and nothing of what followed.
    ack_ns = min(_ACK_NS, ledger.limits.client // 2)
    alive = {socket for socket in witnesses if life(socket) > due.since_ns + ledger.limits.client - ack_ns}
    if alive:
        seq, acks_by_ns = ledger.woken
        if seq != due.key or acks_by_ns < due.since_ns:
            lived_ns = max(map(life, alive))
            acks_by_ns = lived_ns + ack_ns if lived_ns <= now else now
            ledger.woken = (due.key, acks_by_ns)
        if now < acks_by_ns:
            return acks_by_ns
        _declare(ledger, due, found)
        found.blamed |= alive
        return now
    seq, pinged_ns = ledger.suspected
    if seq != due.key or pinged_ns < due.since_ns:
        ledger.suspected = (due.key, now)
        found.ping |= witnesses
        return now + min(_FIRST_PONG_NS, ledger.limits.silence)
    dead_at = pinged_ns + ledger.limits.silence + stalled(pinged_ns)
    if now >= dead_at:
        found.dead |= witnesses
        return now + ledger.limits.step  # they are cut off, and follow no more: the event is pending then
    return min(dead_at, now + max(_FIRST_PONG_NS, now - pinged_ns))


def passed_over(ledger: RunLedger, first_seq: int, last_seq: int, now: int) -> list[Missing]:
    """Declare missing at the socket what the only socket that follows was not given before a later event was.

    No deadline is waited for: events go to a socket in order, so that it will not be given them. Where others follow,
    one of them may have them, and its deadlines say so.
    """
    found: list[Missing] = []
    for seq in range(first_seq, last_seq + 1) if len(ledger.followers) == 1 else ():
        if not ledger.socket[seq - 1] and seq not in ledger.gone:
            lost = Missing(Link.SOCKET, ledger.event_type(seq), seq, ledger.known_ns(seq), now)
            ledger.gone[seq] = lost
            found.append(lost)
    return found


def came(ledger: RunLedger, lost: Missing) -> int:
    """When a missing event reached the end of its chain after all; 0: it has not.

    The end is the ack; the socket, where nobody who follows can ack; the log, where nobody follows and it was missing
    before the socket. What the engine owed has come when it was emitted: later links have deadlines of their own.
    """
    if lost.link is Link.ENGINE:
        return _emitted_after(ledger, lost)
    seq = lost.seq
    if seq is None or lost is ledger.miscounted or seq > ledger.last_seq or replaced(ledger, seq):
        return 0
    if ledger.client[seq - 1]:
        return ledger.client[seq - 1]
    if not ledger.followers:
        return ledger.emitter[seq - 1] if lost.link in (Link.BRIDGE, Link.EMITTER) else 0
    return ledger.socket[seq - 1] if ledger.acking.isdisjoint(ledger.followers) else 0


def replaced(ledger: RunLedger, seq: int) -> bool:
    """Whether the log holds another event under this seq: acks of it are that one's, and this one cannot come."""
    return 0 < ledger.replaced_from <= seq


def _emitted_after(ledger: RunLedger, lost: Missing) -> int:
    if lost.event_type == NEXT:
        moments = list(ledger.engine[bisect_right(ledger.engine, lost.at_ns) :][:1])
        moments += [at for _, at in ledger.waiting.values()]
    elif lost.event_type == EventType.AGENT_STARTED:
        moments = [ledger.engine[index] for index in (ledger.types.find(_STARTED),) if index >= 0]
        moments += [at for event_type, at in ledger.waiting.values() if event_type is EventType.AGENT_STARTED]
    else:
        moments = []
    return next((at for at in moments if at > lost.at_ns), 0)


def settled(ledger: RunLedger) -> bool:
    """Whether the run has ended and each of its events is acked, missing, excused, pending, or blocked behind one."""
    if not ledger.ended_ns or ledger.in_flight:
        return False
    return not ledger.followers or not any(True for _ in awaited(ledger))
