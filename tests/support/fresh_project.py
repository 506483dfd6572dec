"""Projects of other people: a copy of an example, a fresh environment by its lock, and Tracewire's built wheel in it.

Environments are kept between runs in `.examples`, by what their lock says; the wheel is installed anew where
it has changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
KEPT: Final = ROOT / ".examples"
INSTALL_SECONDS: Final = 600
RUN_SECONDS: Final = 100


def build_wheel(folder: Path) -> Path:
    """Tracewire's wheel, built from what is here, without asking for anything."""
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    [wheel] = folder.glob("tracewire-*.whl")
    return wheel


class FreshProject:
    """A copy of an example in a folder of its own, and the Python that has its lock's packages and the wheel."""

    def __init__(self, name: str, folder: Path, wheel: Path) -> None:
        self.folder = folder / name
        shutil.copytree(EXAMPLES / name, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        environment = _environment(name)
        self.python = environment / "bin" / "python"
        installed, digest = environment / "installed-wheel", hashlib.sha256(wheel.read_bytes()).hexdigest()
        if not installed.exists() or installed.read_text() != digest:
            _pip(self.python, "install", "--no-deps", "--force-reinstall", wheel)
            installed.write_text(digest)

    def copy(self, folder: Path) -> "FreshProject":
        """The project once more, to be changed."""
        other = object.__new__(FreshProject)
        other.folder, other.python = folder / self.folder.name, self.python
        shutil.copytree(self.folder, other.folder)
        return other

    def change(self, name: str, before: str, after: str) -> None:
        """Put one text in place of another, which must be there, once."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name} holds {before!r} {text.count(before)} times"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run the environment's Python in the project; its exit code, and all that it said."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=_environ() | dict(environ or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        return done.returncode, done.stdout + done.stderr

    def test(self, *arguments: str) -> tuple[int, str]:
        """Run the project's tests."""
        return self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments)


def _environment(name: str) -> Path:
    """An environment with exactly what the example's lock names."""
    lock = EXAMPLES / name / "requirements.lock"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = KEPT / f"{name}-{key}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", folder)
        _pip(folder / "bin" / "python", "install", "--require-hashes", "-r", lock)
        complete.touch()
    return folder


def _pip(python: Path, *arguments: str | Path) -> None:
    quietly = ("--quiet", "--disable-pip-version-check", "--no-input")
    _run(sys.executable, "-m", "pip", "--python", python, *quietly, *arguments)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env=_environ(), capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"


def _environ() -> dict[str, str]:
    """This process's environment, without what would lead Python or pytest back to the sources, or change what pytest
    prints: on a build server it repeats a failure's whole text in its summary.
    """
    ours = ("PYTHONPATH", "PYTEST", "VIRTUAL_ENV", "TRACEWIRE_", "OTEL_", "COLUMNS")
    printing = {"CI", "BUILD_NUMBER", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"}
    return {name: value for name, value in os.environ.items() if not name.startswith(ours) and name not in printing}
