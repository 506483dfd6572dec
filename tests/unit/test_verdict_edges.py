"""Verdicts at their edges: what is blocked, what was excused, what lost a stamp and what was lost itself."""

import pytest

from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.verdicts import count_verdicts, delivery_max_ns, stamps_lost, verdicts_of
from tracewire_telemetry.vocabulary import NEXT, EventType, Link, Verdict
from unit.ledgers import LedgerScript, ns

STARTED, THINKING = EventType.AGENT_STARTED, EventType.AGENT_THINKING
MISSING, NO_SOCKET, IN_TIME = Verdict.MISSING, Verdict.NO_SOCKET, Verdict.IN_TIME


def lost_at(link: Link, seq: int | None, event_type: str = THINKING) -> Missing:
    """An event that was missing at this link."""
    return Missing(link, event_type, seq, ns(0), ns(100))


@pytest.mark.parametrize(
    ("gone", "acked", "expected"),
    [
        ({}, 0, [NO_SOCKET, NO_SOCKET, NO_SOCKET]),
        ({1: Link.SOCKET}, 0, [MISSING, MISSING, MISSING]),
        ({1: Link.SOCKET, 2: Link.CLIENT}, 0, [MISSING, MISSING, MISSING]),
        ({1: Link.SOCKET, 2: None}, 0, [MISSING, NO_SOCKET, MISSING]),
        ({2: Link.EMITTER}, 1, [IN_TIME, MISSING, MISSING]),
        ({1: Link.EMITTER}, 2, [MISSING, IN_TIME, NO_SOCKET]),
        ({1: Link.CLIENT}, 0, [MISSING, NO_SOCKET, NO_SOCKET]),
    ],
)
def test_what_is_behind_a_missing_event_is_missing_too_unless_the_client_had_it(
    gone: dict[int, Link | None], acked: int, expected: list[Verdict]
) -> None:
    """Until that one was acked; what is excused is owed to nobody. Where nobody follows nothing is blocked."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(3):
        script.sent(THINKING, number * 10, socket)
    script.acknowledged(socket, acked, 50)
    script.ledger.gone.update({seq: None if link is None else lost_at(link, seq) for seq, link in gone.items()})
    assert expected == verdicts_of(script.ledger)
    script.detached(socket, 60)
    lost = [seq for seq, link in gone.items() if link is not None]
    unfollowed = [MISSING if seq in lost else IN_TIME if seq <= acked else NO_SOCKET for seq in (1, 2, 3)]
    assert unfollowed == verdicts_of(script.ledger)


def test_a_stamp_is_lost_where_a_later_link_has_one_and_the_event_was_not_lost() -> None:
    """Of each event the links before its last stamp; of one that was missing none, and those after it count on."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(4):
        script.sent(THINKING, number * 10, socket)
    ledger = script.ledger
    assert {} == stamps_lost(ledger)
    ledger.engine[0] = ledger.bridge[1] = ledger.emitter[3] = 0
    ledger.bridge[2] = ledger.emitter[2] = 0
    ledger.gone[3] = lost_at(Link.EMITTER, 3)
    assert {Link.ENGINE: 1, Link.BRIDGE: 1, Link.EMITTER: 1} == stamps_lost(ledger)
    ledger.gone[2] = None  # excused: it arrived, nobody owes an ack
    assert {Link.ENGINE: 1, Link.BRIDGE: 1, Link.EMITTER: 1} == stamps_lost(ledger)


def test_an_event_that_has_no_stamp_at_all_has_lost_none() -> None:
    """No later link tells of it."""
    script = LedgerScript()
    script.durable(THINKING, 0)
    for column in (script.ledger.engine, script.ledger.bridge, script.ledger.emitter):
        column[0] = 0
    assert {} == stamps_lost(script.ledger)


def test_what_was_never_acked_took_no_time() -> None:
    """Not a nanosecond."""
    script = LedgerScript()
    script.durable(THINKING, 0)
    assert 0 == delivery_max_ns(script.ledger)


def test_what_never_got_a_seq_is_counted_unless_it_came_or_has_no_type_of_its_own() -> None:
    """Silence is no event; what the engine owed and then emitted has a verdict by its seq."""
    script = LedgerScript()
    for event_type in (NEXT, THINKING, STARTED):
        script.ledger.never_emitted(event_type, ns(0), ns(1))
    script.durable(STARTED, 10)
    expected = {(STARTED, Verdict.NO_SOCKET): 1, (THINKING, Verdict.MISSING): 1}
    assert expected == dict(count_verdicts(script.ledger))
