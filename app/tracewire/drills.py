"""Fire drills: which event is to be lost at which link of one run of the reserved user, and what became of it.

A drill is armed for one run, which is known by three things at once: its user (`drill`), its agent (`drill`), and a
request id that nobody knows but who armed it. `take` gives it to that run's stations, once. No other run can get it,
and where drills are not allowed there is no `Drills` at all.
"""

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import structlog
import uuid_utils
from msgspec.structs import replace

from tracewire.errors import RejectedError
from tracewire_telemetry.ledger import NS_PER_SECOND, RunLedger
from tracewire_telemetry.vocabulary import EventType, Link, Origin, RejectCode

USER: Final = "drill"
"""The one user of whom a drill loses anything. Sign nobody else in by this name on a server that allows drills."""
AGENT: Final = "drill"
NEVER_EMITTED: Final = (EventType.AGENT_THINKING, EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED)
"""What an agent can leave out and still end: lost at the engine, such an event never comes. A run that does not start,
or does not end, is noticed by its silence, and then goes on.
"""
ARMED_SECONDS: Final = 30.0
"""A drill whose run does not come within this is over."""
LOOK_SECONDS: Final = 0.05
"""Time between two looks for the incident by what holds an event back; of the drill's run alone."""
_log = structlog.get_logger("tracewire.drills")


class DrillState(StrEnum):
    """What a drill is at. `over`: its run is settled, or never came."""

    ARMED = "armed"
    RUNNING = "running"
    OVER = "over"


class Drill:
    """One event of one run, lost at one link once. Times are Unix nanoseconds, `None` until they come.

    `lost_unix_ns` is when the link did not take the event, `noticed_unix_ns` when the watch had declared it missing.
    """

    def __init__(self, event_type: EventType, link: Link, armed_ns: int) -> None:
        self.drill_id = f"drill-{uuid_utils.uuid4()}"
        self.event_type = event_type
        self.link = link
        self.lost_unix_ns: int | None = None
        self.noticed_unix_ns: int | None = None
        self.ledger: RunLedger | None = None
        self.stopped: Callable[[], bool] = lambda: False
        self._armed_until_ns = armed_ns + int(ARMED_SECONDS * NS_PER_SECOND)

    def state(self, now: int) -> DrillState:
        """What it is at, at `now` (monotonic nanoseconds)."""
        if self.ledger is not None:
            return DrillState.OVER if self.ledger.settled_ns else DrillState.RUNNING
        return DrillState.ARMED if now < self._armed_until_ns else DrillState.OVER

    def loses(self, event_type: str, link: Link) -> bool:
        """Whether this station is the one, and this event the one, and it was not lost yet."""
        return self.lost_unix_ns is None and link is self.link and event_type == self.event_type

    def lose(self) -> None:
        """The event is lost from now on."""
        self.lost_unix_ns = time.time_ns()
        _log.warning("drill_lost_event", **self._fields())

    async def hold(self) -> None:
        """Lose the event, and hold the run where it is until the watch has declared it missing.

        Given up when the run is stopped, or when every deadline of the run has passed twice: whoever then finds no
        incident has found that the watch is broken.
        """
        self.lose()
        ledger = self.ledger
        if ledger is None:
            return
        limits = ledger.limits
        patience = 2 * sum((limits.start, limits.idle, limits.tool, limits.silence, *limits[:4])) / NS_PER_SECOND
        give_up_at = time.monotonic() + patience
        while not self.stopped() and time.monotonic() < give_up_at:
            if any(lost.link is self.link for lost in ledger.missing):
                self.noticed_unix_ns = time.time_ns()
                break
            await asyncio.sleep(LOOK_SECONDS)
        _log.warning("drill_let_go", **self._fields(), noticed=self.noticed_unix_ns is not None)

    def _fields(self) -> dict[str, object]:
        identity = self.ledger.identity if self.ledger is not None else None
        return {
            "drill_id": self.drill_id,
            "user_id": USER,
            "run_id": identity.run_id if identity is not None else None,
            "event_type": self.event_type.value,
            "link": self.link.value,
        }


class Drills:
    """The drills of a server that allows them, one at a time: two of the one user would disturb each other."""

    def __init__(self) -> None:
        self._newest: Drill | None = None

    def arm(self, event_type: EventType, link: Link, now: int) -> Drill:
        """Arm a drill for the run that will be started by its id, at `now` (monotonic nanoseconds).

        Raises:
            RejectedError: `rate_limited`, while another one is under way.
        """
        if self._newest is not None and self._newest.state(now) is not DrillState.OVER:
            raise RejectedError(
                RejectCode.RATE_LIMITED,
                "another drill is under way; wait until its run is settled, or its time to start is over",
                retry_after_seconds=LOOK_SECONDS if self._newest.ledger is not None else ARMED_SECONDS,
            )
        self._newest = Drill(event_type, link, now)
        _log.warning("drill_armed", **self._newest._fields())
        return self._newest

    def find(self, drill_id: str) -> Drill | None:
        """The newest drill, if this is its id."""
        drill = self._newest
        return drill if drill is not None and drill.drill_id == drill_id else None

    def take(self, request_id: str, ledger: RunLedger, now: int) -> Drill | None:
        """The drill that was armed for this run, given away with this; `None` for every other run."""
        identity = ledger.identity
        if identity.user_id != USER or identity.agent != AGENT:
            return None
        drill = self.find(request_id)
        if drill is None or drill.state(now) is not DrillState.ARMED:
            return None
        drill.ledger = ledger
        # What is lost on purpose is no failure of the service towards its users: the objective counts theirs alone.
        ledger.identity = replace(identity, origin=Origin.CANARY)
        return drill
