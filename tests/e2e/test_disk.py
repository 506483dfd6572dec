"""A disk that fails, under a real server process: what clients and operators see, and what recovers by itself.

The cases are the rows of the table in ARCHITECTURE.md. What breaks does so outside the server: another process holds
the lock, the system refuses to let a file grow, a disk of its own is full or read-only, somebody writes over the file.
"""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from support.old_logs import ENDED_RUN, OPEN_RUN, USER, VERSIONS, set_version, write_old_log
from support.own_disk import forbidden, seen_from_outside
from support.real_programs import missing
from support.servers import ServerProcess
from support.wire import Wire, wire_to
from tracewire.eventlog.sqlite_migrations import SCHEMA_VERSION
from tracewire.gateway.auth import sign_token
from tracewire.settings import load_settings

TESTS: Final = Path(__file__).parents[1]
SECONDS: Final = 60
SECRET: Final = {"TRACEWIRE_JWT_SECRET": "a secret of these tests, which is long enough"}
ENVIRON: Final = SECRET | {"TRACEWIRE_COMMIT_RETRY_SECONDS": "0.2", "TRACEWIRE_HEARTBEAT_SECONDS": "5"}
LARGE: Final = "x" * 30_000
Mend = Callable[[], None]


class Served(ServerProcess):
    """A server process whose disk a test breaks."""

    def __init__(self, data_dir: Path, *, disk: str | None = None, **environ: str) -> None:
        program = ("-m", "support.own_disk", "--disk", disk) if disk else ("-m", "tracewire.cli")
        super().__init__(
            data_dir, "--agent", "support.agents:waits", environ=ENVIRON | environ, cwd=TESTS, program=program
        )

    @property
    def folder(self) -> Path:
        """The data folder as this process sees it, whatever is mounted there for the server."""
        return seen_from_outside(self.process.pid, self.data_dir)

    def token(self, user_id: str) -> str:
        return sign_token(load_settings(SECRET), user_id, ttl_seconds=600)

    def wire(self) -> Any:
        """A socket of alice's."""
        return wire_to(self.ws_url, self.token("alice"))

    def get(self, path: str) -> httpx.Response:
        """What the server answers to alice."""
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {self.token('alice')}"})


# --- ways to break it -----------------------------------------------------------------------------------------------


def files_cannot_grow(server: Served) -> Mend:
    """The system refuses to let any file of the server's grow: what needs no privilege anywhere."""
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in server.folder.iterdir())
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest, hard))
    return lambda: resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard)) and None


def disk_is_full(server: Served) -> Mend:
    """No room is left on the server's disk: `ENOSPC`, for everything that it writes."""
    filler = server.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler.unlink


def somebody_holds_the_lock(server: Served) -> Mend:
    """Another process is in the middle of a transaction, and does not end it."""
    other = sqlite3.connect(server.folder / "events.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other.close


BROKEN: Final = [
    pytest.param(files_cannot_grow, None, ("cannot be written",), id="file limit"),
    pytest.param(disk_is_full, "24m", ("cannot be written", "full"), id="full"),
    pytest.param(somebody_holds_the_lock, None, ("cannot be written", "locked"), id="locked"),
]


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> str | None:
    """The disk that the case asks for, if this machine lets a process mount one."""
    wanted: str | None = request.param
    if wanted is not None and (why := forbidden()) is not None:
        missing(f"this machine lets no process mount a disk of its own: {why}")
    return wanted


# --- while it runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("break_", "disk", "words"), BROKEN, indirect=["disk"])
async def test_a_log_that_takes_no_writes_lets_everybody_go_and_goes_on_by_itself(
    tmp_path: Path, break_: Callable[[Served], Mend], disk: str | None, words: tuple[str, ...]
) -> None:
    """`unavailable` and 4004, 503 with the reason; then, unaided, `agent_error{log_unavailable}` and new runs."""
    with Served(tmp_path / "data", disk=disk) as server:
        async with server.wire() as wire:
            run_id = await waiting_run(wire)
            mend = break_(server)
            await let_go(wire)
        seen = wire.events(run_id)
        await refused(server, words)
        mend()
        await until_ready(server)
        events = await read(server, run_id)
        assert seen == events[: len(seen)]
        assert ["agent_started", "agent_thinking", "agent_error"] == [event["type"] for event in events]
        assert ("log_unavailable", 3) == (events[-1]["data"]["code"], events[-1]["data"]["receipt"]["last_seq"])
        async with server.wire() as wire:
            await wire.receive_run(await wire.start_run({"question": "what is missing?", "recording_id": "sample"}))
        assert ["event_log_back"] == [record["event"] for record in server.log_records("event_log_back")]
        assert 0 == server.stop()


@pytest.mark.parametrize("break_", [files_cannot_grow, somebody_holds_the_lock])
async def test_a_server_that_ends_while_its_log_fails_owes_its_runs_an_end(
    tmp_path: Path, break_: Callable[[Served], Mend]
) -> None:
    """The next start ends them with `worker_lost`; what a client saw is what the log has."""
    with Served(tmp_path / "data") as server:
        async with server.wire() as wire:
            run_id = await waiting_run(wire)
            mend = break_(server)
            await let_go(wire)
        seen = wire.events(run_id)
        server.stop(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # a limit went with the process
            mend()
    with Served(tmp_path / "data") as server:
        events = await read(server, run_id)
    assert seen == events[: len(seen)]
    assert ("agent_error", "worker_lost") == (events[-1]["type"], events[-1]["data"]["code"])


async def test_a_file_that_is_broken_under_the_server_is_named_and_not_served(tmp_path: Path) -> None:
    """Met by who reads it: 4004 for all, readiness says what to do, and so does the next start, until it is moved."""
    with Served(tmp_path / "data") as server:
        async with server.wire() as wire:
            for _ in range(5):
                await wire.receive_run(await wire.start_run(LARGE))
            run_id = await waiting_run(wire)
            break_pages(tmp_path / "data" / "events.db")
            await wire.send("resume", runs={event["run_id"]: 0 for event in wire.frames if "run_id" in event})
            assert (4004, "unavailable") == await wire.closed()
        await until_unready(server)
        assert "damaged" in server.get("/ready").json()["reasons"]["event log"]
        assert "stop the server, then" in server.get("/ready").json()["reasons"]["event log"]
        server.stop(signal.SIGKILL)
    assert run_id
    failure = refused_start(tmp_path / "data")
    assert [word for word in ("events.db", "damaged", "move") if word not in failure] == []
    (tmp_path / "data").rename(tmp_path / "moved")
    with Served(tmp_path / "data") as server:
        assert 200 == server.get("/ready").status_code


async def waiting_run(wire: Wire) -> str:
    """A run that waits, of which both events came."""
    run_id = await wire.start_run(LARGE, agent="waits")
    await wire.receive_where(lambda frame: frame["type"] == "agent_thinking" and frame["run_id"] == run_id)
    return run_id


async def let_go(wire: Wire) -> None:
    """The next run is refused, the socket is told, and closed. What was refused was not delivered in part."""
    await wire.send("start_run", request_id="refused", input=LARGE, agent="waits")
    assert (4004, "unavailable") == await wire.closed()
    told = [frame for frame in wire.frames if frame["type"] in ("unavailable", "rejected", "run_accepted")]
    assert {"log_unavailable"} == {frame["code"] for frame in told if frame["type"] != "run_accepted"}
    assert "unavailable" == told[-1]["type"]
    assert "refused" not in [frame["request_id"] for frame in told if frame["type"] == "run_accepted"]


async def refused(server: Served, words: tuple[str, ...]) -> None:
    """No socket, no run, and both ports say why."""
    with pytest.raises(InvalidStatus) as handshake:
        async with server.wire():
            pass
    assert 503 == handshake.value.response.status_code
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {server.token('alice')}"}) as http:
        run = await http.post(server.url + "/runs", json={"input": "?", "agent": "waits"})
        assert (503, "log_unavailable") == (run.status_code, run.json()["code"])
        for port in (server.url, server.ops_url):
            ready = await http.get(port + "/ready")
            reason = ready.json()["reasons"]["event log"]
            assert (503, []) == (ready.status_code, [word for word in words if word not in reason]), reason
        assert "tracewire_ready 0.0" in (await http.get(server.ops_url + "/metrics")).text
    [failed] = server.log_records("event_log_failed")
    assert 1 == failed["open_runs"]


async def until_ready(server: Served) -> None:
    async with asyncio.timeout(SECONDS):
        while (await asyncio.to_thread(server.get, "/ready")).status_code != 200:
            await asyncio.sleep(0)


async def until_unready(server: Served) -> None:
    async with asyncio.timeout(SECONDS):
        while (await asyncio.to_thread(server.get, "/ready")).status_code != 503:
            await asyncio.sleep(0)


async def read(server: Served, run_id: str) -> list[dict[str, Any]]:
    """The whole run, to its end."""
    async with server.wire() as wire:
        await wire.send("resume", runs={run_id: 0})
        return await wire.receive_run(run_id)


def break_pages(path: Path) -> None:
    """Write over everything but the beginning of the database, and leave nothing of it in the WAL."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert 0 == other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        (page_bytes,) = other.execute("PRAGMA page_size").fetchone()
        kept = page_bytes * 20
        with path.open("r+b") as file:
            file.seek(kept)
            file.write(b"\xff" * (path.stat().st_size - kept))


# --- at the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_older_log_is_migrated_and_served(tmp_path: Path, version: int) -> None:
    """Its ended run is there to its last event; the one that was open is closed with `worker_lost`."""
    write_old_log(tmp_path / "data", version)
    with Served(tmp_path / "data") as server:
        async with wire_to(server.ws_url, server.token(USER)) as wire:
            await wire.send("resume", runs={ENDED_RUN: 0, OPEN_RUN: 1})
            ended = await wire.receive_run(ENDED_RUN)
            closed = await wire.receive_run(OPEN_RUN)
    assert ["agent_started", "agent_completed"] == [event["type"] for event in ended]
    assert [(2, "worker_lost")] == [(event["seq"], event["data"]["code"]) for event in closed]


def newer(folder: Path) -> None:
    write_old_log(folder, SCHEMA_VERSION)
    set_version(folder, SCHEMA_VERSION + 1)


def broken(folder: Path) -> None:
    write_old_log(folder, SCHEMA_VERSION)
    path = folder / "events.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    write_old_log(folder, SCHEMA_VERSION)
    with contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(newer, (f"schema {SCHEMA_VERSION + 1}", "upgrade Tracewire", "another data folder"), id="newer"),
        pytest.param(broken, ("damaged", "move events.db away", "restore"), id="corrupted"),
    ],
)
def test_a_log_that_cannot_be_served_is_named_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    """Exit code 1, the file, and what to do; the file is what it was."""
    spoil(tmp_path / "data")
    before = (tmp_path / "data" / "events.db").read_bytes()
    failure = refused_start(tmp_path / "data")
    assert [word for word in (*words, str(tmp_path / "data" / "events.db")) if word not in failure] == [], failure
    assert before == (tmp_path / "data" / "events.db").read_bytes()


def test_a_log_that_another_process_holds_is_named(tmp_path: Path) -> None:
    """Exit code 1, after a bounded wait; when that process lets go, the server starts."""
    with held(tmp_path / "data"):
        failure = refused_start(tmp_path / "data")
        assert "another process holds" in failure
        assert "stop that process" in failure
    with Served(tmp_path / "data") as server:
        assert 200 == server.get("/ready").status_code


@pytest.mark.parametrize("disk", ["read-only"], indirect=True)
def test_a_read_only_disk_is_named(tmp_path: Path, disk: str) -> None:
    """Exit code 1, the folder, and what the system said."""
    write_old_log(tmp_path / "data", SCHEMA_VERSION)
    failure = refused_start(tmp_path / "data", program=("-m", "support.own_disk", "--disk", disk))
    assert str(tmp_path / "data") in failure
    assert os.strerror(errno.EROFS) in failure


def refused_start(folder: Path, *, program: tuple[str, ...] = ("-m", "tracewire.cli")) -> str:
    """What a start that is refused says of the event log."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    command = [sys.executable, *program, "serve", "--port", "0", "--ops-port", "0", "--data-dir", str(folder)]
    done = subprocess.run(
        command, env=clean | ENVIRON, cwd=TESTS, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (1, "") == (done.returncode, done.stdout), done.stderr
    assert "Traceback" not in done.stderr
    [failure] = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    return failure
