"""The order of the wiring checks: one after the other, the broken one named, those behind it not reached."""

from collections.abc import Awaitable, Callable

import pytest

from tracewire.errors import WiringError
from tracewire.wiring import TITLES, WiringCheck, _one_after_the_other, broken

NAMES = tuple(TITLES)


async def checked(failing: dict[str, Exception]) -> tuple[list[WiringCheck], list[str]]:
    """The results of six checks of which these raise, and which of them were asked."""
    asked: list[str] = []

    def check(name: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            asked.append(name)
            if name in failing:
                raise failing[name]
            return f"{name} is fine"

        return run

    return [result async for result in _one_after_the_other([(name, check(name)) for name in NAMES])], asked


async def test_six_checks_that_hold_are_asked_in_order() -> None:
    """L1 to L6, nothing broken."""
    results, asked = await checked({})
    assert [WiringCheck(name, True, f"{name} is fine") for name in NAMES] == results
    assert (list(NAMES), None) == (asked, broken(results))


@pytest.mark.parametrize("name", NAMES)
async def test_the_first_that_does_not_hold_is_named_and_nothing_behind_it_is_asked(name: str) -> None:
    """Those before it hold; those behind it say what they were not reached for."""
    results, asked = await checked({name: WiringError(name, "it is not there")})
    position = NAMES.index(name)
    assert [True] * position + [False] + [None] * (5 - position) == [result.holds for result in results]
    assert (name, "it is not there") == (broken(results), results[position].message)
    assert {f"not reached ({name})"} >= {result.message for result in results[position + 1 :]}
    assert list(NAMES[: position + 1]) == asked


async def test_a_factory_that_fails_further_on_names_the_joint_that_is_broken() -> None:
    """L2 joins several stations at once: where it fails at L4, it is L4 that is broken."""
    results, asked = await checked({"L2": WiringError("L4", "another user's emitter")})
    assert [result.holds for result in results] == [True, True, True, False, None, None]
    assert (broken(results), results[3].message, asked) == ("L4", "another user's emitter", ["L1", "L2"])


async def test_a_check_cannot_blame_one_that_held_already() -> None:
    """What fails at L5 with an error of L1 is broken at L5: L1 was seen to hold."""
    results, _ = await checked({"L5": WiringError("L1", "not configured")})
    assert [result.holds for result in results] == [True, True, True, True, False, None]
    assert (broken(results), results[5].message) == ("L5", "not reached (L5)")


async def test_whatever_a_joint_raises_is_what_is_broken() -> None:
    """Named with its type; the checks do not fail themselves."""
    results, _ = await checked({"L3": AttributeError("no bridge")})
    assert (broken(results), results[2].message) == ("L3", "AttributeError: no bridge")


def test_each_check_is_one_line_for_people() -> None:
    """Its name, whether it holds, what it checks, and what was seen."""
    words = [WiringCheck("L3", holds, "seen").line for holds in (True, False, None)]
    assert words == [
        "L3 ok     the engine has a bridge: seen",
        "L3 BROKEN the engine has a bridge: seen",
        "L3 --     the engine has a bridge: seen",
    ]
