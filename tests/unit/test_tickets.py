"""Tickets: single use, for so long, so many of a user."""

import pytest

from tracewire.errors import RejectedError
from tracewire.gateway.auth import AuthenticationError, Principal
from tracewire.gateway.tickets import PREFIX, Tickets
from tracewire_telemetry.vocabulary import CloseCode, RejectCode

ADA = Principal("ada", 10_000)
BOB = Principal("bob", 10_000)


class Clock:
    """Monotonic seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The test's clock."""
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    """Two tickets a user, thirty seconds."""
    return Tickets(seconds=30, per_user_max=2, clock=clock)


def test_a_ticket_stands_for_its_principal_once(tickets: Tickets) -> None:
    """The second time it is as one that never was."""
    ticket = tickets.issue(ADA)
    assert ADA == tickets.redeem(ticket)
    messages = []
    for refused in (ticket, PREFIX + "never-was", ""):
        with pytest.raises(AuthenticationError) as raised:
            tickets.redeem(refused)
        assert CloseCode.UNAUTHENTICATED is raised.value.close_code
        messages.append(str(raised.value))
    assert 1 == len(set(messages))
    assert ticket not in messages[0]


def test_a_ticket_holds_until_its_time_is_over(tickets: Tickets, clock: Clock) -> None:
    """Just before it does, at the moment itself it does not."""
    early, late = tickets.issue(ADA), tickets.issue(ADA)
    clock.now = 29.9
    assert ADA == tickets.redeem(early)
    clock.now = 30
    with pytest.raises(AuthenticationError):
        tickets.redeem(late)
    assert 0 == len(tickets)


def test_tickets_are_opaque_and_fit_a_subprotocol(tickets: Tickets) -> None:
    """256 bits of randomness in characters that a header may hold, and nothing of the user."""
    one, other = tickets.issue(ADA), tickets.issue(ADA)
    assert one != other
    for ticket in (one, other):
        assert len(ticket) >= len(PREFIX) + 43
        assert ticket.replace("-", "").replace("_", "").isalnum()
        assert ticket.isascii()


def test_a_user_has_so_many_unused_tickets(tickets: Tickets, clock: Clock) -> None:
    """Others have theirs; a used and an expired one make room."""
    first = tickets.issue(ADA)
    tickets.issue(ADA)
    with pytest.raises(RejectedError) as raised:
        tickets.issue(ADA)
    assert (RejectCode.RATE_LIMITED, 30) == (raised.value.reject_code, raised.value.retry_after_seconds)
    tickets.issue(BOB)
    tickets.redeem(first)
    tickets.issue(ADA)
    with pytest.raises(RejectedError):
        tickets.issue(ADA)
    clock.now = 30
    tickets.issue(ADA)
    assert 1 == len(tickets)
