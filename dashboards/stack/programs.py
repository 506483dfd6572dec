"""Which programs make the stack, where each is found, how it is started, and how one sees that it is ready."""

import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dashboards.stack import rendering
from dashboards.stack.receiver import PORT as RECEIVER_PORT

PUBLIC_PORT: Final = 8000
OPS_PORT: Final = 9464
PROMETHEUS_PORT: Final = 9090
ALERTMANAGER_PORT: Final = 9093
COLLECTOR_PORTS: Final = {4317: "OTELCOL_GRPC_PORT", 4318: "OTELCOL_HTTP_PORT", 8888: "OTELCOL_METRICS_PORT",
                          8889: "OTELCOL_SPANMETRICS_PORT", 13133: "OTELCOL_HEALTH_PORT"}  # fmt: skip
OTLP_PORT: Final = 4318
HEALTH_PORT: Final = 13133
CANARY: Final = "10s"
RESEND: Final = "15s"
"""Prometheus drops what fires before it has found Alertmanager, and says it again after this: a minute by default."""
MANIFEST: Final = rendering.ROOT / "tests" / "collector" / "builder.yaml"
"""What the project's own Collector is built from; it lies in the user's cache by the hash of this."""
COLLECTOR_NAMES: Final = ("otelcol-contrib", "otelcol")
COLLECTOR_ADVICE: Final = (
    "build it with `.venv/bin/python tests/real_parts.py` (takes Go), or put otelcol-contrib in PATH"
)


class Missing(NamedTuple):
    """A program that is not on this machine, and how to get it."""

    program: str
    advice: str


class Program(NamedTuple):
    """One program: its command, what is added to its environment, and the URL that answers 200 when it is ready.

    `told` is whether what it prints is for the terminal; otherwise it goes to its log.
    """

    name: str
    command: list[str]
    ready_url: str
    environment: Mapping[str, str] = {}
    told: bool = False


class Plan(NamedTuple):
    """The programs in the order of their start, and the ports that they have, by the well-known ones."""

    programs: list[Program]
    ports: dict[int, int]
    left_out: list[Missing]

    def url(self, port: int) -> str:
        """The address of what has this well-known port."""
        return f"http://127.0.0.1:{self.ports[port]}"


def found(*names: str) -> str | None:
    """The path of the first of these programs that there is."""
    return next(filter(None, map(shutil.which, names)), None)


def find_collector() -> str | None:
    """The project's own Collector where it was built, else one of the usual names."""
    if MANIFEST.exists():
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        built = cache / "tracewire" / f"otelcol-{hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:16]}"
        if built.exists():
            return str(built)
    return found(*COLLECTOR_NAMES)


def required_missing() -> list[Missing]:
    """What the stack cannot do without and is not there."""
    needed = (("prometheus", ("prometheus",)), ("prometheus-alertmanager", ("prometheus-alertmanager", "alertmanager")))
    return [
        Missing(names[0], f"install Debian's package {package} (apt-get install {package}), or put the program in PATH")
        for package, names in needed
        if found(*names) is None
    ]


def free_ports(wanted: list[int]) -> dict[int, int]:
    """For each port itself, where nobody has it, else one that is free."""
    ports: dict[int, int] = {}
    held: list[socket.socket] = []
    try:
        for port in wanted:
            ports[port] = _free(port, held)
    finally:
        for one in held:
            one.close()
    return ports


def _free(port: int, held: list[socket.socket]) -> int:
    for candidate in (port, 0):
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", candidate))
        except OSError:
            bound.close()
            continue
        held.append(bound)
        return int(bound.getsockname()[1])
    raise OSError(f"no port of loopback is free in place of {port}")


def plan(folder: Path, *, every: str) -> Plan:
    """The programs, with their configurations written into `folder`.

    Raises:
        RenderingError: a shipped file is not as expected.
        OSError: a file cannot be written, or no port is free.
    """
    collector = find_collector()
    wanted = [PUBLIC_PORT, OPS_PORT, PROMETHEUS_PORT, ALERTMANAGER_PORT, RECEIVER_PORT]
    ports = free_ports([*wanted, *(COLLECTOR_PORTS if collector else ())])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yaml").write_text(rendering.prometheus_config(ports, every=every), encoding="utf-8")
    (folder / "alertmanager.yaml").write_text(rendering.alertmanager_config(ports), encoding="utf-8")
    made = Plan([], ports, [] if collector else [Missing("Collector", COLLECTOR_ADVICE)])
    made.programs.extend(_programs(made, folder, collector))
    return made


def _programs(made: Plan, folder: Path, collector: str | None) -> Iterator[Program]:
    receiver = made.url(RECEIVER_PORT)
    command = [sys.executable, "-m", "dashboards.stack.receiver", "--port", str(made.ports[RECEIVER_PORT])]
    yield Program("receiver", command, f"{receiver}/-/ready", told=True)
    manager = found("prometheus-alertmanager", "alertmanager") or ""
    yield Program(
        "alertmanager",
        [manager, f"--config.file={folder / 'alertmanager.yaml'}", f"--storage.path={folder / 'alertmanager'}",
         f"--web.listen-address=127.0.0.1:{made.ports[ALERTMANAGER_PORT]}", "--cluster.listen-address="],
        f"{made.url(ALERTMANAGER_PORT)}/-/ready",
    )  # fmt: skip
    if collector:
        environment = {name: str(made.ports[port]) for port, name in COLLECTOR_PORTS.items()}
        environment |= {"OTELCOL_STORAGE": str(folder / "otelcol"), "OTELCOL_BACKEND_ENDPOINT": receiver}
        yield Program(
            "collector", [collector, f"--config={rendering.COLLECTOR}"], f"{made.url(HEALTH_PORT)}/", environment
        )
    traces = made.url(OTLP_PORT) if collector else receiver
    yield Program(
        "tracewire",
        [sys.executable, "-m", "tracewire.cli", "serve", "--canary", CANARY, "--drills",
         "--port", str(made.ports[PUBLIC_PORT]), "--ops-port", str(made.ports[OPS_PORT]),
         "--data-dir", str(folder / "tracewire")],
        f"{made.url(OPS_PORT)}/ready",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": traces},
    )  # fmt: skip
    socket_url = f"ws://127.0.0.1:{made.ports[PUBLIC_PORT]}/ws"
    yield Program(
        "visitor",
        [sys.executable, "-m", "dashboards.stack.visitor", "--url", socket_url,
         "--data-dir", str(folder / "tracewire")],
        f"{made.url(OPS_PORT)}/ready",
    )  # fmt: skip
    yield Program(
        "prometheus",
        [found("prometheus") or "", f"--config.file={folder / 'prometheus.yaml'}",
         f"--storage.tsdb.path={folder / 'prometheus'}", "--storage.tsdb.retention.time=31d",
         f"--web.listen-address=127.0.0.1:{made.ports[PROMETHEUS_PORT]}", "--enable-feature=exemplar-storage",
         f"--rules.alert.resend-delay={RESEND}"],
        f"{made.url(PROMETHEUS_PORT)}/-/ready",
    )  # fmt: skip
