"""Real servers to test against: composed in this process, or `tracewire serve` as a process of its own."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from tracewire.client import Client
from tracewire.engine.agent import AgentSpec
from tracewire.gateway.auth import sign_token
from tracewire.main import Server, running
from tracewire.settings import Settings, load_settings
from tracewire_telemetry.testing.recorder import InProcessRecorder
from tracewire_telemetry.testing.served import ledger_at
from tracewire_telemetry.testing.spans import RecordedTrace

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
START_SECONDS = 30
LOOK_SECONDS = 0.02


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
        recorder.ledger = partial(ledger_at, server.ops_url)
        yield ServerUnderTest(server, recorder)


class ServerProcess:
    """`tracewire serve` as a process on free ports. Use it as a context manager; it is stopped by its own id.

    `program` is what Python runs in the command line's place, which passes `serve` and its options on.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        environ: dict[str, str] | None = None,
        cwd: Path | None = None,
        program: Sequence[str] = ("-m", "tracewire.cli"),
    ) -> None:
        self.data_dir = data_dir
        self.ready: dict[str, Any] = {}
        self.banner = ""
        self._log = data_dir.parent / f"{data_dir.name}.log"
        self._signed_elsewhere = any(name.startswith(("TRACEWIRE_JWT_", "TRACEWIRE_JWKS_")) for name in environ or {})
        command = [sys.executable, *program, "serve", "--port", "0", "--ops-port", "0"]
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
        """Wait until the server is ready: it prints a welcome in development mode, and logs it in every mode."""
        try:
            if self._signed_elsewhere:
                self._wait_for_the_log()
            else:
                self._wait_for_the_welcome()
        except BaseException:
            self.__exit__()
            raise
        self.ready = self.log_records("ready")[-1]
        return self

    def _wait_for_the_welcome(self) -> None:
        assert self.process.stdout is not None
        while "metrics | grep" not in self.banner:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait(START_SECONDS)
                raise AssertionError(f"the server did not start:\n{self.log_text()}")
            self.banner += line

    def _wait_for_the_log(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.log_records("ready"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_SECONDS)
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log_text()}")

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

    def log_records(self, event: str) -> list[dict[str, Any]]:
        """The records of this event in the server's log, oldest first."""
        whole = self.log_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole if f'"event": "{event}"' in line]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal this process, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_SECONDS)

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()
