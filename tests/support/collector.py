"""A real Collector with the file that operators get: started with ports, back end and folder of its own.

All of these come by the file's own variables. What else differs, a test says as an `override`, which goes on the
Collector's command line after the file.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx

from support.collector_config import CONFIG
from support.otelcol import collector_path
from support.real_programs import missing

PORTS: Final = ("GRPC", "HTTP", "METRICS", "SPANMETRICS", "HEALTH")
WAIT_SECONDS: Final = 60
STOP_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.05
TRIES: Final = 3
SHORT_WAITS: Final = (
    "processors::tail_sampling::decision_wait: 3s",
    "processors::tail_sampling::decision_wait_after_root_received: 1s",
)
"""For what the waits themselves have no part in: the shipped ones are five and a half minutes and 15 s."""
_SERIES: Final = re.compile(r"(\w+)(?:\{([^}]*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def collector_program() -> str:
    """The path of the built Collector. Without it the test is skipped; with REQUIRE_REAL=1 it fails."""
    path = collector_path()
    return str(path) if path.exists() else missing("otelcol is missing: install Go, then python tests/real_parts.py")


class Collector:
    """One Collector, which can be stopped and started again on the same ports. Use it as a context manager.

    Args:
        folder: where its queue and its log go.
        backend: base URL of the back end.
        share: percentage of good traces that it keeps.
        overrides: settings of the file to replace, each as YAML with `::` between keys.
        environ: more of the file's variables.
    """

    def __init__(
        self,
        folder: Path,
        backend: str,
        *,
        share: float = 100,
        overrides: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._program = collector_program()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._environ = {
            "OTELCOL_BACKEND_ENDPOINT": backend,
            "OTELCOL_STORAGE": str(folder / "queue"),
            "OTELCOL_SHARE_PERCENT": str(share),
            **(environ or {}),
        }
        self._overrides = [f"--config=yaml:{override}" for override in overrides]
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for attempt in range(TRIES):
            self._ports = free_ports(PORTS)
            try:
                return self.start()
            except AssertionError as error:
                if attempt == TRIES - 1 or "address already in use" not in str(error):
                    raise
        raise AssertionError("unreachable")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Until its health check answers.

        Raises:
            AssertionError: it ended, or was not ready in time; says what it logged.
        """
        ports = {f"OTELCOL_{name}_PORT": str(port) for name, port in self._ports.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, f"--config={CONFIG}", *self._overrides],
                env=clean | self._environ | ports,
                stdout=log,
                stderr=log,
            )
        try:
            self.wait_for(self.healthy, "start of the Collector")
        except AssertionError:
            self.stop()
            raise
        return self

    def wait_for(self, holds: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Look again and again until it holds. Blocks the calling thread.

        Raises:
            AssertionError: it did not in time, or the Collector ended; says what it logged last.
        """
        assert self._process is not None, "the Collector does not run"
        deadline = time.monotonic() + seconds
        while not holds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {seconds} s\n{self._log.read_text()[-3000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_SECONDS)

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

    @property
    def endpoint(self) -> str:
        """Where spans go, over HTTP."""
        return self._url("HTTP")

    @property
    def metrics_address(self) -> str:
        """Host and port of its own metrics."""
        return f"127.0.0.1:{self._ports['METRICS']}"

    def healthy(self) -> bool:
        """Whether its health check says so."""
        try:
            return httpx.get(self._url("HEALTH"), timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def series(self, port: str = "METRICS") -> Iterator[tuple[str, dict[str, str], float]]:
        """What a scrape shows: name, labels, value."""
        answer = httpx.get(f"{self._url(port)}/metrics", timeout=10)
        answer.raise_for_status()
        for line in answer.text.splitlines():
            found = None if line.startswith("#") else _SERIES.match(line)
            if found is not None:
                yield found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])

    def count(self, name: str, **labels: str) -> float:
        """The sum of one of its own counters, whether it ends in `_total` or not; 0 where it is not there yet."""
        names = (f"otelcol_{name}", f"otelcol_{name}_total")
        return sum(v for n, own, v in self.series() if n in names and labels.items() <= own.items())

    def log_records(self, part: str) -> list[dict[str, Any]]:
        """The records whose message holds this, oldest first."""
        whole = self._log.read_text().rpartition("\n")[0].splitlines()
        records = [json.loads(line) for line in whole if line.startswith("{")]
        return [record for record in records if part in record["msg"]]

    @property
    def undecided(self) -> int:
        """Traces that came in and of which nothing was decided yet."""
        decided = self.count("processor_tail_sampling_global_count_traces_sampled")
        return int(self.count("processor_tail_sampling_new_trace_id_received") - decided)

    @property
    def _log(self) -> Path:
        return self._folder / "collector.log"

    def _url(self, port: str) -> str:
        return f"http://127.0.0.1:{self._ports[port]}"


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """As many different loopback ports, which nobody uses now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}
