"""Stamps that were lost while their events went on, and events that a socket was not given while later ones were."""

from tracewire_telemetry.deadlines import came, passed_over
from tracewire_telemetry.verdicts import count_verdicts, delivery_max_ns, stamps_lost
from tracewire_telemetry.vocabulary import EventType, Link, Verdict
from unit.ledgers import MS, LedgerScript, ns

THINKING, COMPLETED = EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
LATE_MS = 100_000
"""When the events happen: as long after the run's record as no deadline is."""


def test_an_event_whose_engine_and_bridge_stamps_are_lost_has_its_time_from_what_is_known() -> None:
    """Its deadline counts from the stamp before, its delivery from the stamp after; not from the clock's zero."""
    script = LedgerScript()
    socket = script.attached()
    script.ledger.sequenced(script.emitted(THINKING, LATE_MS), 0)
    assert script.overdue(LATE_MS + 1_999) == []
    script.ledger.committed(1, ns(LATE_MS + 1_999))
    script.ledger.written(socket, 1, ns(LATE_MS + 2_000))
    seq = script.ledger.sequenced(script.ledger.emitted(COMPLETED, 0), ns(LATE_MS + 2_001))
    script.ledger.committed(seq, ns(LATE_MS + 2_002))
    script.ledger.written(socket, seq, ns(LATE_MS + 2_003))
    script.acknowledged(socket, seq, LATE_MS + 2_004)
    script.ended(LATE_MS + 2_004)
    assert delivery_max_ns(script.ledger) == 2_004 * MS
    assert dict(count_verdicts(script.ledger)) == {(THINKING, Verdict.LATE): 1, (COMPLETED, Verdict.IN_TIME): 1}
    assert stamps_lost(script.ledger) == {Link.BRIDGE: 1, Link.ENGINE: 1}


def test_what_was_written_is_durable_though_the_emitters_stamp_is_lost() -> None:
    """It is missing nowhere, and its run is settled by the ack."""
    script = LedgerScript()
    socket = script.attached()
    seq = script.sequenced(COMPLETED, LATE_MS)
    script.ledger.written(socket, seq, ns(LATE_MS + 5))
    script.ended(LATE_MS + 5)
    assert script.overdue(LATE_MS + 3_000) == []
    script.acknowledged(socket, seq, LATE_MS + 3_000)
    assert script.settled
    assert stamps_lost(script.ledger) == {Link.EMITTER: 1}


def test_a_lost_stamp_of_a_write_leaves_a_gap_and_moves_no_other() -> None:
    """The stamps of one socket keep their places."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(THINKING, 0, socket)
    script.durable(THINKING, 10)
    script.durable(THINKING, 20)
    script.sent(COMPLETED, 30, socket)
    send = script.ledger.sends[socket]
    assert (send.first_seq, list(send.stamps)) == (1, [ns(3), 0, 0, ns(33)])
    assert stamps_lost(script.ledger) == {}
    script.acknowledged(socket, 4, 40)
    assert stamps_lost(script.ledger) == {Link.SOCKET: 2}


def test_what_is_on_its_way_or_missing_has_lost_no_stamp() -> None:
    """No later link has it: only the event can be lost."""
    script = LedgerScript()
    script.attached()
    script.sequenced(THINKING, 0)
    assert [lost.link for lost in script.overdue(5_000)] == [Link.EMITTER]
    script.durable(COMPLETED, 5_001)
    assert stamps_lost(script.ledger) == {}


def test_what_a_socket_is_not_given_before_a_later_event_is_missing_there_at_once() -> None:
    """Once; not what was written; and it has come when it is acked."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(THINKING, 0, socket)
    script.durable(THINKING, 10)
    script.durable(COMPLETED, 20)
    [lost] = passed_over(script.ledger, 1, 2, ns(30))
    assert (lost.link, lost.event_type, lost.seq, lost.at_ns) == (Link.SOCKET, "agent_thinking", 2, ns(30))
    assert passed_over(script.ledger, 1, 2, ns(31)) == []
    assert came(script.ledger, lost) == 0
    script.acknowledged(socket, 3, 40)
    assert came(script.ledger, lost) == ns(40)


def test_what_one_of_two_sockets_is_not_given_the_other_may_have() -> None:
    """The socket's deadline says so: here nothing is missing yet."""
    script = LedgerScript()
    script.attached()
    script.attached()
    script.durable(THINKING, 10)
    assert passed_over(script.ledger, 1, 1, ns(30)) == []
    assert [lost.link for lost in script.overdue(7_000)] == [Link.SOCKET]
