"""Readers that cannot ack: their chain ends at the socket, and nobody else's is shortened by it."""

import pytest

from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.vocabulary import EventType, Link
from unit.ledgers import LedgerScript, ns

THOUGHT = EventType.AGENT_THINKING
LATE_MS = 60_000


@pytest.fixture
def script() -> LedgerScript:
    """A run that nobody follows yet."""
    return LedgerScript()


def reader(script: LedgerScript, at_ms: float = 0) -> int:
    """A reader follows the run."""
    return script.ledger.attached(ns(at_ms), reader=True)


def missing(found: list[Missing]) -> list[tuple[Link, int | None]]:
    """Where which event is missing."""
    return [(lost.link, lost.seq) for lost in found]


def test_what_a_reader_got_is_settled_at_once(script: LedgerScript) -> None:
    """Without waiting for an ack: the run settles when it has ended, nothing of it missing and nothing pending."""
    socket = reader(script)
    script.sent(THOUGHT, 10, socket)
    script.sent(EventType.AGENT_COMPLETED, 20, socket)
    script.ended(30)
    assert script.settled
    assert script.overdue(LATE_MS) == []
    script.detached(socket)
    assert (script.ledger.pending, script.ledger.missing) == (0, [])


def test_what_a_reader_replayed_is_settled_too(script: LedgerScript) -> None:
    """However it came to it."""
    script.durable(THOUGHT, 10)
    script.durable(THOUGHT, 20)
    socket = reader(script, 30)
    script.ledger.replayed(socket, 1, 2, ns(31), ns(32))
    script.ended(40)
    assert script.settled
    assert script.ledger.excused == {1, 2}


def test_what_a_reader_did_not_get_is_missing_at_the_socket(script: LedgerScript) -> None:
    """Its chain is shorter, not unwatched."""
    reader(script)
    script.durable(THOUGHT, 10)
    assert missing(script.overdue(LATE_MS)) == [(Link.SOCKET, 1)]


def test_a_reader_excuses_no_client_that_can_ack(script: LedgerScript) -> None:
    """The same event, written to both: the client owes its ack."""
    client, stream = script.attached(), reader(script)
    script.sent(THOUGHT, 10, stream, client)
    script.ended(20)
    assert not script.settled
    assert missing(script.overdue(LATE_MS)) == [(Link.CLIENT, 1)]


def test_an_ack_settles_what_a_reader_got_too(script: LedgerScript) -> None:
    """And counts as one: the event was delivered to somebody who said so."""
    client, stream = script.attached(), reader(script)
    script.sent(THOUGHT, 10, stream, client)
    assert script.acknowledged(client, 1, 20) == 1
    script.ended(30)
    assert script.settled
    assert script.ledger.excused == set()


def test_when_the_last_client_goes_the_readers_chain_is_what_is_left(script: LedgerScript) -> None:
    """What the reader has is settled; what it lacks is not."""
    client, stream = script.attached(), reader(script)
    script.sent(THOUGHT, 10, client, stream)
    script.sent(THOUGHT, 20, client)
    script.detached(client)
    assert script.ledger.excused == {1}
    assert not script.settled


def test_when_the_reader_goes_what_it_did_not_get_is_pending(script: LedgerScript) -> None:
    """As after a socket that goes."""
    socket = reader(script)
    script.sent(THOUGHT, 10, socket)
    script.durable(THOUGHT, 20)
    script.detached(socket)
    script.ended(30)
    assert script.ledger.pending == 1
    assert script.settled
