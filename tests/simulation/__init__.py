"""Schedules of faults over the real chain in virtual time; `python -m tests.simulation --help`."""

import sys
from pathlib import Path

# By itself, too, it finds the tests' support where pytest has it.
_TESTS = str(Path(__file__).resolve().parents[1])
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
