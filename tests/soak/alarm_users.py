"""Users of the soak of alarms, several to a process, so that a whole process can be stopped and continued.

    python -m soak.alarm_users '{"plan": ...}'

Each does by a seeded chance what people do. Nothing of it may raise an alarm. What each did, with the moments, is
written at the end, by run: a false alarm is looked up in it.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import uvloop
from msgspec import Struct, field

from soak.alarm_agents import Pace, input_of
from soak.alarm_bare import Bare, LeavingUser, SlowSocket
from soak.alarm_http import StreamReader
from support.servers import settings_for
from tracewire.client import Client, ClientError, ClientRun, Stage
from tracewire.gateway.auth import sign_token

DAY_SECONDS: Final = 86_400
REPORT_SECONDS: Final = 0.5
CONNECT_SECONDS: Final = 600.0


class Plan(Struct):
    """What one process of users is to do. `withholders` is how many of them truly lose an event, as a test of the
    soak."""

    name: str
    seed: str
    url: str
    data_dir: str
    notes: str
    pace: Pace
    users: list[str]
    burst_max: int = 400
    mishaps: bool = True


class Notes(Struct):
    """What one user did: by run, and besides; moments of the monotonic clock, which all processes share."""

    user_id: str
    kind: str
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    did: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Something that this user did."""
        self.did.append((time.monotonic(), what))

    def begin(self, run_id: str, asked: str) -> None:
        """A run was accepted."""
        self.began.setdefault(run_id, time.monotonic())
        self.asked[run_id] = asked

    def end(self, run_id: str) -> None:
        """Its last event came."""
        self.ended[run_id] = time.monotonic()


class World:
    """What the users of one process share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pace = plan.pace
        self.url = plan.url
        self.over = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.notes: list[Notes] = []
        self._settings = settings_for(Path(plan.data_dir))

    def token(self, user_id: str) -> str:
        """A token that outlives the soak, and the steps of the server's clock."""
        return sign_token(self._settings, user_id, ttl_seconds=DAY_SECONDS)

    def notes_of(self, user_id: str, kind: str) -> Notes:
        """New notes of a user."""
        notes = Notes(user_id, kind)
        self.notes.append(notes)
        return notes

    async def pause(self, seconds: float) -> None:
        """Let so much time pass, or less where it is over before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()


class ClientUser:
    """A program with the Python client: starts, cancels, answers, goes away in the middle and comes back."""

    def __init__(self, world: World, user_id: str, kind: str, random: Random) -> None:
        self._world = world
        self._random = random
        self._user_id = user_id
        self._notes = world.notes_of(user_id, kind)
        self._waiting: list[str] = []

    async def live(self) -> None:
        """Until it is over and nothing is left unread."""
        world, random = self._world, self._random
        while not (world.over.is_set() and not self._waiting):
            token = world.token(self._user_id)
            async with Client(world.url, token, connect_seconds=CONNECT_SECONDS) as client:
                watching = asyncio.create_task(self._watch_states(client))
                try:
                    await self._use(client)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
            if not world.over.is_set():
                away = world.pace.spell(random)
                self._notes.note(f"away for {away:.1f} s")
                world.counts["offline"] += 1
                await world.pause(away)

    async def _use(self, client: Client) -> None:
        """Read what is left, then ask for more, until it leaves."""
        for run_id in list(self._waiting):
            await self._read(await client.follow(run_id), client)
        while not self._world.over.is_set():
            asked = input_of(self._random, self._world.pace, self._world.plan.burst_max)
            try:
                run = await client.start_run(asked, agent="lively")
            except ClientError as error:
                self._notes.note(f"was refused: {error.code}")
                await self._world.pause(0.5)
                continue
            self._notes.begin(run.run_id, asked["kind"])
            self._waiting.append(run.run_id)
            mishap = self._random.random() if self._world.plan.mishaps else 1.0
            if mishap < 0.1:
                await self._world.pause(self._random.uniform(0, 1))
                return
            if mishap < 0.25 and client._connection.socket is not None:
                self._notes.note("its socket is cut")
                client._connection.socket.transport.abort()
            await self._read(run, client, asked)
            await self._world.pause(self._random.uniform(0, 0.3))

    async def _read(self, run: ClientRun, client: Client, asked: dict[str, Any] | None = None) -> None:
        counts, cancel_after = self._world.counts, self._random.randint(1, 40)
        wants_cancel = asked is not None and asked["kind"] == "cancelled"
        try:
            async for envelope in run:
                counts["events"] += envelope.seq - (envelope.first_seq or envelope.seq) + 1
                if wants_cancel and envelope.seq >= cancel_after:
                    wants_cancel = False
                    counts["cancels"] += 1
                    await run.cancel()
                if envelope.type == "input_required":
                    await self._world.pause(self._world.pace.spell(self._random))
                    counts["answers"] += 1
                    await run.provide_input(envelope.data["input_id"], 3)
            counts["runs"] += 1
            self._notes.end(run.run_id)
        except ClientError as error:
            self._notes.note(f"run {run.run_id}: {error.code} {error}")
        self._waiting.remove(run.run_id)

    async def _watch_states(self, client: Client) -> None:
        async for state in client.states():
            if state.stage is Stage.RECONNECTING:
                self._world.counts["reconnects"] += 1
                self._notes.note(f"reconnects: {state.reason}")


def users_of(world: World) -> Iterator[Any]:
    """The users of the plan, each with a chance of its own."""
    for number, kind in enumerate(world.plan.users):
        user_id = f"{kind}-{world.plan.name}-{number}"
        random = Random(f"{world.plan.seed} {user_id}")
        match kind:
            case "client":
                yield ClientUser(world, user_id, kind, random)
            case "bare" | "never_acks" | "withholds":
                yield Bare(world, user_id, kind, random)
            case "two_sockets":
                yield ClientUser(world, user_id, kind, random)
                yield SlowSocket(world, user_id, f"{kind}, the slow one", random)
            case "sse":
                yield StreamReader(world, user_id, kind, random)
            case "leaves":
                yield LeavingUser(world, user_id, kind, random)
            case _:
                raise ValueError(f"there is no user of the kind {kind!r}")


async def live(plan: Plan) -> None:
    """Until a line comes in; then until each has read what it asked for."""
    world = World(plan)
    reporting = asyncio.create_task(_report(world))
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), world.over.set)
    async with asyncio.TaskGroup() as group:
        for user in users_of(world):
            group.create_task(user.live())
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    loop.remove_reader(sys.stdin.fileno())
    Path(plan.notes).write_bytes(msgspec.json.encode(world.notes))  # noqa: ASYNC240 # nothing else runs any more
    print(json.dumps(world.counts), flush=True)


async def _report(world: World) -> None:
    while True:
        print(json.dumps(world.counts), flush=True)
        await asyncio.sleep(REPORT_SECONDS)


if __name__ == "__main__":
    uvloop.run(live(msgspec.json.decode(sys.argv[1], type=Plan)))
