"""Faults that break one link of the chain each, for as long as the `MonkeyPatch` that they are given is not undone.

They are put into a started server, where no check of its start can see them.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from tracewire.delivery.connection import Connection
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.engine.context import UserExecutionContext
from tracewire.events import Envelope
from tracewire.gateway.socket_runs import SocketRuns
from tracewire.gateway.transport import SocketTransport
from tracewire.main import Server

STRANGER: Final = "user-stranger"
Break = Callable[[pytest.MonkeyPatch, Server], None]


class Fault(Struct, frozen=True):
    """One way to break a link: `check` is the wiring check that must name it, `scenarios` those that must go red.

    The others do without what is broken: what builds its own factories, or looks at no socket, cannot tell.

    `during_run` says that it shows only when a run takes place, not in how the stations are joined.
    """

    name: str
    check: str
    scenarios: tuple[str, ...]
    break_it: Break
    during_run: bool = False

    def __str__(self) -> str:
        return f"{self.check}-{self.name}"


# L1: the factories.


def _engine_factory_without_emitters(patch: pytest.MonkeyPatch, server: Server) -> None:
    patch.setattr(server.factory, "_emitters", None)


def _engine_factory_without_metrics(patch: pytest.MonkeyPatch, server: Server) -> None:
    patch.setattr(server.factory, "_metrics", None)


def _emitter_factory_without_connections(patch: pytest.MonkeyPatch, server: Server) -> None:
    patch.setattr(server.emitters, "_connections", None)


# L2: the user's engine.


def _no_engine(patch: pytest.MonkeyPatch, server: Server) -> None:
    patch.setattr(server.factory, "create_user_engine", lambda _context: None)


def _engine_of_a_stranger(patch: pytest.MonkeyPatch, server: Server) -> None:
    def spoil(engine: Any) -> None:
        engine.context = msgspec.structs.replace(engine.context, user_id=STRANGER)

    _spoil_engines(patch, server, spoil)


# L3: the bridge.


def no_bridge(patch: pytest.MonkeyPatch, server: Server) -> None:
    """The factory makes no bridge for the engine."""
    patch.setattr(server.factory, "_create_bridge", lambda *_: None)


def _engine_loses_its_bridge(patch: pytest.MonkeyPatch, server: Server) -> None:
    def spoil(engine: Any) -> None:
        engine.bridge = None

    _spoil_engines(patch, server, spoil)


# L4: the emitter.


def no_emitter(patch: pytest.MonkeyPatch, server: Server) -> None:
    """The emitter factory gives nothing."""
    patch.setattr(server.emitters, "create_user_emitter", lambda *_: None)


def _emitter_of_a_stranger(patch: pytest.MonkeyPatch, server: Server) -> None:
    create = server.emitters.create_user_emitter

    def create_for_a_stranger(user_id: str, run_id: str) -> UserWebSocketEmitter:
        emitter = create(user_id, run_id)
        emitter.user_id = STRANGER
        return emitter

    patch.setattr(server.emitters, "create_user_emitter", create_for_a_stranger)


def _bridge_loses_its_emitter(patch: pytest.MonkeyPatch, server: Server) -> None:
    def spoil(engine: Any) -> None:
        engine.bridge.emitter = None

    _spoil_engines(patch, server, spoil)


def _bridge_turns_to_a_stranger(patch: pytest.MonkeyPatch, server: Server) -> None:
    def spoil(engine: Any) -> None:
        engine.bridge.emitter.user_id = STRANGER

    _spoil_engines(patch, server, spoil)


# L5: the emit methods.


def without_method(event_type: str) -> Break:
    """The emitter has no method for this type."""

    def break_it(patch: pytest.MonkeyPatch, _server: Server) -> None:
        patch.delattr(UserWebSocketEmitter, f"emit_{event_type}")

    return break_it


def quiet_method(event_type: str) -> Break:
    """The emitter's method for this type does nothing, and says nothing."""

    async def emit(_self: UserWebSocketEmitter, _envelope: Envelope) -> None:
        return None

    def break_it(patch: pytest.MonkeyPatch, _server: Server) -> None:
        patch.setattr(UserWebSocketEmitter, f"emit_{event_type}", emit)

    return break_it


def lying_method(event_type: str) -> Break:
    """The emitter's method for this type does nothing, and says that it delivered."""

    async def emit(_self: UserWebSocketEmitter, envelope: Envelope) -> EmitOutcome:
        return EmitOutcome(envelope.seq, 1)

    def break_it(patch: pytest.MonkeyPatch, _server: Server) -> None:
        patch.setattr(UserWebSocketEmitter, f"emit_{event_type}", emit)

    return break_it


# L6: the socket and the ack.


def _offers_are_swallowed(patch: pytest.MonkeyPatch, _server: Server) -> None:
    patch.setattr(Connection, "offer", lambda *_: True)


def _writes_are_swallowed(patch: pytest.MonkeyPatch, _server: Server) -> None:
    write = SocketTransport.write_text

    def write_all_but_events(self: SocketTransport, body: bytes) -> None:
        if b'"seq":' not in body:
            write(self, body)

    patch.setattr(SocketTransport, "write_text", write_all_but_events)


def _last_write_is_swallowed(patch: pytest.MonkeyPatch, _server: Server) -> None:
    offer = Connection.offer

    def offer_all_but_the_last(self: Connection, run_id: str, seq: int, body: bytes) -> bool:
        return b'"receipt":' in body or offer(self, run_id, seq, body)

    patch.setattr(Connection, "offer", offer_all_but_the_last)


def _acks_are_lost(patch: pytest.MonkeyPatch, _server: Server) -> None:
    async def lose(*_: object) -> None:
        return None

    patch.setattr(SocketRuns, "ack", lose)


def _spoil_engines(patch: pytest.MonkeyPatch, server: Server, spoil: Callable[[Any], None]) -> None:
    """Do this to every engine that the factory has made."""
    create = server.factory.create_user_engine

    def create_spoiled(context: UserExecutionContext) -> Any:
        engine = create(context)
        spoil(engine)
        return engine

    patch.setattr(server.factory, "create_user_engine", create_spoiled)


_WHOLE: Final = ("s01", "s04", "s05", "s06", "s07", "s11", "s14", "s15", "s16")
_ENGINE: Final = (*_WHOLE, "s02", "s12")
_CONFIGURED: Final = (*_ENGINE, "s03", "s13")
_EMITTER: Final = (*_ENGINE, "s03", "s08", "s09", "s10")
_FACTORIES: Final = (*_EMITTER, "s13")
_SOCKET: Final = (*_WHOLE, "s03", "s08", "s13")

FAULTS: Final = (
    Fault("engine_factory_without_emitters", "L1", _CONFIGURED, _engine_factory_without_emitters),
    Fault("engine_factory_without_metrics", "L1", _CONFIGURED, _engine_factory_without_metrics),
    Fault("emitter_factory_without_connections", "L1", _FACTORIES, _emitter_factory_without_connections),
    Fault("no_engine", "L2", _ENGINE, _no_engine),
    Fault("engine_of_a_stranger", "L2", _ENGINE, _engine_of_a_stranger),
    Fault("no_bridge", "L3", _ENGINE, no_bridge),
    Fault("engine_loses_its_bridge", "L3", _ENGINE, _engine_loses_its_bridge),
    Fault("no_emitter", "L4", _EMITTER, no_emitter),
    Fault("emitter_of_a_stranger", "L4", _EMITTER, _emitter_of_a_stranger),
    Fault("bridge_loses_its_emitter", "L4", _ENGINE, _bridge_loses_its_emitter),
    Fault("bridge_turns_to_a_stranger", "L4", _ENGINE, _bridge_turns_to_a_stranger),
    Fault("no_emit_tool_completed", "L5", _FACTORIES, without_method("tool_completed")),
    Fault("quiet_emit_agent_started", "L5", _FACTORIES, quiet_method("agent_started"), during_run=True),
    Fault("quiet_emit_agent_thinking", "L5", _FACTORIES, quiet_method("agent_thinking"), during_run=True),
    Fault("quiet_emit_tool_completed", "L5", _FACTORIES, quiet_method("tool_completed"), during_run=True),
    Fault("lying_emit_agent_thinking", "L5", _FACTORIES, lying_method("agent_thinking"), during_run=True),
    Fault("lying_emit_agent_completed", "L5", _FACTORIES, lying_method("agent_completed"), during_run=True),
    Fault("offers_are_swallowed", "L6", _SOCKET, _offers_are_swallowed, during_run=True),
    Fault("writes_are_swallowed", "L6", _SOCKET, _writes_are_swallowed, during_run=True),
    Fault("last_write_is_swallowed", "L6", _SOCKET, _last_write_is_swallowed, during_run=True),
    Fault("acks_are_lost", "L6", _SOCKET, _acks_are_lost, during_run=True),
)
"""Every fault, in the order of the links."""


def one_fault_a_link() -> tuple[Fault, ...]:
    """The first fault of each link."""
    return tuple({fault.check: fault for fault in reversed(FAULTS)}[f"L{number}"] for number in range(1, 7))


# What no wiring check can see, because its one user notices nothing.


def _writes_leak(patch: pytest.MonkeyPatch, _server: Server) -> None:
    write = SocketTransport.write_text
    transports: list[SocketTransport] = []

    def write_to_everybody(self: SocketTransport, body: bytes) -> None:
        if self not in transports:
            transports.append(self)
        for transport in transports if b'"type":"agent_thinking"' in body else [self]:
            write(transport, body)

    patch.setattr(SocketTransport, "write_text", write_to_everybody)


LEAK: Final = Fault("writes_leak", "L4", ("s06", "s15"), _writes_leak, during_run=True)
"""Thoughts go to every socket that the server has written to."""


def withheld_write(event_type: str) -> Break:
    """Every frame with an event of this type is taken for written, and is not."""

    def break_it(patch: pytest.MonkeyPatch, _server: Server) -> None:
        write = SocketTransport.write_text

        def write_all_but_this(self: SocketTransport, body: bytes) -> None:
            if f'"type":"{event_type}"'.encode() not in body:
                write(self, body)

        patch.setattr(SocketTransport, "write_text", write_all_but_this)

    return break_it
