"""Faults that lose one type of event of one user at one link, on a started server, while everybody else is served.

The station that is at fault does not pass the event on and says nothing of it, as if it had died at that point. What
is `held` can be let go: the event then goes on as if it had only been late.
"""

import asyncio
import time
from typing import Any, Final

import msgspec
import pytest

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.connection import Connection
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.engine.agent import ALL_CRITICAL, agent
from tracewire.engine.agent_context import AgentContext

SEPARATOR: Final = "--"
_BEFORE: Final = {
    "agent_thinking": "agent_started",
    "tool_executing": "agent_thinking",
    "agent_completed": "tool_completed",
}
"""What the agent emits last before an event that it leaves out."""
_TYPE: Final = msgspec.json.Decoder(msgspec.defstruct("Head", [("type", str)]))


def loser(link: str, event_type: str) -> str:
    """The user who loses this type at this link."""
    return f"{link}{SEPARATOR}{event_type}"


def type_of(body: bytes) -> str:
    """The type of an event, by its envelope's bytes."""
    return str(_TYPE.decode(body).type)


@agent(name="loses", requires=ALL_CRITICAL, tools=["look"])
async def loses(ctx: Any) -> str:
    """Owes all five critical types; for a user who loses one at the engine it leaves that one out, or never ends."""
    lost = ctx.user_id.removeprefix(f"engine{SEPARATOR}")
    if lost != "agent_thinking":
        await ctx.thinking("thought")
    if lost != "tool_executing":
        async with ctx.tool("look") as call:
            call.result = "seen"
    if lost == "agent_completed":
        await asyncio.Event().wait()
    return "answer"


class Losses:
    """The faults of bridge, emitter and socket, and those of the engine that its agent cannot commit by itself.

    `lost_at` says when each user's event was lost, Unix time; those that a client does not ack are not in it.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held = asyncio.Event()
        self.lost_at: dict[str, float] = {}
        self._lose_at_engine(patch)
        self._lose_at_bridge(patch)
        self._lose_at_emitter(patch)
        self._lose_at_socket(patch)

    def _lose_at_engine(self, patch: pytest.MonkeyPatch) -> None:
        emit = AgentContext.emit

        async def hold(context: AgentContext, event: Any) -> Any:
            if event.type in ("agent_started", "tool_completed") and context.user_id == loser("engine", event.type):
                await self._hold(context.user_id)
            outcome = await emit(context, event)
            for left_out, before in _BEFORE.items():
                if (context.user_id, event.type) == (loser("engine", left_out), before):
                    self.lost_at[context.user_id] = time.time()
            return outcome

        patch.setattr(AgentContext, "emit", hold)

    def _lose_at_bridge(self, patch: pytest.MonkeyPatch) -> None:
        pass_on = AgentWebSocketBridge._pass_on

        async def hold(bridge: AgentWebSocketBridge, event: Any, ordinal: int) -> Any:
            if bridge._identity.user_id == loser("bridge", event.type):
                await self._hold(bridge._identity.user_id)
            return await pass_on(bridge, event, ordinal)

        patch.setattr(AgentWebSocketBridge, "_pass_on", hold)

    def _lose_at_emitter(self, patch: pytest.MonkeyPatch) -> None:
        emit = UserWebSocketEmitter._emit

        async def hold(emitter: UserWebSocketEmitter, event_type: Any, envelope: Any, outcome: Any = None) -> Any:
            if emitter.user_id == loser("emitter", event_type):
                await self._hold(emitter.user_id)
            return await emit(emitter, event_type, envelope, outcome)

        patch.setattr(UserWebSocketEmitter, "_emit", hold)

    def _lose_at_socket(self, patch: pytest.MonkeyPatch) -> None:
        offer = Connection.offer

        def swallow(connection: Connection, run_id: str, seq: int, body: bytes) -> bool:
            followed = connection.follows.get(run_id)
            if followed is not None and connection.user_id == loser("socket", type_of(body)):
                followed.next_seq = seq + 1
                self.lost_at[connection.user_id] = time.time()
                return True
            return offer(connection, run_id, seq, body)

        patch.setattr(Connection, "offer", swallow)

    async def _hold(self, user_id: str) -> None:
        self.lost_at.setdefault(user_id, time.time())
        await self.held.wait()
