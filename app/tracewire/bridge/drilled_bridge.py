"""The bridge of a drill's run: it holds one event back before that is sequenced.

Enters, leaves, next: as `AgentWebSocketBridge`. Only `DrilledFactory` makes one, for the run that a drill is armed for.
"""

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.drilled_emitter import DrilledEmitter
from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.drills import Drill
from tracewire.events import Event
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import Link
from tracewire_telemetry.watch import OpenRun


class DrilledBridge(AgentWebSocketBridge):
    """Sequences one run, and one of its events late."""

    def __init__(self, emitter: DrilledEmitter, run: OpenRun, metrics: Metrics, drill: Drill) -> None:
        super().__init__(emitter, run, metrics)
        self.drill = drill

    async def _pass_on(self, event: Event, ordinal: int) -> EmitOutcome:
        if self.drill.loses(event.type, Link.BRIDGE):
            await self.drill.hold()
        return await super()._pass_on(event, ordinal)
