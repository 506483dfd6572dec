"""Slow, stalled and silent clients against a real server process: each is let go of, and costs nobody else anything."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.pouring import AGENTS, StallingSocket, stalling_socket
from support.raw_socket import TEXT, frame, raw_socket
from support.servers import ServerProcess, server_under_test
from support.wire import contract_problems, is_terminal, wire_to
from tracewire.gateway.transport import SocketTransport

TESTS = Path(__file__).parents[1]
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.05
SIP_SECONDS = 1.0
FREED_SECONDS = 10.0
"""The promise: a client that stops reading is let go of within so long."""
STALLED_BYTES_MAX = 512 * 1024
"""The promise: a client that reads nothing costs no more of the process's memory."""
STALLED = 10
POURED = {"events": 3_000, "bytes": 1_000}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with its own limits, and with agents that pour."""
    folder = tmp_path_factory.mktemp("slow") / "data"
    with ServerProcess(folder, *AGENTS, "--agent", "support.agents:five", cwd=TESTS) as started:
        yield started


@asynccontextmanager
async def server_with(folder: Path, **environ: str) -> AsyncIterator[ServerProcess]:
    """A server with these settings."""
    process = ServerProcess(folder, *AGENTS, environ=environ, cwd=TESTS)
    await asyncio.to_thread(process.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.__exit__)


async def until(process: ServerProcess, holds: Callable[[], bool]) -> None:
    """Look at a server until this holds of it; one that has ended fails at once."""
    give_up = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < give_up
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = await asyncio.to_thread(process.process.wait, LOOK_SECONDS)
            pytest.fail(f"the server has ended with {code}: {process.log_text()[-2_000:]}")


def descriptors(process: ServerProcess) -> int:
    """Sockets that the server has open."""
    folder = Path(f"/proc/{process.process.pid}/fd")
    return sum(names_socket(entry) for entry in folder.iterdir())


def names_socket(entry: Path) -> bool:
    """Whether this descriptor is a socket; one that was closed meanwhile is none."""
    try:
        return entry.readlink().name.startswith("socket:")
    except FileNotFoundError:
        return False


def gone(process: ServerProcess, user_id: str) -> int:
    """Sockets of this user that the server has let go of."""
    return sum(record["user_id"] == user_id for record in process.log_records("socket_gone"))


def peak_bytes(process: ServerProcess) -> int:
    """The most memory that the server ever held."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def value(process: ServerProcess, name: str, **labels: str) -> float:
    """One figure of the server's metrics."""
    families = text_string_to_metric_families(httpx.get(f"{process.ops_url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"tracewire_{name}"]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def client_frame(frame_type: str, **fields: Any) -> bytes:
    """A frame of a client, as bytes."""
    return frame(TEXT, json.dumps({"type": frame_type, **fields}).encode())


async def started_by_hand(socket: StallingSocket, agent: str, input_value: Any) -> str:
    """Start a run over a socket by hand, and give its id."""
    socket.send(client_frame("start_run", request_id=f"{agent}-{id(input_value)}", agent=agent, input=input_value))
    accepted = await socket.read_frame()
    assert accepted is not None
    return str(json.loads(accepted.payload)["run_id"])


def http_of(process: ServerProcess, user_id: str) -> httpx.AsyncClient:
    """The server's HTTP, signed in as this user."""
    return httpx.AsyncClient(base_url=process.url, headers={"Authorization": f"Bearer {process.token(user_id)}"})


async def states(http: httpx.AsyncClient) -> list[str]:
    """What the user's runs are at."""
    return [run["state"] for run in (await http.get("/runs")).json()["runs"]]


async def ended(http: httpx.AsyncClient, runs: int) -> None:
    """Wait until so many runs of the user have reached their end; each look is a request, which takes its time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while await states(http) != ["completed"] * runs:
            pass


async def read_whole(process: ServerProcess, user_id: str, run_id: str, after_seq: int = 0) -> list[dict[str, Any]]:
    """The run as a client that reads gets it by a resume, to its end."""
    async with wire_to(process.ws_url, process.token(user_id), subprotocols=("tracewire.v1.lines",)) as wire:
        await wire.send("resume", runs={run_id: after_seq})
        async with asyncio.timeout(WAIT_SECONDS):
            events = await wire.receive_run(run_id)
        await wire.ack(run_id, events[-1]["seq"])
    return events


async def test_a_client_that_stops_reading_a_live_run_is_freed_and_another_user_does_not_notice(
    process: ServerProcess,
) -> None:
    """Within ten seconds no socket of it is left. Its run goes on, and a later resume gives all of it."""
    before = descriptors(process)
    async with stalling_socket(process.ws_url, process.token("stalled")) as socket:
        run_id = await started_by_hand(socket, "pours", POURED)
        socket.stall()
        stopped = time.monotonic()
        async with wire_to(process.ws_url, process.token("other")) as wire:
            events = await wire.receive_run(await wire.start_run("?", agent="five"))
            assert contract_problems(events) == []
        await until(process, lambda: gone(process, "stalled") == 1)
        await until(process, lambda: descriptors(process) <= before)
        assert time.monotonic() - stopped < FREED_SECONDS
    assert value(process, "slow_clients_total") >= 1
    assert contract_problems(await read_whole(process, "stalled", run_id)) == []


@pytest.mark.parametrize("size", [1_000, 60_000])
async def test_a_client_that_stops_reading_in_the_middle_of_a_replay_is_freed(
    process: ServerProcess, size: int
) -> None:
    """Nothing is queued for it there, so no bound of its outbox can pass. The rest of it is there for its resume."""
    user_id = f"replayed-{size}"
    poured = {"events": 3_000_000 // size, "bytes": size}
    run_id = await ask(process, user_id, poured)
    before = descriptors(process)
    async with stalling_socket(process.ws_url, process.token(user_id)) as socket:
        socket.send(client_frame("resume", runs={run_id: 1}))
        resumed = await socket.read_frame()
        assert resumed is not None
        assert json.loads(resumed.payload)["recovered"]
        first = await socket.read_frame()
        assert first is not None
        assert json.loads(first.payload)["seq"] == 2
        socket.stall()
        stopped = time.monotonic()
        await until(process, lambda: gone(process, user_id) == 1)
        await until(process, lambda: descriptors(process) <= before)
        assert time.monotonic() - stopped < FREED_SECONDS
    rest = await read_whole(process, user_id, run_id, after_seq=2)
    assert list(range(3, poured["events"] + 3)) == [event["seq"] for event in rest]


async def test_clients_that_read_nothing_cost_little_memory(tmp_path: Path) -> None:
    """Ten, each with a run of three megabytes to get, beside another server with the same runs, which nobody
    follows: at most half a MiB each more, at the worst moment of each server.
    """
    peaks = {}
    for followed in (False, True):
        async with server_with(tmp_path / f"{followed}") as process:
            async with asyncio.TaskGroup() as group:
                for number in range(STALLED):
                    group.create_task((stall if followed else ask)(process, f"user-{number}", POURED))
            peaks[followed] = peak_bytes(process)
    assert (peaks[True] - peaks[False]) / STALLED < STALLED_BYTES_MAX


async def stall(process: ServerProcess, user_id: str, poured: dict[str, int]) -> None:
    """Start a run over a socket and read nothing of it, until the server has let go of the socket."""
    async with stalling_socket(process.ws_url, process.token(user_id)) as socket:
        await started_by_hand(socket, "pours", poured)
        socket.stall()
        await until(process, lambda: gone(process, user_id) == 1)


async def ask(process: ServerProcess, user_id: str, poured: dict[str, int]) -> str:
    """Start a run over HTTP, which no socket follows, and wait for its end."""
    async with http_of(process, user_id) as http:
        await http.post("/runs", json={"agent": "pours", "input": poured}, headers={"Idempotency-Key": user_id})
        await ended(http, 1)
        return str((await http.get("/runs")).json()["runs"][0]["run_id"])


async def test_a_client_that_reads_again_in_time_is_told_that_it_was_too_slow(process: ServerProcess) -> None:
    """The close with 4001 is the last that it gets, behind events in order without a gap."""
    async with stalling_socket(process.ws_url, process.token("late")) as socket:
        run_id = await started_by_hand(socket, "pours", POURED)
        socket.stall()
        await until(
            process, lambda: any(record["user_id"] == "late" for record in process.log_records("socket_too_slow"))
        )
        socket.read_on()
        frames = await socket.read_to_end()
    seqs = [json.loads(received.payload)["seq"] for received in frames[:-1]]
    assert (4001, list(range(1, len(seqs) + 1))) == (frames[-1].close_code, seqs)
    assert contract_problems(await read_whole(process, "late", run_id)) == []


async def test_a_client_that_reads_and_never_answers_is_told_that_it_was_silent(tmp_path: Path) -> None:
    """It gets pings and then 4002, and the connection ends although it never closes its own side."""
    async with server_with(tmp_path / "data", TRACEWIRE_HEARTBEAT_SECONDS="0.5") as process:
        async with raw_socket(process.ws_url, process.token("silent")) as socket:
            frames = await socket.read_to_end()
            await until(process, lambda: gone(process, "silent") == 1)
        kinds = {json.loads(received.payload)["type"] for received in frames if received.opcode == TEXT}
        assert ({"ping"}, 4002) == (kinds, frames[-1].close_code)
        assert value(process, "closes_total", code="4002") == 1


async def test_a_silent_client_can_read_what_was_written_to_it_before_it_is_cut(tmp_path: Path) -> None:
    """The connection is not aborted with the close: what the kernel had not taken would go with it."""
    async with (
        server_under_test(tmp_path / "data") as server,
        stalling_socket(server.server.ws_url, server.token("mute")) as socket,
    ):
        socket.stall()
        (session,) = server.server.gateway.sessions
        transport, written = session.transport, 0
        assert isinstance(transport, SocketTransport)
        while transport.writable:
            transport.write_text(b'{"type":"ping","id":"%s"}' % (b"x" * 1_000))
            written += 1
        silent_ns = 4 * int(server.server.settings.heartbeat_seconds * 1e9)
        server.server._keeper.look(session, transport.last_life_ns + silent_ns, time.time())
        socket.read_on()
        frames = await socket.read_to_end()
    assert (4002, written) == (frames[-1].close_code, len(frames) - 1)


async def test_a_client_that_neither_reads_nor_answers_is_freed(tmp_path: Path) -> None:
    """It never sees a code, and no socket of it is left."""
    async with server_with(tmp_path / "data", TRACEWIRE_HEARTBEAT_SECONDS="0.5") as process:
        before = descriptors(process)
        async with stalling_socket(process.ws_url, process.token("mute")) as socket:
            socket.stall()
            await until(process, lambda: gone(process, "mute") == 1)
            await until(process, lambda: descriptors(process) <= before)


async def test_a_client_that_falls_behind_a_stream_of_deltas_gets_them_joined_and_none_is_lost(
    tmp_path: Path,
) -> None:
    """Four runs of a thousand deltas, eight times what the outbox holds unjoined: their reader is not cut, and has
    every delta once and in order, by `first_seq` and `seq`. The log has each on its own, and the receipt counts each.
    """
    limits = {
        "TRACEWIRE_OUTBOX_BYTES_MAX": "131072",
        "TRACEWIRE_OUTBOX_AGE_SECONDS": "50",
        "TRACEWIRE_SOCKET_DEADLINE_SECONDS": "55",
    }
    async with server_with(tmp_path / "data", **limits) as process:
        async with stalling_socket(process.ws_url, process.token("behind")) as socket:
            await socket_stalls_through(process, socket, runs=4, deltas=1_000)
            frames = await receive_runs(socket, runs=4)
            by_run: dict[str, list[dict[str, Any]]] = {}
            for event in frames:
                by_run.setdefault(event["run_id"], []).append(event)
            assert len(by_run) == 4
            for run_id, events in by_run.items():
                spans = [(event.get("first_seq", event["seq"]), event["seq"]) for event in events]
                assert list(range(1, 1_003)) == [seq for first, last in spans for seq in range(first, last + 1)]
                deltas = [event for event in events if event["type"] == "agent_delta"]
                assert len(deltas) < 1_000
                text = "".join(event["data"]["text"] for event in deltas)
                assert [str(number) for number in range(1_000)] == text.split()
                counts = Counter({"agent_started": 1, "agent_delta": 1_000, "agent_completed": 1})
                assert {"last_seq": 1_002, "counts": dict(counts)} == events[-1]["data"]["receipt"]
                await in_the_log(process, run_id)
            middle = next(event for event in frames if event.get("first_seq"))
        had = middle["first_seq"]
        rest = await read_whole(process, "behind", middle["run_id"], after_seq=had)
        assert list(range(had + 1, 1_003)) == [event["seq"] for event in rest]
        assert value(process, "slow_clients_total") == 0


async def socket_stalls_through(process: ServerProcess, socket: StallingSocket, *, runs: int, deltas: int) -> None:
    """The socket starts runs and reads next to nothing of them until the log has all."""
    for number in range(runs):
        socket.send(client_frame("start_run", request_id=f"run-{number}", agent="streams", input=deltas))
    socket.stall()
    sipped = time.monotonic()
    async with http_of(process, "behind") as http, asyncio.timeout(WAIT_SECONDS):
        while await states(http) != ["completed"] * runs:
            if time.monotonic() - sipped > SIP_SECONDS:
                await socket.sip()
                sipped = time.monotonic()
    socket.read_on()


async def receive_runs(socket: StallingSocket, *, runs: int) -> list[dict[str, Any]]:
    """Every event of so many runs."""
    events: list[dict[str, Any]] = []
    ended = 0
    while ended < runs:
        received = await socket.read_frame()
        assert received is not None
        assert received.opcode == TEXT, received
        decoded = json.loads(received.payload)
        if "seq" in decoded:
            events.append(decoded)
            ended += is_terminal(decoded, decoded["run_id"])
    return events


async def in_the_log(process: ServerProcess, run_id: str) -> None:
    """The log holds each delta on its own."""
    async with http_of(process, "behind") as http:
        page = (await http.get(f"/runs/{run_id}/events")).raise_for_status().json()["events"]
    assert list(range(1, len(page) + 1)) == [event["seq"] for event in page]
    assert not any("first_seq" in event for event in page)
