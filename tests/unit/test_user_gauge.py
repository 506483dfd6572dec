"""The users that metrics name: in violation, shown long enough to be seen, and never more than there is room."""

import pytest

from tracewire_telemetry.user_gauge import SeriesKey, UserGauge
from tracewire_telemetry.vocabulary import Link

SECOND = 1_000_000_000


def key(user_id: str = "ada", event_type: str = "agent_thinking", link: Link = Link.SOCKET) -> SeriesKey:
    """A series."""
    return SeriesKey(user_id, event_type, link)


def gauge(slots: int = 3, *, hashed: bool = False) -> UserGauge:
    """A gauge that shows each series for 10 s at least."""
    return UserGauge(slots=slots, least_seconds=10, hashed=hashed)


def shown(users: UserGauge) -> dict[tuple[str, str, str], int]:
    """The series as a scrape gets them."""
    return dict(users.series())


def test_a_series_is_there_while_its_user_is_in_violation_and_gone_afterwards() -> None:
    """With the number of events that are missing."""
    users = gauge()
    assert shown(users) == {}
    users.add(key(), 1, 0)
    users.add(key(), 2, SECOND)
    assert shown(users) == {("ada", "agent_thinking", "socket"): 3}
    users.expire(1_000 * SECOND)
    users.end(key(), 3, 1_000 * SECOND)
    users.expire(1_000 * SECOND)
    assert (shown(users), users.users_affected) == ({}, 0)


def test_a_violation_that_ends_at_once_is_shown_long_enough_to_be_scraped() -> None:
    """Its last count stays; the user counts as affected for as long."""
    users = gauge()
    users.add(key(), 1, 0)
    users.end(key(), 1, SECOND)
    users.expire(10 * SECOND - 1)
    assert (list(shown(users).values()), users.users_affected) == ([1], 1)
    users.expire(10 * SECOND)
    assert (shown(users), users.users_affected) == ({}, 0)


def test_a_series_that_begins_again_before_it_was_let_go_counts_anew() -> None:
    """And is not let go at the old time."""
    users = gauge()
    users.add(key(), 5, 0)
    users.end(key(), 5, SECOND)
    users.add(key(), 1, 2 * SECOND)
    users.expire(60 * SECOND)
    assert list(shown(users).values()) == [1]


def test_two_incidents_of_one_series_end_one_by_one() -> None:
    """Two runs of a user lose the same: the series goes with the second."""
    users = gauge()
    users.add(key(), 2, 0)
    users.add(key(), 1, 0)
    users.end(key(), 2, 20 * SECOND)
    assert list(shown(users).values()) == [1]
    users.end(key(), 1, 20 * SECOND)
    users.expire(20 * SECOND)
    assert shown(users) == {}


def test_what_finds_no_slot_waits_is_counted_and_gets_the_next_one() -> None:
    """First come, first served; whoever gets a slot late is shown as long as anybody."""
    users = gauge(slots=1)
    for user_id in ("ada", "bob", "eve"):
        users.add(key(user_id), 1, 0)
    assert ([labels[0] for labels in shown(users)], users.overflow, users.users_affected) == (["ada"], 2, 3)
    for user_id in ("ada", "bob"):
        users.end(key(user_id), 1, 9 * SECOND)
    users.expire(10 * SECOND)
    assert ([labels[0] for labels in shown(users)], users.overflow) == (["bob"], 1)
    users.expire(20 * SECOND - 1)
    assert [labels[0] for labels in shown(users)] == ["bob"]
    users.expire(20 * SECOND)
    assert ([labels[0] for labels in shown(users)], users.overflow, users.users_affected) == (["eve"], 0, 1)


def test_a_user_is_affected_as_long_as_one_of_its_series_is_there() -> None:
    """However many it had."""
    users = gauge()
    for link in (Link.SOCKET, Link.CLIENT):
        users.add(key(link=link), 1, 0)
    affected = [users.users_affected]
    for link in (Link.SOCKET, Link.CLIENT):
        users.end(key(link=link), 1, 10 * SECOND)
        users.expire(10 * SECOND)
        affected.append(users.users_affected)
    assert [1, 1, 0] == affected


def test_what_is_over_before_it_got_a_slot_waits_for_none() -> None:
    """Nor does it take the one of a series that is let go after it."""
    users = gauge(slots=1)
    for user_id in ("eve", "ada", "bob"):
        users.add(key(user_id), 1, 0)
    for user_id in ("ada", "eve"):
        users.end(key(user_id), 1, SECOND)
    users.expire(10 * SECOND)
    assert (["bob"], 0, 1) == ([labels[0] for labels in shown(users)], users.overflow, users.users_affected)


def test_what_never_began_or_has_ended_does_not_end() -> None:
    """Nothing is shown for it, and the end that counts is the first."""
    users = gauge()
    users.end(key(), 1, 0)
    users.add(key(), 1, 0)
    users.end(key(), 1, 20 * SECOND)
    users.end(key(), 1, 30 * SECOND)
    users.expire(20 * SECOND)
    assert ({}, 0) == (shown(users), users.users_affected)


def test_a_hundred_thousand_users_in_violation_cost_no_more_series_than_there_are_slots() -> None:
    """And are all gone in the end."""
    users = gauge(slots=200)
    for number in range(100_000):
        users.add(key(f"user-{number}"), 1, number)
    assert (len(shown(users)), users.overflow, users.users_affected) == (200, 99_800, 100_000)
    for number in range(100_000):
        users.end(key(f"user-{number}"), 1, SECOND)
    for second in range(0, 40, 10):
        users.expire(second * SECOND)
    assert (shown(users), users.overflow, users.users_affected) == ({}, 0, 0)


@pytest.mark.parametrize("user_id", ["x" * 129, "line\nbreak", "nul\0", "\ud800"])
def test_an_id_that_is_long_or_does_not_print_is_hashed(user_id: str) -> None:
    """Any other stays what it is, also one of 128 characters."""
    users = gauge()
    users.add(key(user_id), 1, 0)
    users.add(key("y" * 128), 1, 0)
    [first, second] = [labels[0] for labels in shown(users)]
    assert (first.startswith("sha256:"), len(first), second) == (True, 39, "y" * 128)


def test_ids_can_all_be_hashed() -> None:
    """The same user has the same hash, another another."""
    users = gauge(hashed=True)
    users.add(key("ada"), 1, 0)
    users.add(key("ada", link=Link.CLIENT), 1, 0)
    users.add(key("bob"), 1, 0)
    [ada, again, bob] = [labels[0] for labels in shown(users)]
    assert (ada == again, ada == bob, "ada" in ada) == (True, False, False)
