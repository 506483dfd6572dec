"""The real parts that the tests use beside Python packages: found, installed, or named as missing.

With REQUIRE_REAL=1, as root on Debian, what is missing is installed. Elsewhere nothing is touched: it is said what is
missing, and what is skipped for the lack of it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from support.otelcol import build_collector, collector_path


class Part(NamedTuple):
    """A program that tests run. `package` is Debian's, or none where it cannot be had from there."""

    program: str
    package: str | None
    used_for: str


PARTS = (
    Part("promtool", "prometheus", "checking /metrics, rules and alerts with Prometheus's own tool"),
    Part("prometheus", "prometheus", "alerts and boards, from a real server's metrics"),
    Part("prometheus-alertmanager", "prometheus-alertmanager", "alerts on the way to a receiver"),
    Part("amtool", "prometheus-alertmanager", "checking Alertmanager's configuration"),
    Part("node", None, "the WebSocket client in another language; the browser client on another origin"),
    Part("npm", None, "the packages of those"),
    Part("chromium", "chromium", "the page and the browser client"),
)
NPM_FOLDERS = {
    "node": "a client in another language",
    "page": "axe on the page, the browser client on another origin, its types",
}


def missing_parts() -> list[Part]:
    """The parts that are not on this machine."""
    return [part for part in PARTS if shutil.which(part.program) is None]


def install_npm_packages(name: str) -> bool:
    """Install the packages of a folder of `tests/e2e` as its lock pins them; whether they are there."""
    folder = Path(__file__).parent / "e2e" / name
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return True
    if shutil.which("npm") is None:
        return False
    command = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    return subprocess.run(command, cwd=folder, check=False).returncode == 0


def build_otelcol() -> str:
    """Build the Collector of the tests where it is not there yet; what went wrong, or nothing."""
    if not collector_path().exists() and shutil.which("go"):
        print("building the OpenTelemetry Collector from tests/collector/builder.yaml, once; this takes minutes ...")
    return build_collector()


def main() -> int:
    """Install or name what is missing; the exit code."""
    required = os.environ.get("REQUIRE_REAL") == "1"
    packages = sorted({part.package for part in missing_parts() if part.package})
    if packages and required and os.geteuid() == 0 and Path("/etc/debian_version").exists():
        print(f"installing {', '.join(packages)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, env=environment
        )
    missing = missing_parts()
    for part in missing:
        advice = f"install Debian's {part.package}" if part.package else "install it"
        consequence = "this run will fail" if required else "skipped"
        print(f"missing: {part.program} ({advice}); {consequence}: {part.used_for}")
    unpacked = [name for name in NPM_FOLDERS if not install_npm_packages(name)]
    for name in unpacked:
        consequence = "this run will fail" if required else "skipped"
        print(f"missing: the packages of tests/e2e/{name} (`npm ci` there); {consequence}: {NPM_FOLDERS[name]}")
    unbuilt = build_otelcol()
    if unbuilt:
        consequence = "this run will fail" if required else "skipped"
        print(f"missing: otelcol ({unbuilt}; install Go 1.25 or newer); {consequence}: otel-collector.yaml at work")
    return 1 if required and (missing or unpacked or unbuilt) else 0


if __name__ == "__main__":
    sys.exit(main())
