"""`tracewire probe` against real server processes: healthy, broken at each link, not there, not letting it in."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.served_chain import QUICK, TESTS
from support.servers import ServerProcess, server_under_test
from tracewire import main
from tracewire.engine.agent_context import AgentContext
from tracewire.probing import probe as probe_of
from tracewire_telemetry.vocabulary import Outcome

SECONDS = 60
LINKS = ["engine", "bridge", "emitter", "socket", "client"]
WITHIN = {"L6-writes_are_swallowed": "8s"}
"""How long to wait for what does not come: the server thinks that it has written it all."""
FAULTS = {
    "L1-engine_factory_without_emitters": "engine",
    "L1-emitter_factory_without_connections": "engine",
    "L2-no_engine": "engine",
    "L3-no_bridge": "bridge",
    "L4-no_emitter": "emitter",
    "L4-emitter_of_a_stranger": "emitter",
    "L5-no_emit_tool_completed": "emitter",
    "L5-lying_emit_agent_thinking": "emitter",
    "L6-offers_are_swallowed": "socket",
    "L6-last_write_is_swallowed": "socket",
    "L6-writes_are_swallowed": "client",
    "L6-acks_are_lost": "client",
}


def command(*arguments: str) -> list[str]:
    """`tracewire probe` as a command."""
    return [sys.executable, "-m", "tracewire.cli", "probe", *arguments]


def environment() -> dict[str, str]:
    """The environment without settings from outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    return clean | {"COLUMNS": "110", "PYTHONUNBUFFERED": "1"}


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One probe."""
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def of(server: ServerProcess) -> tuple[str, ...]:
    """The options that name this server."""
    return ("--url", server.ws_url, "--data-dir", str(server.data_dir))


async def forever(ctx: AgentContext) -> None:
    """In the analyst's place: it never ends."""
    await asyncio.Event().wait()


async def test_a_probe_that_has_to_go_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the end of the run that nobody watches any more: cancelled, not lost when the server stops."""
    monkeypatch.setattr(main, "build_analyst", lambda *_: forever)
    async with server_under_test(tmp_path / "data") as server:
        token = server.token("tracewire-probe")
        probing = asyncio.create_task(probe_of(server.server.ws_url, token, within_seconds=SECONDS))
        runs = server.server.telemetry.watch.runs
        async with asyncio.timeout(SECONDS):
            while not any(run.ledger.client and run.ledger.client[0] for run in runs.values()):
                await asyncio.sleep(0)
        [run] = runs.values()
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        async with asyncio.timeout(SECONDS):
            while run.ledger.outcome is None:
                await asyncio.sleep(0)
        assert run.ledger.outcome is Outcome.CANCELLED


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A healthy server."""
    with ServerProcess(tmp_path_factory.mktemp("probe") / "data") as started:
        yield started


def test_a_probe_of_a_healthy_server_says_so_of_each_link(server: ServerProcess) -> None:
    """One line a link, the run's id, and exit code 0; its deliveries are a canary's, not a user's."""
    done = probe(*of(server))
    assert (done.returncode, done.stderr) == (0, "")
    *links, last = done.stdout.splitlines()
    assert [(link, "ok") for link in LINKS] == [tuple(line.split()[:2]) for line in links]
    assert re.fullmatch(r"all five hold, run [0-9a-f-]{36}, \d+\.\d\d s", last)
    metrics = httpx.get(f"{server.ops_url}/metrics").text
    counted = re.findall(r'^tracewire_deliveries_total\{.*origin="(\w+)".*\} [1-9]', metrics, re.MULTILINE)
    assert set(counted) == {"canary"}


def test_a_probe_goes_as_the_user_that_it_is_told(tmp_path: Path) -> None:
    """By name, or by whose token it is; then its deliveries are that user's."""
    with ServerProcess(tmp_path / "data") as server:
        assert probe(*of(server), "--user", "ada").returncode == 0
        assert probe("--url", server.ws_url, "--token", server.token("bob")).returncode == 0
        assert {"ada", "bob"} == {line["user_id"] for line in server.log_records("run_settled")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_probe_names_the_link_that_is_broken(tmp_path: Path, fault: str) -> None:
    """And the wiring check, with exit code 1: those before it hold, those behind it were not reached."""
    link, quick = FAULTS[fault], QUICK if fault.startswith("L6") else {}
    with ServerProcess(
        tmp_path / "data",
        environ={"TRACEWIRE_DRAIN_GRACE_SECONDS": "0", **quick},
        cwd=TESTS,
        program=("-m", "support.faulty_server", "--fault", fault),
    ) as server:
        done = probe(*of(server), "--within", WITHIN.get(fault, "20s"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"broken: {link} ({fault[:2]}): ")
    at = LINKS.index(link)
    words = ["ok"] * at + ["BROKEN"] + ["--"] * (4 - at)
    assert list(zip(LINKS, words, strict=True)) == [tuple(line.split()[:2]) for line in done.stdout.splitlines()]


def test_what_keeps_a_probe_from_its_server_is_said_in_one_sentence(server: ServerProcess) -> None:
    """No server, a token that does not hold, a name that is the server's own, a URL or a duration that is none."""
    refused = {
        "nothing listens there; is the server running?": ("--url", "ws://127.0.0.1:9/ws", "--token", "x"),
        "4501 (unauthenticated)": ("--url", server.ws_url, "--token", "no-token"),
        "get one that this server accepts": (*of(server), "--user", "canary"),
        "is no socket's URL": ("--url", "http://127.0.0.1:8000"),
        "'soon' is no duration": (*of(server), "--every", "soon"),
        "there is nothing to scrape of one probe": (*of(server), "--metrics-port", "0"),
        "Address already in use": (*of(server), "--every", "1s", "--metrics-port", str(httpx.URL(server.url).port)),
        "holds no development secret": ("--url", server.ws_url, "--data-dir", str(server.data_dir / "other")),
    }
    for why, arguments in refused.items():
        done = probe(*arguments)
        assert done.returncode != 0, why
        assert (done.stdout, "Traceback" in done.stderr) == ("", False)
        assert why in " ".join(done.stderr.split())


def test_a_probe_for_ever_shows_its_stamp_and_goes_on_when_the_server_is_gone(tmp_path: Path) -> None:
    """On its own port: the stamp is not there before the first success, and stays as it was afterwards; SIGTERM ends
    it with exit code 0.
    """
    stamp, broken = "tracewire_canary_last_success_timestamp_seconds", 'tracewire_probes_total{result="broken"}'
    with ServerProcess(tmp_path / "data") as server:
        arguments = command(*of(server), "--every", "0.2s", "--metrics-port", "0", "--within", "5s")
        with subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as probing:
            assert probing.stdout is not None
            assert probing.stderr is not None
            try:
                url = probing.stdout.readline().removeprefix("metrics at ").strip()
                assert [probing.stdout.readline()[:8] for _ in "123"] == ["ok, run "] * 3
                healthy = scraped(url)
                server.stop(signal.SIGKILL)
                while "nothing listens there" not in (said := probing.stderr.readline()):
                    assert said.startswith("broken: ")  # the one that the kill caught on its way
                assert probing.stderr.readline().startswith("broken: ")
                gone = scraped(url)
            finally:
                probing.send_signal(signal.SIGTERM)
                probing.wait(SECONDS)
        assert probing.returncode == 0
    assert healthy[stamp] > 1e9
    assert (healthy['tracewire_probes_total{result="ok"}'] >= 2, healthy[broken]) == (True, 0)
    assert (gone[broken] >= 1, gone[stamp] >= healthy[stamp]) == (True, True)


def test_a_probe_that_never_succeeded_has_no_stamp_and_shows_the_link(tmp_path: Path) -> None:
    """An alert on the stamp's absence fires; the gauge of links says where to look."""
    with ServerProcess(
        tmp_path / "data", cwd=TESTS, program=("-m", "support.faulty_server", "--fault", "L4-no_emitter")
    ) as server:
        arguments = command(*of(server), "--every", "0.2s", "--metrics-port", "0")
        with subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as probing:
            assert probing.stdout is not None
            assert probing.stderr is not None
            try:
                url = probing.stdout.readline().removeprefix("metrics at ").strip()
                assert probing.stderr.readline().startswith("broken: emitter (L4): ")
                series = scraped(url)
            finally:
                probing.send_signal(signal.SIGTERM)
                probing.wait(SECONDS)
    assert "tracewire_canary_last_success_timestamp_seconds" not in series
    shown = {link: series[f'tracewire_probe_link_broken{{link="{link}"}}'] for link in LINKS}
    assert {link: float(link == "emitter") for link in LINKS} == shown


def scraped(url: str) -> dict[str, float]:
    """The series of one scrape."""
    lines = httpx.get(url).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}
