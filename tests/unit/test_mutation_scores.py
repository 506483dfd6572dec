"""The scores of mutation runs: by mutmut's exit codes, and of mutants that were tried alone."""

import json
from pathlib import Path

from mutation.scores import scores, survivors

MODULE = "tracewire/bridge/contract.py"


def test_only_what_a_test_noticed_counts_as_killed(tmp_path: Path) -> None:
    """Not what survived, what no test runs, nor what was interrupted, skipped or not begun."""
    codes = {"failed": 1, "hung": -24, "survived": 0, "unrun": 33, "interrupted": 2, "skipped": 34, "waits": None}
    meta = tmp_path / "ledger" / "mutants" / "src" / f"{MODULE}.meta"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"exit_code_by_key": codes}))
    assert ["survived", "unrun (no test runs it)"] == survivors(tmp_path / "ledger")
    rows = [line.split() for line in scores([tmp_path / "ledger"])][1:]
    assert [[name, "2", "1", "1", "3", "50.0%"] for name in (MODULE, "all")] == rows
