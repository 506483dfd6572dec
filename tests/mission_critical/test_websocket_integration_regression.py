"""S14 to S16: what must hold before anything is released.

Each scenario is checked by the event payloads and by the exported traces. A run of the tests that leaves one of these
out fails (`no_skip.py`).
"""

import asyncio
import copy
import gc
import inspect
import logging
import os
import subprocess
import sys
import weakref
from asyncio import AbstractEventLoop
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import TraceState

from support.agents import known_agents
from support.chain_checks import (
    AGENT,
    USERS,
    BrokenChainError,
    accepted_run,
    built_engine,
    python_client,
    require_delivered,
    run_agent,
    s14_the_complete_chain,
    signed_in,
)
from support.factory_scenarios import s16_the_architecture
from support.faults import LEAK, Fault, one_fault_a_link
from support.object_graph import (
    class_state,
    environment_readers,
    is_immutable,
    is_ours,
    module_instances,
    module_tables,
    reachable,
)
from support.served_chain import served_chain
from support.served_scenarios import (
    MEAN_FIRST_EVENT_SECONDS_MAX,
    PREMIUM_USERS,
    Continuity,
    s15_premium_users_at_once,
)
from support.servers import FIVE, ServerUnderTest, server_under_test, settings_for
from support.wire import Wire
from tracewire import wiring
from tracewire.delivery.connection import Transport
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.errors import StartupError
from tracewire.eventlog import EventLog
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.gateway.transport import SocketTransport
from tracewire.main import Server
from tracewire.wiring import TITLES, broken, check_wiring
from tracewire_telemetry.testing import assert_whole
from tracewire_telemetry.testing.runs import events_traced
from tracewire_telemetry.vocabulary import EVENT_TYPES, LINKS

pytestmark = [pytest.mark.mission_critical, pytest.mark.no_skip]

EVERY_LINK = tuple(link.value for link in LINKS)
LINK_NAMES = ("L1", "L2", "L3", "L4", "L5", "L6")
TESTS = Path(__file__).parents[1]

# S14: the complete chain.


async def test_s14_all_six_links_hold_and_a_run_is_whole_at_every_station(chain: ServerUnderTest) -> None:
    """The six checks hold; a run over a real socket has its five events in payloads and trace, at each link."""
    await s14_the_complete_chain(chain)


async def test_s14_the_checks_say_of_each_link_that_it_holds(chain: ServerUnderTest) -> None:
    """Six lines, one a link, in order; the run behind L6 left a whole trace with every event at every station."""
    checks = await check_wiring(chain.server)
    assert [(name, True) for name in LINK_NAMES] == [(check.check, check.holds) for check in checks]
    assert [TITLES[check.check] in check.line for check in checks] == [True] * 6
    assert broken(checks) is None
    runs = await chain.server.log.runs(wiring.USER, limit=10)
    delivered = runs[0]
    assert delivered.last_seq == delivered.acked_seq > 0
    trace = await chain.trace(delivered.run_id)
    assert_whole(trace)
    crossed = [(event.seq, event.links) for event in events_traced(trace)]
    assert [(seq, EVERY_LINK) for seq in range(1, delivered.last_seq + 1)] == crossed


async def test_s14_the_checks_leave_nothing_behind(chain: ServerUnderTest) -> None:
    """After the checks no run is open and no place taken: a user starts as many runs as the limit allows."""
    for _ in range(2):
        await check_wiring(chain.server)
    assert list(await chain.server.log.open_runs()) == []
    assert chain.server.telemetry.watch.runs == {}
    limit = chain.server.settings.runs_per_user_max
    async with python_client(chain, wiring.USER) as client:
        runs = await asyncio.gather(*(client.start_run("ask", agent="five") for _ in range(limit)))
        received = [[envelope.type.value async for envelope in run] for run in runs]
    assert [list(FIVE)] * limit == received


@pytest.mark.parametrize("fault", one_fault_a_link(), ids=str)
async def test_s14_a_broken_link_is_named(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Those before it hold, it is named, those behind it are not reached; repaired, the chain is whole again."""
    monkeypatch.setattr(wiring, "DELIVERY_SECONDS", 0.5)
    with monkeypatch.context() as patch:
        fault.break_it(patch, chain.server)
        checks = await check_wiring(chain.server)
    assert fault.check == broken(checks), [check.line for check in checks]
    number = LINK_NAMES.index(fault.check)
    behind = [f"not reached ({fault.check})"] * (5 - number)
    assert [True] * number + [False] == [check.holds for check in checks[: number + 1]]
    assert behind == [check.message for check in checks[number + 1 :]]
    monkeypatch.undo()
    await s14_the_complete_chain(chain, user_id=USERS[1])


# S15: business continuity.


async def test_s15_every_premium_user_is_served_with_every_event_and_nothing_of_anothers(tmp_path: Path) -> None:
    """Fifty users at once on a server process: what clients got and what traces prove, each is whole."""
    async with served_chain(tmp_path) as chain:
        reports = await s15_premium_users_at_once(chain, users=PREMIUM_USERS)
    assert PREMIUM_USERS >= 50
    for seen_in, report in zip(("payloads", "traces"), reports, strict=True):
        print(f"by {seen_in}: {report}")
        assert (100, 100) == (report.users_served_percent, report.events_delivered_percent)
        assert 0 == report.contamination
        assert 0 < report.mean_first_event_seconds <= MEAN_FIRST_EVENT_SECONDS_MAX


async def test_s15_a_frame_that_strays_to_another_user_is_seen(tmp_path: Path) -> None:
    """On a server that writes thoughts to everybody all users are served with all events, and the scenario is red."""
    async with served_chain(tmp_path, fault=str(LEAK)) as chain:
        with pytest.raises(BrokenChainError, match="the contamination is") as red:
            await s15_premium_users_at_once(chain, users=5)
    assert ("L4", 1) == (red.value.check, len(red.value.findings))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Continuity(98, 100, 0, 1), "98 % of users are served"),
        (Continuity(100, 99.6, 0, 1), "99.6 % of events are delivered"),
        (Continuity(100, 100, 1, 1), "the contamination is 1"),
        (Continuity(100, 100, 0, 5.001), "the first event takes 5.001 s in the mean, must be within 5 s"),
    ],
)
def test_s15_each_figure_that_falls_short_is_told(report: Continuity, said: str) -> None:
    """One user of fifty, one event of 250, one frame, one millisecond: none is rounded away."""
    assert [said] == report.shortfalls
    assert [] == Continuity(100, 100, 0, MEAN_FIRST_EVENT_SECONDS_MAX).shortfalls


# S16: architecture.


async def test_s16_the_start_up_check_the_factories_and_the_interfaces_hold(chain: ServerUnderTest) -> None:
    """As the table of faults has it: red when any of the six links is broken."""
    await s16_the_architecture(chain)


async def test_s16_two_servers_of_one_process_share_nothing(chain: ServerUnderTest, tmp_path: Path) -> None:
    """From each server's parts, open runs included, nothing can be reached that can change and is the other's too."""
    async with (
        server_under_test(tmp_path / "other", agents=known_agents()) as other,
        AsyncExitStack() as stack,
    ):
        await asyncio.gather(*(waiting_run(stack, server) for server in (chain, other)))
        held = [reachable(server.server) for server in (chain, other)]
        ours = {type(value).__name__ for value in held[0].values() if is_ours(value)}
        assert {"ExecutionFactory", "UserExecutionEngine", "AgentWebSocketBridge", "UserWebSocketEmitter"} <= ours
        shared = [held[0][identity] for identity in held[0].keys() & held[1].keys()]
        may = (AbstractEventLoop, logging.Logger, TraceState)
        assert [] == [value for value in shared if not is_immutable(value) and not isinstance(value, may)]


async def test_s16_a_run_on_one_server_leaves_no_trace_on_another(chain: ServerUnderTest, tmp_path: Path) -> None:
    """The same user on both: one server's run shows on its own sockets, in its own log, metrics and traces alone."""
    ada = USERS[0]
    async with (
        server_under_test(tmp_path / "other", agents=known_agents()) as other,
        signed_in(chain, ada) as wire,
        signed_in(other, ada) as others,
    ):
        run_id = await wire.start_run("ask", agent=AGENT)
        await require_delivered(chain, run_id, wire, user_id=ada)
        # Whatever came astray would have come before the answer to this.
        await others.send("ack", run_id=run_id, seq=1)
        assert "unknown_run" == (await others.receive_type("rejected"))["code"]
        assert ["ready", "rejected"] == [frame["type"] for frame in others.frames]
        assert [] == list(await other.server.log.runs(ada, limit=1))
        assert {} == other.server.telemetry.watch.runs
        assert 0 == len(other.recorder.trace_of_run(run_id))
        assert (5.0, 0.0) == (await events_counted(chain), await events_counted(other))


async def test_s16_an_engine_lives_no_longer_than_its_run(chain: ServerUnderTest) -> None:
    """Two runs of one user have two engines, bridges and emitters; when both are settled, nothing holds one of them."""
    stations: list[weakref.ref[Any]] = []
    for _ in range(2):
        async with accepted_run(chain, USERS[0]) as accepted:
            engine = built_engine(chain.server.factory, accepted.context)
            stations += [weakref.ref(part) for part in (engine, engine.bridge, engine.bridge.emitter)]
            await run_agent(chain, engine, accepted)
            await chain.trace(accepted.context.run_id)
            del engine, accepted
    assert len(stations) == 6
    gc.collect()
    assert [None] * 6 == [station() for station in stations]


def test_s16_no_module_holds_an_instance() -> None:
    """What a station needs is given to it: no module has a ready-made one, and no class keeps state for all."""
    assert ([], []) == (module_instances(), class_state())


async def test_s16_the_tables_of_the_modules_do_not_change(chain: ServerUnderTest) -> None:
    """Dictionaries, lists and sets at the top of a module are constants: a run leaves each as it was."""
    before = {name: copy.copy(table) for name, table in module_tables().items()}
    assert len(before) > 10
    await s14_the_complete_chain(chain)
    assert before == module_tables()


async def test_s16_there_is_one_source_of_configuration(chain: ServerUnderTest, tmp_path: Path) -> None:
    """One frozen `Settings` object, which every part of a server holds; a server beside it goes by its own."""
    async with server_under_test(tmp_path / "other", agents=known_agents(), runs_per_user_max=1) as other:
        for server in (chain.server, other.server):
            held = [value for value in reachable(server).values() if type(value).__name__ == "Settings"]
            assert [True] == [value is server.settings for value in held]
        with pytest.raises(AttributeError):
            chain.server.settings.runs_per_user_max = 2  # type: ignore[misc] # that it cannot be set is the point
        async with AsyncExitStack() as stack:
            wires = [await waiting_run(stack, server) for server in (chain, other)]
            answers = []
            for wire in wires:
                await wire.send("start_run", request_id="second", input="ask", agent=AGENT)
                answers.append((await wire.receive_type("run_accepted", "rejected"))["type"])
        assert ["run_accepted", "rejected"] == answers


def test_s16_the_environment_is_read_where_a_process_begins() -> None:
    """By the command line, and by the composition root for whoever embeds it: no station asks it for anything."""
    assert {"tracewire.cli", "tracewire.main", "tracewire.serve_command"} == environment_readers()


@pytest.mark.parametrize(
    ("port", "implementation"), [(EventLog, SqliteEventLog), (Transport, SocketTransport)], ids=["log", "transport"]
)
def test_s16_what_stands_behind_a_port_can_be_called_as_the_port_says(port: type, implementation: type) -> None:
    """Each member is there; each method takes the same parameters, and is awaited where the port's is."""
    members = {name: member for name, member in vars(port).items() if not name.startswith("_")}
    assert len(members) > 3
    for name, member in members.items():
        found = getattr(implementation, name)
        if not inspect.isfunction(member):
            continue
        assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(found), name
        assert list(inspect.signature(member).parameters) == list(inspect.signature(found).parameters), name


def test_s16_the_emitter_has_a_method_for_every_type_of_event() -> None:
    """Each is a coroutine function of an envelope."""
    for event_type in EVENT_TYPES:
        method = getattr(UserWebSocketEmitter, f"emit_{event_type.value}")
        assert inspect.iscoroutinefunction(method)
        assert ["self", "envelope"] == list(inspect.signature(method).parameters)


@pytest.mark.parametrize("fault", ["L1", "L4"])
def test_s16_a_broken_link_fails_the_start_up_check(tmp_path: Path, fault: str) -> None:
    """`tracewire doctor` exits with 1, names the link, and reaches none behind it."""
    command = [sys.executable, "-m", "support.faulty_server", "--fault", fault, "doctor", "--data-dir", str(tmp_path)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    done = subprocess.run(command, cwd=TESTS, env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (1, f"broken: {fault}") == (done.returncode, done.stderr.strip().splitlines()[-1])
    shown = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("L")]
    number = LINK_NAMES.index(fault)
    words = ["ok"] * number + ["BROKEN"] + ["--"] * (5 - number)
    assert [list(pair) for pair in zip(LINK_NAMES, words, strict=True)] == shown


async def test_s16_a_check_that_itself_fails_is_no_check_that_holds(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What raises inside a check, of whatever kind, is that link's failure, with its words."""

    async def fail(*_: object) -> None:
        raise LookupError("no such shard")

    monkeypatch.setattr(chain.server.runs, "accept", fail)
    checks = await check_wiring(chain.server)
    assert [True, False, None, None, None, None] == [check.holds for check in checks]
    assert "no such shard" in checks[1].line


async def test_s16_a_server_that_cannot_start_names_all_that_failed_and_leaves_nothing(
    chain: ServerUnderTest, tmp_path: Path
) -> None:
    """Both ports taken and no folder to write to: three failures in one error, and the next start succeeds."""
    taken = {
        name: httpx.URL(url).port for name, url in (("port", chain.server.url), ("ops_port", chain.server.ops_url))
    }
    blocked = tmp_path / "a file"
    blocked.touch()
    with pytest.raises(StartupError) as refused:
        await Server(settings_for(blocked / "data", **taken), environ={}).start()
    named = [failure.partition(" ")[0] for failure in refused.value.failures]
    assert ["data", "ops", "public"] == sorted(named)
    async with server_under_test(tmp_path / "free", agents=known_agents()) as other:
        await s14_the_complete_chain(other)


async def test_s16_a_step_that_no_longer_holds_closes_the_gate(chain: ServerUnderTest) -> None:
    """`/ready` says 503 and why, sockets are turned away, no run begins; when it holds again, all is as before."""
    async with signed_in(chain, USERS[0]) as wire, httpx.AsyncClient(base_url=chain.server.url, timeout=30) as http:
        chain.server.readiness.failed("factories", "taken apart")
        shown = await http.get("/ready")
        assert (503, {"factories": "taken apart"}) == (shown.status_code, shown.json()["reasons"])
        await wire.send("start_run", request_id="while closed", input="ask", agent=AGENT)
        refused = await wire.receive_type("run_accepted", "rejected")
        assert ("rejected", True) == (refused["type"], "taken apart" in refused["message"])
        with pytest.raises(BrokenChainError, match="503"):
            async with signed_in(chain, USERS[1]):
                pass
        chain.server.readiness.passed("factories")
        assert 200 == (await http.get("/ready")).status_code
        run_id = await wire.start_run("ask", agent=AGENT)
        await require_delivered(chain, run_id, wire, user_id=USERS[0])


async def waiting_run(stack: AsyncExitStack, server: ServerUnderTest) -> Wire:
    """A socket of a user whose agent waits in a run."""
    wire = await stack.enter_async_context(signed_in(server, USERS[0]))
    await wire.start_run("ask", agent="waits")
    await wire.receive_type("agent_thinking")
    return wire


async def events_counted(server: ServerUnderTest) -> float:
    """How many events the server's metrics have at the client."""
    async with httpx.AsyncClient(base_url=server.server.ops_url, timeout=30) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    wanted = (line for line in lines if line.startswith("tracewire_events_total") and 'link="client"' in line)
    return sum(float(line.rpartition(" ")[2]) for line in wanted)
