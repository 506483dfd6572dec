"""Users of the soak of alarms who read over plain HTTP: they cannot ack, break off and come back."""

import json
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from soak.alarm_agents import input_of
from support.wire import TERMINAL_NAMES

if TYPE_CHECKING:
    from soak.alarm_users import World


class StreamReader:
    """One user of `POST /runs` and server-sent events."""

    def __init__(self, world: "World", user_id: str, kind: str, random: Random) -> None:
        self._world = world
        self._user_id = user_id
        self._random = random
        self._notes = world.notes_of(user_id, kind)

    async def live(self) -> None:
        """Until it is over and what it asked for is read."""
        base = "http" + self._world.url.removeprefix("ws").removesuffix("/ws")
        headers = {"Authorization": f"Bearer {self._world.token(self._user_id)}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as http:
            while not self._world.over.is_set():
                asked = input_of(self._random, self._world.pace, self._world.plan.burst_max // 4)
                if asked["kind"] != "asks":
                    await self._read_one(http, asked)
                await self._world.pause(self._random.uniform(0, 0.5))

    async def _read_one(self, http: httpx.AsyncClient, asked: dict[str, Any]) -> None:
        run_id, last, ended = "", 0, False
        while not ended:
            try:
                if not run_id:
                    answer = await http.post("/runs", json={"agent": "lively", "input": asked})
                    answer.raise_for_status()
                    run_id = answer.json()["run_id"]
                    self._notes.begin(run_id, asked["kind"])
                last, ended = await self._read(http, run_id, last)
            except httpx.HTTPError as error:
                self._notes.note(f"read no more: {type(error).__name__}")
                await self._world.pause(0.3)
                if not run_id and self._world.over.is_set():
                    return
        self._world.counts["runs"] += 1
        self._notes.end(run_id)

    async def _read(self, http: httpx.AsyncClient, run_id: str, last: int) -> tuple[int, bool]:
        """One stream; up to which event it came, and whether that was the last."""
        stays = self._random.random() < 0.8
        breaks_at = last + self._random.randint(1, 40)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last else {})
        self._world.counts["streams"] += 1
        async with http.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                envelope = json.loads(line.removeprefix("data:"))
                if "seq" not in envelope or envelope["seq"] <= last:
                    continue
                last = envelope["seq"]
                self._world.counts["events"] += 1
                if envelope["type"] in TERMINAL_NAMES:
                    return last, True
                if not stays and last >= breaks_at:
                    self._notes.note("breaks off its stream")
                    break
        await self._world.pause(self._random.uniform(0.1, 0.3 * self._world.pace.client_seconds))
        return last, False
