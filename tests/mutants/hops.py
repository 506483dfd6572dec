"""Between the stations of the server: what one hands to the next is dropped, repeated, reordered or delayed, once.

Whoever hands on is told that all is well. What is delayed is held past its deadline, until it is found missing. The hop
to the client, and the way back, are the proxy's.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import pytest

from mutants.deeds import note
from mutants.moments import until
from mutants.rows import REORDERED, Mutant, mutant_of
from support.losses import type_of
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.connection import Connection
from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.events import AgentCompleted, Receipt

_T = TypeVar("_T")
Call = Callable[[], Awaitable[Any]]


def break_hops(patch: pytest.MonkeyPatch) -> None:
    """Break the hops to bridge, emitter and socket for the users of those rows."""
    _to_bridge(patch)
    _to_emitter(patch)
    _to_socket(patch)


async def _cross(
    mutant: Mutant, bridge: AgentWebSocketBridge, event_type: str, call: Callable[[], Awaitable[_T]], lied: _T
) -> _T:
    """Hand one event on, as this row has it. `lied` is what whoever hands on takes for a success."""
    held = _held(bridge)
    if mutant.what == "reorder":
        first, second = REORDERED[mutant.event_type]
        if event_type == first:
            note(mutant.user_id)
            held[first] = call
            return lied
        try:
            return await call()
        finally:
            if event_type == second and first in held:
                with contextlib.suppress(Exception):  # nobody waits for it any more
                    await held.pop(first)()
    if event_type == mutant.event_type:
        note(mutant.user_id)
        match mutant.what:
            case "drop":
                return lied
            case "repeat":
                await call()
            case "delay":
                await until(lambda: bool(bridge._ledger.missing))
    return await call()


def _to_bridge(patch: pytest.MonkeyPatch) -> None:
    emit, complete = AgentWebSocketBridge.emit, AgentWebSocketBridge.complete

    async def hand_on(bridge: AgentWebSocketBridge, event: Any, ordinal: int) -> Any:
        mutant = _mutant(bridge._identity.user_id, "bridge")
        if mutant is None:
            return await emit(bridge, event, ordinal)
        lied = EmitOutcome(bridge._ledger.last_seq, 1)
        return await _cross(mutant, bridge, event.type, lambda: emit(bridge, event, ordinal), lied)

    async def end(bridge: AgentWebSocketBridge, output: Any, ordinal: int) -> Any:
        mutant = _mutant(bridge._identity.user_id, "bridge")
        if mutant is None:
            return await complete(bridge, output, ordinal)
        lied: Any = AgentCompleted(output, 0, Receipt(0, {}))
        return await _cross(mutant, bridge, "agent_completed", lambda: complete(bridge, output, ordinal), lied)

    patch.setattr(AgentWebSocketBridge, "emit", hand_on)
    patch.setattr(AgentWebSocketBridge, "complete", end)


def _to_emitter(patch: pytest.MonkeyPatch) -> None:
    init = AgentWebSocketBridge.__init__

    def with_a_broken_hop(bridge: AgentWebSocketBridge, *args: Any) -> None:
        init(bridge, *args)
        mutant = _mutant(bridge._identity.user_id, "emitter")
        if mutant is not None:
            for event_type, emit in list(bridge._emits.items()):
                bridge._emits[event_type] = broken(mutant, bridge, event_type, emit)

    def broken(mutant: Mutant, bridge: AgentWebSocketBridge, event_type: str, emit: Any) -> Any:
        async def hand_on(envelope: Any) -> Any:
            lied = EmitOutcome(envelope.seq, 1)
            return await _cross(mutant, bridge, event_type, lambda: emit(envelope), lied)

        return hand_on

    patch.setattr(AgentWebSocketBridge, "__init__", with_a_broken_hop)


def _to_socket(patch: pytest.MonkeyPatch) -> None:
    offer = Connection.offer
    waiting: dict[str, list[Callable[[], object]]] = {}
    letting_go: set[asyncio.Task[None]] = set()

    def hand_on(connection: Connection, run_id: str, seq: int, body: bytes) -> bool:
        mutant = _mutant(connection.user_id, "socket")

        def pass_on() -> bool:
            return offer(connection, run_id, seq, body)

        if mutant is None:
            return pass_on()
        event_type = type_of(body)
        first, second = REORDERED[mutant.event_type] if mutant.what == "reorder" else ("", "")
        if run_id in waiting and event_type != second:
            waiting[run_id].append(pass_on)  # behind what is late
            return True
        if event_type in (first, mutant.event_type):
            note(mutant.user_id)
        if event_type == first:
            waiting[run_id] = [pass_on]
            return True
        if event_type == second and run_id in waiting:
            taken = pass_on()
            waiting.pop(run_id)[0]()
            return taken
        if event_type == mutant.event_type:
            match mutant.what:
                case "drop":
                    return True
                case "repeat":
                    pass_on()
                case "delay":
                    waiting[run_id] = [pass_on]
                    late = asyncio.create_task(let_go(connection, run_id))
                    letting_go.add(late)
                    late.add_done_callback(letting_go.discard)
                    return True
        return pass_on()

    async def let_go(connection: Connection, run_id: str) -> None:
        run = connection.follows[run_id].run
        await until(lambda: run is not None and bool(run.ledger.missing))
        for pass_on in waiting.pop(run_id):
            pass_on()

    patch.setattr(Connection, "offer", hand_on)


def _held(bridge: AgentWebSocketBridge) -> dict[str, Call]:
    held: dict[str, Call] = bridge.__dict__.setdefault("held_between_stations", {})
    return held


def _mutant(user_id: str, hop: str) -> Mutant | None:
    mutant = mutant_of(user_id)
    return mutant if mutant is not None and mutant.where == hop and mutant.what in _DONE_HERE else None


_DONE_HERE: Final = frozenset({"drop", "repeat", "reorder", "delay"})
