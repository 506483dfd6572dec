"""The scenarios of the suites that look at the chain, and the checks that they share.

Each scenario is a function that the suites call, so that a fault can be held against exactly what the suites check. It
looks at the joints first (L1 to L5), then at a run twice: by the payloads and by the exported trace. What does not hold
is raised as `BrokenChainError`, whose findings name the link.
"""

import asyncio
import inspect
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, NamedTuple

import msgspec
import uuid_utils
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from support.servers import FIVE, ServerUnderTest
from support.wire import Frame, Wire, contract_problems, wire_to
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.client import ClientError
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.engine.agent import AgentSpec
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import RunResult, UserExecutionEngine
from tracewire.errors import TracewireError, WiringError
from tracewire.events import AgentStarted, AgentThinking, Event, ToolCompleted, ToolExecuting
from tracewire.runs.service import AcceptedRun, StartRun
from tracewire.wiring import check_wiring
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, LINKS, EventType, Outcome, RunErrorCode, ToolStatus

AGENT: Final = "five"
TOOL: Final = "look"
USERS: Final = ("user-ada", "user-bob", "user-cleo")
EMIT_METHODS: Final = tuple(f"emit_{event_type}" for event_type in FIVE)
WITHIN_SECONDS: Final = 20.0
REPLAY_EVENTS_MAX: Final = 100
CHECK_OF_STATION: Final = {"engine": "L5", "bridge": "L5", "emitter": "L5", "socket": "L6", "client": "L6"}
"""Where the joints L1 to L4 hold, a run loses an event in the emit methods (L5) or on its way to the client (L6)."""


class Finding(Struct, frozen=True, order=True):
    """One thing that does not hold: the wiring check it breaks, where it was seen, and what was seen."""

    check: str
    seen_in: str
    message: str

    def __str__(self) -> str:
        return f"{self.check}, seen in the {self.seen_in}: {self.message}"


class BrokenChainError(AssertionError):
    """A scenario does not hold. `check` is the first broken link."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings))
        super().__init__("\n".join(map(str, self.findings)))

    @property
    def check(self) -> str:
        """The first broken link."""
        return self.findings[0].check

    @property
    def seen_in(self) -> frozenset[str]:
        """Where the first broken link shows: `joint`, `payload`, `trace`."""
        return frozenset(finding.seen_in for finding in self.findings if finding.check == self.check)


def require(findings: Iterable[Finding]) -> None:
    """Raise what was found, if anything was."""
    found = tuple(findings)
    if found:
        raise BrokenChainError(found)


@contextmanager
def joint(check: str) -> Iterator[None]:
    """What is raised inside is a broken joint: the one that a `WiringError` names, else `check`."""
    try:
        yield
    except BrokenChainError:
        raise
    except WiringError as error:
        raise BrokenChainError([Finding(error.check, "joint", str(error))]) from error
    except Exception as error:
        raise BrokenChainError([Finding(check, "joint", f"{type(error).__name__}: {error}")]) from error


# The scenarios.


async def s01_a_signed_in_user_runs_an_agent(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """The configured factory builds the engine, the run's five events reach the user's socket."""
    async with signed_in(chain, user_id) as wire, accepted_run(chain, user_id) as accepted:
        engine = built_engine(chain.server.factory, accepted.context)
        follow(chain, accepted)
        result = await run_agent(chain, engine, accepted)
        await require_delivered(chain, accepted, wire, within_seconds=within_seconds)
        assert (Outcome.COMPLETED, answer_for(user_id)) == (result.outcome, result.output)


async def s02_the_factories_hand_off(chain: ServerUnderTest, *, user_ids: Sequence[str] = USERS) -> None:
    """From the context alone the factory wires each user an engine, a bridge and an emitter of their own."""
    assert list(inspect.signature(ExecutionFactory().create_user_engine).parameters) == ["context"]
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in user_ids]
        engines = [built_engine(chain.server.factory, accepted.context) for accepted in runs]
        require(shared_stations(engines))
        await asyncio.gather(*map(run_agent, [chain] * len(runs), engines, runs))
        for accepted in runs:
            await require_durable(chain, accepted)


async def s04_no_silent_failure(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """Every joint is there, and a client that starts a run in the ordinary way sees all five types."""
    async with accepted_run(chain, user_id) as looked_at:
        built_engine(chain.server.factory, looked_at.context)
    async with signed_in(chain, user_id) as wire:
        run_id = await wire.start_run("ask", agent=AGENT)
        await require_delivered(chain, run_id, wire, user_id=user_id, within_seconds=within_seconds)


async def s08_three_users_from_one_factory(
    chain: ServerUnderTest,
    *,
    user_ids: Sequence[str] = USERS,
    within_seconds: float = WITHIN_SECONDS,
) -> None:
    """One factory makes each user an emitter of their own, and none carries anything of another's."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(signed_in(chain, user_id)) for user_id in user_ids]
        runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in user_ids]
        emitters = [built_emitter(chain, accepted.context) for accepted in runs]
        if len(set(map(id, emitters))) != len(user_ids):
            raise BrokenChainError([Finding("L4", "joint", "one emitter serves several users")])
        for accepted in runs:
            follow(chain, accepted)
        await asyncio.gather(*map(emit_five, [chain] * len(runs), emitters, runs))
        for accepted, wire in zip(runs, wires, strict=True):
            await require_delivered(chain, accepted, wire, tools=0, within_seconds=within_seconds)
            others = {user_id for user_id in user_ids if user_id != accepted.context.user_id}
            foreign = others | {run.context.run_id for run in runs if run is not accepted}
            require(contamination(wire, foreign))


async def s14_the_complete_chain(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """The six wiring checks hold; then a run of the client that ships with Tracewire is whole at every station."""
    checks = await check_wiring(chain.server)
    findings = [Finding(check.check, "joint", check.message) for check in checks if check.holds is False]
    require(finding for finding in findings if finding.check not in CHECK_OF_STATION.values())
    received: list[Frame] = []
    async with python_client(chain, user_id) as client:
        with joint("L6"):
            async with asyncio.timeout(within_seconds):
                run = await client.start_run("ask", agent=AGENT)
        try:
            async with asyncio.timeout(within_seconds):
                async for envelope in run:
                    received.append(msgspec.to_builtins(envelope))  # noqa: PERF401 # what came before a timeout counts
        except (ClientError, TimeoutError) as error:
            findings.append(Finding("L6", "payload", f"the run broke off: {error!r}"))
        trace = await chain.trace(run.run_id)
    findings += payload_findings(received, user_id, run.run_id, "L6")
    findings += await ack_findings(chain, run.run_id)
    durable = await stored(chain, run.run_id)
    findings += payload_findings(durable, user_id, run.run_id, "L5")
    findings += trace_findings(trace, user_id, run.run_id, sockets=1, traceparents=traceparents(durable))
    require(findings)
    stations = Counter(span.attributes["tracewire.link"] for span in trace if "tracewire.link" in span.attributes)
    assert {link: 1 if link == "engine" else len(FIVE) for link in LINKS} == stations


# Building and driving the stations.


@asynccontextmanager
async def signed_in(chain: ServerUnderTest, user_id: str) -> AsyncIterator[Wire]:
    """A ready socket of this user, by a real signed token."""
    with joint("L6"):
        socket = wire_to(chain.server.ws_url, chain.token(user_id))
        wire = await socket.__aenter__()
    try:
        yield wire
    finally:
        await socket.__aexit__(None, None, None)


@asynccontextmanager
async def python_client(chain: ServerUnderTest, user_id: str) -> AsyncIterator[Any]:
    """The Python client, connected as this user."""
    with joint("L6"):
        client = await chain.client(user_id).__aenter__()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def accepted_run(
    chain: ServerUnderTest, user_id: str, *, input_value: Any = "ask", agent: str = AGENT
) -> AsyncIterator[AcceptedRun]:
    """A durable, accepted run of this user, which the caller runs; its place is given back, and nothing stays open."""
    server = chain.server
    accepted = await server.runs.accept(user_id, StartRun(str(uuid_utils.uuid7()), input_value, agent))
    try:
        yield accepted
    finally:
        server.engine.release(user_id)
        if accepted.run is not None and not accepted.run.ledger.ended_ns:
            await server.factory.close_unwired(accepted.context, TracewireError("the test ran no agent"))


def emitter_parts(chain: ServerUnderTest) -> dict[str, Any]:
    """What an emitter factory is configured with: the server's own parts, under the names of `configure`."""
    server = chain.server
    return {
        "log": server.log,
        "connections": server.connections,
        "watch": server.telemetry.watch,
        "health": server.readiness,
    }


def engine_parts(chain: ServerUnderTest, emitters: UserEmitterFactory) -> dict[str, Any]:
    """What an execution factory is configured with."""
    server = chain.server
    return {
        "settings": server.settings,
        "emitters": emitters,
        "agents": server.agents,
        "watch": server.telemetry.watch,
        "metrics": server.telemetry.metrics,
        "health": server.readiness,
        "threads": server._agent_threads,
    }


def built_engine(factory: ExecutionFactory, context: UserExecutionContext) -> UserExecutionEngine:
    """The engine that the factory makes of the context, each of its joints looked at.

    Raises:
        BrokenChainError: naming the first joint that is missing or leads to another user.
    """
    with joint("L2"):
        engine: Any = factory.create_user_engine(context)
    if not isinstance(engine, UserExecutionEngine):
        raise BrokenChainError([Finding("L2", "joint", f"the factory gave {engine!r} for an engine")])
    if engine.context != context:
        raise BrokenChainError([Finding("L2", "joint", f"the engine is of {engine.context}, not of {context}")])
    bridge: Any = engine.bridge
    if not isinstance(bridge, AgentWebSocketBridge):
        raise BrokenChainError([Finding("L3", "joint", f"the engine has {bridge!r} for a bridge")])
    require(emitter_findings(bridge.emitter, context))
    return engine


def built_emitter(chain: ServerUnderTest, context: UserExecutionContext) -> UserWebSocketEmitter:
    """The emitter that the emitter factory makes for the context's user and run, looked at in the same way."""
    with joint("L4"):
        emitter = chain.server.emitters.create_user_emitter(context.user_id, context.run_id)
    require(emitter_findings(emitter, context))
    return emitter


def follow(chain: ServerUnderTest, accepted: AcceptedRun) -> None:
    """Let every ready socket of the user follow the run, as starting it over a socket does."""
    for connection in chain.server.connections.of(accepted.context.user_id):
        connection.follow(accepted.context.run_id, accepted.run)


async def run_agent(chain: ServerUnderTest, engine: UserExecutionEngine, accepted: AcceptedRun) -> RunResult:
    """Run the accepted run's agent by this engine."""
    spec: AgentSpec = accepted.spec
    return await engine.run(spec, spec.deadlines.filled(chain.server.settings), accepted.record.input)


async def emit_five(chain: ServerUnderTest, emitter: UserWebSocketEmitter, accepted: AcceptedRun) -> None:
    """Emit the five critical events of a run through this emitter, by a bridge of its own."""
    run, user_id = accepted.run, accepted.context.user_id
    assert run is not None
    call = ("call_1", TOOL)
    events: Sequence[Event] = (
        AgentStarted(f"started for {user_id}"),
        AgentThinking(f"for {user_id}", 1),
        ToolExecuting(*call, {"for": user_id}),
        ToolCompleted(*call, ToolStatus.OK, f"seen by {user_id}", 0.0),
    )
    with joint("L5"):
        bridge = AgentWebSocketBridge(emitter, run, chain.server.telemetry.metrics)
    try:
        for event in events:
            outcome = await bridge.emit(event, run.ledger.emitted(event.type, time.monotonic_ns()))
            assert outcome.seq == emitter.durable_seq, f"{event.type}: {outcome}"
        last = run.ledger.emitted(CRITICAL_TYPES[-1], time.monotonic_ns())
        await bridge.complete(answer_for(user_id), last)
    except WiringError as error:
        # Said by the run's own end, so that payloads and trace are what shows it.
        last = run.ledger.emitted(EventType.AGENT_ERROR, time.monotonic_ns())
        await bridge.fail(RunErrorCode.WORKER_LOST, str(error), retryable=False, ordinal=last)
        run.ended(Outcome.WORKER_LOST)
    else:
        run.ended(Outcome.COMPLETED)


# Whole looks at one run.


async def require_delivered(
    chain: ServerUnderTest,
    run: AcceptedRun | str,
    wire: Wire,
    *,
    user_id: str | None = None,
    tools: int = 1,
    sockets: int = 1,
    within_seconds: float = WITHIN_SECONDS,
) -> None:
    """Receive a run on the socket, ack it to its end, and hold payloads, ack and trace against what must be."""
    run_id, user = (run, user_id or "") if isinstance(run, str) else (run.context.run_id, run.context.user_id)
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(within_seconds):
            await wire.receive_run(run_id)
    except TimeoutError:
        findings.append(Finding("L6", "payload", f"no terminal event on the socket within {within_seconds:g} s"))
    except ConnectionClosed as error:
        findings.append(Finding("L6", "payload", f"the server closed the socket: {error}"))
    received = wire.events(run_id)
    if received:
        with suppress(ConnectionClosed):  # said above
            await wire.ack(run_id, received[-1]["seq"])
    trace = await chain.trace(run_id)
    durable = await stored(chain, run_id)
    findings += payload_findings(durable, user, run_id, "L5")
    findings += payload_findings(received, user, run_id, "L6")
    findings += await ack_findings(chain, run_id)
    findings += trace_findings(trace, user, run_id, tools=tools, sockets=sockets, traceparents=traceparents(durable))
    require(findings)


async def require_durable(chain: ServerUnderTest, accepted: AcceptedRun, *, tools: int = 1) -> None:
    """Hold a run that no socket follows against what must be: its envelopes in the log, and its trace."""
    run_id, user_id = accepted.context.run_id, accepted.context.user_id
    durable = await stored(chain, run_id)
    trace = await chain.trace(run_id)
    findings = payload_findings(durable, user_id, run_id, "L5")
    findings += trace_findings(trace, user_id, run_id, tools=tools, sockets=0, traceparents=traceparents(durable))
    require(findings)


async def stored(chain: ServerUnderTest, run_id: str) -> list[Frame]:
    """The run's envelopes as the log holds them."""
    return [json.loads(event.body) for event in await chain.server.log.replay(run_id, 0, limit=REPLAY_EVENTS_MAX)]


# By the payloads.


def payload_findings(
    events: Sequence[Frame], user_id: str, run_id: str, check: str, *, input_value: Any = "ask"
) -> list[Finding]:
    """What is wrong with the five events of one run of the known agent, as breaches of `check`."""
    problems = contract_problems(events) if events else ["there is no event"]
    types = [event["type"] for event in events]
    if types != list(FIVE):
        problems.append(f"the types are {types}, must be {list(FIVE)}")
    problems += [f"{e['data'].get('message')}" for e in events if e["type"] == "agent_error"]
    for event in events:
        if (event["run_id"], event["agent"]) != (run_id, AGENT):
            problems.append(f"{event['type']} is of run {event['run_id']} by {event['agent']}")
    thoughts = [event["data"]["text"] for event in events if event["type"] == "agent_thinking"]
    outputs = [event["data"]["output"] for event in events if event["type"] == "agent_completed"]
    if types == list(FIVE) and (thoughts, outputs) != ([f"for {user_id}"], [answer_for(user_id, input_value)]):
        problems.append(f"it thinks {thoughts} and answers {outputs}, which is not what {user_id} asked for")
    seen = [(event["data"]["status"], event["data"]["result"]) for event in events if event["type"] == "tool_completed"]
    if types == list(FIVE) and seen != [("ok", f"seen by {user_id}")]:
        problems.append(f"its tool gave {seen}, which is not what was seen for {user_id}")
    times = [event["time"] for event in events]
    if times != sorted(times):
        problems.append(f"the times go backwards: {times}")
    return [Finding(check, "payload", problem) for problem in problems]


async def ack_findings(chain: ServerUnderTest, run_id: str) -> list[Finding]:
    """Whether the client's ack of the whole run has arrived."""
    summary = await chain.server.log.run(run_id)
    if summary is None or summary.acked_seq == summary.last_seq:
        return []
    return [Finding("L6", "payload", f"of {summary.last_seq} events {summary.acked_seq} are acknowledged")]


def contamination(wire: Wire, foreign: Iterable[str]) -> list[Finding]:
    """Each frame of this socket that holds something of another user's."""
    return [
        Finding("L4", "payload", f"a frame holds {stranger!r}: {text}")
        for text in wire.raw
        for stranger in foreign
        if stranger in text
    ]


def shared_stations(engines: Sequence[UserExecutionEngine]) -> list[Finding]:
    """Stations that engines of several runs share, and must not."""
    stations: dict[str, list[object]] = {
        "L2": list(engines),
        "L3": [engine.bridge for engine in engines],
        "L4": [engine.bridge.emitter for engine in engines],
    }
    return [
        Finding(check, "joint", f"{len(engines)} runs share {len(set(map(id, found)))} stations")
        for check, found in stations.items()
        if len(set(map(id, found))) != len(engines)
    ]


def emitter_findings(emitter: Any, context: UserExecutionContext) -> list[Finding]:
    """What is wrong with the emitter of this context's run: missing, bound to another, or lacking a method."""
    if not isinstance(emitter, UserWebSocketEmitter):
        return [Finding("L4", "joint", f"in the emitter's place is {emitter!r}")]
    if (emitter.user_id, emitter.run_id) != (context.user_id, context.run_id):
        return [Finding("L4", "joint", f"the emitter is bound to {emitter.user_id}'s run {emitter.run_id}")]
    missing = [name for name in EMIT_METHODS if not callable(getattr(emitter, name, None))]
    return [Finding("L5", "joint", f"the emitter lacks {', '.join(missing)}")] if missing else []


# By the trace.


class SpanRow(NamedTuple):
    """What must be the same of a span in every trace of such a run."""

    seq: int
    name: str
    kind: str
    parent: str
    station: str
    user_id: str
    error: str


def trace_findings(
    trace: RecordedTrace,
    user_id: str,
    run_id: str,
    *,
    sockets: int,
    tools: int = 1,
    traceparents: Sequence[str] | None = None,
) -> list[Finding]:
    """What is wrong with the trace of one completed run of the known agent that so many sockets followed live.

    `traceparents` are those of the run's envelopes, in order: each names its `create` span.
    """
    # A span of another trace is named below, by its station.
    problems = [problem for problem in trace.problems() if not problem.startswith("the spans are of ")]
    findings = [Finding(check_of(problem), "trace", problem) for problem in problems]
    roots = [span for span in trace if not span.parent_id]
    if len(roots) != 1:
        return [*findings, Finding("L5", "trace", f"it has {len(roots)} roots")]
    expected = expected_rows(user_id, tools=tools, sockets=sockets)
    actual = Counter(row_of(trace, span) for span in trace)
    odd: list[Finding] = []
    for what, rows in (("lacks", expected - actual), ("should not have", actual - expected)):
        odd += [
            Finding(CHECK_OF_STATION.get(row.station, "L5"), "trace", f"it {what} {row}") for row in rows.elements()
        ]
    findings += odd
    findings += order_findings(trace)
    findings += [
        Finding(check_of(problem), "trace", problem) for problem in root_problems(trace, roots[0], user_id, run_id)
    ]
    # Lost telemetry is a matter of the station whose span is not here.
    check = min((finding.check for finding in odd), default="L5")
    findings += [Finding(check, "trace", problem) for problem in lost_telemetry(trace, roots[0])]
    complete = roots[0].attributes.get("tracewire.chain.complete")
    pending = roots[0].attributes.get("tracewire.events.pending")
    if (complete, pending) != ((True, None) if sockets else (None, len(FIVE))):
        findings.append(Finding("L6", "trace", f"chain.complete is {complete}, events.pending {pending}"))
    created = [f"00-{s.trace_id}-{s.span_id}-0{int(s.sampled)}" for s in trace if s.name.startswith("create ")]
    if traceparents is not None and set(traceparents) != set(created):
        findings.append(Finding("L5", "trace", f"envelopes name {traceparents} as their spans, exported are {created}"))
    return findings


def order_findings(trace: RecordedTrace) -> list[Finding]:
    """Stations that an event is said to have crossed after a later one."""
    crossed: dict[tuple[str, Any], list[RecordedSpan]] = {}
    for span in trace:
        if "tracewire.event.seq" in span.attributes:
            key = (span.attributes["tracewire.link"], span.attributes.get("tracewire.socket"))
            crossed.setdefault(key, []).append(span)
    found: list[Finding] = []
    for (station, _), spans in crossed.items():
        spans.sort(key=lambda span: span.attributes["tracewire.event.seq"])
        found += [
            Finding(CHECK_OF_STATION.get(station, "L5"), "trace", f"{after.name} ends before {before.name}")
            for before, after in itertools.pairwise(spans)
            if after.end_ns < before.end_ns
        ]
    return found


def expected_rows(user_id: str, *, tools: int, sockets: int) -> "Counter[SpanRow]":
    """The spans of a completed run of the known agent, the root and its tools among them."""
    root = f"invoke_agent {AGENT}"
    rows = Counter({SpanRow(0, root, "internal", "", "engine", user_id, ""): 1})
    rows[SpanRow(0, f"execute_tool {TOOL}", "internal", root, "", user_id, "")] = tools
    for seq, event_type in enumerate(FIVE, start=1):
        chain = [("create", "producer", "bridge"), ("process", "consumer", "emitter")]
        if sockets:
            chain += [("send", "client", "socket"), ("settle", "client", "client")]
        parent = root
        for operation, kind, station in chain:
            name = f"{operation} {event_type}"
            rows[SpanRow(seq, name, kind, parent, station, user_id, "")] = sockets if operation == "send" else 1
            parent = name
    return +rows


def row_of(trace: RecordedTrace, span: RecordedSpan) -> SpanRow:
    """The span as a row."""
    parent, attributes = trace.parent(span), span.attributes
    return SpanRow(
        attributes.get("tracewire.event.seq", 0),
        span.name,
        span.kind,
        parent.name if parent is not None else "",
        attributes.get("tracewire.link", ""),
        attributes.get("user.id", ""),
        attributes.get("error.type", "") or ("error" if span.status == "error" else ""),
    )


def root_problems(trace: RecordedTrace, root: RecordedSpan, user_id: str, run_id: str) -> list[str]:
    """What the root says of its run, and must not."""
    expected = {
        "tracewire.run.id": run_id,
        "tracewire.run.outcome": "completed",
        "user.id": user_id,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": AGENT,
    }
    problems = [
        f"the root says {name} = {root.attributes.get(name)!r}, must be {value!r}"
        for name, value in expected.items()
        if root.attributes.get(name) != value
    ]
    problems += [f"{s.name} is of scope {s.scope!r}" for s in trace if s.scope != "tracewire"]
    problems += [f"{s.name} is of trace {s.trace_id}" for s in trace if s.trace_id != root.trace_id]
    problems += [f"{s.name} is of another run" for s in trace if s.attributes.get("tracewire.run.id") != run_id]
    for span in trace:
        seq = span.attributes.get("tracewire.event.seq")
        if seq and span.attributes.get("messaging.message.id") != f"{run_id}:{seq}":
            problems.append(f"{span.name} is of message {span.attributes.get('messaging.message.id')!r}")
    return problems


def lost_telemetry(trace: RecordedTrace, root: RecordedSpan) -> list[str]:
    """What the root says of spans that are not here, and of stamps that were never made."""
    count, lost = (root.attributes.get(f"tracewire.{name}") for name in ("trace.span_count", "stamps.lost"))
    problems = [f"the root says that stamps.lost is {lost}"] if lost else []
    return problems + (
        [f"the root says that span_count is {count}, here are {len(trace)}"] if count != len(trace) else []
    )


def check_of(problem: str) -> str:
    """The wiring check that a problem of one span breaks, by the span's name, with which it begins."""
    return "L6" if problem.startswith(("send ", "settle ")) else "L5"


def traceparents(events: Iterable[Frame]) -> list[str]:
    """The trace contexts of the envelopes, in order."""
    return [event["traceparent"] for event in events]


# Small things.


def answer_for(user_id: str, input_value: Any = "ask") -> str:
    """What the known agent answers this user."""
    return f"answer for {user_id}: {input_value}"
