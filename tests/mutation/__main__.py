"""`python -m tests.mutation`: mutmut over the path and the ledger, the score of each module, and the survivors.

The survivors that are known are explained in `survivors.md` beside this file. Results are kept in `build/mutation`:
a second run tries what has changed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
if str(_TESTS) not in sys.path:
    sys.path.append(str(_TESTS))

from mutation.scores import scores, survivors  # noqa: E402 # found by the line above
from mutation.workspace import FOLDERS, GROUPS, lay_out  # noqa: E402 # as above


def main() -> int:
    """Run mutmut, and print what came of it; 1 where it failed."""
    options = _options()
    names = options.groups or list(GROUPS)
    codes = [] if options.report else [_run(name, options) for name in names]
    folders = [FOLDERS / name for name in names]
    print(*scores(folders), sep="\n")
    print(*(f"survived: {name}" for folder in folders for name in survivors(folder)), sep="\n")
    return int(any(codes))


def _run(name: str, options: argparse.Namespace) -> int:
    again = [survivor.partition(" ")[0] for survivor in survivors(FOLDERS / name)] if options.survivors else []
    folder = lay_out(name)
    environ = os.environ | {"PYTHONPATH": str(folder / "tests")}
    mutmut = Path(sys.executable).with_name("mutmut")
    command = [mutmut, "run", "--max-children", str(options.children), *options.mutants, *again]
    return subprocess.run(command, cwd=folder, env=environ, check=False).returncode


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="which modules; none: all")
    parser.add_argument("--mutants", nargs="+", default=[], help="try these alone, by name, with *")
    parser.add_argument("--survivors", action="store_true", help="try those again that survived the last run")
    parser.add_argument("--children", type=int, default=1, help="how many at once")
    parser.add_argument("--report", action="store_true", help="run nothing, tell what came of the last run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
