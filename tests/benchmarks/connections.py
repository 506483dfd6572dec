"""What a connection costs: `python -m tests.benchmarks.connections`. Memory, and how many can be open at once.

Two parts, each of them alone by its name. `memory`: 5,000 idle sockets, then an open run on each, against a bare
uvicorn in the same run. `many`: as many sockets as the server takes (10,000), ten of each user, all of them served.
The clients are in this process, the servers in processes of their own.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from tests.benchmarks import agents
from tests.benchmarks.delivery_load import PLAIN, SeqClient, start_frame, upgrade
from tests.benchmarks.load import WrongDeliveryError
from tests.benchmarks.measuring import CONNECTING_MAX, LIMIT_SECONDS, ROOT, process_cpu_seconds
from tests.support.servers import START_SECONDS, ServerProcess

from tracewire_telemetry.vocabulary import CloseCode

WARM_UP: Final = 300
"""Connections that are opened before anything is measured: code is compiled and caches fill with the first ones."""
QUIET_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 3_600
SOCKETS_MAX: Final = 10_000
SOCKETS_PER_USER: Final = 10
SCRAPES: Final = 5
SPARE_DESCRIPTORS: Final = 500
SLEEPER: Final = {"events": 1, "pause_seconds": IDLE_SECONDS}
LASTS: Final = {"TRACEWIRE_IDLE_DEADLINE_SECONDS": str(IDLE_SECONDS)}


class IdleClient(SeqClient):
    """Acks every event, and then waits for the next. `gone` has the code of the close where one comes."""

    started: "asyncio.Future[None]"
    gone: "asyncio.Future[int]"

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        loop = asyncio.get_running_loop()
        self.started, self.gone = loop.create_future(), loop.create_future()

    def start(self) -> None:
        """Start a run that emits its first event and sleeps."""
        self._transport.write(start_frame("paced", SLEEPER))

    def took(self, line: bytes) -> None:
        self.send({"type": "ack", "run_id": self.run_id, "seq": self.last_seq, "count": self.last_seq})
        if not self.started.done():
            self.started.set_result(None)

    def _take_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x8 and not self.gone.done():
            self.gone.set_result(int.from_bytes(payload[:2]))
        super()._take_frame(opcode, payload)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b'{"type":"unavailable"'):
            super()._take(line)


class Cost(NamedTuple):
    """Bytes of the server's memory for each connection: idle, and with a run that is open beside."""

    idle: float
    with_run: float
    cpu_ms: float


def main() -> int:
    """Measure and print; 1 where something was delivered wrongly."""
    if sys.platform != "linux":
        print("the benchmark reads a process's memory as Linux gives it, and runs there only", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.connections")
    parser.add_argument("parts", nargs="*", choices=("memory", "many", []), help="which parts (default: both)")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of memory (default: 2)")
    parser.add_argument("--clients", type=int, default=5_000, help="connections of one measurement (default: 5000)")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - SPARE_DESCRIPTORS
    print(f"{os.cpu_count()} cores; a process may open {hard:,} files (the limit was {soft:,})")
    try:
        for part in options.parts or ("memory", "many"):
            if part == "memory":
                uvloop.run(_memory(_fitting(options.clients, room), options.rounds))
            else:
                uvloop.run(_many(_fitting(SOCKETS_MAX, room)))
    except WrongDeliveryError as error:
        print(f"\nno figures: {error}", file=sys.stderr)
        return 1
    return 0


def _fitting(wanted: int, room: int) -> int:
    if wanted > room:
        print(f"{wanted:,} connections do not fit; {room:,} do (raise the hard limit, ulimit -n)")
    return min(wanted, room)


async def _memory(clients: int, rounds: int) -> None:
    print(
        f"\n{clients:,} connections of as many users, KiB of the server's memory each\n"
        f"  {'':<16}{'idle':>9}{'with an open run':>20}{'ms CPU, opened and started':>30}"
    )
    for number in range(rounds):
        order = (_bare, _tracewire)
        for server in order if number % 2 else reversed(order):
            with server() as target:
                name, pid, url, token = target
                cost = await _cost(pid, url, token, clients)
                print(f"  {name:<16}{cost.idle / 1024:9.1f}{cost.with_run / 1024:20.1f}{cost.cpu_ms:30.2f}", flush=True)


Target = tuple[str, int, str, Callable[[str], str]]


@contextmanager
def _tracewire() -> Iterator[Target]:
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder) / "data", *agents.REFERENCES, environ=LASTS, cwd=ROOT) as server,
    ):
        yield "Tracewire", server.process.pid, server.ws_url, server.token


@contextmanager
def _bare() -> Iterator[Target]:
    command = [sys.executable, "-m", "tests.benchmarks.bare_idle"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield "bare uvicorn", process.pid, f"ws://127.0.0.1:{port}/ws", lambda user_id: f"no-token-of-{user_id}"
        finally:
            process.terminate()
            process.wait(START_SECONDS)


async def _cost(pid: int, url: str, token: Callable[[str], str], clients: int) -> Cost:
    warm = await _connected(url, [token(f"warm-{number}") for number in range(WARM_UP)])
    await _start_all(warm)
    tokens = [token(f"user-{number}") for number in range(clients)]
    await asyncio.sleep(QUIET_SECONDS)
    before, cpu_before = memory_bytes(pid), process_cpu_seconds(pid)
    opened = await _connected(url, tokens)
    await asyncio.sleep(QUIET_SECONDS)
    idle = memory_bytes(pid)
    await _start_all(opened)
    await asyncio.sleep(QUIET_SECONDS)
    with_run = memory_bytes(pid)
    cpu_ms = (process_cpu_seconds(pid) - cpu_before) * 1000
    for client in (*warm, *opened):
        if client.gone.done():
            raise WrongDeliveryError(f"a connection was closed with {client.gone.result()}")
        client.close()
    return Cost((idle - before) / clients, (with_run - before) / clients, cpu_ms / clients)


async def _connected(url: str, tokens: list[str]) -> list[IdleClient]:
    turn = asyncio.Semaphore(CONNECTING_MAX)

    async def connected(token: str) -> IdleClient:
        async with turn:
            client = await open_client(url, token)
            await client.ready
            return client

    async with asyncio.timeout(LIMIT_SECONDS):
        return await asyncio.gather(*map(connected, tokens))


async def open_client(url: str, token: str) -> IdleClient:
    """A client that has asked for its upgrade."""
    parts = httpx.URL(url)
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: IdleClient(upgrade(url, token, PLAIN)), parts.host, parts.port
    )
    return client


async def _start_all(clients: list[IdleClient]) -> None:
    turn = asyncio.Semaphore(CONNECTING_MAX)

    async def start(client: IdleClient) -> None:
        async with turn:
            client.start()
            await client.started

    async with asyncio.timeout(LIMIT_SECONDS):
        await asyncio.gather(*map(start, clients))


async def _many(sockets: int) -> None:
    """Open them all, look at the server, have one user's run reach each of their sockets, and close them all."""
    users = -(-sockets // SOCKETS_PER_USER)
    print(f"\n{sockets:,} sockets of {users:,} users")
    with _served() as server:
        pid, began = server.process.pid, time.perf_counter()
        before, cpu_before = memory_bytes(pid), process_cpu_seconds(pid)
        tokens = [server.token(f"user-{number}") for number in range(users)]
        signed = time.perf_counter() - began
        opened = await _connected(server.ws_url, [tokens[number % users] for number in range(sockets)])
        took = time.perf_counter() - began - signed
        cpu = process_cpu_seconds(pid) - cpu_before
        await asyncio.sleep(QUIET_SECONDS)
        memory = memory_bytes(pid)
        print(
            f"  all ready after {took:.1f} s ({sockets / took:,.0f}/s, {cpu / sockets * 1000:.2f} ms of CPU each),"
            f" {(memory - before) / sockets / 1024:.1f} KiB each, {memory / 2**20:.0f} MiB in all"
        )
        await _check(server, sockets, "once all are open")
        await _reach_one_user(opened, users)
        if sockets == SOCKETS_MAX:
            one_more = await open_client(server.ws_url, server.token("late"))
            code = await asyncio.wait_for(one_more.gone, LIMIT_SECONDS)
            print(f"  one more is closed with {code}" + ("" if code == CloseCode.UNAVAILABLE else ", which is wrong"))
            one_more.close()
        cpu_before, began = process_cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(20 * QUIET_SECONDS)
        busy = (process_cpu_seconds(pid) - cpu_before) / (time.perf_counter() - began)
        lost = sum(client.gone.done() for client in opened)
        print(f"  left alone for {20 * QUIET_SECONDS:.0f} s they take {busy:.1%} of a core; {lost} were closed")
        for client in opened:
            client.close()
        await asyncio.sleep(2 * QUIET_SECONDS)
        await _check(server, 0, "once all have gone")


async def _reach_one_user(opened: list[IdleClient], users: int) -> None:
    mine = opened[0::users]
    began = time.perf_counter()
    mine[0].start()
    async with asyncio.timeout(LIMIT_SECONDS):
        await asyncio.gather(*(client.started for client in mine))
    print(
        f"  a run that one of them starts reaches the {len(mine)} sockets of its user after"
        f" {(time.perf_counter() - began) * 1000:.1f} ms"
    )


async def _check(server: ServerProcess, sockets: int, when: str) -> None:
    took = []
    async with httpx.AsyncClient(timeout=LIMIT_SECONDS) as http:
        for _ in range(SCRAPES):
            began = time.perf_counter()
            body = (await http.get(f"{server.ops_url}/metrics")).text
            took.append(time.perf_counter() - began)
    seconds = sorted(took)[SCRAPES // 2]
    values: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            values[sample.name] += sample.value
    print(
        f"  {when}: {values['tracewire_connections']:,.0f} connections, a scrape in {seconds * 1000:.0f} ms,"
        f" {memory_bytes(server.process.pid) / 2**20:.0f} MiB"
    )
    if values["tracewire_connections"] != sockets:
        raise WrongDeliveryError(f"{sockets} sockets are open; the server counts {values['tracewire_connections']:.0f}")


@contextmanager
def _served() -> Iterator[ServerProcess]:
    environ: dict[str, Any] = LASTS | {
        "TRACEWIRE_SOCKETS_MAX": str(SOCKETS_MAX),
        "TRACEWIRE_SOCKETS_PER_USER_MAX": str(SOCKETS_PER_USER),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder) / "data", *agents.REFERENCES, environ=environ, cwd=ROOT) as server,
    ):
        yield server


def memory_bytes(pid: int) -> int:
    """The resident memory of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    raise SystemExit(main())
