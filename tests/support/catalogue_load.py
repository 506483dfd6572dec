"""A load that makes servers emit what they can: runs of every end, clients of every habit, incidents at every link.

Each scenario has users of its own, so that they go on side by side. `ordinary` is for a server with short deadlines and
small limits, `strained` for one whose receiver refuses spans and whose log forgets soon.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
from websockets.exceptions import ConnectionClosed

from support.catalogue_refusals import closes, expires_signed_in, floods, http_refusals, refusals
from support.catalogue_users import LIMITS, Load, ack_all, look_again
from support.incident_clients import without_gap
from support.losses import loser
from support.pouring import stalling_socket
from support.raw_socket import TEXT, frame, raw_socket
from support.servers import FIVE, ServerProcess
from support.wire import Frame, Wire
from tracewire.drilling import Drilling, DrillOrder
from tracewire.engine.agent import agent
from tracewire_telemetry.vocabulary import EVENT_TYPES, LINKS

AGENTS: Final = tuple(
    part
    for name in (
        "support.agents:five", "support.agents:streams", "support.agents:waits", "support.agents:waits_in_tool",
        "support.agents:raises", "support.agents:raises_in_tool", "support.agents:hangs_in_tool",
        "support.agents:overdue", "support.agents:returns_no_json", "support.agents:opens_tool_twice",
        "support.agents:traced", "support.agents:asks", "support.agents:verbose", "support.agents:verbose_then_waits",
        "support.lies:honest", "support.pouring:pours", "support.catalogue_load:shows_all",
        "support.catalogue_load:stubborn", "support.catalogue_load:falls_silent",
        "support.catalogue_load:ends_span_late",
    )
    for part in ("--agent", name)
)  # fmt: skip
DEADLINES: Final = {
    "TRACEWIRE_START_DEADLINE_SECONDS": "1",
    "TRACEWIRE_IDLE_DEADLINE_SECONDS": "60",
    "TRACEWIRE_BRIDGE_DEADLINE_SECONDS": "0.5",
    "TRACEWIRE_EMITTER_DEADLINE_SECONDS": "0.6",
    "TRACEWIRE_OUTBOX_AGE_SECONDS": "1",
    "TRACEWIRE_SOCKET_DEADLINE_SECONDS": "1.2",
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "4",
    "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1",
}
ORDINARY: Final = DEADLINES | LIMITS | {"TRACEWIRE_CANARY_DETECTION_SECONDS": "1", "TRACEWIRE_DRAIN_GRACE_SECONDS": "3"}
STRAINED: Final = {
    "TRACEWIRE_HEARTBEAT_SECONDS": "0.5",
    "TRACEWIRE_RETENTION_HOURS": "0.001",
    "TRACEWIRE_RETENTION_SWEEP_SECONDS": "0.05",
    "TRACEWIRE_RUN_EVENTS_MAX": "100",
    "TRACEWIRE_TRACE_QUEUE_BYTES_MAX": str(1024 * 1024),
}
LATE_SECONDS: Final = 2.2
"""Past the two seconds within which an event is in time, and before the client's deadline."""
WITHIN_SECONDS: Final = 90.0
THOUGHTS: Final = 600
"""Of a run with more spans than a trace holds."""


# Agents.


@agent(name="shows_all", tools=["look"])
async def shows_all(ctx: Any) -> str:
    """Emits every type that an agent can: then answers, raises, or waits, as its input says."""
    await ctx.thinking("thought")
    async with ctx.tool("look") as call:
        call.result = "seen"
    await ctx.delta("one ")
    await ctx.delta("two")
    await ctx.ask("Go on?")
    if ctx.input == "agent_error":
        raise ValueError("as the test asked for")
    if ctx.input == "agent_cancelled":
        await asyncio.Event().wait()
    return "one two"


@agent(name="stubborn")
async def stubborn(ctx: Any) -> None:
    """Swallows its cancellation, and goes on for as long as anybody looks."""
    await ctx.thinking("mine")
    for _ in range(2):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)


@agent(name="falls_silent", idle_seconds=0.5)
async def falls_silent(ctx: Any) -> None:
    """Says something, and nothing more."""
    await ctx.thinking("mine")
    await asyncio.Event().wait()


@agent(name="ends_span_late")
async def ends_span_late(ctx: Any) -> str:
    """Leaves a span of its own open, which ends when its trace has left."""
    span = ctx.tracer.start_span("own, too late")
    asyncio.get_running_loop().call_later(3, span.end)
    return "done"


# Clients.


async def side_by_side(*scenarios: Awaitable[Any]) -> None:
    """All of them, within the time that any test has."""
    async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as group:
        for scenario in scenarios:
            group.create_task(_awaited(scenario))


async def _awaited(scenario: Awaitable[Any]) -> None:
    await scenario


async def ordinary(load: Load) -> None:
    """Everything on a server with `ORDINARY` settings."""
    ends = (("five", "go"), ("streams", "go"), ("raises", "exception"), ("raises_in_tool", "exception"),
            ("hangs_in_tool", "go"), ("overdue", "go"), ("returns_no_json", "object"), ("opens_tool_twice", "go"),
            ("traced", "go"), ("verbose", THOUGHTS), ("ends_span_late", "go"))  # fmt: skip
    stamped = [(link.value, FIVE[1]) for link in LINKS]
    await side_by_side(
        *(load.run(f"runs {agent}", agent, value) for agent, value in ends),
        *(load.run(loser(*lost), "honest") for lost in stamped),
        *(withholds(load, event_type.value) for event_type in EVENT_TYPES),
        load.cancelled("cancels", "waits_in_tool", "tool_executing"),
        load.cancelled("cancels the stubborn", "stubborn", "agent_thinking"),
        *(scenario(load) for scenario in (
            drills, late, away, leaves, never_acks, silent_agent, resumes, replays, reads_nothing, refusals,
            http_refusals, closes, floods, expires_signed_in,
        )),
    )  # fmt: skip


async def drills(load: Load) -> None:
    """One event lost at each link, noticed and healed."""
    events = {"engine": "agent_started", "client": "agent_completed"}
    for link in LINKS:
        order = DrillOrder(event=events.get(link, "agent_thinking"), link=link, ops_url=load.server.ops_url)
        await Drilling(order, lambda _: None).drill()


async def withholds(load: Load, event_type: str) -> None:
    """A client that does not ack this type, is told to come back, and has everything after that."""
    user = f"withholds {event_type}"
    seq = 0
    async with load.socket(user) as wire:
        run_id = await wire.start_run(event_type, agent="shows_all")
        await wire.ack(run_id, 0)
        with contextlib.suppress(ConnectionClosed):
            while True:
                came = await wire.receive()
                types = [event["type"] for event in wire.events(run_id)]
                seq = min(without_gap(wire, run_id), types.index(event_type) if event_type in types else len(types))
                await wire.ack(run_id, seq)
                await answer(wire, run_id, came, event_type)
    async with load.socket(user) as wire:
        await wire.send("resume", runs={run_id: seq})
        while not any(
            event["type"].startswith("agent_") and "receipt" in event["data"] for event in wire.events(run_id)
        ):
            came = await wire.receive()
            if "seq" in came:
                await wire.ack(run_id, came["seq"])
            await answer(wire, run_id, came, event_type)


async def answer(wire: Wire, run_id: str, came: Frame, wanted: str) -> None:
    """Let `shows_all` go on where it asks, or cancel it where it is to be cancelled."""
    if came["type"] == "input_required":
        await wire.send("provide_input", run_id=run_id, input_id=came["data"]["input_id"], value="yes")
        if wanted == "agent_cancelled":
            await wire.send("cancel_run", run_id=run_id)


async def late(load: Load) -> None:
    """A client that acks after the time in which an event is in time."""
    async with load.socket("late") as wire:
        run_id = await wire.start_run("go", agent="five")
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS):
                await wire.receive_type("none")
        await wire.ack(run_id, len(events))


async def away(load: Load) -> None:
    """A run over HTTP, which no socket follows."""
    async with load.http("away") as http:
        assert (await http.post("/runs", json={"agent": "five", "input": "go"})).status_code in (200, 201, 202)


async def leaves(load: Load) -> None:
    """A client that goes before its run has ended."""
    async with load.socket("leaves") as wire:
        run_id = await wire.start_run("go", agent="waits_in_tool")
        await wire.receive_type("tool_executing")
        await wire.ack(run_id, 1)
    async with load.http("leaves") as http:
        await http.delete(f"/runs/{run_id}")


async def never_acks(load: Load) -> None:
    """A client that has never acked anything, for longer than its deadline."""
    async with load.socket("never acks") as wire:
        run_id = await wire.start_run("go", agent="five")
        await wire.receive_run(run_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(DEADLINES["TRACEWIRE_CLIENT_DEADLINE_SECONDS"]) + 1):
                await wire.receive_type("none")


async def silent_agent(load: Load) -> None:
    """A run whose agent falls silent: the incident is of whatever would have come."""
    async with load.socket("silent agent") as wire:
        run_id = await wire.start_run("go", agent="falls_silent")
        await wire.receive_type("agent_thinking")
        await wire.ack(run_id, 2)
        await until(load, lambda found: any(one["type"] == "next" for one in found), user="silent agent")
        await wire.send("cancel_run", run_id=run_id)
        await ack_all(wire, run_id)


async def until(load: Load, holds: Callable[[list[Any]], bool], **filters: str) -> None:
    """Look at the server's incidents until this holds of them."""
    async with httpx.AsyncClient(base_url=load.server.ops_url, timeout=30) as http:
        while not holds((await http.get("/incidents", params=filters)).json()["incidents"]):
            await look_again(load.server)


async def resumes(load: Load) -> None:
    """A resume of an open run: its replay is in the run's trace. And one of a run that does not exist."""
    async with load.socket("resumes") as wire:
        run_id = await wire.start_run("go", agent="waits_in_tool")
        await wire.receive_type("tool_executing")
        wire.cut()
    async with load.socket("resumes") as wire:
        await wire.send("resume", runs={run_id: 0, "00000000-0000-7000-8000-000000000000": 0})
        await wire.receive_type("tool_executing")
        await wire.ack(run_id, 2)
        await wire.send("cancel_run", run_id=run_id)
        await ack_all(wire, run_id)


async def replays(load: Load) -> None:
    """A resume of a settled run: a trace of its own."""
    async with load.http("replays") as http:
        started = (await http.post("/runs", json={"agent": "five", "input": "go"})).json()
        while not (await http.get(f"/runs/{started['run_id']}/ledger")).json()["settled"]:
            await look_again(load.server)
    async with load.socket("replays") as wire:
        await wire.send("resume", runs={started["run_id"]: 0})
        await ack_all(wire, started["run_id"])


async def reads_nothing(load: Load) -> None:
    """A client that takes nothing of what is poured on it, and is cut."""
    async with stalling_socket(load.server.ws_url, load.server.token("reads nothing")) as socket:
        start = b'{"type":"start_run","request_id":"r","agent":"pours","input":{"events":3000,"bytes":1000}}'
        socket.send(frame(TEXT, start))
        socket.stall()
        while not any(record["user_id"] == "reads nothing" for record in load.server.log_records("socket_too_slow")):
            await look_again(load.server)


async def strained(load: Load) -> None:
    """Everything on a server with `STRAINED` settings, whose receiver refuses every span."""
    await side_by_side(load.run("runs", "five"), expires(load), goes_silent(load))


async def expires(load: Load) -> None:
    """A run of more events than are kept, whose beginning is asked for; then all of it goes."""
    async with load.socket("expires") as wire:
        run_id = await wire.start_run(THOUGHTS, agent="verbose")
        events = await wire.receive_run(run_id)
        while True:
            await wire.send("resume", runs={run_id: 0})
            if not (await wire.receive_type("resumed"))["recovered"]:
                break
        await wire.ack(run_id, len(events))
    while not any(record["runs_by_age"] for record in load.server.log_records("retention_removed")):
        await look_again(load.server)


async def goes_silent(load: Load) -> None:
    """A socket that answers no ping, and sends nothing else."""
    async with raw_socket(load.server.url, load.server.token("silent")) as socket:
        assert (await socket.read_to_end())[-1].close_code == 4002


async def drains(load: Load) -> str:
    """A start while the server is stopping, and what its metrics say then."""
    async with load.socket("drains") as wire:
        run_id = await wire.start_run("go", agent="waits")
        await wire.receive_type("agent_thinking")
        await wire.ack(run_id, 2)
        load.server.process.terminate()
        await wire.receive_type("draining")
        assert await load.rejected(wire, "start_run", request_id="too late", input="go") == "draining"
        return await scraped(load.server)


async def scraped(server: ServerProcess) -> str:
    """The server's metrics."""
    async with httpx.AsyncClient(base_url=server.ops_url, timeout=30) as http:
        return (await http.get("/metrics")).text


async def crashed(load: Load) -> None:
    """Runs that are open when the process is killed: tools open, some of it acked."""
    async with load.socket("crashes") as wire, load.socket("crashes in a tool") as other:
        run_id = await wire.start_run(3, agent="verbose_then_waits")
        await wire.receive_where(lambda came: came.get("seq") == 4)
        await wire.ack(run_id, 2)
        await other.start_run("go", agent="waits_in_tool")
        await other.receive_type("tool_executing")
        load.server.process.kill()
        await asyncio.to_thread(load.server.process.wait)
