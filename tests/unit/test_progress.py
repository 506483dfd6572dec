"""Whether a peer takes what is written to it: noticed by looks alone, at moments that the test says."""

from tracewire.gateway.progress import Progress


def looked(*steps: tuple[int, int]) -> list[int]:
    """What each look found. A step is the bytes written since the look before, and those unsent at the look, which come
    a second apart.
    """
    progress, found = Progress(), []
    for second, (written, unsent) in enumerate(steps, 1):
        progress.written += written
        found.append(progress.stuck_ns(unsent, second))
    return found


def test_a_peer_that_takes_nothing_is_stuck_since_the_first_look_that_found_something_unsent() -> None:
    """Also while more is written."""
    assert looked((100, 100), (0, 100), (50, 150), (0, 150)) == [0, 1, 2, 3]


def test_a_peer_that_takes_anything_is_not_stuck() -> None:
    """However much more has been written to it since."""
    assert looked((100, 100), (0, 99), (50, 148), (0, 148)) == [0, 0, 0, 1]


def test_a_busy_peer_of_which_each_look_finds_the_same_unsent_is_not_stuck() -> None:
    """A look often comes right after a write: all before it was taken."""
    assert looked((350, 350), (350, 350), (9_000, 350), (350, 350)) == [0, 0, 0, 0]


def test_a_peer_for_which_nothing_waits_is_never_stuck() -> None:
    """And when something waits again, time counts from then."""
    assert looked((0, 0), (100, 0), (0, 0), (10, 10), (0, 10), (0, 0), (10, 10)) == [0, 0, 0, 0, 1, 0, 0]


def test_what_others_write_to_the_peer_does_not_hide_that_it_is_stuck() -> None:
    """Pongs and the library's pings are unsent bytes that nobody counted."""
    assert looked((100, 100), (0, 110), (0, 120), (0, 130)) == [0, 1, 2, 3]
