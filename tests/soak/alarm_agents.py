"""The agent that people of the soak of alarms talk to, and how fast their world goes.

Two of its kinds harm the server that it runs in: `stall` blocks the event loop, `clock` steps the wall clock of the
process, which is `time.time` and `time.time_ns`: the product reads the wall clock by these alone, and SQLite is told.
"""

import asyncio
import time
from random import Random
from typing import Any, Final, NamedTuple

from tracewire.engine.agent import agent

REFERENCE: Final = "soak.alarm_agents:lively"
WALL: Final = (time.time, time.time_ns)


class Pace(NamedTuple):
    """The server's deadlines, and how long people and tools take, in seconds. The defaults are the server's own."""

    client_seconds: float = 10.0
    silence_seconds: float = 5.0
    socket_seconds: float = 6.0
    outbox_age_seconds: float = 5.0
    tool_seconds: float = 60.0
    idle_seconds: float = 60.0
    heartbeat_seconds: float = 20.0
    stall_seconds: float = 2.0
    long_tool_seconds: float = 45.0
    drain_grace_seconds: float = 5.0

    @property
    def environ(self) -> dict[str, str]:
        """The server's settings."""
        return {
            "TRACEWIRE_CLIENT_DEADLINE_SECONDS": str(self.client_seconds),
            "TRACEWIRE_SILENCE_DEADLINE_SECONDS": str(self.silence_seconds),
            "TRACEWIRE_SOCKET_DEADLINE_SECONDS": str(self.socket_seconds),
            "TRACEWIRE_OUTBOX_AGE_SECONDS": str(self.outbox_age_seconds),
            "TRACEWIRE_TOOL_DEADLINE_SECONDS": str(self.tool_seconds),
            "TRACEWIRE_IDLE_DEADLINE_SECONDS": str(self.idle_seconds),
            "TRACEWIRE_HEARTBEAT_SECONDS": str(self.heartbeat_seconds),
            "TRACEWIRE_DRAIN_GRACE_SECONDS": str(self.drain_grace_seconds),
        }

    def spell(self, random: Random) -> float:
        """How long somebody is away or stands still: less than the client's deadline, about it, or past all."""
        dead = self.client_seconds + self.silence_seconds
        ends = ((0.1, 0.8 * self.client_seconds), (0.8 * self.client_seconds, dead + 0.5), (dead, 1.5 * dead))
        return random.uniform(*random.choice(ends))


SHORT: Final = Pace(3.0, 2.0, 2.5, 2.0, 4.0, 4.0, 4.0, 1.0, 3.0, 0.5)
KINDS: Final = {"burst": 6, "steady": 6, "tools": 4, "fails": 2, "brief": 3, "cancelled": 2, "asks": 2, "long_tool": 1,
                "near_deadline": 1, "past_deadline": 1, "quiet": 1}  # fmt: skip


def input_of(random: Random, pace: Pace, burst_max: int) -> dict[str, Any]:
    """What somebody asks for next."""
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    asked: dict[str, Any] = {"kind": kind, "count": random.randint(2, 20)}
    match kind:
        case "burst" | "cancelled":
            asked["count"] = random.randint(burst_max // 4, burst_max)
        case "steady":
            asked |= {"count": random.randint(20, 120), "seconds": random.uniform(0.3, 1.5) * pace.client_seconds}
        case "long_tool":
            asked["seconds"] = pace.long_tool_seconds
        case "near_deadline":
            asked["seconds"] = 0.95 * pace.tool_seconds
        case "past_deadline":
            asked["seconds"] = 2 * pace.tool_seconds
        case "quiet":
            asked["seconds"] = 0.9 * pace.idle_seconds
    return asked


@agent(name="lively", requires=("agent_started",), tools=("look",))
async def lively(ctx: Any) -> str:
    """Does what its input says."""
    asked = ctx.input
    count, seconds = asked.get("count", 0), asked.get("seconds", 0.0)
    await ctx.thinking(asked["kind"])
    match asked["kind"]:
        case "burst" | "cancelled":
            for number in range(count):
                await ctx.delta(f"word {number} ")
        case "steady":
            for number in range(count):
                await ctx.thinking(f"thought {number}")
                await asyncio.sleep(seconds / count)
        case "tools":
            await asyncio.gather(*(_call(ctx, 0.01 * number) for number in range(count)))
        case "fails":
            raise ValueError("fails as it was told to")
        case "asks":
            return f"told {await ctx.ask('how many?')}"
        case "long_tool" | "near_deadline" | "past_deadline":
            await _call(ctx, seconds)
        case "quiet":
            await asyncio.sleep(seconds)
        case "stall":
            time.sleep(seconds)  # noqa: ASYNC251 # what it is for
        case "clock":
            _step_clock(seconds)
    return "done"


async def _call(ctx: Any, seconds: float) -> None:
    async with ctx.tool("look", {}) as call:
        await asyncio.sleep(seconds)
        call.result = "seen"


def _step_clock(seconds: float) -> None:
    real, real_ns = WALL
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1_000_000_000)
