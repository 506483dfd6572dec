"""The six wiring checks: each looks at one joint of the chain, and only if the one before holds.

L1 the execution factory is configured · L2 it creates a user engine from the user's context · L3 the engine has a
bridge · L4 the bridge has an emitter bound to the same user · L5 the five emit methods exist and work · L6 a real run
delivers its events to a real socket, and they are acknowledged.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.client import Client, ClientError
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire.errors import TracewireError, WiringError
from tracewire.events import AgentStarted, AgentThinking, Event, ToolCompleted, ToolExecuting
from tracewire.gateway.auth import sign_token
from tracewire.main import Server
from tracewire.runs.service import AcceptedRun, StartRun
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, Outcome, ToolStatus

USER: Final = "tracewire-doctor"
DELIVERY_SECONDS: Final = 30.0
TITLES: Final = {
    "L1": "the execution factory is configured",
    "L2": "it creates a user engine from the user's context",
    "L3": "the engine has a bridge",
    "L4": "the bridge has an emitter bound to the same user",
    "L5": "the five emit methods exist and work",
    "L6": "a real run delivers its events to a real socket, and they are acknowledged",
}


class WiringCheck(Struct, frozen=True):
    """One check: whether it holds, was not reached (`holds` is `None`) behind `broken`, and what was seen."""

    check: str
    holds: bool | None
    message: str

    @property
    def line(self) -> str:
        """One line for people."""
        word = {True: "ok", False: "BROKEN", None: "--"}[self.holds]
        return f"{self.check} {word:6} {TITLES[self.check]}: {self.message}"


class _Probe:
    """What the checks find out on the way, one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.accepted: AcceptedRun
        self.engine: UserExecutionEngine
        self.engine_ended = False

    async def factory(self) -> str:
        missing = self.server.factory.missing
        if missing:
            raise WiringError("L1", f"{', '.join(missing)} missing")
        return f"every dependency is present, {len(self.server.agents)} agents"

    async def user_engine(self) -> str:
        request = StartRun(f"doctor-{time.time_ns()}", "wiring")
        self.accepted = await self.server.runs.accept(USER, request)
        engine: Any = self.server.factory.create_user_engine(self.accepted.context)
        if engine is None:
            raise WiringError("L2", "the factory gave None")
        self.engine = engine
        if engine.context != self.accepted.context:
            raise WiringError("L2", f"the engine is {engine.context.user_id!r}'s, not {USER!r}'s")
        return f"for user {USER}"

    async def bridge(self) -> str:
        bridge: Any = getattr(self.engine, "bridge", None)
        if not isinstance(bridge, AgentWebSocketBridge):
            raise WiringError("L3", f"in its place is {bridge!r}")
        return "AgentWebSocketBridge"

    async def emitter(self) -> str:
        emitter: Any = getattr(self.engine.bridge, "emitter", None)
        if not isinstance(emitter, UserWebSocketEmitter):
            raise WiringError("L4", f"in its place is {emitter!r}")
        if emitter.user_id != self.accepted.context.user_id:
            raise WiringError("L4", f"it is bound to {emitter.user_id!r}, not to {self.accepted.context.user_id!r}")
        return f"bound to {emitter.user_id}"

    async def emit_methods(self) -> str:
        run = self.accepted.run
        if run is None:
            raise WiringError("L5", "the run is not watched")
        call = ("call_1", "wiring")
        events: Sequence[Event] = (
            AgentStarted("wiring"),
            AgentThinking("wiring", 1),
            ToolExecuting(*call, {}),
            ToolCompleted(*call, ToolStatus.OK, None, 0.0),
        )
        bridge = self.engine.bridge
        for event in events:
            outcome: Any = await bridge.emit(event, run.ledger.emitted(event.type, time.monotonic_ns()))
            _require_outcome(event.type.value, outcome, bridge.emitter)
        event_type = CRITICAL_TYPES[-1]
        await bridge.complete("wiring", run.ledger.emitted(event_type, time.monotonic_ns()))
        run.ended(Outcome.COMPLETED)
        self.engine_ended = True
        stored = await self.server.log.replay(self.accepted.context.run_id, 0, limit=10)
        if len(stored) != len(CRITICAL_TYPES):
            raise WiringError("L5", f"{len(CRITICAL_TYPES)} events were emitted, the log holds {len(stored)}")
        return "each event is durable"

    async def delivery(self) -> str:
        token = sign_token(self.server.settings, USER, ttl_seconds=60)
        try:
            async with asyncio.timeout(DELIVERY_SECONDS), Client(self.server.ws_url, token, reconnect=False) as client:
                run = await client.start_run(
                    {"question": "what is missing?", "recording_id": "sample"}, agent="analyst"
                )
                async for _ in run:
                    pass
        except (ClientError, TimeoutError) as error:
            raise WiringError("L6", str(error) or f"no terminal event within {DELIVERY_SECONDS:g} s") from error
        missing = [event_type.value for event_type in CRITICAL_TYPES if not run.received[event_type.value]]
        if missing:
            raise WiringError("L6", f"the client did not get {', '.join(missing)}")
        if not run.receipt_agrees:
            raise WiringError("L6", f"the receipt says {run.receipt}, the client has {dict(run.received)}")
        summary = await self.server.log.run(run.run_id)
        if summary is None or summary.acked_seq != summary.last_seq:
            raise WiringError("L6", f"of {run.last_seq} events {summary.acked_seq if summary else 0} are acknowledged")
        return f"{run.last_seq} events, all acknowledged, the receipt agrees"

    async def end(self) -> None:
        """Leave no run open that the checks opened."""
        if getattr(self, "accepted", None) is not None:
            if not self.engine_ended:
                await self.server.factory.close_unwired(self.accepted.context, TracewireError("a wiring check failed"))
            self.server.engine.release(USER)


async def check_wiring(server: Server) -> list[WiringCheck]:
    """All six checks of a started server, in order."""
    probe = _Probe(server)
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("L1", probe.factory),
        ("L2", probe.user_engine),
        ("L3", probe.bridge),
        ("L4", probe.emitter),
        ("L5", probe.emit_methods),
        ("L6", probe.delivery),
    ]
    results = [result async for result in _one_after_the_other(checks)]
    await probe.end()
    return results


def broken(checks: Sequence[WiringCheck]) -> str | None:
    """The check that does not hold, or `None`."""
    return next((check.check for check in checks if check.holds is False), None)


async def _one_after_the_other(
    checks: Sequence[tuple[str, Callable[[], Awaitable[str]]]],
) -> AsyncIterator[WiringCheck]:
    failed: WiringError | None = None
    order = [name for name, _ in checks]
    for name, check in checks:
        if failed is not None:
            # A factory joins several stations at once: the failure says which joint it was.
            if failed.check == name:
                yield WiringCheck(name, False, _said(failed))
            elif order.index(name) < order.index(failed.check):
                yield WiringCheck(name, True, "as far as its successor shows")
            else:
                yield WiringCheck(name, None, f"not reached ({failed.check})")
            continue
        try:
            yield WiringCheck(name, True, await check())
        except Exception as error:  # noqa: BLE001 # whatever a broken joint raises is what is broken
            failed = error if isinstance(error, WiringError) else WiringError(name, f"{type(error).__name__}: {error}")
            if order.index(failed.check) <= order.index(name):
                failed.check = name
                yield WiringCheck(name, False, _said(failed))
            else:
                yield WiringCheck(name, True, "as far as its successor shows")


def _said(error: WiringError) -> str:
    return str(error).partition(": ")[2] or str(error)


def _require_outcome(event_type: str, outcome: Any, emitter: UserWebSocketEmitter) -> None:
    if outcome is None or getattr(outcome, "seq", None) != emitter.durable_seq:
        raise WiringError("L5", f"emit_{event_type} says {outcome!r}, and the log is at seq {emitter.durable_seq}")
