"""Where mutmut works: copies of the sources and the tests, laid out as it wants them.

mutmut takes the modules of one source root, which it looks for under a few names of its own; ours are two. In the
copies both packages stand in `src`. There is one for each group of modules and the tests that belong to them.
"""

import json
import shutil
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ROOT / "build" / "mutation"
PACKAGES: Final = {
    "tracewire": ROOT / "app" / "tracewire",
    "tracewire_telemetry": ROOT / "telemetry" / "tracewire_telemetry",
}


class Group(NamedTuple):
    """Modules, and the tests that are to notice what is changed in them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


_LEDGER_TESTS: Final = (
    "chain", "chain_edges", "connection_edges", "connection_ends", "connections", "contract", "contract_words",
    "deadlines", "deltas", "incident_edges", "incidents", "ledger", "ledger_edges", "ledger_readers", "lost_stamps",
    "metrics", "outbox", "replay_edges", "run_state", "settling", "settling_edges", "settling_groups",
    "simulation_findings", "spans", "stamp_reports", "stamps", "user_gauge", "verdict_edges", "watch", "watch_edges",
)  # fmt: skip
_STATION_TESTS: Final = (
    "agent_context", "bridge", "bridge_ends", "context", "emitter", "threaded_agents", "tool_call", "tool_ends",
    "tool_redaction", "user_engine", "user_engine_stops", "user_engine_unlogged",
)  # fmt: skip
GROUPS: Final = {
    "ledger": Group(
        (
            "tracewire/bridge/contract.py",
            "tracewire/delivery/connection.py",
            "tracewire/delivery/connections.py",
            "tracewire/delivery/deltas.py",
            "tracewire/delivery/outbox.py",
            "tracewire/delivery/replay.py",
            "tracewire/runs/run.py",
            "tracewire_telemetry/chain.py",
            "tracewire_telemetry/deadlines.py",
            "tracewire_telemetry/incidents.py",
            "tracewire_telemetry/ledger.py",
            "tracewire_telemetry/settling.py",
            "tracewire_telemetry/stamps.py",
            "tracewire_telemetry/user_gauge.py",
            "tracewire_telemetry/verdicts.py",
            "tracewire_telemetry/watch.py",
        ),
        tuple(f"tests/unit/test_{name}.py" for name in _LEDGER_TESTS),
    ),
    "stations": Group(
        (
            "tracewire/bridge/agent_websocket_bridge.py",
            "tracewire/delivery/user_websocket_emitter.py",
            "tracewire/engine/agent_context.py",
            "tracewire/engine/tool_call.py",
            "tracewire/engine/user_execution_engine.py",
        ),
        tuple(f"tests/unit/test_{name}.py" for name in _STATION_TESTS),
    ),
}
"""The path of an event and its ledger."""


def lay_out(name: str) -> Path:
    """Copy what mutmut needs for a group; earlier results are kept for functions that are still the same."""
    folder = FOLDERS / name
    for package, source in PACKAGES.items():
        shutil.rmtree(folder / "src" / package, ignore_errors=True)
        # With a time of now: by a source's own, mutmut may think that it is older than the mutants of an earlier state.
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / "src" / package, ignore=ignore, copy_function=shutil.copy)
    for part in ("tests", "dashboards"):
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.rmtree(folder / "mutants" / part, ignore_errors=True)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + _settings(GROUPS[name]))
    return folder


def _settings(group: Group) -> str:
    return "\n".join(
        (
            "",
            "[tool.mutmut]",
            'source_paths = ["src"]',
            f"only_mutate = {json.dumps([f'src/{name}' for name in group.modules])}",
            'also_copy = ["dashboards"]',
            'pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "mutation.fewer_examples"]',
            f"pytest_add_cli_args_test_selection = {json.dumps(list(group.tests))}",
            'process_isolation = "forkserver"',  # some tests are not made for a second run in one process
            "timeout_constant = 2.0",
            "timeout_multiplier = 6.0",
            "use_git_change_detection = false",
            "track_dependencies = false",
            "",
        )
    )
