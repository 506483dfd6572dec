"""The shipped configurations with the addresses of one stack put into them. Nothing else of them changes, but for the
intervals where somebody is in a hurry.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DASHBOARDS: Final = Path(__file__).resolve().parents[1]
ROOT: Final = DASHBOARDS.parent
PROMETHEUS: Final = DASHBOARDS / "prometheus" / "prometheus.yaml"
ALERTMANAGER: Final = DASHBOARDS / "alertmanager" / "alertmanager.yaml"
COLLECTOR: Final = ROOT / "otel-collector.yaml"
_ADDRESS: Final = re.compile(r"127\.0\.0\.1:(\d+)")
_JOB: Final = re.compile(r"^(?:  #.*\n)*  - job_name: .*\n(?:    .*\n|\n)*", re.MULTILINE)
_RULES: Final = "rules/*.yaml"
_INTERVAL: Final = re.compile(r"^(  (?:scrape|evaluation)_interval:) \S+$", re.MULTILINE)


class RenderingError(Exception):
    """A shipped file is not as this expects it. The message says what is missing where."""


def prometheus_config(ports: Mapping[int, int], *, every: str = "") -> str:
    """Prometheus's configuration for these ports, each by the one that it has in the file.

    A job with a port that is not among them is left out: its program does not run. `every` replaces both intervals.

    Raises:
        RenderingError: what is to be replaced is not there.
    """
    text = PROMETHEUS.read_text(encoding="utf-8")
    if _RULES not in text:
        raise RenderingError(f"{PROMETHEUS}: has no {_RULES}")
    text = text.replace(_RULES, str(PROMETHEUS.parent / _RULES))
    if every:
        text, found = _INTERVAL.subn(rf"\1 {every}", text)
        if found != 2:
            raise RenderingError(f"{PROMETHEUS}: has {found} intervals, not two")

    def kept(job: re.Match[str]) -> str:
        return job[0] if all(int(port) in ports for port in _ADDRESS.findall(job[0])) else ""

    return _addressed(_JOB.sub(kept, text), ports, PROMETHEUS)


def alertmanager_config(ports: Mapping[int, int]) -> str:
    """Alertmanager's configuration for these ports.

    Raises:
        RenderingError: it names a port that is not among them.
    """
    return _addressed(ALERTMANAGER.read_text(encoding="utf-8"), ports, ALERTMANAGER)


def _addressed(text: str, ports: Mapping[int, int], path: Path) -> str:
    def replaced(address: re.Match[str]) -> str:
        if int(address[1]) not in ports:
            raise RenderingError(f"{path}: {address[0]} is of no program of the stack")
        return f"127.0.0.1:{ports[int(address[1])]}"

    return _ADDRESS.sub(replaced, text)
