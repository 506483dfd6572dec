"""What the server tells of itself while it runs: its log, and the gauge that names users."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from mutants import deeds
from mutants.moments import let_pass

LOOK_SECONDS: Final = 0.1
SCRAPE_SECONDS: Final = 1.0
Labels = tuple[str, str]
"""Type and link of a series, or of an alert."""


class LogReader:
    """Follows a server's log, line by line, and wakes who waits for something in it."""

    def __init__(self, path: Path) -> None:
        self.settled: set[str] = set()
        self.open_incidents: set[str] = set()
        self.named: dict[str, str] = {}
        """The error of each run that could not be wired, or not be closed."""
        self.deeds: set[str] = set()
        """The users to whom something was done."""
        self.problems: list[dict[str, Any]] = []
        self._path = path
        self._read = 0

    def look(self) -> None:
        """Take in what was logged since."""
        with self._path.open() as log:
            log.seek(self._read)
            while (line := log.readline()).endswith("\n"):
                self._read = log.tell()
                if line.startswith("{"):
                    self._take(json.loads(line))

    def _take(self, record: dict[str, Any]) -> None:
        match record["event"]:
            case "run_settled":
                self.settled.add(record["run_id"])
            case "incident_opened":
                self.open_incidents.add(record["incident_id"])
            case "incident_ended":
                self.open_incidents.discard(record["incident_id"])
            case deeds.EVENT:
                self.deeds.add(record["user_id"])
            case "run_not_wired":
                self.named[record["run_id"]] = record["error"]
        if record["level"] in ("error", "critical"):
            self.problems.append(record)

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until this holds of what was read; whether it did in time. Somebody else calls `look`."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await let_pass(LOOK_SECONDS)
        except TimeoutError:
            return holds()
        return True

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            self.look()
            await let_pass(LOOK_SECONDS)


class GaugeReader:
    """Scrapes the gauge that names users, as Prometheus does, and keeps which series it ever saw."""

    def __init__(self, ops_url: str) -> None:
        self.seen: dict[str, set[Labels]] = {}
        self._ops_url = ops_url

    async def follow(self) -> None:
        """Scrape again and again."""
        async with httpx.AsyncClient(base_url=self._ops_url, timeout=30) as http:
            while True:
                for name, labels, value in samples((await http.get("/metrics")).text):
                    if name == "tracewire_user_events_missing" and value:
                        self.seen.setdefault(labels["user_id"], set()).add((labels["event_type"], labels["link"]))
                await let_pass(SCRAPE_SECONDS)


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each series of one scrape."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
