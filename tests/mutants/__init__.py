"""The chain broken from the outside, one way a user, on one real server; `python -m tests.mutants --help`."""

import sys
from pathlib import Path

# By itself, too, it finds the tests' support where pytest has it.
_TESTS = str(Path(__file__).resolve().parents[1])
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
