"""Programs that tests run beside Python packages: there, or the test says what to install."""

import os
import shutil
from typing import NoReturn

import pytest


def real_program(*names: str, package: str) -> str:
    """The path of the first of these names. Without any the test is skipped; with REQUIRE_REAL=1 it fails.

    `package` is Debian's.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    return found or missing(f"{names[0]} is missing: install Debian's package {package}")


def missing(advice: str) -> NoReturn:
    """Skip the test, saying what is missing and what to do; with REQUIRE_REAL=1 it fails."""
    if os.environ.get("REQUIRE_REAL") == "1":
        pytest.fail(advice)
    pytest.skip(advice)
