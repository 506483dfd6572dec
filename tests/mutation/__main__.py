"""`python -m tests.mutation`: mutmut over the path and the ledger, the score of each module, and the survivors.

The survivors that are known are explained in `survivors.md` beside this file. Arguments go to `mutmut run`: names of
mutants, with `*`, to try only those.
"""

import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
if str(_TESTS) not in sys.path:
    sys.path.append(str(_TESTS))

from mutation.scores import scores, survivors  # noqa: E402 # found by the line above
from mutation.workspace import FOLDER, lay_out  # noqa: E402 # as above


def main(arguments: list[str]) -> int:
    """Run mutmut, and print what came of it; its exit code."""
    lay_out()
    environ = os.environ | {"PYTHONPATH": str(FOLDER / "tests")}
    mutmut = Path(sys.executable).with_name("mutmut")
    code = subprocess.run([mutmut, "run", "--max-children", "1", *arguments], cwd=FOLDER, env=environ, check=False)
    print(*scores(FOLDER), sep="\n")
    print(*(f"survived: {name}" for name in survivors(FOLDER)), sep="\n")
    return code.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
