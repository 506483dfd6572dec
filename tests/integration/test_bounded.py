"""What must not grow with the users: the benchmark's measurement (`make bench-bounded`), with few of them."""

from pathlib import Path

from benchmarks.bounded import Shape, measure

SHAPE = Shape(users=300, affected=120, slots=10, rotations=3, shown_seconds=0.2, socket_seconds=0.5)


async def test_series_and_incidents_stay_bounded_however_many_users_are_in_violation(tmp_path: Path) -> None:
    """A known user has no series; as many are named as there are slots, also while they take turns; none stays."""
    found = await measure(SHAPE, tmp_path)
    start, known, opened, violating, healed = found.stages
    assert (start.series, start.series, start.series + 10) == (known.series, opened.series, violating.series)
    assert (0, 0, 10, 0) == (known.user_series, opened.user_series, violating.user_series, healed.user_series)
    assert (0, 120, 0) == (opened.users_affected, violating.users_affected, healed.users_affected)
    assert (10, 0) == (found.user_series_max, found.left)
    counts = {name: count for name, _, count in found.answers}
    assert (100, 120, 1, 0) == (
        counts["open, the first page"],
        counts["open, 1,000 at once"],
        counts["of one user"],
        counts["at a link that has none"],
    )
