"""The scenarios that look at the factories and what they build: S3, S9 to S13, and S16.

Like those of `chain_checks`, each looks at joints, payloads and traces, and raises `BrokenChainError`, naming the link.
"""

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from support.chain_checks import (
    AGENT,
    CHECK_OF_STATION,
    USERS,
    WITHIN_SECONDS,
    BrokenChainError,
    Finding,
    accepted_run,
    answer_for,
    built_emitter,
    built_engine,
    emit_five,
    emitter_parts,
    engine_parts,
    follow,
    joint,
    require,
    require_delivered,
    require_durable,
    run_agent,
    signed_in,
    stored,
)
from support.servers import ServerUnderTest
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.engine.execution_engine import ExecutionEngine
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire.errors import DirectConstructionError, NotConfiguredError, WiringError
from tracewire.gateway import sockets
from tracewire.wiring import check_wiring
from tracewire_telemetry.vocabulary import Outcome

MANY_USERS: Final = tuple(f"user-s09-{number}" for number in range(6))
FACTORIES: Final = 3
LIMITS: Final = {"runs_max": 10, "runs_per_user_max": 2}


async def s03_every_dependency_of_the_emitter(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """Nothing is missing of the server's factories, and with what they were given an emitter delivers."""
    require(configuration_findings(chain))
    async with signed_in(chain, user_id) as wire, accepted_run(chain, user_id) as accepted:
        emitter = built_emitter(chain, accepted.context)
        follow(chain, accepted)
        await emit_five(chain, emitter, accepted)
        await require_delivered(chain, accepted, wire, tools=0, within_seconds=within_seconds)


async def s09_many_emitters_at_once(chain: ServerUnderTest, *, user_ids: Sequence[str] = MANY_USERS) -> None:
    """An unconfigured factory fails by name; the server's makes many emitters at once, and all of them work."""
    unconfigured = UserEmitterFactory()
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in user_ids]
        for accepted in runs:
            with refused("L1", NotConfiguredError):
                unconfigured.create_user_emitter(accepted.context.user_id, accepted.context.run_id)
        emitters = [built_emitter(chain, accepted.context) for accepted in runs]
        require_apart("L4", emitters)
        await asyncio.gather(*map(emit_five, [chain] * len(runs), emitters, runs))
        for accepted in runs:
            await require_durable(chain, accepted, tools=0)


async def s10_the_same_for_every_user(
    chain: ServerUnderTest, *, user_ids: Sequence[str] = ("user-s10a", "user-s10b")
) -> None:
    """Factories configured at once show the readiness of the server's own; each user gets an emitter from all."""
    fresh = [UserEmitterFactory() for _ in range(FACTORIES)]
    await asyncio.gather(*(asyncio.to_thread(factory.configure, **emitter_parts(chain)) for factory in fresh))
    factories = [chain.server.emitters, *fresh]
    readiness = {(factory.configured, factory.missing) for factory in factories}
    if readiness != {(True, ())}:
        raise BrokenChainError([Finding("L1", "joint", f"the factories are not of one mind: {readiness}")])
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in user_ids]
        for accepted in runs:
            built_emitter(chain, accepted.context)
            context = accepted.context
            require_apart("L4", [factory.create_user_emitter(context.user_id, context.run_id) for factory in factories])
        emitters = [built_emitter(chain, accepted.context) for accepted in runs]
        await asyncio.gather(*map(emit_five, [chain] * len(runs), emitters, runs))
        for accepted in runs:
            await require_durable(chain, accepted, tools=0)


async def s11_the_shared_engine_delegates(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """`execute` hands the run to an engine of its user's own: the answer comes back, the events reach the socket."""
    async with accepted_run(chain, user_id) as looked_at:
        built_engine(chain.server.factory, looked_at.context)
    async with signed_in(chain, user_id) as wire, accepted_run(chain, user_id) as accepted:
        follow(chain, accepted)
        with joint("L2"):
            result = await chain.server.engine.execute(accepted.context, accepted.spec, accepted.record.input)
        await require_delivered(chain, accepted, wire, within_seconds=within_seconds)
        assert (Outcome.COMPLETED, answer_for(user_id)) == (result.outcome, result.output)


async def s12_one_way_to_an_engine(chain: ServerUnderTest, *, user_id: str = USERS[0]) -> None:
    """The factory's engine works; one that is constructed by hand is refused, with what to call instead."""
    async with accepted_run(chain, user_id) as accepted:
        engine = built_engine(chain.server.factory, accepted.context)
        for arguments in ((), (accepted.context, engine.bridge, accepted.run)):
            with refused("L3", DirectConstructionError, says="ExecutionFactory.create_user_engine"):
                UserExecutionEngine(*arguments)
        await run_agent(chain, engine, accepted)
        await require_durable(chain, accepted)


async def s13_configuration_goes_down_the_chain(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """The server's chain is configured throughout. One that is not is refused whole, and works when it is repaired."""
    require(configuration_findings(chain))
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    parts = emitter_parts(chain)
    with refused("L1", NotConfiguredError, says="connections"):
        emitters.configure(**parts | {"connections": None})
    with refused("L1", NotConfiguredError, says="connections (of the emitter factory)"):
        factory.configure(**engine_parts(chain, emitters))
    engine = ExecutionEngine(factory, **LIMITS)
    async with accepted_run(chain, user_id) as failing:
        with refused("L1", NotConfiguredError, says="connections (of the emitter factory)"):
            await engine.execute(failing.context, failing.spec, "ask")
        if await stored(chain, failing.context.run_id):
            raise BrokenChainError([Finding("L1", "payload", "an unconfigured factory has let events through")])
    emitters.configure(connections=parts["connections"])
    async with signed_in(chain, user_id) as wire, accepted_run(chain, user_id) as accepted:
        follow(chain, accepted)
        with joint("L2"):
            await engine.execute(accepted.context, accepted.spec, accepted.record.input)
        await require_delivered(chain, accepted, wire, within_seconds=within_seconds)


async def s16_the_architecture(
    chain: ServerUnderTest, *, user_id: str = USERS[0], within_seconds: float = WITHIN_SECONDS
) -> None:
    """The start-up check holds, factories are independent and injected, interfaces are there, a run is whole."""
    checks = await check_wiring(chain.server)
    findings = [Finding(check.check, "joint", check.message) for check in checks if check.holds is False]
    require(finding for finding in findings if finding.check not in CHECK_OF_STATION.values())
    findings += independence_findings(chain)
    findings += interface_findings(chain)
    async with accepted_run(chain, user_id) as first, accepted_run(chain, user_id) as second:
        engines = [built_engine(chain.server.factory, accepted.context) for accepted in (first, second)]
        for check, stations in (("L3", [e.bridge for e in engines]), ("L4", [e.bridge.emitter for e in engines])):
            require_apart(check, stations)
    async with signed_in(chain, user_id) as wire:
        run_id = await wire.start_run("ask", agent=AGENT)
        try:
            await require_delivered(chain, run_id, wire, user_id=user_id, within_seconds=within_seconds)
        except BrokenChainError as error:
            findings += error.findings
    require(findings)


# What they look for.


def configuration_findings(chain: ServerUnderTest) -> list[Finding]:
    """What the server's factories lack: each dependency, of the emitters and of the engines."""
    server = chain.server
    lacking = {"UserEmitterFactory": server.emitters.missing, "ExecutionFactory": server.factory.missing}
    return [
        Finding("L1", "joint", f"{factory} lacks {', '.join(missing)}")
        for factory, missing in lacking.items()
        if missing
    ]


def independence_findings(chain: ServerUnderTest) -> list[Finding]:
    """Whether configuring one factory configures another, and whether a factory keeps what it was given."""
    found: list[Finding] = []
    one, other = UserEmitterFactory(), UserEmitterFactory()
    one.configure(**emitter_parts(chain))
    engine_factory = ExecutionFactory()
    engine_factory.configure(**engine_parts(chain, one))
    if other.configured or ExecutionFactory().configured:
        found.append(Finding("L1", "joint", "configuring one factory has configured another"))
    if engine_factory._emitters is not one or chain.server.factory._emitters is one:
        found.append(Finding("L1", "joint", "a factory does not keep to what it was given"))
    return found


def interface_findings(chain: ServerUnderTest) -> list[Finding]:
    """Which method that a station calls on the next is not there, or is no coroutine function where it must be."""
    server = chain.server
    awaited: list[tuple[str, Any, Sequence[str]]] = [
        ("L2", server.engine, ("execute",)),
        ("L2", UserExecutionEngine, ("run",)),
        ("L3", AgentWebSocketBridge, ("emit", "complete", "fail", "cancel")),
        ("L6", sockets, ("serve_socket",)),
    ]
    called: list[tuple[str, Any, Sequence[str]]] = [
        ("L1", server.factory, ("configure", "create_user_engine", "create_user_emitter")),
        ("L1", server.emitters, ("configure", "create_user_emitter")),
    ]
    found = [
        Finding(check, "joint", f"{owner!r} has no coroutine function {name}")
        for check, owner, names in awaited
        for name in names
        if not inspect.iscoroutinefunction(getattr(owner, name, None))
    ]
    return found + [
        Finding(check, "joint", f"{owner!r} has no method {name}")
        for check, owner, names in called
        for name in names
        if not callable(getattr(owner, name, None))
    ]


def require_apart(check: str, stations: Sequence[object]) -> None:
    """Raise where two of these stations are one."""
    if len(set(map(id, stations))) != len(stations):
        raise BrokenChainError([Finding(check, "joint", f"{len(stations)} runs share a station")])


@contextmanager
def refused(check: str, error: type[WiringError], *, says: str = "") -> Iterator[None]:
    """What is called inside must be refused with this error, which names this link and says this.

    Raises:
        BrokenChainError: it was not.
    """
    raised: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001 # what it is, is looked at below
        raised = caught
    if not (isinstance(raised, error) and raised.check == check and says in str(raised)):
        expected = f"{error.__name__} of {check}" + (f" that says {says!r}" if says else "")
        raise BrokenChainError([Finding(check, "joint", f"{raised!r} in place of {expected}")]) from raised
