"""S11 to S13: the shared engine delegates to engines of its users' own, which only the factory builds.

Each scenario is checked by the event payloads and by the exported traces.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import tracewire
from support.chain_checks import (
    USERS,
    accepted_run,
    answer_for,
    built_engine,
    emitter_parts,
    engine_parts,
    follow,
    require_delivered,
    require_durable,
    run_agent,
    signed_in,
    stored,
)
from support.factory_scenarios import (
    s11_the_shared_engine_delegates,
    s12_one_way_to_an_engine,
    s13_configuration_goes_down_the_chain,
)
from support.servers import FIVE, ServerUnderTest
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.engine.execution_engine import ExecutionEngine
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire.errors import DirectConstructionError, NotConfiguredError, RunEndedError, WiringError
from tracewire.runs.recovery import close_broken_run
from tracewire.runs.service import AcceptedRun
from tracewire_telemetry.testing.spans import RecordedTrace
from tracewire_telemetry.vocabulary import Outcome, RunErrorCode

ADA, BOB, _ = USERS
LIMITS = {"runs_max": 10, "runs_per_user_max": 2}

# S11: delegation.


async def test_s11_the_shared_engine_delegates_to_the_users_own(chain: ServerUnderTest) -> None:
    """The factory's engine has its joints, and what `execute` hands on comes back as answer and events."""
    await s11_the_shared_engine_delegates(chain)


async def test_s11_the_shared_engine_gives_a_result_and_the_runs_events(chain: ServerUnderTest) -> None:
    """`execute` returns the agent's answer and the receipt; the five events reach the socket, each by every link."""
    async with signed_in(chain, ADA) as wire, accepted_run(chain, ADA) as accepted:
        follow(chain, accepted)
        result = await chain.server.engine.execute(accepted.context, accepted.spec, accepted.record.input)
        assert (Outcome.COMPLETED, answer_for(ADA), "") == (result.outcome, result.output, result.message)
        assert (len(FIVE), dict.fromkeys(FIVE, 1)) == (result.receipt.last_seq, result.receipt.counts)
        await require_delivered(chain, accepted, wire)


async def test_s11_each_run_has_an_engine_of_its_users_own_while_it_is_open(chain: ServerUnderTest) -> None:
    """Two users' open runs are served by two engines with their own contexts; after the end none is kept."""
    engine = chain.server.engine
    async with signed_in(chain, ADA) as ada, signed_in(chain, BOB) as bob:
        run_ids = []
        for wire in (ada, bob):
            run_ids.append(await wire.start_run("ask", agent="waits"))
            await wire.receive_type("agent_thinking")
        engines = [engine.engine_of(run_id) for run_id in run_ids]
        assert all(type(found) is UserExecutionEngine for found in engines)
        assert [found.context.user_id for found in engines if found is not None] == [ADA, BOB]
        assert engines[0] is not engines[1]
        for user_id, wire, run_id in zip((ADA, BOB), (ada, bob), run_ids, strict=True):
            await wire.send("cancel_run", run_id=run_id)
            events = await wire.receive_run(run_id)
            assert [event["type"] for event in events] == ["agent_started", "agent_thinking", "agent_cancelled"]
            await wire.ack(run_id, len(events))
            trace = await chain.trace(run_id)
            assert (trace.problems(), trace.root.attributes["tracewire.run.outcome"]) == ([], "cancelled")
            assert 1 + 4 * len(events) == len(trace) == trace.root.attributes["tracewire.trace.span_count"]
            assert {user_id} == {span.attributes["user.id"] for span in trace}
        assert [engine.engine_of(run_id) for run_id in run_ids] == [None, None]


async def test_s11_runs_side_by_side_keep_to_themselves(chain: ServerUnderTest) -> None:
    """Three users' runs, executed at once by the one shared engine, each end with their own user's answer."""
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in USERS]
        results = await asyncio.gather(
            *(chain.server.engine.execute(run.context, run.spec, run.record.input) for run in runs)
        )
        assert [answer_for(user_id) for user_id in USERS] == [result.output for result in results]
        for accepted in runs:
            await require_durable(chain, accepted)


async def test_s11_an_engine_serves_one_run_once(chain: ServerUnderTest) -> None:
    """A second `run` of the same engine is refused, and adds no event and no span to the first."""
    async with accepted_run(chain, ADA) as accepted:
        engine = built_engine(chain.server.factory, accepted.context)
        await run_agent(chain, engine, accepted)
        with pytest.raises(RunEndedError, match="create one for each run"):
            await run_agent(chain, engine, accepted)
        await require_durable(chain, accepted)


# S12: one way to build an engine.


async def test_s12_the_factorys_engine_works_and_no_other_is_built(chain: ServerUnderTest) -> None:
    """Built by hand it is refused, and the refusal leaves the factory's own untouched."""
    await s12_one_way_to_an_engine(chain)


async def test_s12_direct_construction_is_refused_and_the_factory_named(chain: ServerUnderTest) -> None:
    """With no arguments or with all the right ones: the refusal says what to call, and calling that works."""
    async with accepted_run(chain, ADA) as accepted:
        bridge = built_engine(chain.server.factory, accepted.context).bridge
        attempts: list[tuple[object, ...]] = [(), (accepted.context,), (accepted.context, bridge, accepted.run)]
        for arguments in attempts:
            with pytest.raises(DirectConstructionError) as refused:
                UserExecutionEngine(*arguments)
            assert "call ExecutionFactory.create_user_engine(context)" in str(refused.value)
            assert (refused.value.check, refused.value.code) == ("L3", "direct_construction")
        assert await stored(chain, accepted.context.run_id) == []
        await run_agent(chain, built_engine(chain.server.factory, accepted.context), accepted)
        await require_durable(chain, accepted)


async def test_s12_a_subclass_cannot_be_built_directly_either(chain: ServerUnderTest) -> None:
    """Deriving from the engine is no way around the factory."""

    class OwnEngine(UserExecutionEngine):
        pass

    with pytest.raises(DirectConstructionError):
        OwnEngine()
    async with accepted_run(chain, ADA) as accepted:
        assert UserExecutionEngine is type(built_engine(chain.server.factory, accepted.context))


def test_s12_nothing_but_the_factory_wires_an_engine() -> None:
    """In the whole of the product one place calls the constructor that wires."""
    root = Path(tracewire.__file__).parent
    callers = [path.relative_to(root).as_posix() for path in root.rglob("*.py") if "._wired(" in path.read_text()]
    assert callers == ["engine/factory.py"]


# S13: errors of configuration go down the chain.


async def test_s13_the_servers_chain_is_configured_and_a_partial_one_is_refused_whole(chain: ServerUnderTest) -> None:
    """What is missing is named at each station above; given, the same factories and engine deliver."""
    await s13_configuration_goes_down_the_chain(chain)


async def test_s13_an_unconfigured_emitter_factory_is_a_clear_error_in_all_that_depend_on_it(
    chain: ServerUnderTest,
) -> None:
    """The execution factory and the shared engine name what the emitter factory lacks; the run ends, with no event."""
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    expected = tuple(f"{name} (of the emitter factory)" for name in ("event log", "connections", "watch", "health"))
    with pytest.raises(NotConfiguredError, match="ExecutionFactory") as configuring:
        factory.configure(**engine_parts(chain, emitters))
    assert (expected, "L1") == (configuring.value.missing, configuring.value.check)
    engine = ExecutionEngine(factory, **LIMITS)
    async with accepted_run(chain, ADA) as accepted:
        with pytest.raises(NotConfiguredError) as executing:
            await engine.execute(accepted.context, accepted.spec, accepted.record.input)
        assert expected == executing.value.missing
        assert all(name in str(executing.value) for name in expected)
        await require_unwired(chain, accepted)


async def test_s13_partial_success_counts_as_failure(chain: ServerUnderTest) -> None:
    """With one dependency of the emitters missing, the factory is unready as a whole and makes nothing at all."""
    parts = emitter_parts(chain)
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    with pytest.raises(NotConfiguredError):
        emitters.configure(**parts | {"connections": None})
    with pytest.raises(NotConfiguredError):
        factory.configure(**engine_parts(chain, emitters))
    assert (factory.configured, factory.missing) == (False, ("connections (of the emitter factory)",))
    async with accepted_run(chain, ADA) as accepted:
        for make in (factory.create_user_engine, factory.create_user_emitter):
            with pytest.raises(NotConfiguredError):
                make(accepted.context)
        with pytest.raises(NotConfiguredError):
            await ExecutionEngine(factory, **LIMITS).execute(accepted.context, accepted.spec, "ask")
        await require_unwired(chain, accepted)


async def test_s13_runs_after_a_repaired_configuration_work(chain: ServerUnderTest) -> None:
    """The same factories and the same engine, given what was missing, deliver the next run whole."""
    parts = emitter_parts(chain)
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    with pytest.raises(NotConfiguredError):
        emitters.configure(**parts | {"log": None})
    with pytest.raises(NotConfiguredError):
        factory.configure(**engine_parts(chain, emitters) | {"threads": None})
    engine = ExecutionEngine(factory, **LIMITS)
    async with accepted_run(chain, ADA) as failing:
        with pytest.raises(NotConfiguredError) as refused:
            await engine.execute(failing.context, failing.spec, "ask")
        assert refused.value.missing == ("threads", "event log (of the emitter factory)")
    emitters.configure(log=parts["log"])
    assert factory.missing == ("threads",)
    factory.configure(**engine_parts(chain, emitters))
    assert factory.configured
    async with signed_in(chain, ADA) as wire, accepted_run(chain, ADA) as accepted:
        follow(chain, accepted)
        result = await engine.execute(accepted.context, accepted.spec, accepted.record.input)
        assert Outcome.COMPLETED is result.outcome
        await require_delivered(chain, accepted, wire)


async def test_s13_whatever_a_factory_raises_the_run_ends_with_a_terminal_event(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user gets `agent_error` with what was raised, the root says so, and the place of the run is free again."""

    def fail(*_: object) -> None:
        raise LookupError("no such shard")

    async with signed_in(chain, ADA) as wire:
        with monkeypatch.context() as patch:
            patch.setattr(chain.server.factory, "_create_bridge", fail)
            for attempt in range(chain.server.settings.runs_per_user_max + 1):
                run_id = await wire.start_run("ask", agent="five", request_id=f"request-{attempt}")
                events = await wire.receive_run(run_id)
                assert [event["type"] for event in events] == ["agent_error"]
                assert "no such shard" in events[0]["data"]["message"]
                await wire.ack(run_id, 1)
                trace = await chain.trace(run_id)
                assert (trace.problems(), trace.root.attributes["error.type"]) == ([], "worker_lost")


async def test_s13_another_dependency_in_a_configured_ones_place_is_refused(chain: ServerUnderTest) -> None:
    """Factories are configured once: a second emitter factory is refused, and runs go on with the first."""
    factory = ExecutionFactory()
    factory.configure(**engine_parts(chain, chain.server.emitters))
    with pytest.raises(WiringError, match="emitter factory was configured before") as refused:
        factory.configure(emitters=UserEmitterFactory())
    assert refused.value.check == "L1"
    async with accepted_run(chain, BOB) as accepted:
        await run_agent(chain, built_engine(factory, accepted.context), accepted)
        await require_durable(chain, accepted)


async def require_unwired(chain: ServerUnderTest, accepted: AcceptedRun) -> None:
    """The run has no event until it is ended past its stations, as the service does; its trace says so."""
    user_id, run_id = accepted.context.user_id, accepted.context.run_id
    assert await stored(chain, run_id) == []
    server, code = chain.server, RunErrorCode.WORKER_LOST
    await close_broken_run(server.log, server.connections, user_id, run_id, accepted.run, code, "not wired")
    assert ["agent_error"] == [event["type"] for event in await stored(chain, run_id)]
    trace: RecordedTrace = await chain.trace(run_id)
    assert sorted([trace.root.name, "create agent_error", "process agent_error"]) == sorted(s.name for s in trace)
    assert (trace.root.status, trace.root.attributes["error.type"]) == ("error", "worker_lost")
