"""`tracewire serve` on a fixed port and folder, killed and started again."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from random import Random
from typing import Final

from chaos.agents import EXPECTED_ERROR, REFERENCE
from chaos.faulty_server import FAULTS
from support.servers import ServerProcess

TESTS: Final = Path(__file__).resolve().parents[1]
PORTS: Final = range(20_000, 32_000)
"""Below those that the system gives to outgoing connections: a client that tries a port where nothing listens, from
that very port, would connect to itself, and keep the server off it.
"""
HEARTBEAT_SECONDS: Final = 3
RUN_STARTS_PER_MINUTE_MAX: Final = 10_000


def free_ports(random: Random, count: int) -> list[int]:
    """Ports on which nothing listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class KilledServer:
    """One server after the other, in the same place. `log_problems` are the errors that any of them logged."""

    def __init__(self, folder: Path, random: Random, *, endpoint: str, fault: str | None, trace_share: float) -> None:
        self.data_dir = folder / "data"
        self.port, self._ops_port = free_ports(random, 2)
        self.kills = 0
        self.log_problems: list[str] = []
        self._program = _program(fault)
        self._environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "TRACEWIRE_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "TRACEWIRE_RUN_STARTS_PER_MINUTE_MAX": str(RUN_STARTS_PER_MINUTE_MAX),
            "TRACEWIRE_TRACE_SHARE": str(trace_share),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", "")))),
        }
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """The public port."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._begin()
        assert self._process is not None
        await asyncio.to_thread(self._process.__enter__)

    async def start_and_kill(self, seconds: float, over: asyncio.Event) -> None:
        """Start it, and kill it after so long, ready or not."""
        self._begin()
        await pause(seconds, over)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL."""
        self.kills += 1
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        return await self._end(signal.SIGTERM)

    def abandon(self) -> None:
        """End what is left of it."""
        if self._process is not None:
            self._process.stop(signal.SIGKILL)
            self._close()

    def _begin(self) -> None:
        self._process = ServerProcess(
            self.data_dir, "--port", str(self.port), "--ops-port", str(self._ops_port), "--agent", REFERENCE,
            environ=self._environ, cwd=TESTS, program=self._program,
        )  # fmt: skip

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        code = await asyncio.to_thread(self._process.stop, number)
        self.log_problems += [
            line
            for line in self._process.log_text().splitlines()
            if ('"level": "error"' in line or "Traceback" in line) and EXPECTED_ERROR not in line
        ]
        self._close()
        return code

    def _close(self) -> None:
        assert self._process is not None
        assert self._process.process.stdout is not None
        self._process.process.stdout.close()
        self._process = None


def _program(fault: str | None) -> tuple[str, ...]:
    if fault is None:
        return ("-m", "tracewire.cli")
    return (
        ("-m", "chaos.faulty_server", fault) if fault in FAULTS else ("-m", "support.faulty_server", "--fault", fault)
    )


async def pause(seconds: float, over: asyncio.Event) -> None:
    """Let so much time pass, or less where it is over before."""
    over_task = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({over_task}, timeout=seconds)
    finally:
        over_task.cancel()
