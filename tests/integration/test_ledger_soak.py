"""A million events with every delay just below its deadline: nothing is missing, wherever the clocks go."""

from soak.ledger import soak

EVENTS = 1_000_000


def test_a_million_events_just_in_time_raise_no_incident() -> None:
    """With sockets that come and go, pauses, tools, stalls of the loop and a wall clock stepped both ways."""
    counted = soak(EVENTS, seed=1)
    assert (counted.incidents, counted.events >= EVENTS, counted.runs > 1_000) == (0, True, True)
    assert counted.acked == counted.events


def test_the_soak_notices_one_event_that_is_too_late() -> None:
    """A nanosecond more than a deadline allows, once in the middle of it."""
    assert soak(20_000, seed=2, late_at_event=10_000).incidents == 1
