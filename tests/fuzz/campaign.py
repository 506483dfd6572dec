"""One campaign: a server process, a healthy user in a process of its own, and the attackers here."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from fuzz.agents import REFERENCE
from fuzz.attackers import Attackers, Tally
from support.hostile import Hostile
from support.servers import ServerProcess, settings_for
from tracewire.client import Client
from tracewire.gateway.auth import sign_token

TESTS: Final = Path(__file__).resolve().parents[1]
USERS: Final = 400
TOKEN_SECONDS: Final = 3_600.0
EXPECTED_ERRORS: Final = ('"event_loop_blocked"', "ValueError: The analyst takes a question")
"""A blocked loop is a matter of time, and told of; a question that the analyst does not take ends its run."""


ATTACK_TURN_SECONDS: Final = 30.0
Span = tuple[float, float]
"""From when until when, Unix seconds."""


class Window(NamedTuple):
    """What the healthy user saw in some spans of time."""

    runs: int
    events: int
    p50_ms: float
    p99_ms: float


class Outcome(NamedTuple):
    """What came of a campaign. Memory is what the server has resident, at rest, after the warm-up and at the end."""

    tally: Tally
    seconds: float
    memory_before_kib: int
    memory_after_kib: int
    alone: Window
    meanwhile: Window
    problems: list[str]
    log_bytes: int
    log_lines: Counter[str]
    seconds_in_all: float
    log_problems: list[str]
    exit_code: int

    @property
    def memory_ratio(self) -> float:
        """After by before."""
        return self.memory_after_kib / self.memory_before_kib


class HealthyUser:
    """The process of the user who goes on working."""

    def __init__(self, url: str, token: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.healthy", url],
            cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(token + "\n")
        self._process.stdin.flush()
        self.runs: list[dict[str, Any]] = []
        self._ended = asyncio.Condition()

    async def collect(self) -> None:
        """Take in the user's runs as they end, until the process does."""
        assert self._process.stdout is not None
        while line := await asyncio.to_thread(self._process.stdout.readline):
            self.runs.append(json.loads(line))
            async with self._ended:
                self._ended.notify_all()
        raise AssertionError("the healthy user's process ended")

    async def finish_runs(self, count: int) -> None:
        """Wait until so many runs that begin from now on have ended."""
        since = time.time()
        async with self._ended:
            await self._ended.wait_for(lambda: sum(run["began"] >= since for run in self.runs) >= count)

    def stop(self) -> int:
        """Let the run end that is under way, and the process; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(30)

    def abandon(self) -> None:
        """End the process if it is still there."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def window(self, spans: Sequence[Span]) -> Window:
        """The runs that began and ended within one of the spans."""
        runs = [
            run for run in self.runs if any(since <= run["began"] and run["ended"] < until for since, until in spans)
        ]
        latencies = sorted(itertools.chain.from_iterable(run["latencies_ms"] for run in runs))
        if not latencies:
            return Window(0, 0, 0.0, 0.0)
        return Window(len(runs), len(latencies), latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100])


class Campaign:
    """What is to be sent.

    Args:
        folder: for the server's data and log.
        seed: what all of it follows from.
        until: says by the tally and the seconds whether it is enough.
        warm_up: frames and requests before the server's memory is first looked at.
        alone_runs: runs of the healthy user before the first attack.
        per_second: frames and requests a second, at most; 0 for as many as go.
    """

    def __init__(
        self, folder: Path, seed: str, *, until: Callable[[Tally, float], bool], warm_up: int, alone_runs: int,
        per_second: float = 0, say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._seed = seed
        self._until = until
        self._warm_up = warm_up
        self._alone_runs = alone_runs
        self._per_second = per_second
        self._say = say

    async def run(self) -> Outcome:
        """Carry it out."""
        started = time.monotonic()
        with served(self._folder) as server, healthy(server) as user:
            attackers = await prepared(server, self._seed)
            collecting = asyncio.create_task(user.collect())
            telling = asyncio.create_task(self._tell(server, attackers.tally))
            try:
                return await self._attack(server, user, attackers, started)
            finally:
                telling.cancel()
                user.abandon()
                await asyncio.gather(telling, collecting, return_exceptions=True)

    async def _attack(self, server: ServerProcess, user: HealthyUser, attackers: Attackers, started: float) -> Outcome:
        tally, indexes = attackers.tally, itertools.count()
        # Attackers are other machines: here they take what processor time the server and the healthy user leave.
        os.nice(19)
        await attackers.attack(indexes, going_on=lambda: tally.sent < self._warm_up, per_second=self._per_second)
        self._say(f"warm after {tally.sent:,}")
        # Alone and attacked by turns: whatever else this machine does meanwhile falls to both alike.
        alone, meanwhile = [await self._alone(user)], list[Span]()
        memory_before = memory_kib(server)
        attacked_seconds = 0.0

        def going_on() -> bool:
            seconds = attacked_seconds + time.monotonic() - began
            return not (tally.failures or self._until(tally, seconds))

        enough = False
        while not enough:
            since, began = time.time(), time.monotonic()
            turn_ends = began + ATTACK_TURN_SECONDS
            await attackers.attack(
                indexes,
                going_on=lambda: going_on() and time.monotonic() < turn_ends,  # noqa: B023 # of this turn
                per_second=self._per_second,
            )
            enough = not going_on()
            attacked_seconds += time.monotonic() - began
            meanwhile.append((since, time.time()))
            await user.finish_runs(2)  # what the attack left behind is let go meanwhile
            memory_after = memory_kib(server)
            alone.append(await self._alone(user))
        user_exit_code = await asyncio.to_thread(user.stop)
        problems = [f"run {number}: {problem}" for number, run in enumerate(user.runs) for problem in run["problems"]]
        if user_exit_code:
            problems.append(f"the healthy user's process ended with {user_exit_code}")
        return Outcome(
            tally, attacked_seconds, memory_before, memory_after,
            user.window(alone), user.window(meanwhile), problems,
            exit_code=await asyncio.to_thread(server.stop),
            log_bytes=len(server.log_text().encode()), log_lines=log_lines(server), log_problems=log_problems(server),
            seconds_in_all=time.monotonic() - started,
        )  # fmt: skip

    async def _alone(self, user: HealthyUser) -> Span:
        since = time.time()
        await user.finish_runs(self._alone_runs)
        return since, time.time()

    async def _tell(self, server: ServerProcess, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.wait([loop.create_future()], timeout=20)
            self._say(f"{tally.sent:,} sent; the server has {memory_kib(server) / 1024:.1f} MiB")


@contextmanager
def served(folder: Path) -> Iterator[ServerProcess]:
    """`tracewire serve` with its default limits."""
    with ServerProcess(folder / "data", "--agent", REFERENCE, cwd=TESTS) as server:
        yield server


@contextmanager
def healthy(server: ServerProcess) -> Iterator[HealthyUser]:
    """A healthy user of the server."""
    user = HealthyUser(server.ws_url, token_of(server, "healthy"))
    try:
        yield user
    finally:
        user.abandon()


async def prepared(server: ServerProcess, seed: str) -> Attackers:
    """Attackers who know the server's schemas, a run of their own and one of somebody else."""
    tokens = [token_of(server, f"attacker-{number}") for number in range(USERS)]
    runs = []
    for token in (*tokens[:3], token_of(server, "somebody")):
        async with Client(server.ws_url, token, reconnect=False) as client:
            run = await client.start_run("what ran?")
            async for _ in run:
                pass
            runs.append(run.run_id)
    async with httpx.AsyncClient(base_url=server.url) as http:
        frames, routes = (await http.get("/schema/frames.json")).json(), (await http.get("/schema/openapi.json")).json()
    return Attackers(server.url, Hostile(frames, routes, runs, USERS), tokens, seed)


def token_of(server: ServerProcess, user_id: str) -> str:
    """A token that outlives the campaign."""
    return sign_token(settings_for(server.data_dir), user_id, ttl_seconds=TOKEN_SECONDS)


def memory_kib(server: ServerProcess) -> int:
    """The resident memory of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


def log_lines(server: ServerProcess) -> Counter[str]:
    """How many lines of each event are in the server's log."""
    return Counter(re.findall(r'"event": "([^"]+)"', server.log_text()))


def log_problems(server: ServerProcess) -> list[str]:
    """Errors and tracebacks in the server's log. A blocked loop is told of by time, and asserted by nobody here."""
    return [
        line
        for line in server.log_text().splitlines()
        if ('"level": "error"' in line or "Traceback" in line) and not any(known in line for known in EXPECTED_ERRORS)
    ]
