"""The `tracewire` command with a fault in its delivery, to see that the chaos finds it.

    python -m chaos.faulty_server resume_skips serve --port 0

The product knows of none of this.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from tracewire import cli, main
from tracewire.gateway.socket_runs import SocketRuns


def resume_skips(patch: pytest.MonkeyPatch) -> None:
    """A resume begins one event too late."""
    _shift_resumes(patch, 1)


def resume_repeats(patch: pytest.MonkeyPatch) -> None:
    """A resume begins one event too early."""
    _shift_resumes(patch, -1)


def crash_leaves_runs_open(patch: pytest.MonkeyPatch) -> None:
    """A start after a crash ends no run."""

    async def nothing(*_: Any) -> int:
        return 0

    patch.setattr(main, "close_lost_runs", nothing)


def _shift_resumes(patch: pytest.MonkeyPatch, by: int) -> None:
    follow_from = SocketRuns._follow_from

    def shifted(self: SocketRuns, run_id: str, seq: int) -> int:
        return follow_from(self, run_id, seq + by if seq > 1 else seq)

    patch.setattr(SocketRuns, "_follow_from", shifted)


FAULTS: Final[dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    fault.__name__: fault for fault in (resume_skips, resume_repeats, crash_leaves_runs_open)
}


def run(arguments: Sequence[str]) -> None:
    """Run the command line with the fault that the first argument names."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[arguments[0]](patch)
        cli.main(list(arguments[1:]))


if __name__ == "__main__":
    run(sys.argv[1:])
