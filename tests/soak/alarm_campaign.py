"""One soak of alarms: a real server, drained and started again, its loop stalled and its clock stepped; processes of
users, some of them stopped and continued; and in the end every incident that the server ever opened.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from chaos.killing import TESTS, free_ports
from soak import alarm_agents, alarm_planted
from soak.alarm_agents import Pace
from soak.alarm_users import CONNECT_SECONDS, DAY_SECONDS, Notes, Plan
from support.servers import ServerProcess, settings_for
from tracewire.client import Client, ClientError
from tracewire.gateway.auth import sign_token

CONDUCTOR: Final = "conductor"
EXPECTED: Final = ('"event": "agent_failed"', '"event": "event_loop_blocked"', "without completing handshake")
"""Errors that the server logs because of what it was asked for; the last is uvicorn's word for a handshake that was
answered with 503.
"""
HOUR_SECONDS: Final = 3_600.0
USERS: Final = ("client", "bare", "two_sockets", "sse", "never_acks", "leaves", "client", "bare")
AROUND_SECONDS: Final = 20.0
"""What was done to everybody so long before and after a run is told with its incident."""


class SoakPlan(NamedTuple):
    """What is to be done: it goes on until so many events came to users, and at least so long. `processes` of users,
    of which every second is stopped and continued.
    """

    events: int = 1_000_000
    seed: str = "1"
    seconds: float = 60.0
    seconds_max: float = 7_200.0
    pace: Pace = Pace()
    processes: int = 4
    users: tuple[str, ...] = USERS
    burst_max: int = 1_500
    deed_seconds: tuple[float, float] = (2.0, 8.0)
    planted: bool = False


class Outcome(NamedTuple):
    """What came of it: `alarms` are all incidents, `users_alarmed` whose they are."""

    counts: Counter[str]
    alarms: list[str]
    users_alarmed: set[str]
    problems: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether there was no incident, and nothing else was wrong."""
        counts = self.counts
        return not (self.alarms or self.problems or counts["missing"] or counts["affected"] or counts["named"])


class _Users:
    """One process of users."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it; its counts are read as it writes them."""
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "soak.alarm_users", msgspec.json.encode(self.plan).decode(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.counts = Counter(json.loads(line))

    async def finish(self, seconds_max: float) -> bool:
        """Say that it is over, and wait for the end; whether it came by itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(b"over\n")
            await self.process.stdin.drain()
        ended = True
        try:
            async with asyncio.timeout(seconds_max):
                await self.process.wait()
        except TimeoutError:
            ended = False
        await self.end()
        return ended and self.process.returncode == 0

    async def end(self) -> None:
        """Make sure that it has ended."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    @property
    def notes(self) -> list[Notes]:
        """What its users did, when it has ended."""
        path = Path(self.plan.notes)
        return msgspec.json.decode(path.read_bytes(), type=list[Notes]) if path.exists() else []


class Campaign:
    """Carries out a plan in a folder. `say` is told how it goes."""

    def __init__(self, folder: Path, plan: SoakPlan, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._random = Random(plan.seed)
        self._port, self._ops_port = free_ports(Random(), 2)
        self._server: ServerProcess
        self._counts: Counter[str] = Counter()
        self._deeds: list[tuple[float, str]] = []
        self._incidents: dict[str, dict[str, Any]] = {}
        self._problems: list[str] = []
        self._stepped = False
        self._users: list[_Users] = []
        self._started = time.monotonic()

    async def run(self) -> Outcome:
        """Do it."""
        plan = self._plan
        await self._start_server()
        try:
            self._users = [_Users(self._plan_of(number)) for number in range(plan.processes)]
            for users in self._users:
                await users.start()
            try:
                await self._disturb()
                await self._settle()
            finally:
                for users in self._users:
                    await users.end()
            await self._stop_server()
        finally:
            await asyncio.to_thread(self._server.__exit__)
        for users in self._users:
            self._counts.update(users.counts)
        self._counts["incidents"] = len(self._incidents)
        told = [self._told(incident) for incident in self._incidents.values()]
        alarmed = {incident["user_id"] for incident in self._incidents.values()}
        return Outcome(self._counts, told, alarmed, self._problems, time.monotonic() - self._started)

    def _plan_of(self, number: int) -> Plan:
        plan = self._plan
        users = [*plan.users, *([alarm_planted.WITHHOLDER] if plan.planted and number == 0 else [])]
        return Plan(
            f"{'stopped' if number % 2 else 'steady'}{number}", plan.seed, self._url, str(self._folder / "data"),
            str(self._folder / f"notes-{number}.json"), plan.pace, users, plan.burst_max,
        )  # fmt: skip

    # The server.

    @property
    def _url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    async def _start_server(self) -> None:
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
        environ = {"TRACEWIRE_RUN_STARTS_PER_MINUTE_MAX": "100000", "PYTHONPATH": path}
        self._server = ServerProcess(
            self._folder / "data", "--port", str(self._port), "--ops-port", str(self._ops_port),
            "--agent", alarm_agents.REFERENCE, *(["--agent", alarm_planted.REFERENCE] if self._plan.planted else []),
            environ=environ | self._plan.pace.environ, cwd=TESTS,
            program=("-m", "soak.alarm_planted" if self._plan.planted else "tracewire.cli"),
        )  # fmt: skip
        await asyncio.to_thread(self._server.__enter__)

    async def _stop_server(self) -> None:
        """Drain it, with everything that it knows of incidents taken down first and afterwards."""
        await self._take_down()
        code = await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.__exit__)
        for record in self._server.log_records("incident_opened"):
            self._incidents.setdefault(record["incident_id"], record)
        if code:
            self._problems.append(f"the server ended with {code}")
        self._problems += [
            line
            for line in self._server.log_text().splitlines()
            if ('"level": "error"' in line or "Traceback" in line) and not any(name in line for name in EXPECTED)
        ]

    async def _take_down(self) -> None:
        async with httpx.AsyncClient(base_url=self._server.ops_url, timeout=30) as http:
            before: str | None = ""
            while before is not None:
                params = {"limit": "1000"} | ({"before": before} if before else {})
                page = (await http.get("/incidents", params=params)).raise_for_status().json()
                self._incidents |= {incident["incident_id"]: incident for incident in page["incidents"]}
                before = page["next"]
            text = (await http.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                match sample.name:
                    case "tracewire_events_missing_total":
                        self._counts["missing"] += int(sample.value)
                    case "tracewire_user_events_missing":
                        self._counts["named"] += 1
                    case "tracewire_users_affected":
                        self._counts["affected"] += int(sample.value)
                    case "tracewire_events_total":
                        self._counts[f"at {sample.labels['link']}"] += int(sample.value)

    # What is done to it and to its users.

    async def _disturb(self) -> None:
        """One of each deed first, then by chance, until enough events came."""
        plan, random = self._plan, self._random
        async with self._conductor() as conductor, asyncio.TaskGroup() as group:
            planting = group.create_task(self._plant())
            # A drain would end the planted losses before their deadlines.
            drains = [] if plan.planted else [self._drain]
            deeds = [self._stop_users, self._stall, self._step_clock, *drains, self._step_clock, self._stop_users]
            number = 0
            while self._goes_on or number < len(deeds):
                deed = deeds[number] if number < len(deeds) else random.choice((*deeds, self._stop_users))
                await asyncio.sleep(random.uniform(*plan.deed_seconds))
                if deed == self._stop_users:
                    group.create_task(self._stop_users(conductor))
                else:
                    await deed(conductor)
                number += 1
                self._say(self._line())
            planting.cancel()

    @contextlib.asynccontextmanager
    async def _conductor(self) -> AsyncIterator[Client]:
        async with Client(self._url, self._token(CONDUCTOR), connect_seconds=CONNECT_SECONDS) as client:
            yield client

    def _token(self, user_id: str) -> str:
        return sign_token(settings_for(self._folder / "data"), user_id, ttl_seconds=DAY_SECONDS)

    async def _plant(self) -> None:
        if self._plan.planted:
            await alarm_planted.lose_all(self._url, {user: self._token(user) for user in alarm_planted.LOSERS})

    @property
    def _events(self) -> int:
        return sum(users.counts["events"] for users in self._users)

    @property
    def _goes_on(self) -> bool:
        passed = time.monotonic() - self._started
        wanted = self._events < self._plan.events or passed < self._plan.seconds
        return wanted and passed < self._plan.seconds_max

    def _did(self, what: str, counted: str) -> None:
        self._deeds.append((time.monotonic(), what))
        self._counts[counted] += 1

    async def _stop_users(self, _: Client) -> None:
        """One process of users stands still for a spell."""
        free = [users for users in self._users if users.plan.name.startswith("stopped") and not users.counts["still"]]
        if not free:
            return
        users, seconds = self._random.choice(free), self._plan.pace.spell(self._random)
        self._did(f"{users.plan.name} stopped for {seconds:.1f} s", "stops")
        users.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            users.process.send_signal(signal.SIGCONT)
            self._deeds.append((time.monotonic(), f"{users.plan.name} continued"))

    async def _ask(self, conductor: Client, **asked: Any) -> None:
        with contextlib.suppress(ClientError):
            async for _ in await conductor.start_run(asked, agent="lively"):
                pass

    async def _stall(self, conductor: Client) -> None:
        self._did("the loop stalls", "stalls")
        await self._ask(conductor, kind="stall", seconds=self._plan.pace.stall_seconds)

    async def _step_clock(self, conductor: Client) -> None:
        """An hour forward, the next time an hour back: a token of an hour to come would be refused."""
        self._stepped = not self._stepped
        self._did(f"the wall clock goes an hour {'forward' if self._stepped else 'back'}", "clock steps")
        await self._ask(conductor, kind="clock", seconds=HOUR_SECONDS if self._stepped else 0.0)

    async def _drain(self, _: Client) -> None:
        self._did("the server drains and starts again", "drains")
        await self._stop_server()
        await self._start_server()
        self._stepped = False
        self._deeds.append((time.monotonic(), "the server is back"))

    async def _settle(self) -> None:
        """Let everybody read to the end, and what may be overdue become so."""
        pace = self._plan.pace
        self._say(f"{self._line()}; it is over")
        limit = 2 * (pace.tool_seconds + pace.client_seconds + pace.silence_seconds) + 60
        ended = await asyncio.gather(*(users.finish(limit) for users in self._users))
        for users, well in zip(self._users, ended, strict=True):
            if not well:
                self._problems.append(f"the users of {users.plan.name} did not end")
        await asyncio.sleep(pace.client_seconds + 1)

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        done = self._deeds[-1][1] if self._deeds else ""
        return f"{seconds:5.0f} s  {self._events:>9,} events  {done}"

    def _told(self, incident: dict[str, Any]) -> str:
        """An incident with all that helps to find out why."""
        run_id, user_id = incident["run_id"], incident["user_id"]
        told = (
            f"{user_id} run {run_id}: {incident.get('type') or incident.get('event_type')} missing at "
            f"{incident['link']}, seq {incident.get('first_seq')} to {incident.get('last_seq')}, "
            f"since {incident.get('since')}, {incident.get('state', 'opened')}, late {incident.get('late_seconds')}"
        )
        lines = [told]
        for users in self._users:
            for notes in users.notes:
                if notes.user_id != user_id or (run_id not in notes.began and notes.asked):
                    continue
                began = notes.began.get(run_id, self._started)
                ended = notes.ended.get(run_id, time.monotonic())
                lines.append(f"  {notes.kind} asked for {notes.asked.get(run_id)}, for {ended - began:.1f} s")
                did = sorted([*((at, what) for at, what in notes.did), *self._deeds])
                lines += [
                    f"  {at - began:8.1f} s  {what}"
                    for at, what in did
                    if began - AROUND_SECONDS < at < ended + AROUND_SECONDS
                ]
        return "\n".join(lines)
