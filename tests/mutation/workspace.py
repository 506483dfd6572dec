"""Where mutmut works: a copy of the sources and the tests, laid out as it wants them.

mutmut takes the modules of one source root, which it looks for under a few names of its own; ours are two. In the copy
both packages stand in `src`.
"""

import json
import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "mutation"
PACKAGES: Final = {
    "tracewire": ROOT / "app" / "tracewire",
    "tracewire_telemetry": ROOT / "telemetry" / "tracewire_telemetry",
}
MUTATED: Final = (
    "tracewire/engine/user_execution_engine.py",
    "tracewire/engine/agent_context.py",
    "tracewire/engine/tool_call.py",
    "tracewire/bridge/agent_websocket_bridge.py",
    "tracewire/bridge/contract.py",
    "tracewire/delivery/user_websocket_emitter.py",
    "tracewire/delivery/connection.py",
    "tracewire/delivery/connections.py",
    "tracewire/delivery/outbox.py",
    "tracewire/delivery/deltas.py",
    "tracewire/delivery/replay.py",
    "tracewire/runs/run.py",
    "tracewire_telemetry/ledger.py",
    "tracewire_telemetry/deadlines.py",
    "tracewire_telemetry/verdicts.py",
    "tracewire_telemetry/settling.py",
    "tracewire_telemetry/stamps.py",
    "tracewire_telemetry/incidents.py",
    "tracewire_telemetry/user_gauge.py",
    "tracewire_telemetry/watch.py",
    "tracewire_telemetry/chain.py",
)
"""The path of an event and its ledger."""
TESTS: Final = (
    "chain", "connections", "context", "contract", "deadlines", "deltas", "incidents", "ledger", "ledger_readers",
    "lost_stamps", "metrics", "outbox", "settling", "simulation_findings", "spans", "stamps", "user_gauge", "watch",
)  # fmt: skip
"""The unit tests that belong to them, by the names of their files."""


def lay_out() -> Path:
    """Copy what mutmut needs; results of an earlier run are kept for functions that are still the same."""
    for name, source in PACKAGES.items():
        shutil.rmtree(FOLDER / "src" / name, ignore_errors=True)
        shutil.copytree(source, FOLDER / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "dashboards"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", "recordings.jsonl")
        shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored)
        shutil.rmtree(FOLDER / "mutants" / name, ignore_errors=True)
    (FOLDER / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + _settings())
    return FOLDER


def _settings() -> str:
    return "\n".join(
        (
            "",
            "[tool.mutmut]",
            'source_paths = ["src"]',
            f"only_mutate = {json.dumps([f'src/{name}' for name in MUTATED])}",
            'also_copy = ["dashboards"]',
            'pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "mutation.fewer_examples"]',
            f"pytest_add_cli_args_test_selection = {json.dumps([f'tests/unit/test_{name}.py' for name in TESTS])}",
            "use_git_change_detection = false",
            "track_dependencies = false",
            "",
        )
    )
