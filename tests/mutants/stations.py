"""In the stations of the server: forged stamps, joints that are not joined, and events of the wrong user."""

import time
from typing import Any

import msgspec
import pytest

from mutants.deeds import note
from mutants.rows import Mutant, mutant_of
from support.faults import STRANGER
from support.losses import type_of
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.connection import Connection
from tracewire.delivery.emitter_factory import UserEmitterFactory
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.factory import ExecutionFactory
from tracewire.events import AgentCompleted, Receipt
from tracewire.gateway.socket_runs import SocketRuns


def break_stations(patch: pytest.MonkeyPatch) -> None:
    """Do to the users of those rows what is to be done to them."""
    _forge_at_bridge(patch)
    _forge_at_emitter(patch)
    _forge_at_socket_or_client(patch)
    _unwire(patch)
    _unwire_acks(patch)
    _lead_astray(patch)
    _spoil_envelopes(patch)


# A stamp of a link that was not crossed.


def _forge_at_bridge(patch: pytest.MonkeyPatch) -> None:
    """The engine gives the event its seq by itself, and the bridge nothing."""
    emit, complete = AgentWebSocketBridge.emit, AgentWebSocketBridge.complete

    async def hand_on(bridge: AgentWebSocketBridge, event: Any, ordinal: int) -> Any:
        if not _is(bridge._identity.user_id, "forge", "bridge", event.type):
            return await emit(bridge, event, ordinal)
        return EmitOutcome(bridge._ledger.sequenced(ordinal, time.monotonic_ns()), 1)

    async def end(bridge: AgentWebSocketBridge, output: Any, ordinal: int) -> Any:
        if not _is(bridge._identity.user_id, "forge", "bridge", "agent_completed"):
            return await complete(bridge, output, ordinal)
        bridge._ledger.sequenced(ordinal, time.monotonic_ns())
        return AgentCompleted(output, 0, Receipt(0, {}))

    patch.setattr(AgentWebSocketBridge, "emit", hand_on)
    patch.setattr(AgentWebSocketBridge, "complete", end)


def _forge_at_emitter(patch: pytest.MonkeyPatch) -> None:
    """The bridge takes the event for durable, stamps it so, and gives the emitter nothing."""
    init = AgentWebSocketBridge.__init__

    def with_a_forger(bridge: AgentWebSocketBridge, *args: Any) -> None:
        init(bridge, *args)
        for event_type in list(bridge._emits):
            if mutant_of(bridge._identity.user_id) == Mutant("forge", "emitter", event_type):
                bridge._emits[event_type] = forger(bridge)

    def forger(bridge: AgentWebSocketBridge) -> Any:
        async def emit(envelope: Any) -> EmitOutcome:
            note(bridge._identity.user_id)
            bridge.emitter.durable_seq = envelope.seq
            bridge._ledger.committed(envelope.seq, time.monotonic_ns())
            return EmitOutcome(envelope.seq, 1)

        return emit

    patch.setattr(AgentWebSocketBridge, "__init__", with_a_forger)


def _forge_at_socket_or_client(patch: pytest.MonkeyPatch) -> None:
    """The connection stamps the event as written, and for `client` as acked too, and writes nothing."""
    offer = Connection.offer

    def hand_on(connection: Connection, run_id: str, seq: int, body: bytes) -> bool:
        event_type, followed = type_of(body), connection.follows.get(run_id)
        acked = _is(connection.user_id, "forge", "client", event_type)
        if followed is None or followed.run is None:
            return offer(connection, run_id, seq, body)
        if not acked and not _is(connection.user_id, "forge", "socket", event_type):
            return offer(connection, run_id, seq, body)
        followed.next_seq = seq + 1
        followed.run.ledger.written(followed.socket, seq, time.monotonic_ns())
        if acked:
            followed.run.acknowledged(followed.socket, seq)
        return True

    patch.setattr(Connection, "offer", hand_on)


# The six joints.


def _unwire(patch: pytest.MonkeyPatch) -> None:
    create_engine, create_bridge = ExecutionFactory.create_user_engine, ExecutionFactory._create_bridge
    create_emitter = UserEmitterFactory.create_user_emitter

    def engine(factory: ExecutionFactory, context: UserExecutionContext) -> Any:
        if _is(context.user_id, "unwired", "L2"):
            return None
        if not _is(context.user_id, "unwired", "L1"):
            return create_engine(factory, context)
        emitters, factory._emitters = factory._emitters, None
        try:
            return create_engine(factory, context)
        finally:
            factory._emitters = emitters

    def bridge(factory: ExecutionFactory, emitter: Any, run: Any, metrics: Any) -> Any:
        if _is(run.ledger.identity.user_id, "unwired", "L3"):
            return None
        return create_bridge(factory, emitter, run, metrics)

    def emitter(factory: UserEmitterFactory, user_id: str, run_id: str) -> Any:
        made: Any = create_emitter(factory, user_id, run_id)
        if _is(user_id, "unwired", "L4"):
            return None
        if _is(user_id, "unwired", "L5"):
            made.emit_tool_completed = None
        if _is(user_id, "bound", "emitter"):
            made.user_id = STRANGER
        return made

    patch.setattr(ExecutionFactory, "create_user_engine", engine)
    patch.setattr(ExecutionFactory, "_create_bridge", bridge)
    patch.setattr(UserEmitterFactory, "create_user_emitter", emitter)


def _unwire_acks(patch: pytest.MonkeyPatch) -> None:
    ack = SocketRuns.ack

    async def lose(runs: SocketRuns, frame: Any) -> None:
        if not _is(runs._connection.user_id, "unwired", "L6"):
            await ack(runs, frame)

    patch.setattr(SocketRuns, "ack", lose)


# The wrong user.


def _lead_astray(patch: pytest.MonkeyPatch) -> None:
    """The event is written to another user's sockets too, or to those alone."""
    deliver = UserWebSocketEmitter._deliver

    def to_others(emitter: UserWebSocketEmitter, seq: int, body: bytes) -> int:
        mutant = mutant_of(emitter.user_id)
        if mutant is None or mutant.what not in ("leak", "astray") or type_of(body) != mutant.event_type:
            return deliver(emitter, seq, body)
        note(emitter.user_id)
        for connection in emitter._connections.of(mutant.victim):
            connection._transport.write_text(body)
        if mutant.what == "leak":
            return deliver(emitter, seq, body)
        emitter.durable_seq = seq
        emitter._ledger.committed(seq, time.monotonic_ns())
        return 1

    patch.setattr(UserWebSocketEmitter, "_deliver", to_others)


# Envelopes that say what is not so.


def _spoil_envelopes(patch: pytest.MonkeyPatch) -> None:
    """An envelope that names another event's span, or a time before that of the event before it."""
    make = AgentWebSocketBridge._envelope

    def spoiled(bridge: AgentWebSocketBridge, event: Any, seq: int) -> Any:
        envelope = make(bridge, event, seq)
        user_id = bridge._identity.user_id
        if _is(user_id, "context", "envelope", event.type):
            return msgspec.structs.replace(envelope, traceparent=bridge._traceparent(seq + 1_000))
        if _is(user_id, "clock", "envelope", event.type):
            return msgspec.structs.replace(envelope, time="2020-01-01T00:00:00.000000Z")
        return envelope

    patch.setattr(AgentWebSocketBridge, "_envelope", spoiled)


def _is(user_id: str, what: str, where: str, event_type: str = "") -> bool:
    """Whether it is this that befalls this user now; noted where it is."""
    mutant = mutant_of(user_id)
    befalls = mutant is not None and mutant == Mutant(what, where, event_type or mutant.event_type)
    if befalls:
        note(user_id)
    return befalls
