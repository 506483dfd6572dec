"""`tracewire serve` as a process, with somebody's agent and its traces received: the whole chain, for a test.

Nothing of the server is imported or reached into: it is started by its command line, spoken to over its socket, and
read by its ports for users and operators.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import jwt
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tracewire_telemetry.testing.conversations import Conversation, Frame, OnEvent, TracewireRun, open_tools
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.waiting import whats_missing

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
RUN_SECONDS: Final = 30.0
GONE_SECONDS: Final = 2.0
"""How long a server may take to end after its socket did."""
LOG_LINES_SHOWN: Final = 5
LOG_LINE_CHARACTERS_MAX: Final = 300
TOKEN_SECONDS: Final = 3_600
_HTTP_SECONDS: Final = 10.0
_BUILT_IN: Final = frozenset({"analyst", "canary", "drill"})


class ServedAgent:
    """A Tracewire server with an agent, as a process. A context manager; made by the `tracewire_agent` fixture.

    Args:
        agent: where the agent is, as `tracewire serve --agent` takes it: `module:name`.
        folder: an empty folder for the server's data.
        cwd: the working folder, in which the agent's module is looked for; the present one by default.
        environ: further variables for the server, as `TRACEWIRE_TOOL_DEADLINE_SECONDS`.
    """

    def __init__(
        self, agent: str, folder: Path, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.receiver = OtlpReceiver(ledger=self.ledger)
        self.url = ""
        self.ops_url = ""
        self._agent = agent
        self._folder = folder
        self._cwd = cwd
        self._secret = secrets.token_urlsafe(48)
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="tracewire-log", daemon=True)

    def __enter__(self) -> Self:
        """Start, and wait until the server says that it is ready.

        Raises:
            AssertionError: it did not start; the message holds what it said.
        """
        __tracebackhide__ = True
        self.receiver.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._reader.join()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None
        self.receiver.__exit__()

    @property
    def log_text(self) -> str:
        """Everything that the server has logged."""
        with self._changed:
            return "".join(self._lines)

    def token(self, user_id: str) -> str:
        """A signed token for this user."""
        now = int(time.time())
        claims = {"sub": user_id, "iat": now, "nbf": now, "exp": now + TOKEN_SECONDS}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def scrape(self) -> str:
        """What `/metrics` of the ops port answers.

        Raises:
            AssertionError: the server has ended by itself; the message says how, and what it logged last.
        """
        __tracebackhide__ = True
        if gone := self._gone():
            raise AssertionError(gone)
        return _get(f"{self.ops_url}/metrics")

    def ledger(self, run_id: str) -> dict[str, Any] | None:
        """The run's ledger, from the ops port; `None` where there is none."""
        return ledger_at(self.ops_url, run_id)

    def run(
        self,
        user_id: str,
        input_value: Any,
        *,
        agent: str | None = None,
        ack: bool = True,
        on_event: OnEvent | None = None,
        timeout_seconds: float = RUN_SECONDS,
    ) -> TracewireRun:
        """Run the agent for a user over a real socket, ack what came, and wait for the run's whole trace.

        Args:
            user_id: whose run it is.
            input_value: the agent's input.
            agent: the agent's name; by default the one that was given to the server.
            ack: whether the client acks what it gets.
            on_event: is shown each event as it comes, and may give a frame to send back.
            timeout_seconds: how long the run may take, and then its trace.

        Raises:
            AssertionError: the run did not end in time, or its trace did not come; the message says what did come, what
                is open, and what the server still waits for.
        """
        __tracebackhide__ = True
        before = self.scrape()
        with connect(
            "ws" + self.url.removeprefix("http") + "/ws",
            additional_headers={"Authorization": f"Bearer {self.token(user_id)}"},
            compression=None,
            max_size=None,
            open_timeout=timeout_seconds,
        ) as socket:
            conversation = Conversation(socket, time.monotonic() + timeout_seconds, on_event)
            ready = conversation.until("ready")
            name = agent or self._only(ready["agents"])
            accepted = conversation.start(name, input_value)
            run_id = accepted["run_id"]
            try:
                conversation.receive_run(run_id, ack=ack)
            except (TimeoutError, ConnectionClosed) as error:
                raise AssertionError(self._unfinished(run_id, conversation.events, timeout_seconds, error)) from None
            trace = self.receiver.wait_for_run(run_id, timeout_seconds=timeout_seconds)
        return TracewireRun(
            user_id, run_id, name, conversation.events, conversation.acked_seq, trace, before, self.scrape()
        )

    def _only(self, agents: Sequence[Any]) -> str:
        names = [str(found["name"] if isinstance(found, dict) else found) for found in agents]
        own = [name for name in names if name not in _BUILT_IN]
        if len(own) != 1:
            raise ValueError(f"the server has the agents {', '.join(names)}: say which, as run(…, agent=…)")
        return own[0]

    def _unfinished(self, run_id: str, events: Sequence[Frame], seconds: float, error: Exception) -> str:
        types = ", ".join(frame["type"] for frame in events) or "none"
        if isinstance(error, ConnectionClosed):
            self._wait_for(lambda: self._ended, GONE_SECONDS)
        why = "within " + f"{seconds:g} s" if isinstance(error, TimeoutError) else f"before the socket closed ({error})"
        said = [f"run {run_id} did not end {why}", f"the client received: {types}", *open_tools(events)]
        if gone := self._gone():
            return "\n  ".join([*said, gone])
        return "\n  ".join([*said, *whats_missing(self.receiver.trace_of_run(run_id), self.ledger(run_id))])

    def _gone(self) -> str:
        """What is to be told of a server that has ended by itself; empty while it runs.

        Raises:
            RuntimeError: it was not started, or was stopped.
        """
        __tracebackhide__ = True
        if self._process is None:
            raise RuntimeError("the server is not running: use it within `with tracewire_agent(…) as served:`")
        if not self._ended:
            return ""
        said = [line.rstrip()[:LOG_LINE_CHARACTERS_MAX] for line in self.log_text.splitlines()[-LOG_LINES_SHOWN:]]
        code = self._process.wait(STOP_SECONDS)
        return "\n    ".join([f"the server has ended by itself, with exit code {code}; what it logged last:", *said])

    def _wait_for(self, holds: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(holds, seconds)

    def _start(self) -> None:
        __tracebackhide__ = True
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
        variables = {
            **clean,
            **self.receiver.environment,
            "TRACEWIRE_JWT_SECRET": self._secret,
            "TRACEWIRE_DRAIN_GRACE_SECONDS": "0",
            **self._environ,
        }
        command = [sys.executable, "-m", "tracewire.cli", "serve", "--port", "0", "--ops-port", "0"]
        self._process = subprocess.Popen(  # noqa: S603 # the tester's own agent
            [*command, "--data-dir", str(self._folder), "--agent", self._agent],
            env=variables,
            cwd=self._cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader.start()
        self._wait_for(lambda: self._ended or self._ready() is not None, START_SECONDS)
        with self._changed:
            ready, said = self._ready(), "".join(self._lines[-40:])
        if ready is None:
            raise AssertionError(f"the server with the agent {self._agent} did not start:\n{said}")
        self.url, self.ops_url = ready["url"], ready["ops_url"]

    def _ready(self) -> Frame | None:
        for line in self._lines:
            if '"event": "ready"' in line or '"event":"ready"' in line:
                found: Frame = json.loads(line)
                return found
        return None

    def _read(self) -> None:
        process = self._process
        for line in process.stderr if process is not None and process.stderr is not None else ():
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def ledger_at(ops_url: str, run_id: str) -> dict[str, Any] | None:
    """The ledger of a run as a server's ops port answers it; `None` where it does not."""
    try:
        found: dict[str, Any] = json.loads(_get(f"{ops_url}/runs/{run_id}/ledger"))
    except (OSError, ValueError):
        return None
    return found


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 # a port of a server under test
        text: str = answer.read().decode()
        return text
