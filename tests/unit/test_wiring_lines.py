"""How the wiring checks go on from one to the next, and how each is told in one line."""

from collections.abc import Awaitable, Callable

import pytest

from tracewire.errors import WiringError
from tracewire.wiring import TITLES, WiringCheck, _one_after_the_other, broken

Check = tuple[str, Callable[[], Awaitable[str]]]


def holding(name: str) -> Check:
    """A check that holds."""

    async def check() -> str:
        return f"{name} is fine"

    return name, check


def failing(name: str, error: Exception) -> Check:
    """A check that raises."""

    async def check() -> str:
        raise error

    return name, check


async def told(*checks: Check) -> list[tuple[str, bool | None, str]]:
    """What comes of these checks, one after the other."""
    return [(check.check, check.holds, check.message) async for check in _one_after_the_other(checks)]


async def test_every_check_that_holds_says_what_it_saw() -> None:
    """Nothing is broken, each message is the check's own."""
    assert await told(holding("L1"), holding("L2")) == [("L1", True, "L1 is fine"), ("L2", True, "L2 is fine")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WiringError("L2", "no engine"), "no engine"),
        (KeyError("run"), "KeyError: 'run'"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
async def test_what_is_behind_a_broken_check_is_not_reached(error: Exception, message: str) -> None:
    """Whatever a check raises, it is the one that is broken, and those behind it are not tried."""
    assert await told(holding("L1"), failing("L2", error), holding("L3")) == [
        ("L1", True, "L1 is fine"),
        ("L2", False, message),
        ("L3", None, "not reached (L2)"),
    ]


async def test_a_check_that_fails_for_a_later_joint_leaves_the_blame_there() -> None:
    """A factory joins several stations at once: the error says which joint it was, and those before it hold."""
    checks = (failing("L2", WiringError("L4", "no emitter")), holding("L3"), holding("L4"), holding("L5"))
    assert await told(*checks) == [
        ("L2", True, "as far as its successor shows"),
        ("L3", True, "as far as its successor shows"),
        ("L4", False, "no emitter"),
        ("L5", None, "not reached (L4)"),
    ]


async def test_an_error_that_names_an_earlier_joint_breaks_the_check_that_met_it() -> None:
    """A check that was passed is not called broken afterwards: the one that met the error is."""
    result = await told(holding("L1"), failing("L2", WiringError("L1", "watch missing")), holding("L3"))
    assert [(check, holds) for check, holds, _ in result] == [("L1", True), ("L2", False), ("L3", None)]


@pytest.mark.parametrize(("holds", "word"), [(True, "ok"), (False, "BROKEN"), (None, "--")])
def test_a_check_is_told_in_one_line(holds: bool | None, word: str) -> None:
    """Name, state, title and what was seen."""
    line = WiringCheck("L3", holds, "seen").line
    assert line.split() == ["L3", word, *TITLES["L3"].split()[:-1], f"{TITLES['L3'].split()[-1]}:", "seen"]


def test_the_broken_check_is_the_one_that_does_not_hold() -> None:
    """One that was not reached is not broken."""
    checks = [WiringCheck("L1", True, ""), WiringCheck("L2", False, ""), WiringCheck("L3", None, "")]
    assert broken(checks) == "L2"
    assert broken([checks[0], checks[2]]) is None
