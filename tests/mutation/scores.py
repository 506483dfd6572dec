"""What became of the mutants, as mutmut's own files have it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mutation.workspace import GROUPS

SURVIVED: Final = 0
"""mutmut's exit codes (its `status_by_exit_code`); with any other, a test failed or did not come to its end."""
UNTESTED: Final = frozenset({5, 33})
NOT_TRIED: Final = frozenset({None, 2, 34})
"""Also interrupted, and skipped."""


def results(folder: Path) -> Iterator[tuple[str, str, int | None]]:
    """Module, mutant and exit code of each mutant; `None` where it was not begun."""
    for meta in sorted((folder / "mutants" / "src").rglob("*.meta")):
        module = meta.relative_to(folder / "mutants" / "src").as_posix().removesuffix(".meta")
        if module not in GROUPS[folder.name].modules:
            continue  # of an earlier run with other groups
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            yield module, name, code


def survivors(folder: Path) -> list[str]:
    """The mutants that no test noticed, and those that no test even runs."""
    return [
        f"{name} (no test runs it)" if code in UNTESTED else name
        for _, name, code in results(folder)
        if code == SURVIVED or code in UNTESTED
    ]


def scores(folders: Iterable[Path]) -> Iterator[str]:
    """A line a module, and one for all of them."""
    counts: dict[str, list[int]] = {}
    for module, _, code in (result for folder in folders for result in results(folder)):
        row = counts.setdefault(module, [0, 0, 0, 0])
        row[3 if code in NOT_TRIED else 1 if code == SURVIVED else 2 if code in UNTESTED else 0] += 1
    yield f"{'module':<50}{'killed':>8}{'survived':>10}{'untested':>10}{'not tried':>11}{'score':>8}"
    total = [sum(column) for column in zip(*counts.values(), strict=True)] if counts else [0] * 4
    for module, row in [*counts.items(), ("all", total)]:
        killed, survived, untested, not_tried = row
        tried = killed + survived + untested
        score = f"{killed / tried:.1%}" if tried else "-"
        yield f"{module:<50}{killed:>8}{survived:>10}{untested:>10}{not_tried:>11}{score:>8}"
