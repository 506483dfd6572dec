"""A pytest plugin for mutation runs: few examples, quick tests first, and no test of sheer size.

A mutant is tried against the tests of its function alone, but there are thousands of mutants. Each Hypothesis test
tries few examples, always the same ones; what would need more to be found counts as a survivor, and is read as one.
"""

import gc
import json
from functools import cache
from pathlib import Path
from typing import Final

import hypothesis
import pytest

EXAMPLES_MAX: Final = 5
BULKY: Final = (
    "test_user_gauge.py::test_a_hundred_thousand_users_in_violation_cost_no_more_series_than_there_are_slots",
    "test_spans.py::test_a_run_has_at_most_2000_spans_and_says_how_many_were_dropped",
    "test_spans.py::test_a_run_that_just_fits_drops_nothing",
    "test_spans.py::test_spans_of_the_agents_own_count_towards_the_limit",
    "test_stamps.py::test_the_stamps_take_at_most_a_hundred_bytes_an_event",
)
"""Tests of how much there may be. Each would be waited for with every mutant, and what they run others run in small."""
_STATS: Final = Path("mutmut-stats.json")
"""mutmut's own, in the folder in which it runs the tests."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Replace the settings of each test that has some; leave the bulky out; begin with what is known to be quick."""
    bulky = [item for item in items if item.nodeid.endswith(BULKY)]
    if bulky:
        config.hook.pytest_deselected(items=bulky)
    seconds = _seconds_by_test()
    items[:] = sorted(
        (item for item in items if item not in bulky),
        key=lambda item: seconds.get(item.nodeid, 0.0),
    )
    for item in items:
        function = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if isinstance(function, hypothesis.settings):
            item.obj._hypothesis_internal_use_settings = hypothesis.settings(  # type: ignore[attr-defined] # a function item has it
                function, max_examples=EXAMPLES_MAX, derandomize=True, database=None, deadline=None
            )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of what the process holds that all mutants are forked from: each would look for garbage in it."""
    if config.option.collectonly:
        gc.freeze()


@cache
def _seconds_by_test() -> dict[str, float]:
    """What each test took when it was run last; nothing is known in the first run."""
    try:
        found: dict[str, float] = json.loads(_STATS.read_text())["duration_by_test"]
    except (OSError, ValueError, KeyError):
        return {}
    return found
