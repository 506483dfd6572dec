"""`make stack`: the real programs beside a real server, a drill from the command line to the notification, and the end
of all of it.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from dashboards.stack.__main__ import held
from dashboards.stack.programs import find_collector, free_ports
from dashboards.stack.rendering import RenderingError, alertmanager_config, prometheus_config
from support.alert_rules import ROOT, RULES
from support.otelcol import collector_path
from support.real_programs import real_program

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 60.0
DRILL_SECONDS: Final = 100.0
WITHOUT_COLLECTOR: Final = {port: 40_000 + port % 1_000 for port in (8000, 9464, 9090, 9093, 9095)}


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}


class Stack:
    """`make stack` as a process; what it prints is read as it comes."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "dashboards.stack", "--folder", str(folder), "--every", "1s"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.lines.append(line.rstrip("\n"))
                self._came.notify_all()

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first line that matches, as soon as it is there."""
        found: list[re.Match[str]] = []

        def came() -> bool:
            found.extend(match for line in self.lines if (match := re.search(pattern, line)))
            return bool(found) or self.process.poll() is not None

        with self._came:
            self._came.wait_for(came, seconds)
        assert found, "\n".join(self.lines)
        return found[0]

    def url(self, name: str) -> str:
        """The address that it printed for this."""
        return self.wait_for(rf"^  {name} +(http://[\d.:]+)", START_SECONDS)[1]

    def children(self) -> dict[int, str]:
        """The processes that it started, by their ids."""
        found = {}
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for number in path.read_text().split():
                found[int(number)] = Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")
        return found

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal it, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        return code


@contextlib.contextmanager
def started_stack(folder: Path) -> Iterator[Stack]:
    """A stack that is up. At the end nothing of it is left, whatever happened."""
    real_program("prometheus", package="prometheus")
    real_program("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager")
    stack = Stack(folder)
    children: dict[int, str] = {}
    try:
        stack.wait_for("Ctrl-C ends all of it", START_SECONDS)
        children = stack.children()
        yield stack
        assert {number: command for number, command in children.items() if Path(f"/proc/{number}").exists()} == {}
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            stack.stop()
        for number in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if stack.process.poll() is None:
            stack.process.kill()
            stack.process.wait()
        assert stack.process.stdout is not None
        stack.process.stdout.close()


def fetched(url: str) -> Any:
    """The JSON at this address."""
    with urlopen(url, timeout=10) as answer:  # noqa: S310 # of a server of this test
        return json.loads(answer.read())


def answered(prometheus: str, query: str, *, at_least: int) -> list[Any]:
    """What Prometheus answers, as soon as it has so many series; it scrapes a second apart."""
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        found: list[Any] = fetched(f"{prometheus}/api/v1/query?{urlencode({'query': query})}")["data"]["result"]
        if len(found) >= at_least:
            return found
        assert time.monotonic() < give_up_at, query


def moment(text: str) -> datetime:
    """A time as the programs print it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def test_a_drill_from_the_command_line_leads_to_a_notification_and_ctrl_c_ends_everything(
    tmp_path: Path,
) -> None:
    """The command is the one that the stack prints. Each step's time is printed; each comes after the one before."""
    with started_stack(tmp_path / "stack") as stack:
        ops, prometheus, manager = stack.url("operations"), stack.url("Prometheus"), stack.url("Alertmanager")
        shown = stack.wait_for(r"tracewire (drill --event tool_completed --link socket .*)", START_SECONDS)[1].split()
        assert shown[5:7] == ["--alertmanager", manager]
        if not ops.endswith(":9464"):
            assert shown[7:] == ["--url", ops]
        asked = datetime.now(UTC)
        ran = subprocess.run(
            [sys.executable, "-m", "tracewire.cli", *shown],
            env=clean_environment(), capture_output=True, text=True, timeout=DRILL_SECONDS, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said = r"^(\S+) firing +TracewireUserEventsMissing: User drill is missing tool_completed at the link socket"
        notified = moment(stack.wait_for(said, START_SECONDS)[1])
        told = {line.split()[0]: line.split()[1].rstrip(",") for line in ran.stdout.splitlines()}
        steps = {
            "asked": asked,
            "lost": moment(told["lost"]),
            "incident": moment(told["incident"]),
            "alert": moment(told["alert"]),
            "notified": notified,
        }
        print(ran.stdout)
        for name, at in {**steps, "healed": moment(told["healed"])}.items():
            print(f"{name:9} {(at - steps['lost']).total_seconds():+7.2f} s")
        assert list(steps.values()) == sorted(steps.values())
        jobs = answered(prometheus, "up == 1", at_least=3)
        assert {one["metric"]["job"] for one in jobs} >= {"tracewire", "prometheus", "alertmanager"}
        assert answered(prometheus, "up == 0", at_least=0) == []
        by_the_visitor = 'sum(tracewire_deliveries_total{origin="user", verdict="in_time"}) > 5'
        assert answered(prometheus, by_the_visitor, at_least=1)
        assert stack.stop() == 0
        assert any(line.startswith("ending prometheus, visitor, tracewire") for line in stack.lines)


def test_a_stack_whose_program_ends_says_which_and_ends_too(tmp_path: Path) -> None:
    """With the place of its log and the last of it; the exit code is 1."""
    with started_stack(tmp_path / "stack") as stack:
        ops = stack.url("operations")
        (number,) = (number for number, command in stack.children().items() if "storage.tsdb.path" in command)
        os.kill(number, signal.SIGKILL)
        assert stack.process.wait(STOP_SECONDS) == 1
        stack.wait_for(r"prometheus ended with -9; its log is .*/logs/prometheus.log", STOP_SECONDS)
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{ops}/live", timeout=5)  # noqa: S310 # as above


def test_a_second_stack_in_the_same_folder_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    """It would write over the configurations and the logs of the one that runs."""
    real_program("prometheus", package="prometheus")
    real_program("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager")
    with held(tmp_path):
        before = set(tmp_path.iterdir())
        ran = subprocess.run(
            [sys.executable, "-m", "dashboards.stack", "--folder", str(tmp_path)],
            cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False, timeout=START_SECONDS,
        )  # fmt: skip
        assert (ran.returncode, set(tmp_path.iterdir())) == (1, before)
        assert f"a stack runs in {tmp_path} already: end it first, or name another --folder" in ran.stderr


def test_a_missing_program_is_named_with_the_package_that_holds_it(tmp_path: Path) -> None:
    """Both at once, and nothing is started."""
    ran = subprocess.run(
        [sys.executable, "-m", "dashboards.stack", "--folder", str(tmp_path)],
        cwd=ROOT, env=clean_environment() | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
        timeout=START_SECONDS,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "prometheus is missing: install Debian's package prometheus (apt-get" in ran.stderr
    assert "prometheus-alertmanager is missing: install Debian's package prometheus-alertmanager" in ran.stderr


def test_a_port_that_somebody_has_is_replaced_by_a_free_one() -> None:
    """The well-known one, where it is free."""
    first = free_ports([0])[0]
    ports = free_ports([first])
    assert ports == {first: first}
    with listening() as taken:
        found = free_ports([taken, first])
        assert found[first] == first
        assert found[taken] not in (taken, first)


def test_the_collector_is_looked_for_where_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the stack would leave it out, whoever had built it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert find_collector() is None
    collector_path().parent.mkdir()
    collector_path().touch()
    assert find_collector() == str(collector_path())


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that somebody has."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


# Configurations.


def test_a_rendered_configuration_is_the_shipped_one_with_other_addresses(tmp_path: Path) -> None:
    """promtool takes it and finds the rules; a job whose program does not run is left out."""
    text = prometheus_config(WITHOUT_COLLECTOR)
    path = tmp_path / "prometheus.yaml"
    path.write_text(text)
    promtool = real_program("promtool", package="prometheus")
    ran = subprocess.run([promtool, "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, f"{len(RULES)} rule files found" in ran.stdout + ran.stderr) == (0, True)
    assert re.findall(r"job_name: (\S+)", text) == ["tracewire", "prometheus", "alertmanager"]
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) == {str(WITHOUT_COLLECTOR[port]) for port in (9464, 9090, 9093)}
    with_collector = prometheus_config({**WITHOUT_COLLECTOR, 8888: 8888, 8889: 8889})
    assert "otel-collector" in re.findall(r"job_name: (\S+)", with_collector)
    assert "scrape_interval: 2s" in prometheus_config(WITHOUT_COLLECTOR, every="2s")


def test_an_address_that_the_stack_does_not_have_is_refused() -> None:
    """What is not replaced would lead to somebody else's program."""
    assert f"127.0.0.1:{WITHOUT_COLLECTOR[9095]}/alerts" in alertmanager_config(WITHOUT_COLLECTOR)
    with pytest.raises(RenderingError, match="9095 is of no program"):
        alertmanager_config({9090: 9090})
