"""A real OpenTelemetry Collector, built from the pinned manifest by its own builder; once for each manifest.

It lies in the user's cache folder, beyond the repository, by the manifest's hash. Building takes Go, the module proxy
and minutes; `python tests/real_parts.py` does it, before any test runs.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

MANIFEST: Final = Path(__file__).resolve().parents[1] / "collector" / "builder.yaml"
BUILD_SECONDS: Final = 1800
NICE: Final = ("nice", "-n", "10")


def collector_path(manifest: Path = MANIFEST) -> Path:
    """Where the Collector of this manifest lies, or is to lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return cache / "tracewire" / f"otelcol-{digest[:16]}"


def build_collector(manifest: Path = MANIFEST) -> str:
    """Build it unless it is there; what went wrong, or nothing.

    Whoever comes meanwhile waits, and finds it built. What Go downloads and compiles stays in Go's own caches.
    """
    path = collector_path(manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return ""
        if shutil.which("go") is None:
            return "Go is missing"
        with tempfile.TemporaryDirectory(prefix="otelcol-", dir=path.parent) as folder:
            return _build(manifest, Path(folder), path)


def _build(manifest: Path, folder: Path, path: Path) -> str:
    version = re.search(r"^ +version: (\S+)$", manifest.read_text(), re.MULTILINE)
    if version is None:
        return f"{manifest.name} says no version"
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version[1]}"
    # -s -w: without symbols and debug information it is a third smaller.
    command = [*NICE, "go", "run", builder, f"--config={manifest}", "--ldflags=-s -w"]
    try:
        ran = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
            env=os.environ | {"CGO_ENABLED": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the builder was not done within {BUILD_SECONDS} s"
    if ran.returncode:
        return "the builder failed:\n" + (ran.stdout + ran.stderr)[-2000:]
    (folder / "build" / "otelcol").replace(path)
    return ""
