"""What a server takes hold of at its start, and what looking at a folder leaves alone."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.inspection import inspect_folder

PROGRAM = """
import resource
from tracewire.holding import allow_descriptors
from tracewire.settings import load_settings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
fitting = allow_descriptors(load_settings({{}}, sockets_max={sockets_max}))
print(fitting, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("sockets_max", "hard", "fitting", "soft"),
    [(1_000, 4_096, None, 1_512), (10_000, 4_096, 3_584, 4_096), (100, 4_096, None, 612)],
)
def test_the_soft_limit_is_raised_as_far_as_the_sockets_need(
    sockets_max: int, hard: int, fitting: int | None, soft: int
) -> None:
    """Up to the hard limit; where that is too low, it is said how many sockets fit in."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip(f"this machine's hard limit of open files is below {hard}: raise it with ulimit -Hn")
    program = PROGRAM.format(sockets_max=sockets_max, hard=hard)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert f"{fitting} {soft}" == said.strip()


async def test_looking_at_a_folder_changes_nothing_in_it(tmp_path: Path) -> None:
    """No file comes, goes or is written, whether a server has the log open or not."""
    log = SqliteEventLog(tmp_path)
    await log.open()
    for is_open in (True, False):
        if not is_open:
            await log.close()
        before = written_at(tmp_path)
        lines = list(inspect_folder(tmp_path))
        assert before == written_at(tmp_path)
        assert "0 runs, 0 without a terminal event" in lines[-1]


def written_at(folder: Path) -> dict[str, int]:
    """When each file of the folder was last written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
