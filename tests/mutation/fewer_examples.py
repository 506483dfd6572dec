"""A pytest plugin for mutation runs: each Hypothesis test tries few examples, always the same ones.

A mutant is tried against the tests of its function alone, but there are thousands of mutants. What would need more
examples than these to be found counts as a survivor, and is read as one.
"""

from typing import Final

import hypothesis
import pytest

EXAMPLES_MAX: Final = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Replace the settings of each test that has some."""
    for item in items:
        function = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if isinstance(function, hypothesis.settings):
            item.obj._hypothesis_internal_use_settings = hypothesis.settings(  # type: ignore[attr-defined] # a function item has it
                function, max_examples=EXAMPLES_MAX, derandomize=True, database=None, deadline=None
            )
