"""The engine of a drill's run, and the factory that makes it where drills are allowed.

Enters: an admitted run. Leaves: its events, but for the one that the drill loses here. Next: `DrilledBridge`.
"""

import time
from typing import Any

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.bridge.drilled_bridge import DrilledBridge
from tracewire.delivery.drilled_emitter import DrilledEmitter
from tracewire.delivery.user_websocket_emitter import EmitOutcome, UserWebSocketEmitter
from tracewire.drills import NEVER_EMITTED, Drill, Drills
from tracewire.engine.agent import AgentSpec
from tracewire.engine.agent_context import AgentContext
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import RunResult, UserExecutionEngine
from tracewire.events import Event
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EventType, Link
from tracewire_telemetry.watch import OpenRun


class DrilledContext(AgentContext):
    """`ctx` of the drill's run."""

    bridge: DrilledBridge
    _call_left_out = False

    async def emit(self, event: Event) -> EmitOutcome:
        """Stamp the event and hand it on, unless it is the one that is never emitted."""
        drill = self.bridge.drill
        if self._call_left_out and event.type is EventType.TOOL_COMPLETED:
            return self._left_out()  # of a call that nobody heard of
        if drill.loses(event.type, Link.ENGINE):
            if event.type not in NEVER_EMITTED:
                await drill.hold()
            else:
                drill.lose()
                self._call_left_out = event.type is EventType.TOOL_EXECUTING
                if event.type is EventType.TOOL_COMPLETED:
                    # The bridge would close the call itself at the run's end, and the event would be there after all.
                    self.bridge.contract.open_tools.clear()
                return self._left_out()
        return await super().emit(event)

    def _left_out(self) -> EmitOutcome:
        return EmitOutcome(self.bridge.emitter.durable_seq, 0)


class DrilledEngine(UserExecutionEngine):
    """Runs the drill's agent."""

    bridge: DrilledBridge
    context_class = DrilledContext

    async def _complete(self, spec: AgentSpec, output: Any) -> RunResult:
        if self.bridge.drill.loses(EventType.AGENT_COMPLETED, Link.ENGINE):
            await self.bridge.drill.hold()
        return await super()._complete(spec, output)


class DrilledFactory(ExecutionFactory):
    """The factory of a server that allows drills: for the run that one was armed for it wires the drilled stations."""

    def __init__(self, drills: Drills) -> None:
        super().__init__()
        self._drills = drills
        self._taken: Drill | None = None

    def create_user_engine(self, context: UserExecutionContext) -> UserExecutionEngine:
        """An engine for one accepted run, as `ExecutionFactory.create_user_engine`."""
        run = self._watch.runs.get(context.run_id) if self._watch is not None else None
        if run is not None:
            self._taken = self._drills.take(context.request_id, run.ledger, time.monotonic_ns())
        try:
            engine = super().create_user_engine(context)
        finally:
            taken, self._taken = self._taken, None
        if taken is not None:
            taken.stopped = engine._stopped.done
        return engine

    def _create_bridge(self, emitter: UserWebSocketEmitter, run: OpenRun, metrics: Metrics) -> AgentWebSocketBridge:
        if self._taken is None:
            return super()._create_bridge(emitter, run, metrics)
        return DrilledBridge(DrilledEmitter.in_place_of(emitter, self._taken), run, metrics, self._taken)

    def _engine_class(self, bridge: AgentWebSocketBridge) -> type[UserExecutionEngine]:
        return DrilledEngine if isinstance(bridge, DrilledBridge) else super()._engine_class(bridge)


def execution_factory(drills: Drills | None) -> ExecutionFactory:
    """The factory of a server that allows these drills, or none."""
    return ExecutionFactory() if drills is None else DrilledFactory(drills)
