"""S8 to S10: the per-user emitter factory, its dependencies, and its state across users.

Each scenario is checked by the event payloads and by the exported traces.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from support.chain_checks import (
    AGENT,
    EMIT_METHODS,
    USERS,
    accepted_run,
    built_emitter,
    emit_five,
    emitter_parts,
    require_durable,
    s08_three_users_from_one_factory,
    stored,
)
from support.factory_scenarios import s09_many_emitters_at_once, s10_the_same_for_every_user
from support.servers import ServerUnderTest
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.connections import Connections
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.errors import NotConfiguredError, WiringError
from tracewire.events import AgentStarted, Envelope
from tracewire.runs.service import AcceptedRun
from tracewire_telemetry.chain import envelope_traceparents
from tracewire_telemetry.vocabulary import EventType

ADA, BOB, CLEO = USERS
DEPENDENCIES = ("event log", "connections", "watch", "health")
MANY_RUNS = 40
FACTORIES = 5

# S8: one factory, three users.


async def test_s08_three_users_get_three_emitters_of_their_own(chain: ServerUnderTest) -> None:
    """Each emitter is bound to its user and has all five methods; each socket gets its own user's run alone."""
    await s08_three_users_from_one_factory(chain)


async def test_s08_an_emitter_is_made_for_the_owner_of_the_run_alone(chain: ServerUnderTest) -> None:
    """Asked for another user's run, for one that nobody accepted, or for nobody, the factory refuses and names L4.

    The owner's run is untouched by it: its own emitter delivers it whole.
    """
    async with accepted_run(chain, ADA) as accepted:
        run_id = accepted.context.run_id
        for user_id, asked in ((BOB, run_id), (ADA, "no-such-run"), ("", run_id)):
            with pytest.raises(WiringError, match="has no accepted run") as refused:
                chain.server.emitters.create_user_emitter(user_id, asked)
            assert refused.value.check == "L4"
        assert await stored(chain, run_id) == []
        await emit_five(chain, built_emitter(chain, accepted.context), accepted)
        await require_durable(chain, accepted, tools=0)


async def test_s08_an_emitter_of_one_run_carries_no_event_of_another(chain: ServerUnderTest) -> None:
    """A bridge does not take another user's emitter, and an emitter does not take another run's envelope."""
    async with accepted_run(chain, ADA) as adas, accepted_run(chain, BOB) as bobs:
        of_ada, of_bob = (built_emitter(chain, accepted.context) for accepted in (adas, bobs))
        assert adas.run is not None
        with pytest.raises(WiringError, match=f"given the emitter of {BOB}") as refused:
            AgentWebSocketBridge(of_bob, adas.run, chain.server.telemetry.metrics)
        assert refused.value.check == "L4"
        envelope = Envelope(
            EventType.AGENT_STARTED,
            adas.context.run_id,
            1,
            "2026-01-01T00:00:00Z",
            AGENT,
            envelope_traceparents(adas.run.ledger.identity)(1),
            AgentStarted("of another's run"),
        )
        with pytest.raises(WiringError, match="was given agent_started") as refused:
            await of_bob.emit_agent_started(envelope)
        assert refused.value.check == "L4"
        for accepted, emitter in ((adas, of_ada), (bobs, of_bob)):
            assert await stored(chain, accepted.context.run_id) == []
            await emit_five(chain, emitter, accepted)
            await require_durable(chain, accepted, tools=0)


# S9: the chain of dependencies.


async def test_s09_the_servers_factory_makes_many_at_once(chain: ServerUnderTest) -> None:
    """Where an unconfigured one refuses each of them by name."""
    await s09_many_emitters_at_once(chain)


async def test_s09_using_it_unconfigured_fails_by_name(chain: ServerUnderTest) -> None:
    """Nothing is made and nothing emitted; the error names the factory and every dependency."""
    factory = UserEmitterFactory()
    async with accepted_run(chain, ADA) as accepted:
        with pytest.raises(NotConfiguredError, match="UserEmitterFactory") as refused:
            factory.create_user_emitter(ADA, accepted.context.run_id)
        assert (refused.value.missing, refused.value.check) == (DEPENDENCIES, "L1")
        assert all(name in str(refused.value) for name in (*DEPENDENCIES, "configure"))
        assert await stored(chain, accepted.context.run_id) == []
        factory.configure(**emitter_parts(chain))
        assert factory.missing == ()
        emitter = factory.create_user_emitter(ADA, accepted.context.run_id)
        await emit_five(chain, emitter, accepted)
        await require_durable(chain, accepted, tools=0)


async def test_s09_configuring_is_idempotent_and_never_swaps_a_dependency(chain: ServerUnderTest) -> None:
    """The same again changes nothing; another object in a dependency's place is refused, and the first one stays."""
    factory = UserEmitterFactory()
    for _ in range(3):
        factory.configure(**emitter_parts(chain))
    with pytest.raises(WiringError, match="connections was configured before") as refused:
        factory.configure(connections=Connections())
    assert (refused.value.check, factory.configured) == ("L1", True)
    async with accepted_run(chain, ADA) as accepted:
        await emit_five(chain, factory.create_user_emitter(ADA, accepted.context.run_id), accepted)
        await require_durable(chain, accepted, tools=0)


async def test_s09_many_created_at_once_all_succeed(chain: ServerUnderTest) -> None:
    """Forty users' emitters, made and used at the same time by one factory: each run is whole, in log and trace."""
    async with AsyncExitStack() as stack:
        runs = await asyncio.gather(
            *(stack.enter_async_context(accepted_run(chain, f"user-{number}")) for number in range(MANY_RUNS))
        )

        async def serve(accepted: AcceptedRun) -> UserWebSocketEmitter:
            emitter = built_emitter(chain, accepted.context)
            await emit_five(chain, emitter, accepted)
            return emitter

        emitters = await asyncio.gather(*map(serve, runs))
        assert len(set(map(id, emitters))) == MANY_RUNS
        await asyncio.gather(*(require_durable(chain, accepted, tools=0) for accepted in runs))


# S10: the same state for every user.


async def test_s10_the_servers_factory_is_of_one_mind_with_others(chain: ServerUnderTest) -> None:
    """Configured at once, all show the same readiness, and every user gets an emitter from each."""
    await s10_the_same_for_every_user(chain)


async def test_s10_factories_configured_at_once_show_the_same_readiness(chain: ServerUnderTest) -> None:
    """Five factories configured from as many threads: all unready before, all ready after, and all of them work."""
    factories = [UserEmitterFactory() for _ in range(FACTORIES)]
    assert {(False, DEPENDENCIES)} == {(factory.configured, factory.missing) for factory in factories}
    parts = emitter_parts(chain)
    await asyncio.gather(*(asyncio.to_thread(factory.configure, **parts) for factory in factories))
    assert {(True, ())} == {(factory.configured, factory.missing) for factory in factories}
    for factory in factories:
        async with AsyncExitStack() as stack:
            runs = [await stack.enter_async_context(accepted_run(chain, user_id)) for user_id in USERS]
            for accepted in runs:
                emitter = factory.create_user_emitter(accepted.context.user_id, accepted.context.run_id)
                await emit_five(chain, emitter, accepted)
            await asyncio.gather(*(require_durable(chain, accepted, tools=0) for accepted in runs))


async def test_s10_a_user_succeeds_with_all_factories_or_with_none(chain: ServerUnderTest) -> None:
    """Users with an accepted run get an emitter from each factory, a user without one from none.

    While the factories lack a dependency, nobody gets one from any, and all of them name the same.
    """
    parts = emitter_parts(chain)
    factories = [UserEmitterFactory() for _ in range(FACTORIES)]
    for factory in factories:
        with pytest.raises(NotConfiguredError):
            factory.configure(log=parts["log"], watch=parts["watch"])
    async with accepted_run(chain, ADA) as adas, accepted_run(chain, BOB) as bobs:
        asked = ((ADA, adas), (BOB, bobs), (CLEO, adas))
        before = [answers(factories, user_id, accepted.context.run_id) for user_id, accepted in asked]
        assert [{"L1: connections, health"}] * 3 == before
        for factory in factories:
            factory.configure(connections=parts["connections"], health=parts["health"])
        after = [answers(factories, user_id, accepted.context.run_id) for user_id, accepted in asked]
        assert [{"emitter"}, {"emitter"}, {"L4"}] == after
        for accepted in (adas, bobs):
            assert await stored(chain, accepted.context.run_id) == []
            await emit_five(chain, built_emitter(chain, accepted.context), accepted)
            await require_durable(chain, accepted, tools=0)


def answers(factories: list[UserEmitterFactory], user_id: str, run_id: str) -> set[str]:
    """What the factories answer when they are asked for this user's emitter; one answer if they are of one mind."""
    found: set[str] = set()
    for factory in factories:
        try:
            emitter = factory.create_user_emitter(user_id, run_id)
        except NotConfiguredError as error:
            found.add(f"{error.check}: {', '.join(error.missing)}")
        except WiringError as error:
            found.add(error.check)
        else:
            assert (user_id, run_id) == (emitter.user_id, emitter.run_id)
            assert all(callable(getattr(emitter, name)) for name in EMIT_METHODS)
            found.add("emitter")
    return found
