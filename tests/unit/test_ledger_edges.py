"""Ledger and deadlines at their edges: the stamp of this event and no other, this moment and not the next."""

import pytest

from tracewire_telemetry.deadlines import came, passed_over, replaced
from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.vocabulary import NEXT, EventType, Link
from unit.ledgers import MS, OPENED_NS, LedgerScript, ns

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
AT = 100.0
"""When something was due."""


def lost_at(link: Link, seq: int | None, event_type: str = THINKING) -> Missing:
    """An event that was missing at this link, due at `AT`."""
    return Missing(link, event_type, seq, ns(0), ns(AT))


# What came after all.


def test_an_event_came_when_it_was_acked_itself() -> None:
    """Not when the one before it was."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(3):
        script.sent(THINKING, number * 10, socket)
    script.acknowledged(socket, 1, 200)
    script.acknowledged(socket, 2, 300)
    assert [ns(200), ns(300), 0] == [came(script.ledger, lost_at(Link.CLIENT, seq)) for seq in (1, 2, 3)]


def test_where_nobody_follows_an_event_came_when_it_was_durable_if_it_was_missing_before_that() -> None:
    """At the socket it is the user's absence that counts."""
    script = LedgerScript()
    script.durable(THINKING, 0)
    script.durable(THINKING, 10)
    assert ns(12) == came(script.ledger, lost_at(Link.BRIDGE, 2)) == came(script.ledger, lost_at(Link.EMITTER, 2))
    assert ns(2) == came(script.ledger, lost_at(Link.EMITTER, 1))
    assert 0 == came(script.ledger, lost_at(Link.SOCKET, 2))


def test_where_nobody_acks_an_event_came_when_it_was_written() -> None:
    """A client that is known to ack owes the ack."""
    script = LedgerScript()
    socket = script.attached(acking=False)
    script.sent(THINKING, 0, socket)
    script.sent(THINKING, 10, socket)
    assert [ns(3), ns(13)] == [came(script.ledger, lost_at(Link.SOCKET, seq)) for seq in (1, 2)]
    script.ledger.acking.add(socket)
    assert 0 == came(script.ledger, lost_at(Link.SOCKET, 2))


def test_what_has_no_seq_or_lost_it_or_was_miscounted_has_not_come() -> None:
    """Whatever stamps stand where it would be."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(THINKING, 0, socket)
    script.acknowledged(socket, 1, 20)
    assert [0, 0] == [came(script.ledger, lost_at(Link.EMITTER, seq)) for seq in (None, 2)]
    miscounted = script.ledger.counted_otherwise(1, ns(30))
    assert miscounted is not None
    assert 0 == came(script.ledger, miscounted)
    assert ns(20) == came(script.ledger, lost_at(Link.CLIENT, 1))


def test_what_the_log_has_other_events_for_has_not_come() -> None:
    """From the seq on at which it has others; what stands before is its own."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(3):
        script.sent(THINKING, number * 10, socket)
    script.acknowledged(socket, 3, 50)
    assert [False] * 3 == [replaced(script.ledger, seq) for seq in (1, 2, 3)]
    script.ledger.replaced_from = 2
    assert [False, True, True] == [replaced(script.ledger, seq) for seq in (1, 2, 3)]
    assert [ns(50), 0, 0] == [came(script.ledger, lost_at(Link.EMITTER, seq)) for seq in (1, 2, 3)]
    script.ledger.replaced_from = 1
    assert replaced(script.ledger, 1)


def test_what_the_engine_owed_came_when_it_was_emitted_after_that_moment() -> None:
    """In that very moment it was not there yet; an event that waits at the bridge has been emitted."""
    script = LedgerScript()
    owed = lost_at(Link.ENGINE, None, STARTED)
    assert 0 == came(script.ledger, owed)
    script.emitted(THINKING, AT + 1)
    assert 0 == came(script.ledger, owed)
    assert ns(AT + 1) == came(script.ledger, lost_at(Link.ENGINE, None, NEXT))
    script.emitted(STARTED, AT + 2)
    assert ns(AT + 2) == came(script.ledger, owed)
    at_once = LedgerScript()
    at_once.emitted(STARTED, AT)
    assert 0 == came(at_once.ledger, owed)
    passed_on = LedgerScript()
    passed_on.durable(STARTED, AT + 3)
    assert ns(AT + 3) == came(passed_on.ledger, owed) == came(passed_on.ledger, lost_at(Link.ENGINE, None, NEXT))


# What is missing.


def test_what_was_passed_over_is_missing_since_it_was_known_and_stays_so() -> None:
    """The incident says since when; a second look finds nothing new."""
    script = LedgerScript()
    script.attached()
    script.durable(STARTED, 10)
    script.durable(THINKING, 20)
    [lost] = passed_over(script.ledger, 2, 2, ns(50))
    assert Missing(Link.SOCKET, THINKING, 2, ns(20), ns(50)) == lost
    assert lost is script.ledger.gone[2]
    assert [] == passed_over(script.ledger, 2, 2, ns(60))


def test_a_count_that_differs_is_missing_once_and_only_where_there_is_such_an_event() -> None:
    """At the client, in that moment; not for a seq that does not exist, nor twice, nor where it was missing before."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(3):
        script.sent(THINKING, number * 10, socket)
    assert [None, None] == [script.ledger.counted_otherwise(seq, ns(40)) for seq in (0, 4)]
    script.ledger.gone[1] = lost_at(Link.SOCKET, 1)
    assert script.ledger.counted_otherwise(1, ns(40)) is None
    script.ledger.gone[3] = None
    lost = script.ledger.counted_otherwise(3, ns(45))
    assert Missing(Link.CLIENT, THINKING, 3, ns(45), ns(45)) == lost
    assert (lost, lost) == (script.ledger.gone[3], script.ledger.miscounted)
    assert script.ledger.counted_otherwise(2, ns(50)) is None


@pytest.mark.parametrize(("columns", "expected"), [(0, 10), (1, 11), (2, 12), (3, 13)])
def test_an_event_is_known_by_the_first_stamp_that_it_has(columns: int, expected: float) -> None:
    """Engine, bridge, emitter, socket; by the run's record where it has none."""
    script = LedgerScript()
    script.sent(THINKING, 10, script.attached())
    ledger = script.ledger
    for column in (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket)[:columns]:
        column[0] = 0
    assert ns(expected) == ledger.known_ns(1)
    ledger.engine[0] = ledger.bridge[0] = ledger.emitter[0] = ledger.socket[0] = 0
    assert OPENED_NS == ledger.known_ns(1)


def test_what_a_reader_got_is_excused_from_what_is_not_acked_on() -> None:
    """What was acked by somebody before has its ack."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.sent(THINKING, 10, socket)
    script.sent(THINKING, 20)
    script.acknowledged(socket, 2, 30)
    script.detached(socket, 40)
    reader = script.ledger.attached(ns(50), reader=True)
    script.ledger.replayed(reader, 1, 3, ns(51), ns(52))
    assert {3} == script.ledger.excused


@pytest.mark.parametrize(("written", "link"), [(False, Link.EMITTER), (True, Link.SOCKET)])
def test_what_takes_the_seq_of_a_revoked_event_is_watched_from_its_first_link_on(written: bool, link: Link) -> None:
    """Whatever had been looked at before."""
    script = LedgerScript()
    script.attached()
    seq = script.sequenced(THINKING, 0)
    script.overdue(100)
    script.ledger.revoked(seq)
    again = script.durable(THINKING, 200) if written else script.sequenced(THINKING, 200)
    assert [(link, 1)] == [(lost.link, lost.seq) for lost in script.overdue(10_000)]
    assert 1 == again


def test_a_revoked_event_takes_no_others_name() -> None:
    """What waits at the bridge, and what is emitted later, are still told apart."""
    script = LedgerScript()
    seq = script.sequenced(STARTED, 0)
    waiting = [script.emitted(THINKING, 10), script.emitted(THINKING, 20)]
    script.ledger.revoked(seq)
    waiting.append(script.emitted(COMPLETED, 30))
    assert 3 == len(set(waiting)) == len(script.ledger.waiting)


def test_a_socket_that_was_asked_for_life_has_the_time_that_the_process_stood_still_on_top() -> None:
    """It could not be heard meanwhile."""
    script = LedgerScript()
    socket = script.attached()
    script.life[socket] = 0
    script.stalled_ns = 2_000 * MS
    script.sent(THINKING, 0, socket)
    assert set() == script.look(12_002).ping
    assert {socket} == script.look(12_003).ping
    looks = {at_ms: script.look(at_ms) for at_ms in (12_100, 18_000, 19_002, 19_003)}
    assert [set(), set(), set(), {socket}] == [look.dead for look in looks.values()]
    assert [[]] * 4 == [look.missing for look in looks.values()]
    assert looks[12_100].due_ns == ns(12_100) + 250 * MS


def test_who_shows_life_again_has_half_a_short_deadline_to_ack() -> None:
    """From that sign of life on."""
    script = LedgerScript(deadlines=LinkDeadlines(client_seconds=1))
    socket = script.attached()
    script.sent(THINKING, 0, socket)
    script.life[socket] = ns(903)
    assert [[], [], []] == [script.overdue(at_ms) for at_ms in (1_003, 1_300, 1_402)]
    [lost] = script.overdue(1_403)
    assert (Link.CLIENT, 1) == (lost.link, lost.seq)
