"""Whatever an agent does, its run ends with exactly one terminal event, its tool pairs closed, and the log says why."""

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
import structlog

from support.agents import all_agents
from support.servers import ServerUnderTest, server_under_test
from support.wire import Frame, Wire, contract_problems, wire_to
from tracewire.engine.agent import agent, spec_of
from tracewire.errors import RunEndedError
from tracewire.events import EVENT_BYTES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANCEL_SECONDS_MAX = 1.0


class Gates:
    """What the agents below wait for, by the user of their run: open one to let its agent go on."""

    def __init__(self) -> None:
        self.threads: dict[str, threading.Event] = {}
        self.tasks: dict[str, asyncio.Event] = {}
        self.left_behind: dict[str, asyncio.Future[Any]] = {}
        self.logged: list[Any] = []

    def thread(self, user_id: str) -> threading.Event:
        return self.threads.setdefault(user_id, threading.Event())

    def task(self, user_id: str) -> asyncio.Event:
        return self.tasks.setdefault(user_id, asyncio.Event())

    def open_all(self) -> None:
        for gate in (*self.threads.values(), *self.tasks.values()):
            gate.set()


GATES = Gates()


@agent(name="swallows")
async def swallows(ctx: Any) -> str:
    """Takes no cancellation for an answer until its gate is open; then tries to go on."""
    gate = GATES.task(ctx.user_id)
    told = asyncio.get_running_loop().create_future()
    GATES.left_behind[ctx.user_id] = told
    try:
        async with ctx.tool("stubborn", {}):
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
        await ctx.thinking("still here")
    except BaseException as error:
        told.set_result(error)
        raise
    return "finished all the same"


@agent(name="leaves_a_task")
async def leaves_a_task(ctx: Any) -> str:
    """Leaves a task behind that emits when the run has ended."""
    gate = GATES.task(ctx.user_id)

    async def emit_late() -> None:
        await gate.wait()
        await ctx.thinking("too late")

    GATES.left_behind[ctx.user_id] = asyncio.ensure_future(emit_late())
    return "done"


@agent(name="stuck_thread")
def stuck_thread(ctx: Any) -> str:
    """Is held in its thread, inside a tool, until its gate is open."""
    with ctx.tool("stubborn", {}):
        GATES.thread(ctx.user_id).wait()
    return "finished all the same"


@agent(name="slow_tool_in_thread", tool_seconds=0.05)
def slow_tool_in_thread(ctx: Any) -> str:
    """Passes its tool's deadline in its thread."""
    try:
        with ctx.tool("slow", {}):
            GATES.thread(ctx.user_id).wait()
    except TimeoutError as error:
        return f"told: {error}"
    return "not told"


@agent(name="blocks")
async def blocks(ctx: Any) -> str:
    """Holds the event loop until something is logged, at most 10 s."""
    entries, before = GATES.logged, len(GATES.logged)
    give_up = time.monotonic() + 10
    while len(entries) == before and time.monotonic() < give_up:
        pass
    return "let go"


STATEFUL = (swallows, leaves_a_task, stuck_thread, slow_tool_in_thread, blocks)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """One server for all of them: an agent that misbehaves is not to harm the next."""
    agents = [*all_agents(), *map(spec_of, STATEFUL)]
    folder = tmp_path_factory.mktemp("misbehaving") / "data"
    async with server_under_test(folder, agents=agents, loop_blocked_seconds=0.2) as started:
        yield started
        GATES.open_all()


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        GATES.logged = entries
        yield entries


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return f"user of {request.node.name}"[:128]


async def whole_run(server: ServerUnderTest, user: str, agent_name: str, input_value: Any = "go") -> list[Frame]:
    """The events of one run, all of them acked: in order, with one end, as the log holds them."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run(input_value, agent=agent_name)
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)
    return events


async def hold_against_log(server: ServerUnderTest, wire: Wire, run_id: str) -> None:
    """Hold what came over the socket against the contract of a run, the log, and the run's view and trace."""
    events = wire.events(run_id)
    assert contract_problems(events) == []
    stored = await server.server.log.replay(run_id, 0, limit=1000)
    assert [raw for raw in wire.raw if f'"run_id":"{run_id}","seq"' in raw] == [event.body.decode() for event in stored]
    trace = await server.trace(run_id)
    assert trace.problems() == []
    assert trace.root.attributes["tracewire.run.outcome"] == outcome_of(events)


def outcome_of(events: list[Frame]) -> str:
    """How the run ended, by its terminal event: `completed`, `cancelled`, or the error's code."""
    last = events[-1]
    return str(last["data"].get("code") or last["type"].removeprefix("agent_"))


def types(events: list[Frame]) -> list[str]:
    """The types, without their prefix."""
    return [event["type"].removeprefix("agent_") for event in events]


def statuses(events: list[Frame]) -> list[str]:
    """How the tool calls ended, in order."""
    return [event["data"]["status"] for event in events if event["type"] == "tool_completed"]


def entries_of(logged: list[Any], event: str, run_id: str) -> list[Any]:
    """The log's records of that name about the run."""
    return [entry for entry in logged if entry["event"] == event and entry.get("run_id") == run_id]


class Case(NamedTuple):
    """An agent, its input, and what must come of it. `said` stands in the log record `record`."""

    agent: str
    input: str
    types: str
    tools: str
    outcome: str
    message: str
    record: str
    said: str


TOOL = "started tool_executing tool_completed"
THOUGHT = "started thinking"
CASES = [
    Case("raises", "exception", f"{THOUGHT} error", "", "agent_exception", "ValueError: no good", "agent_failed", ""),
    Case("raises", "base", f"{THOUGHT} error", "", "agent_exception", "OddError: odd", "agent_failed", ""),
    Case("raises", "group", f"{THOUGHT} error", "", "agent_exception", "several", "agent_failed", ""),
    Case("raises", "exit", f"{THOUGHT} error", "", "agent_exception", "SystemExit", "agent_failed", ""),
    Case("raises", "interrupt", f"{THOUGHT} error", "", "agent_exception", "KeyboardInterrupt", "agent_failed", ""),
    Case("raises", "generator_exit", f"{THOUGHT} error", "", "agent_exception", "GeneratorExit", "agent_failed", ""),
    Case("raises", "stop_iteration", f"{THOUGHT} error", "", "agent_exception", "no more", "agent_failed", ""),
    Case("raises", "cancelled", f"{THOUGHT} error", "", "agent_exception", "cancelled itself", "run_ended", "itself"),
    Case("raises", "unprintable", f"{THOUGHT} error", "", "agent_exception", "UnprintableError", "agent_failed", ""),
    Case("raises", "long", f"{THOUGHT} error", "", "agent_exception", "ValueError: xxx", "agent_failed", ""),
    Case("raises_in_tool", "exception", f"{TOOL} error", "error", "agent_exception", "no good", "agent_failed", ""),
    Case("raises_in_tool", "exit", f"{TOOL} error", "error", "agent_exception", "SystemExit", "agent_failed", ""),
    Case("raises_in_tool", "cancelled", f"{TOOL} error", "cancelled", "agent_exception", "itself", "run_ended", ""),
    Case("raises_in_tool", "unprintable", f"{TOOL} error", "error", "agent_exception", "Unprin", "agent_failed", ""),
    Case("raises_in_thread", "exception", f"{TOOL} error", "error", "agent_exception", "no good", "agent_failed", ""),
    Case("raises_in_thread", "exit", f"{TOOL} error", "error", "agent_exception", "SystemExit", "agent_failed", ""),
    Case("hangs_in_tool_for_good", "", f"{TOOL} error", "timeout", "agent_exception", "hang", "agent_failed", ""),
    Case("overdue", "", f"{THOUGHT} error", "", "timeout", "0.1 s", "run_ended", "0.1 s"),
    Case("overdue_in_tool", "", f"{TOOL} error", "cancelled", "timeout", "0.1 s", "run_ended", "0.1 s"),
    Case("returns_no_json", "object", "started error", "", "not_serializable", "object", "agent_failed", "object"),
    Case("returns_no_json", "cycle", "started error", "", "not_serializable", "answer", "agent_failed", ""),
    Case("returns_no_json", "surrogate", "started error", "", "not_serializable", "answer", "agent_failed", ""),
    Case("returns_no_json", "key", "started error", "", "not_serializable", "answer", "agent_failed", ""),
    Case("tool_gives_no_json", "object", f"{TOOL} error", "error", "not_serializable", "", "agent_failed", ""),
    Case("tool_gives_no_json", "cycle", f"{TOOL} error", "error", "not_serializable", "", "agent_failed", ""),
    Case("tool_takes_no_json", "object", "started error", "", "not_serializable", "", "agent_failed", ""),
    Case("tool_takes_no_json", "surrogate", "started error", "", "not_serializable", "", "agent_failed", ""),
    Case(
        "leaves_tool_open",
        "raise",
        "started tool_executing tool_executing tool_completed tool_completed error",
        "cancelled cancelled",
        "agent_exception",
        "no good",
        "agent_failed",
        "",
    ),
    Case(
        "opens_tool_twice",
        "",
        f"{TOOL} error",
        "cancelled",
        "contract_broken",
        "executing already",
        "agent_failed",
        "executing already",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.agent}-{case.input}".rstrip("-") for case in CASES])
async def test_an_agent_that_fails_ends_its_run_once_with_the_right_code_and_a_reason(
    server: ServerUnderTest, user: str, logged: list[Any], case: Case
) -> None:
    """The terminal event says what went wrong, open tools are closed before it, and the log says the same."""
    events = await whole_run(server, user, case.agent, case.input)
    assert types(events) == case.types.split()
    assert statuses(events) == case.tools.split()
    assert outcome_of(events) == case.outcome
    assert case.message in events[-1]["data"]["message"]
    assert events[-1]["data"]["retryable"] is (case.outcome == "timeout")
    run_id = events[0]["run_id"]
    records = entries_of(logged, case.record, run_id)
    assert len(records) == 1
    assert case.said in str(records[0])
    assert [entry["outcome"] for entry in entries_of(logged, "run_ended", run_id)] == [case.outcome]


async def test_a_tool_past_its_deadline_ends_with_timeout_and_its_agent_goes_on(
    server: ServerUnderTest, user: str
) -> None:
    """The agent gets a `TimeoutError` that names tool and deadline, and can still answer."""
    events = await whole_run(server, user, "hangs_in_tool")
    assert types(events) == ["started", "tool_executing", "tool_completed", "completed"]
    assert statuses(events) == ["timeout"]
    assert events[2]["data"]["duration_ms"] >= 50
    assert events[-1]["data"]["output"] == "told: tool hang passed its deadline of 0.05 s"


async def test_a_tool_in_a_thread_ends_in_time_although_its_thread_is_held(server: ServerUnderTest, user: str) -> None:
    """`tool_completed{timeout}` comes while the thread is still inside the tool; the thread learns of it at its end."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run("go", agent="slow_tool_in_thread")
        completed = await wire.receive_type("tool_completed")
        assert completed["data"]["status"] == "timeout"
        GATES.thread(user).set()
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)
    assert types(events) == ["started", "tool_executing", "tool_completed", "completed"]
    assert events[-1]["data"]["output"] == "told: tool slow passed its deadline of 0.05 s"


class Cancelled(NamedTuple):
    """An agent that is cancelled once `at` has come, and how its tools end."""

    agent: str
    at: str
    tools: list[str]
    abandoned: bool


@pytest.mark.parametrize(
    "case",
    [
        Cancelled("waits", "agent_thinking", [], abandoned=False),
        Cancelled("waits_in_tool", "tool_executing", ["cancelled"], abandoned=False),
        Cancelled("swallows", "tool_executing", ["cancelled"], abandoned=True),
        Cancelled("stuck_thread", "tool_executing", ["cancelled"], abandoned=True),
        Cancelled("asks", "input_required", [], abandoned=False),
    ],
    ids=lambda case: case.agent,
)
async def test_a_cancelled_run_ends_within_a_second_whatever_its_agent_does(
    server: ServerUnderTest, user: str, logged: list[Any], case: Cancelled
) -> None:
    """`agent_cancelled` does not wait for the agent; one that goes on is abandoned, counted and named."""
    abandoned_before = abandoned_total(server, case.agent)
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run("go", agent=case.agent)
        await wire.receive_type(case.at)
        asked = time.monotonic()
        await wire.send("cancel_run", run_id=run_id)
        events = await wire.receive_run(run_id)
        assert time.monotonic() - asked < CANCEL_SECONDS_MAX
        assert events[-1]["data"]["reason"] == "cancelled by the user"
        assert statuses(events) == case.tools
        assert [entry["outcome"] for entry in entries_of(logged, "run_ended", run_id)] == ["cancelled"]
        assert [entry["agent"] for entry in entries_of(logged, "agent_abandoned", run_id)] == [
            case.agent
        ] * case.abandoned
        assert abandoned_total(server, case.agent) - abandoned_before == case.abandoned
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)


def abandoned_total(server: ServerUnderTest, agent_name: str) -> float:
    """How many runs' agents went on after their end."""
    registry = server.server.telemetry.metrics.registry
    return registry.get_sample_value("tracewire_runs_abandoned_total", {"agent": agent_name}) or 0.0


async def test_an_abandoned_agent_that_wakes_up_can_emit_nothing_more(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """It gets a `RunEndedError`, its run stays as it ended, and the log says that it tried."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run("go", agent="swallows")
        await wire.receive_type("tool_executing")
        await wire.send("cancel_run", run_id=run_id)
        events = await wire.receive_run(run_id)
        GATES.task(user).set()
        assert isinstance(await GATES.left_behind[user], RunEndedError)
        await one_more_run(wire)
        assert wire.events(run_id) == events
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)
    assert len(entries_of(logged, "emitted_after_end", run_id)) == 1


async def test_a_task_that_an_agent_left_behind_can_emit_nothing_more(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """An emit after `agent_completed` raises in the task that makes it, consumes no seq and reaches nobody."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run("go", agent="leaves_a_task")
        events = await wire.receive_run(run_id)
        assert types(events) == ["started", "completed"]
        GATES.task(user).set()
        with pytest.raises(RunEndedError):
            await GATES.left_behind[user]
        await one_more_run(wire)
        assert wire.events(run_id) == events
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)
    assert [entry["event_type"] for entry in entries_of(logged, "emitted_after_end", run_id)] == ["agent_thinking"]


async def one_more_run(wire: Wire) -> None:
    """A run on the same socket: what was sent before it has come when it has."""
    run_id = await wire.start_run("marker", agent="five")
    await wire.ack(run_id, len(await wire.receive_run(run_id)))


async def test_tools_that_an_agent_left_open_are_closed_before_its_answer(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """The run completes, each open call ends as cancelled first, and the log names them."""
    events = await whole_run(server, user, "leaves_tool_open")
    assert types(events) == ["started", *["tool_executing"] * 2, *["tool_completed"] * 2, "completed"]
    assert statuses(events) == ["cancelled", "cancelled"]
    assert [entry["tools"] for entry in entries_of(logged, "tools_left_open", events[0]["run_id"])] == [
        ["first", "second"]
    ]


async def test_a_tool_call_completes_once_however_often_its_agent_says_so(server: ServerUnderTest, user: str) -> None:
    """The first completion stands."""
    events = await whole_run(server, user, "completes_tool_twice")
    assert types(events) == ["started", "tool_executing", "tool_completed", "completed"]
    assert events[2]["data"]["status"] == "ok"
    assert events[2]["data"]["result"] == "seen"


async def test_an_agent_can_go_on_after_what_json_cannot_hold_was_refused(server: ServerUnderTest, user: str) -> None:
    """The refused event consumes no seq; a refused tool result is the call's error."""
    events = await whole_run(server, user, "survives_no_json")
    assert types(events) == ["started", *["tool_executing", "tool_completed"] * 2, "completed"]
    assert statuses(events) == ["error", "error"]
    assert events[-1]["data"]["output"] == "refused 3"


async def test_a_plain_function_is_an_agent_too(server: ServerUnderTest, user: str) -> None:
    """It runs in a thread and shows every type, in order."""
    events = await whole_run(server, user, "threaded")
    assert types(events) == ["started", "thinking", "tool_executing", "tool_completed", "delta", "completed"]
    assert events[-1]["data"]["output"] == "answer"


async def test_an_agent_that_blocks_the_event_loop_is_named_with_its_line(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """The watchdog logs the very line that holds the loop, while it holds it."""
    events = await whole_run(server, user, "blocks")
    assert events[-1]["data"]["output"] == "let go"
    blocked = [entry for entry in logged if entry["event"] == "event_loop_blocked"]
    assert len(blocked) == 1
    where, _, function = blocked[0]["line"].partition(" in ")
    path, _, line = where.rpartition(":")
    source, first = inspect.getsourcelines(blocks)
    assert (path, function) == (inspect.getsourcefile(blocks), "blocks")
    assert int(line) in range(first, first + len(source))
    at_a_terminal = structlog.dev.ConsoleRenderer(colors=False)(None, "error", dict(blocked[0]))
    assert blocked[0]["line"] in at_a_terminal


SIZES = {"plain": 200_000, "wide": 200_000, "escaped": 120_000}


@pytest.mark.parametrize("text", SIZES)
async def test_what_is_too_large_for_an_event_is_cut_and_says_its_full_size(
    server: ServerUnderTest, user: str, text: str
) -> None:
    """No event passes 64 KiB; each cut field is named with its full size in bytes, and nothing else is touched."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run(text, agent="huge")
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        await hold_against_log(server, wire, run_id)
        sizes = [len(raw.encode()) for raw in wire.raw if f'"run_id":"{run_id}"' in raw]
    assert max(sizes) <= EVENT_BYTES_MAX
    assert min(size for size in sizes if size > 1000) > EVENT_BYTES_MAX * 0.9
    by_type = dict(zip(types(events), events, strict=True))
    field_of = {"thinking": "text", "delta": "text", "completed": "output"}
    for event_type, field in field_of.items():
        assert by_type[event_type]["data"]["truncated"] == {field: SIZES[text]}
    assert set(by_type["tool_executing"]["data"]["truncated"]) == {"arguments"}
    assert by_type["tool_executing"]["data"]["truncated"]["arguments"] > SIZES[text]
    assert by_type["tool_completed"]["data"]["truncated"]["result"] > 2 * SIZES[text]
    assert "truncated" not in by_type["started"]["data"]


async def test_a_server_goes_on_serving_after_all_of_this(server: ServerUnderTest, user: str) -> None:
    """It is ready, and another user's run is whole."""
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{server.server.url}/ready")).status_code == 200
    events = await whole_run(server, user, "five")
    assert events[-1]["data"]["output"] == f"answer for {user}: go"
