"""A real server under load, with incidents in it, as the boards are to show it: who did what, and what must be seen."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx

from support.incident_clients import follow
from support.losses import loser
from support.servers import FIVE, ServerProcess
from support.wire import wire_to
from tracewire_telemetry.testing.recorder import OtlpReceiver

TESTS: Final = Path(__file__).parents[1]
USERS: Final = 3
RUNS_EACH: Final = 5
LATE_RUNS: Final = 3
LATE_SECONDS: Final = 2.3
MISSED: Final = {
    loser("engine", "agent_completed"): ("next", "engine"),
    loser("bridge", "agent_thinking"): ("agent_thinking", "bridge"),
    loser("emitter", "tool_executing"): ("tool_executing", "emitter"),
    loser("socket", "agent_completed"): ("agent_completed", "socket"),
    loser("client", "agent_started"): ("agent_started", "client"),
}
"""The users who miss an event for as long as the test goes on: its type and link."""
LOST: Final = loser("engine", "agent_thinking")
"""A user who will never have theirs: their run ends without it, and is settled."""
ENVIRON: Final = {
    "TRACEWIRE_IDLE_DEADLINE_SECONDS": "4",
    "TRACEWIRE_BRIDGE_DEADLINE_SECONDS": "3",
    "TRACEWIRE_EMITTER_DEADLINE_SECONDS": "3",
    "TRACEWIRE_OUTBOX_AGE_SECONDS": "2",
    "TRACEWIRE_SOCKET_DEADLINE_SECONDS": "3",
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "6",
    "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "3",
    "TRACEWIRE_HEAL_DEADLINE_SECONDS": "600",
    "TRACEWIRE_MISSING_SHOWN_SECONDS": "2.5",
    "TRACEWIRE_CANARY_DETECTION_SECONDS": "2",
    "TRACEWIRE_DRAIN_GRACE_SECONDS": "0.2",
}
"""Short, and yet longer than anything takes on a machine that is busy."""
AGENTS: Final = ("support.losses:loses", "support.agents:five", "support.agents:raises", "support.agents:asks")


def board_server(folder: Path, receiver: OtlpReceiver) -> ServerProcess:
    """A server that loses events, with its canaries on, which exports its traces to this receiver."""
    agents = [part for name in AGENTS for part in ("--agent", name)]
    environ = {**ENVIRON, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    program = ("-m", "support.lossy_server")
    return ServerProcess(folder, "--canary", "1s", *agents, environ=environ, cwd=TESTS, program=program)


async def served_well(process: ServerProcess) -> int:
    """Users whose runs arrive; how many events they have had, and acked."""

    async def user(number: int) -> None:
        async with wire_to(process.ws_url, process.token(f"user-{number}")) as wire:
            for _ in range(RUNS_EACH):
                run_id = await wire.start_run("go", agent="five")
                await wire.receive_run(run_id)
                await wire.ack(run_id, len(FIVE))

    await asyncio.gather(*map(user, range(USERS)))
    return USERS * RUNS_EACH * len(FIVE)


async def served_otherwise(process: ServerProcess) -> None:
    """A run that fails, late acks, a user who goes away, a run that leaves an event out, a refused frame, a resume."""
    async with wire_to(process.ws_url, process.token("odd")) as wire:
        failed = await wire.start_run("exception", agent="raises")
        await wire.ack(failed, len(await wire.receive_run(failed)))
        await wire.send("start_run", request_id="none", input="go", agent="no-such-agent")
        await wire.receive_type("rejected")
    async with wire_to(process.ws_url, process.token("late")) as wire:
        late = [await wire.start_run("go", agent="five") for _ in range(LATE_RUNS)]
        for run_id in late:
            await wire.receive_run(run_id)
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=LATE_SECONDS)
        for run_id in late:
            await wire.ack(run_id, len(FIVE))
    async with wire_to(process.ws_url, process.token("away")) as wire:
        left = await wire.start_run("go", agent="asks")
        await wire.receive_type("input_required")
    async with wire_to(process.ws_url, process.token(LOST)) as wire:
        lost = await wire.start_run("go", agent="loses")
        await wire.ack(lost, len(await wire.receive_run(lost)))
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
        headers = {"Authorization": f"Bearer {process.token('away')}"}
        answer = await http.delete(f"/runs/{left}", headers=headers)
        assert answer.status_code < 300, answer.text
    async with wire_to(process.ws_url, process.token("late")) as wire:
        await wire.send("resume", runs={late[0]: len(FIVE)})
        await wire.receive_type("resumed")


@contextlib.asynccontextmanager
async def served_badly(process: ServerProcess) -> AsyncIterator[None]:
    """The users who miss an event are connected, and follow their runs, meanwhile."""
    async with contextlib.AsyncExitStack() as stack:
        following = []
        for user_id, (_, link) in MISSED.items():
            wire = await stack.enter_async_context(wire_to(process.ws_url, process.token(user_id)))
            run_id = await wire.start_run("go", agent="loses")
            but = user_id.partition("--")[2] if link == "client" else ""
            following.append(asyncio.create_task(follow(wire, run_id, but=but)))
        try:
            yield
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
