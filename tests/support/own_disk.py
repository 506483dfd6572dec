"""The `tracewire` command with a disk of its own under its data folder, for tests whose disk is full or read-only.

    python -m support.own_disk --disk 24m serve --data-dir DIR ...
    python -m support.own_disk --disk read-only serve --data-dir DIR ...

It mounts in a namespace of this process alone, for which Linux asks no privilege; where the system forbids it,
`forbidden()` says why. Who started it reaches the folder as `seen_from_outside` says.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000


def forbidden() -> str | None:
    """Why this machine lets no process mount a disk of its own; `None` where it does."""
    check = "from support.own_disk import enter_namespace; enter_namespace()"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=_tests(), check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def seen_from_outside(pid: int, folder: Path) -> Path:
    """A folder of the process, for who stands outside its namespace."""
    return Path(f"/proc/{pid}/root{folder.absolute()}")


def enter_namespace() -> None:
    """From now on this process is root in its own namespace, and what it mounts is its own."""
    user, group = os.geteuid(), os.getegid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def main(arguments: Sequence[str]) -> None:
    """Mount, then become the command: the process keeps its id."""
    if len(arguments) < 5 or arguments[0] != "--disk" or "--data-dir" not in arguments:
        raise SystemExit("usage: python -m support.own_disk --disk SIZE|read-only serve --data-dir DIR ...")
    disk, command = arguments[1], arguments[2:]
    folder = command[command.index("--data-dir") + 1]
    Path(folder).mkdir(parents=True, exist_ok=True)
    enter_namespace()
    if disk == "read-only":
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", folder], check=True)
    os.execv(sys.executable, [sys.executable, "-m", "tracewire.cli", *command])  # noqa: S606 # this very command


def _tests() -> Path:
    return Path(__file__).parents[1]


if __name__ == "__main__":
    main(sys.argv[1:])
