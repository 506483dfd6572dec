"""The sample recording that ships with the package, and what was planted in it.

`sample.jsonl` is what a browser recorded of one user's two sockets. `PLANTED` names every fault in it.
"""

from importlib import resources
from typing import Final

from msgspec import Struct

from tracewire.runs.recordings import Recording


class Planted(Struct, frozen=True):
    """The faults of the sample. Runs are numbered in the order of their appearance; places are lines of the file."""

    runs: int
    clean_run: int
    gap_run: int
    gap: tuple[int, int]
    gap_types: tuple[str, ...]
    repeat_run: int
    repeated_seq: int
    unpaired_run: int
    unpaired_tool: str
    stall_run: int
    stall_seconds: float
    endless_run: int
    foreign_line: int
    resumed_run: int
    resumed_after_seq: int


PLANTED: Final = Planted(
    runs=4,
    clean_run=1,
    gap_run=2,
    gap=(6, 7),
    gap_types=("tool_completed", "agent_delta"),
    repeat_run=3,
    repeated_seq=10,
    unpaired_run=3,
    unpaired_tool="send_summary",
    stall_run=3,
    stall_seconds=30.0,
    endless_run=4,
    foreign_line=26,
    resumed_run=3,
    resumed_after_seq=8,
)


def load_sample() -> Recording:
    """The sample, as it was recorded. Reads a file: call it in a thread."""
    body = resources.files(__package__).joinpath("sample.jsonl").read_bytes()
    return Recording(name="sample.jsonl", body=body)
