"""Real servers to test against: composed in this process, or `tracewire serve` as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tracewire.client import Client
from tracewire.engine.agent import AgentSpec
from tracewire.gateway.auth import sign_token
from tracewire.main import Server, running
from tracewire.settings import Settings, load_settings
from tracewire_telemetry.testing.recorder import InProcessRecorder
from tracewire_telemetry.testing.spans import RecordedTrace

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
START_SECONDS = 30


def settings_for(data_dir: Path, **overrides: Any) -> Settings:
    """Settings of a server of this process: free ports, its own folder, no drain to wait for."""
    values: dict[str, Any] = {"port": 0, "ops_port": 0, "data_dir": str(data_dir), "drain_grace_seconds": 0.2}
    return load_settings({}, **(values | overrides))


class ServerUnderTest:
    """A real server of this process with a recorder for its traces, and users who sign in to it."""

    def __init__(self, server: Server, recorder: InProcessRecorder) -> None:
        self.server = server
        self.recorder = recorder

    def token(self, user_id: str, *, ttl_seconds: float = 600) -> str:
        """A real signed token."""
        return sign_token(self.server.settings, user_id, ttl_seconds=ttl_seconds)

    def client(self, user_id: str) -> Client:
        """A client over a real socket, signed in as this user."""
        return Client(self.server.ws_url, self.token(user_id), reconnect=False)

    async def trace(self, run_id: str) -> RecordedTrace:
        """The run's whole trace, once it is exported."""
        return await asyncio.to_thread(self.recorder.wait_for_run, run_id)


@asynccontextmanager
async def server_under_test(
    data_dir: Path, *, agents: Iterable[AgentSpec] = (), **overrides: Any
) -> AsyncIterator[ServerUnderTest]:
    """A started server of this process."""
    recorder = InProcessRecorder()
    settings = settings_for(data_dir, **overrides)
    async with running(settings, agents=agents, exporter=recorder, environ={}) as server:
        yield ServerUnderTest(server, recorder)


class ServerProcess:
    """`tracewire serve` as a process on free ports. Use it as a context manager; it is stopped by its own id."""

    def __init__(
        self, data_dir: Path, *arguments: str, environ: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.data_dir = data_dir
        self.ready: dict[str, Any] = {}
        self.log_lines: list[str] = []
        self._log = data_dir.parent / f"{data_dir.name}.log"
        command = [sys.executable, "-m", "tracewire.cli", "serve", "--port", "0", "--ops-port", "0"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(data_dir), *arguments],
                env=clean | (environ or {}),
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        """Wait for the welcome that the server prints when it is ready."""
        assert self.process.stdout is not None
        self.banner = ""
        while "metrics | grep" not in self.banner:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait(START_SECONDS)
                raise AssertionError(f"the server did not start:\n{self.log_text()}")
            self.banner += line
        records = [json.loads(line) for line in self.log_text().splitlines() if '"event": "ready"' in line]
        self.ready = records[-1]
        return self

    @property
    def url(self) -> str:
        """The public port."""
        return str(self.ready["url"])

    @property
    def ws_url(self) -> str:
        """The socket's endpoint."""
        return "ws" + self.url.removeprefix("http") + "/ws"

    @property
    def ops_url(self) -> str:
        """The ops port."""
        return str(self.ready["ops_url"])

    def token(self, user_id: str) -> str:
        """A real signed token, by the secret of the server's data folder."""
        return sign_token(settings_for(self.data_dir), user_id, ttl_seconds=600)

    def log_text(self) -> str:
        """Everything that the server has logged."""
        return self._log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal this process, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_SECONDS)

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()
