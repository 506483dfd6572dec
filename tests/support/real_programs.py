"""Programs that tests run beside Python packages: there, or the test says what to install."""

import os
import shutil

import pytest


def real_program(*names: str, package: str) -> str:
    """The path of the first of these names. Without any the test is skipped; with REQUIRE_REAL=1 it fails.

    `package` is Debian's.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    advice = f"{names[0]} is missing: install Debian's package {package}"
    assert os.environ.get("REQUIRE_REAL") != "1", advice
    pytest.skip(advice)
