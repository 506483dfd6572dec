"""S1 to S4: the engine, its bridge and its emitter are joined by the factories, and no gap between them is silent.

Each scenario is checked by the event payloads and by the exported traces.
"""

from typing import Any

import pytest
from structlog.testing import capture_logs

from support.chain_checks import (
    AGENT,
    EMIT_METHODS,
    USERS,
    accepted_run,
    built_engine,
    emitter_parts,
    engine_parts,
    follow,
    require_delivered,
    require_durable,
    run_agent,
    s01_a_signed_in_user_runs_an_agent,
    s02_the_factories_hand_off,
    s04_no_silent_failure,
    signed_in,
    stored,
)
from support.factory_scenarios import s03_every_dependency_of_the_emitter
from support.faults import Break, no_bridge, no_emitter, quiet_method, without_method
from support.servers import FIVE, ServerUnderTest
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.engine.factory import ExecutionFactory
from tracewire.errors import NotConfiguredError
from tracewire.runs import service
from tracewire.runs.recovery import close_broken_run

ADA, BOB, _ = USERS
EMITTER_DEPENDENCIES = ("event log", "connections", "watch", "health")
ENGINE_DEPENDENCIES = ("settings", "emitter factory", "agent registry", "watch", "metrics", "health", "threads")

# S1: a configured factory builds an engine for a signed-in user and runs an agent.


async def test_s01_a_signed_in_user_runs_an_agent(chain: ServerUnderTest) -> None:
    """The engine has its bridge, the bridge its emitter, and started to completed reach the socket and the trace."""
    await s01_a_signed_in_user_runs_an_agent(chain)


async def test_s01_every_socket_of_the_user_gets_the_run_and_nobody_else_does(chain: ServerUnderTest) -> None:
    """Both of the user's sockets get all five events, with a `send` span each; another user's socket gets nothing."""
    async with (
        signed_in(chain, ADA) as first,
        signed_in(chain, ADA) as second,
        signed_in(chain, BOB) as others,
        accepted_run(chain, ADA) as accepted,
    ):
        follow(chain, accepted)
        await run_agent(chain, built_engine(chain.server.factory, accepted.context), accepted)
        run_id = accepted.context.run_id
        await second.receive_run(run_id)
        await require_delivered(chain, accepted, first, sockets=2)
        assert first.events(run_id) == second.events(run_id) == await stored(chain, run_id)
        assert others.events(run_id) == []


# S2: the hand-off between the factories.


async def test_s02_the_factories_wire_the_chain_and_the_caller_never_does(chain: ServerUnderTest) -> None:
    """Of three users' contexts alone come three engines, each with a bridge and an emitter of its own that work."""
    await s02_the_factories_hand_off(chain)


async def test_s02_the_engine_factory_takes_its_emitters_from_the_emitter_factory(chain: ServerUnderTest) -> None:
    """Two execution factories on one emitter factory hand over emitters of the same run, each a fresh one."""
    other = ExecutionFactory()
    other.configure(**engine_parts(chain, chain.server.emitters))
    async with accepted_run(chain, ADA) as accepted:
        emitters = [
            factory.create_user_engine(accepted.context).bridge.emitter for factory in (chain.server.factory, other)
        ]
        assert [(ADA, accepted.context.run_id)] * 2 == [(emitter.user_id, emitter.run_id) for emitter in emitters]
        assert emitters[0] is not emitters[1]
        await run_agent(chain, built_engine(other, accepted.context), accepted)
        await require_durable(chain, accepted)


# S3: every dependency of the emitter is checked.


async def test_s03_nothing_is_missing_of_the_servers_own_factories(chain: ServerUnderTest) -> None:
    """Of neither factory, and an emitter made with what they were given delivers."""
    await s03_every_dependency_of_the_emitter(chain)


async def test_s03_every_dependency_is_present_after_configure(chain: ServerUnderTest) -> None:
    """A new pair of factories with the server's connections, agents and health lacks nothing, and carries a run."""
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    assert (emitters.missing, emitters.configured) == (EMITTER_DEPENDENCIES, False)
    assert (factory.missing, factory.configured) == (ENGINE_DEPENDENCIES, False)
    emitters.configure(**emitter_parts(chain))
    factory.configure(**engine_parts(chain, emitters))
    assert (emitters.missing, emitters.configured) == ((), True)
    assert (factory.missing, factory.configured) == ((), True)
    assert chain.server.agents is factory.agents
    async with signed_in(chain, ADA) as wire, accepted_run(chain, ADA) as accepted:
        follow(chain, accepted)
        await run_agent(chain, built_engine(factory, accepted.context), accepted)
        await require_delivered(chain, accepted, wire)


async def test_s03_every_failed_step_is_reported(chain: ServerUnderTest) -> None:
    """A configuration that lacks several things names each of them at once, those of the emitters included.

    Until the last is given nothing is built, and the run has neither an event nor a span of one.
    """
    parts = emitter_parts(chain)
    emitters, factory = UserEmitterFactory(), ExecutionFactory()
    with pytest.raises(NotConfiguredError) as lacking:
        emitters.configure(log=parts["log"])
    assert lacking.value.missing == ("connections", "watch", "health")
    assert "L1: UserEmitterFactory is not configured: connections, watch, health missing" in str(lacking.value)
    with pytest.raises(NotConfiguredError) as lacking:
        factory.configure(settings=chain.server.settings, emitters=emitters, agents=chain.server.agents)
    of_the_emitters = tuple(f"{name} (of the emitter factory)" for name in ("connections", "watch", "health"))
    assert ("watch", "metrics", "health", "threads", *of_the_emitters) == lacking.value.missing
    assert all(name in str(lacking.value) for name in lacking.value.missing)
    async with accepted_run(chain, ADA) as accepted:
        with pytest.raises(NotConfiguredError) as refused:
            factory.create_user_engine(accepted.context)
        assert lacking.value.missing == refused.value.missing
        assert await stored(chain, accepted.context.run_id) == []
    trace = await chain.trace(accepted.context.run_id)
    assert [s.attributes["tracewire.event.type"] for s in trace if s.name.startswith("create ")] == ["agent_error"]


@pytest.mark.parametrize("left_out", ["log", "connections", "watch", "health"])
async def test_s03_a_single_missing_dependency_is_named(chain: ServerUnderTest, left_out: str) -> None:
    """Whichever dependency is left out is the one that is named; given afterwards, the emitter works."""
    parts = emitter_parts(chain)
    emitters = UserEmitterFactory()
    with pytest.raises(NotConfiguredError) as lacking:
        emitters.configure(**{name: part for name, part in parts.items() if name != left_out})
    assert (left_out.replace("log", "event log"),) == lacking.value.missing
    emitters.configure(**{left_out: parts[left_out]})
    factory = ExecutionFactory()
    factory.configure(**engine_parts(chain, emitters))
    async with accepted_run(chain, ADA) as accepted:
        await run_agent(chain, built_engine(factory, accepted.context), accepted)
        await require_durable(chain, accepted)


async def test_s03_an_agent_registry_without_agents_counts_as_missing(chain: ServerUnderTest) -> None:
    """A registry that is there but empty could run nothing: it is named like one that was not given."""
    parts = engine_parts(chain, chain.server.emitters)
    factory = ExecutionFactory()
    with pytest.raises(NotConfiguredError) as lacking:
        factory.configure(**parts | {"agents": type(chain.server.agents)()})
    assert lacking.value.missing == ("agent registry",)


# S4: no silent failure.


async def test_s04_all_five_types_are_observed(chain: ServerUnderTest) -> None:
    """A run that a client starts in the ordinary way shows all five types on the socket and at each link."""
    await s04_no_silent_failure(chain)


NAMED_TO_THE_USER = [("L3", "no_bridge", no_bridge)] + [
    ("L5", f"quiet_{method}", quiet_method(event_type)) for method, event_type in zip(EMIT_METHODS, FIVE, strict=True)
]


@pytest.mark.parametrize(("check", "break_it"), [pytest.param(c, b, id=f"{c}-{n}") for c, n, b in NAMED_TO_THE_USER])
async def test_s04_a_broken_link_is_a_named_failure_and_never_a_quiet_no_op(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, check: str, break_it: Break
) -> None:
    """The user gets `agent_error` with the link in its message, the root span fails, and the receipt tells the truth.

    Before the bridge held each emit against the log, a method that did nothing left a run that looked whole.
    """
    break_it(monkeypatch, chain.server)
    async with signed_in(chain, ADA) as wire:
        run_id = await wire.start_run("ask", agent=AGENT)
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, events[-1]["seq"])
        trace = await chain.trace(run_id)
    last = events[-1]
    assert (last["type"], last["data"]["code"]) == ("agent_error", "worker_lost")
    assert f"{check}: " in last["data"]["message"]
    assert len(events) == last["data"]["receipt"]["last_seq"]
    assert (trace.root.status, trace.root.attributes["error.type"]) == ("error", "worker_lost")
    assert trace.problems() == []
    settled = [span.attributes["tracewire.event.type"] for span in trace if span.name.startswith("settle ")]
    assert [event["type"] for event in events] == settled


@pytest.mark.parametrize(
    ("check", "break_it"),
    [pytest.param("L4", no_emitter, id="L4-no_emitter")]
    + [pytest.param("L5", without_method(event_type), id=f"L5-no_emit_{event_type}") for event_type in FIVE],
)
async def test_s04_a_chain_that_cannot_be_wired_ends_the_run_and_names_the_link(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, check: str, break_it: Break
) -> None:
    """Without an emitter, or a method of it, the user still gets the one terminal event, which names the link."""
    break_it(monkeypatch, chain.server)
    with capture_logs() as records:
        async with signed_in(chain, ADA) as wire:
            run_id = await wire.start_run("ask", agent=AGENT)
            events = await wire.receive_run(run_id)
            await wire.ack(run_id, 1)
            trace = await chain.trace(run_id)
    assert [(event["type"], event["seq"], event["data"]["code"]) for event in events] == [
        ("agent_error", 1, "worker_lost")
    ]
    assert f"{check}: " in events[0]["data"]["message"]
    said = [record["error"] for record in records if record["event"] == "run_not_wired"]
    assert [error.startswith(f"{check}: ") for error in said] == [True], records
    assert await stored(chain, run_id) == events
    assert (trace.root.status, trace.root.attributes["error.type"]) == ("error", "worker_lost")
    assert [span.name for span in trace] == [
        f"invoke_agent {AGENT}",
        "create agent_error",
        "process agent_error",
        "send replay",
        "settle replay",
    ]


async def test_s04_a_look_at_the_sockets_between_a_broken_run_and_its_end_loses_nothing(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has ended before its terminal event can be durable: a socket that forgets settled runs keeps it."""
    without_method("agent_completed")(monkeypatch, chain.server)

    async def look_then_close(*arguments: Any) -> None:
        for connection in chain.server.connections:
            connection.forget_settled()
        await close_broken_run(*arguments)

    monkeypatch.setattr(service, "close_broken_run", look_then_close)
    async with signed_in(chain, ADA) as wire:
        run_id = await wire.start_run("ask", agent=AGENT)
        events = await wire.receive_run(run_id)
    assert [event["type"] for event in events] == ["agent_error"]


async def test_s04_runs_after_a_broken_one_are_whole(chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of one run stays with it: the next over the same socket is whole."""
    async with signed_in(chain, ADA) as wire:
        with monkeypatch.context() as patch:
            quiet_method("agent_thinking")(patch, chain.server)
            broken_id = await wire.start_run("ask", agent=AGENT)
            broken_events = await wire.receive_run(broken_id)
        assert broken_events[-1]["type"] == "agent_error"
        run_id = await wire.start_run("ask", agent=AGENT)
        await require_delivered(chain, run_id, wire, user_id=ADA)
