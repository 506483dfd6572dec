"""A real Prometheus with our rules, a real Alertmanager with our configuration, and a webhook that is told.

What differs from the files that operators get: addresses and ports; intervals of a second; `for` shorter by
`FOR_SHORTER`, `keep_firing_for` by `KEEP_SHORTER` (promtool tests hold them as they are). Expressions, labels,
annotations, grouping and inhibition are the files' own.
"""

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from support.alert_rules import DASHBOARDS, RULES
from support.real_programs import real_program
from support.webhook import AlertReceiver

START_SECONDS = 60
STOP_SECONDS = 30
LOOK_SECONDS = 0.05
TRIES = 3
FOR_SHORTER = 12
KEEP_SHORTER = 60
_UNITS_MS = {"s": 1_000, "m": 60_000}


class Program:
    """A server that answers `/-/ready` on a loopback port; started, and stopped by its own id."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.command = command
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Until it is ready.

        Raises:
            AssertionError: it ended, or was not ready in time; says what it logged.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.command[0]} did not start:\n{self._log.read_text()[-2000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_SECONDS)
        return self

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Signal it, and wait for its end; killed if that does not come."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)


class Monitoring:
    """Both programs and the webhook, for the targets of one job each. `started_monitoring` makes one."""

    def __init__(self, prometheus: Program, alertmanager: Program, receiver: AlertReceiver) -> None:
        self.prometheus = prometheus
        self.alertmanager = alertmanager
        self.receiver = receiver

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        answer = httpx.get(f"{self.prometheus.url}/api/v1/query", params={"query": expression}, timeout=10)
        answer.raise_for_status()
        return list(answer.json()["data"]["result"])

    def wait_for(self, expression: str, seconds: float = START_SECONDS) -> None:
        """Until this query has a result."""
        self.receiver.wait(lambda: bool(self.query(expression)), seconds, f"result of {expression}")


@contextmanager
def started_monitoring(
    folder: Path,
    targets: Mapping[str, str],
    *,
    group_wait: str = "1s",
    resend_delay: str = "1m",
    replace: Mapping[str, str] | None = None,
) -> Iterator[Monitoring]:
    """Prometheus, scraping these targets (an address by job), Alertmanager, and the webhook.

    Args:
        folder: where configurations, data and logs go.
        targets: an address (host and port) by the name of its job.
        group_wait: Alertmanager's; a second in place of five.
        resend_delay: how often Prometheus repeats an alert; four times that after the last, Alertmanager drops it.
        replace: text of the rules to replace, each of which must be there.
    """
    prometheus = real_program("prometheus", package="prometheus")
    alertmanager = real_program("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    write_rules(folder / "rules", replace or {})
    with AlertReceiver() as receiver, contextlib.ExitStack() as stopping:

        def start_alertmanager(port: int) -> Program:
            config = folder / "alertmanager.yaml"
            config.write_text(alertmanager_config(receiver.address, group_wait))
            options = [f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}"]
            listen = [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
            return Program([alertmanager, *options, *listen], port, folder / "alertmanager.log").start()

        manager = on_a_free_port(start_alertmanager)
        stopping.callback(manager.stop)

        def start_prometheus(port: int) -> Program:
            config = folder / "prometheus.yaml"
            config.write_text(prometheus_config(targets, port, manager.url.removeprefix("http://")))
            options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}"]
            more = [f"--rules.alert.resend-delay={resend_delay}", "--enable-feature=exemplar-storage"]
            listen = [f"--web.listen-address=127.0.0.1:{port}"]
            return Program([prometheus, *options, *more, *listen], port, folder / "prometheus.log").start()

        scraper = on_a_free_port(start_prometheus)
        stopping.callback(scraper.stop)
        yield Monitoring(scraper, manager, receiver)


@asynccontextmanager
async def monitoring_beside(folder: Path, targets: Mapping[str, str], **options: Any) -> AsyncIterator[Monitoring]:
    """`started_monitoring` for a test whose event loop serves what is scraped."""
    started = started_monitoring(folder, targets, **options)
    monitoring = await asyncio.to_thread(started.__enter__)
    try:
        yield monitoring
    finally:
        await asyncio.to_thread(started.__exit__, None, None, None)


def on_a_free_port(start: Any) -> Program:
    """A program on a port that was free a moment ago; another one if somebody else was faster."""
    for attempt in range(TRIES):
        try:
            return start(free_port())  # type: ignore[no-any-return]
        except AssertionError as error:
            if attempt == TRIES - 1 or "address already in use" not in str(error):
                raise
    raise AssertionError("unreachable")


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def write_rules(folder: Path, replace: Mapping[str, str]) -> None:
    """The rules, in a hurry."""
    folder.mkdir(exist_ok=True)
    unused = set(replace)
    for path in RULES:
        text = path.read_text()
        for old, new in replace.items():
            if old in text:
                text = text.replace(old, new)
                unused.discard(old)
        rules = yaml.safe_load(text)
        for group in rules["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                for name, shorter in (("for", FOR_SHORTER), ("keep_firing_for", KEEP_SHORTER)):
                    if name in rule:
                        rule[name] = f"{milliseconds(rule[name]) // shorter}ms"
        (folder / path.name).write_text(yaml.safe_dump(rules, sort_keys=False))
    assert unused == set(), "the rules do not have what is to be replaced"


def milliseconds(duration: str) -> int:
    """A duration as the rules write it."""
    found = re.fullmatch(r"(\d+)([sm])", duration)
    assert found is not None, duration
    return int(found[1]) * _UNITS_MS[found[2]]


def prometheus_config(targets: Mapping[str, str], port: int, alertmanager: str) -> str:
    """Our configuration with these targets, at one scrape and evaluation a second."""
    config = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yaml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
    scraped = {**targets, "prometheus": f"127.0.0.1:{port}", "alertmanager": alertmanager}
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in scraped.items()
    ]
    return yaml.safe_dump(config)


def alertmanager_config(webhook: str, group_wait: str) -> str:
    """Our configuration with this webhook, and a second between looks at a group."""
    config = yaml.safe_load((DASHBOARDS / "alertmanager" / "alertmanager.yaml").read_text())
    config["route"] |= {"group_wait": group_wait, "group_interval": "1s"}
    (watchdog,) = config["route"]["routes"]
    watchdog |= {"group_interval": "1s", "repeat_interval": "1s"}
    for receiver in config["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = re.sub(r"//[^/]+/", f"//{webhook}/", hook["url"])
    return yaml.safe_dump(config)
