"""How `tracewire serve` starts and stops as a process: what cannot start says everything that is wrong, at once."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.servers import ServerProcess
from support.wire import contract_problems, wire_to
from tracewire.eventlog.sqlite_schema import DATABASE_NAME

TESTS = Path(__file__).parents[1]
START_SECONDS = 30
EVERYWHERE = "0.0.0.0"  # noqa: S104 # refused by every test that names it


def serve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`tracewire serve`, which is expected to end of itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "tracewire.cli", "serve", *arguments],
        env=clean | environ,
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def failures_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The failures that a start named, each on a line of its own; there is no traceback, and nothing was served."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return [line.removeprefix("  - ") for line in done.stderr.splitlines() if line.startswith("  - ")]


@contextmanager
def taken_port() -> Iterator[str]:
    """A port of loopback on which somebody else listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        yield str(listening.getsockname()[1])


def test_every_failed_dependency_is_named_at_once(tmp_path: Path) -> None:
    """Both ports, the data folder, three agents of which none can be had, and the exporter of traces."""
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("not a folder")
    (tmp_path / "raises_at_import.py").write_text("raise SystemExit('no')\n")
    with taken_port() as public, taken_port() as ops:
        done = serve(
            *("--port", public, "--ops-port", ops, "--data-dir", str(in_the_way / "data")),
            *("--agent", "nowhere:at_all", "--agent", "support.agents:missing", "--agent", "raises_at_import:agent"),
            PYTHONPATH=str(tmp_path),
            OTEL_TRACES_EXPORTER="carrier pigeon",
        )
    named = failures_of(done)
    assert len(named) == 7
    for failure, words in zip(
        named,
        [
            ("nowhere:at_all", "ModuleNotFoundError"),
            ("support.agents:missing", "AttributeError"),
            ("raises_at_import:agent", "SystemExit"),
            ("OTEL_TRACES_EXPORTER", "carrier pigeon"),
            ("public port", public, "in use", "TRACEWIRE_PORT"),
            ("ops port", ops, "in use", "TRACEWIRE_OPS_PORT"),
            ("data folder", "a file", "TRACEWIRE_DATA_DIR"),
        ],
        strict=True,
    ):
        assert [word for word in words if word not in failure] == [], failure


@pytest.mark.parametrize(
    ("references", "words"),
    [
        (["no colon"], ("no colon", "module:name")),
        (["support.agents:FIVE"], ("support.agents:FIVE", "AttributeError")),
        (["support.servers:FIVE"], ("support.servers:FIVE", "tuple", "not a function")),
        (["support.agents:known_agents"], ("known_agents", "one argument")),
        (["support.agents:five", "support.agents:five"], ("five", "two of that name")),
    ],
)
def test_an_agent_that_is_none_is_named_beside_what_else_is_wrong(
    tmp_path: Path, references: list[str], words: tuple[str, ...]
) -> None:
    """With what is wrong with it; a port that is taken is named in the same breath."""
    agents = [part for reference in references for part in ("--agent", reference)]
    with taken_port() as public:
        done = serve("--port", public, "--ops-port", "0", "--data-dir", str(tmp_path / "data"), *agents)
    agent, port = failures_of(done)
    assert [word for word in words if word not in agent] == [], agent
    assert "public port" in port


def test_bad_settings_are_named_together(tmp_path: Path) -> None:
    """Each with its value and what it must be, an unknown one with the name that was meant; a secret is not shown."""
    done = serve(
        TRACEWIRE_DATA_DIR=str(tmp_path / "data"),
        TRACEWIRE_PORT="eighty",
        TRACEWIRE_TRACE_SHARE="1.5",
        TRACEWIRE_RUNS_PER_USER_MAX="0",
        TRACEWIRE_SOKETS_MAX="5",
        TRACEWIRE_JWT_SECRET="short and secret",
        TRACEWIRE_OPS_HOST=EVERYWHERE,
    )
    named = failures_of(done)
    for words in (
        ("TRACEWIRE_PORT", "eighty"),
        ("TRACEWIRE_TRACE_SHARE", "1.5"),
        ("TRACEWIRE_RUNS_PER_USER_MAX", "0"),
        ("TRACEWIRE_SOKETS_MAX", "did you mean TRACEWIRE_SOCKETS_MAX?"),
        ("TRACEWIRE_JWT_SECRET", "32 bytes"),
        ("TRACEWIRE_OPS_HOST", EVERYWHERE, "TRACEWIRE_OPS_TOKEN"),
    ):
        assert [failure for failure in named if all(word in failure for word in words)], (words, named)
    assert len(named) == 6
    assert "short and secret" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_development_mode_does_not_listen_beyond_this_machine(tmp_path: Path) -> None:
    """Without a secret, an address that others can reach is a bad setting."""
    [failure] = failures_of(serve("--host", EVERYWHERE, "--data-dir", str(tmp_path / "data")))
    assert "TRACEWIRE_JWT_SECRET" in failure


def test_a_second_server_on_the_same_data_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    """The failure names the folder and says what to do."""
    with ServerProcess(tmp_path / "data") as first:
        [failure] = failures_of(serve("--port", "0", "--ops-port", "0", "--data-dir", str(tmp_path / "data")))
        assert "another server uses it" in failure
        assert str(tmp_path / "data") in failure
        assert first.stop() == 0


def test_a_damaged_event_log_is_named_with_its_folder(tmp_path: Path) -> None:
    """What is no database stays as it was."""
    (tmp_path / "data").mkdir()
    database = tmp_path / "data" / DATABASE_NAME
    database.write_bytes(b"this is no database" * 500)
    [failure] = failures_of(serve("--port", "0", "--ops-port", "0", "--data-dir", str(tmp_path / "data")))
    assert "event log" in failure
    assert str(tmp_path / "data") in failure
    assert database.read_bytes() == b"this is no database" * 500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_server_with_exit_code_0(tmp_path: Path, number: int) -> None:
    """And says that it stopped; the folder serves the next one."""
    for _ in range(2):
        with ServerProcess(tmp_path / "data") as process:
            assert process.stop(number) == 0
            events = [json.loads(line)["event"] for line in process.log_text().splitlines()]
            assert (events[0], events[-1]) == ("ready", "stopped")


async def test_a_server_that_stops_ends_its_runs_and_tells_its_sockets(tmp_path: Path) -> None:
    """`draining` at once, then each open run ends with `worker_lost`, its tool closed, then 4000; exit code 0."""
    environ = {"TRACEWIRE_DRAIN_GRACE_SECONDS": "0"}
    with ServerProcess(
        tmp_path / "data", "--agent", "support.agents:waits_in_tool", environ=environ, cwd=TESTS
    ) as process:
        async with wire_to(process.ws_url, process.token("drained")) as wire:
            run_id = await wire.start_run("go", agent="waits_in_tool")
            await wire.receive_type("tool_executing")
            process.process.send_signal(signal.SIGTERM)
            draining = await wire.receive()
            assert draining["type"] == "draining"
            assert draining["retry_after_seconds"] > 0
            events = await wire.receive_run(run_id)
            assert contract_problems(events) == []
            assert [event["type"] for event in events][2:] == ["tool_completed", "agent_error"]
            assert (events[-1]["data"]["code"], events[-1]["data"]["retryable"]) == ("worker_lost", True)
            assert await wire.closed() == (4000, "draining")
        assert await asyncio.to_thread(process.process.wait, START_SECONDS) == 0


async def test_a_run_that_ends_within_the_grace_period_ends_as_if_nothing_was(tmp_path: Path) -> None:
    """New runs are refused meanwhile; the open one is answered and completes before the server has gone."""
    environ = {"TRACEWIRE_DRAIN_GRACE_SECONDS": "20"}
    with ServerProcess(tmp_path / "data", "--agent", "support.agents:asks", environ=environ, cwd=TESTS) as process:
        async with wire_to(process.ws_url, process.token("in time")) as wire:
            run_id = await wire.start_run("go", agent="asks")
            await wire.receive_type("input_required")
            process.process.send_signal(signal.SIGTERM)
            await wire.receive_type("draining")
            await wire.send("start_run", request_id="too late", input="go", agent="asks")
            rejected = await wire.receive()
            assert (rejected["code"], rejected["request_id"]) == ("draining", "too late")
            assert rejected["retry_after_seconds"] > 0
            await wire.send("provide_input", run_id=run_id, input_id="input_1", value=True)
            await wire.receive_type("input_required")
            await wire.send("provide_input", run_id=run_id, input_id="input_2", value="Ada")
            events = await wire.receive_run(run_id)
            assert events[-1]["data"]["output"] == "True Ada"
            assert await wire.closed() == (4000, "draining")
        assert await asyncio.to_thread(process.process.wait, START_SECONDS) == 0
        settled = [json.loads(line) for line in process.log_text().splitlines() if "run_settled" in line]
        assert [(record["run_id"], record["outcome"], record["missing"]) for record in settled] == [
            (run_id, "completed", 0)
        ]


async def test_a_second_signal_ends_a_draining_server_at_once(tmp_path: Path) -> None:
    """It does not wait for the grace period, and its exit code says that it did not finish."""
    environ = {"TRACEWIRE_DRAIN_GRACE_SECONDS": "60", "TRACEWIRE_DRAIN_SECONDS_MAX": "90"}
    with ServerProcess(tmp_path / "data", "--agent", "support.agents:waits", environ=environ, cwd=TESTS) as process:
        async with wire_to(process.ws_url, process.token("impatient")) as wire:
            await wire.start_run("go", agent="waits")
            process.process.send_signal(signal.SIGTERM)
            await wire.receive_type("draining")
            assert await asyncio.to_thread(process.stop) == 1
