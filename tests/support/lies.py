"""Links that lie, each to one user about one type of event; everybody else is served.

A *liar* stamps the event and reports success, and passes nothing on. A link with a *lost stamp* passes the event on
and reports it, and leaves the ledger without its stamp. The user's id names link and type (`losses.loser`).
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from support.losses import loser, type_of
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.connection import Connection
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.engine.agent import ALL_CRITICAL, agent
from tracewire.engine.agent_context import AgentContext
from tracewire.events import AgentCompleted, Receipt
from tracewire.gateway.transport import SocketTransport
from tracewire_telemetry.ledger import RunLedger


@agent(name="honest", requires=ALL_CRITICAL, tools=["look"])
async def honest(ctx: Any) -> str:
    """Owes all five critical types, and emits them."""
    await ctx.thinking("thought")
    async with ctx.tool("look") as call:
        call.result = "seen"
    return "answer"


Naming = Callable[[str, str], str]
"""The user about whom a link (first) lies, or loses a stamp, where the event is of a type (second)."""


def lie(patch: pytest.MonkeyPatch, about: Naming = loser) -> None:
    """Make liars of engine, bridge, emitter and socket. The client that lies is the test's own."""
    _engine_lies(patch, about)
    _bridge_lies(patch, about)
    _emitter_lies(patch, about)
    _socket_lies(patch, about)


def _engine_lies(patch: pytest.MonkeyPatch, about: Naming) -> None:
    """The bridge is asked for nothing: the event has its stamp, and its agent a success."""
    emit, complete = AgentContext.emit, AgentWebSocketBridge.complete

    async def stamp_only(context: AgentContext, event: Any) -> EmitOutcome:
        if context.user_id != about("engine", event.type):
            return await emit(context, event)
        return EmitOutcome(context.run.ledger.emitted(event.type, time.monotonic_ns()), 1)

    async def stamped_only(bridge: AgentWebSocketBridge, output: Any, ordinal: int) -> Any:
        if bridge._identity.user_id != about("engine", "agent_completed"):
            return await complete(bridge, output, ordinal)
        return AgentCompleted(output, 0, Receipt(0, {}))  # what the engine takes for the terminal event

    patch.setattr(AgentContext, "emit", stamp_only)
    patch.setattr(AgentWebSocketBridge, "complete", stamped_only)


def _bridge_lies(patch: pytest.MonkeyPatch, about: Naming) -> None:
    """The emitter is asked for nothing: the event has its seq."""
    init = AgentWebSocketBridge.__init__

    def with_a_mute_method(bridge: AgentWebSocketBridge, *args: Any) -> None:
        init(bridge, *args)
        for event_type, emit in list(bridge._emits.items()):
            if bridge._identity.user_id == about("bridge", event_type):
                bridge._emits[event_type] = mute(bridge, emit)

    def mute(bridge: AgentWebSocketBridge, _emit: Any) -> Any:
        async def emit(envelope: Any) -> EmitOutcome:
            bridge.emitter.durable_seq = envelope.seq  # or the bridge would notice its own lie
            return EmitOutcome(envelope.seq, 1)

        return emit

    patch.setattr(AgentWebSocketBridge, "__init__", with_a_mute_method)


def _emitter_lies(patch: pytest.MonkeyPatch, about: Naming) -> None:
    """No socket is given the event, which is in the log."""
    deliver = UserWebSocketEmitter._deliver

    def commit_only(emitter: UserWebSocketEmitter, seq: int, body: bytes) -> int:
        if emitter.user_id != about("emitter", type_of(body)):
            return deliver(emitter, seq, body)
        emitter.durable_seq = seq
        emitter._ledger.committed(seq, time.monotonic_ns())
        return 1

    patch.setattr(UserWebSocketEmitter, "_deliver", commit_only)


def _socket_lies(patch: pytest.MonkeyPatch, about: Naming) -> None:
    """The transport writes nothing, once, and says nothing: the connection takes the event for written."""
    write = SocketTransport.write_text
    offer = Connection.offer
    swallowed: set[bytes] = set()

    def offer_noted(connection: Connection, run_id: str, seq: int, body: bytes) -> bool:
        if connection.user_id == about("socket", type_of(body)):
            swallowed.add(body)
        return offer(connection, run_id, seq, body)

    def write_nothing(transport: SocketTransport, body: bytes) -> None:
        if body in swallowed:
            swallowed.remove(body)
        else:
            write(transport, body)

    patch.setattr(Connection, "offer", offer_noted)
    patch.setattr(SocketTransport, "write_text", write_nothing)


def lose_stamps(patch: pytest.MonkeyPatch, about: Naming = loser) -> None:
    """Lose one stamp of each user who is about a link and a type, at that link; the event goes on."""
    emitted, sequenced, committed = RunLedger.emitted, RunLedger.sequenced, RunLedger.committed
    written, acknowledged = RunLedger.written, RunLedger.acknowledged

    def lost(ledger: RunLedger, link: str, event_type: Any) -> bool:
        return ledger.identity.user_id == about(link, event_type)

    def without_engine(ledger: RunLedger, event_type: Any, now: int) -> int:
        return emitted(ledger, event_type, 0 if lost(ledger, "engine", event_type) else now)

    def without_bridge(ledger: RunLedger, ordinal: int, now: int) -> int:
        return sequenced(ledger, ordinal, 0 if lost(ledger, "bridge", ledger.waiting[ordinal][0]) else now)

    def without_emitter(ledger: RunLedger, seq: int, now: int) -> None:
        if not lost(ledger, "emitter", ledger.event_type(seq)):
            committed(ledger, seq, now)

    def without_socket(ledger: RunLedger, socket: int, seq: int, now: int) -> None:
        if not lost(ledger, "socket", ledger.event_type(seq)):
            written(ledger, socket, seq, now)

    def without_client(ledger: RunLedger, socket: int, seq: int, now: int) -> int:
        if 0 < seq <= ledger.last_seq and lost(ledger, "client", ledger.event_type(seq)):
            return 0
        return acknowledged(ledger, socket, seq, now)

    for name, replacement in (
        ("emitted", without_engine),
        ("sequenced", without_bridge),
        ("committed", without_emitter),
        ("written", without_socket),
        ("acknowledged", without_client),
    ):
        patch.setattr(RunLedger, name, replacement)
