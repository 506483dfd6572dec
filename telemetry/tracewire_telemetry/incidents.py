"""Incidents: events of a run that are missing at a link, from the first of them to the end of it.

Enters: what a look at a run declared missing, acks, ends. Leaves: each incident's opening and its end, counted, logged
and handed to the event log, which has it again after a restart. Only the watch of the run's owner calls this.

An incident ends as

- `healed` when each of its events has come after all (`deadlines.came`); how late is the latest of them against its
  deadline;
- `user_gone` when it lies at the socket or the client, the last socket went, and none came back for `heal_seconds`: a
  socket that is closed *because of* the incident goes too, and is expected back;
- `lost` when the run settled without it: `heal_seconds` after its end, or at once where nothing can come any more.

An incident of a canary's run is kept, shown and logged as any other, and counted nowhere: it must page nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog
import uuid_utils
from msgspec import Struct
from msgspec.structs import replace

from tracewire_telemetry.deadlines import came, replaced
from tracewire_telemetry.ledger import NS_PER_SECOND, Missing, RunLedger
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.origins import Origins
from tracewire_telemetry.user_gauge import SeriesKey
from tracewire_telemetry.vocabulary import IncidentState, Link, Origin

STORE_RETRY_SECONDS: Final = 1.0
STORED_AT_ONCE_MAX: Final = 500
_AT_SOCKETS: Final = (Link.SOCKET, Link.CLIENT)
_log = structlog.get_logger("tracewire.incidents")


class Incident(Struct):
    """One incident as it is kept and shown. `event_type` and `first_seq` are those of the event that opened it.

    `first_seq` and `last_seq` are `None` where the events never got a seq. Times are wall-clock, of the run's anchor.
    `late_seconds` is how long after its deadline the last event came; `None` unless it is healed.
    """

    incident_id: str
    run_id: str
    user_id: str
    agent: str
    trace_id: str
    link: Link
    event_type: str
    first_seq: int | None
    last_seq: int | None
    count: int
    since_unix_ns: int
    state: IncidentState = IncidentState.OPEN
    ended_unix_ns: int | None = None
    late_seconds: float | None = None

    @property
    def series(self) -> SeriesKey:
        """The series that names its user."""
        return SeriesKey(self.user_id, self.event_type, self.link)


IncidentStore = Callable[[Sequence[Incident]], Awaitable[None]]
"""Keeps incidents by their id, replacing what it holds of them."""


class OpenIncident:
    """An open incident of a run whose ledger is here."""

    __slots__ = ("came_ns", "incident", "outstanding")

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.outstanding: list[Missing] = []
        self.came_ns = 0


RunIncidents = dict[Link, OpenIncident]
"""The open incidents of one run."""


class Incidents:
    """The incidents of one server."""

    def __init__(self, metrics: Metrics, origins: Origins) -> None:
        self._metrics = metrics
        self._origins = origins
        self._store: IncidentStore | None = None
        self._unstored: dict[str, Incident] = {}
        self._changed = asyncio.Event()
        self._adopted: dict[str, list[Incident]] = {}
        self._adopted_until_ns = 0

    # Runs that are here.

    def declare(self, ledger: RunLedger, opened: RunIncidents, lost: Missing, now: int) -> None:
        """An event was declared missing: it opens an incident, or joins the one at its link."""
        known = opened.get(lost.link)
        if known is None:
            known = opened[lost.link] = OpenIncident(_incident(ledger, lost))
            self._log("incident_opened", known.incident)
        else:
            known.incident.count += 1
            known.incident.last_seq = lost.seq or known.incident.last_seq
        known.outstanding.append(lost)
        if self._counts(known.incident):
            self._metrics.event_missing(lost, known.incident.trace_id)
            self._metrics.users.add(known.incident.series, 1, now)
        self._keep(known.incident)

    def review(self, ledger: RunLedger, opened: RunIncidents, now: int) -> None:
        """End what has healed, and what lies at sockets of a user who has gone."""
        for link, known in list(opened.items()):
            left: list[Missing] = []
            for lost in known.outstanding:
                came_ns = came(ledger, lost)
                if came_ns:
                    known.came_ns = max(known.came_ns, came_ns)
                    late_ns = max(0, came_ns - lost.at_ns)
                    known.incident.late_seconds = max(known.incident.late_seconds or 0.0, late_ns / NS_PER_SECOND)
                    if self._counts(known.incident):
                        self._metrics.event_healed(link)
                else:
                    left.append(lost)
            known.outstanding = left
            if not left:
                del opened[link]
                self._end(known.incident, IncidentState.HEALED, ledger.unix_ns(known.came_ns), now)
            elif link in _AT_SOCKETS and not ledger.followers and now >= _gone_at(ledger, left):
                del opened[link]
                self._end(known.incident, IncidentState.USER_GONE, ledger.unix_ns(now), now)

    def give_up(self, ledger: RunLedger, opened: RunIncidents, now: int) -> None:
        """The run is settled: what is open ends with it."""
        for link, known in opened.items():
            gone = link in _AT_SOCKETS and not ledger.followers
            state = IncidentState.USER_GONE if gone else IncidentState.LOST
            self._end(known.incident, state, ledger.unix_ns(now), now)
        opened.clear()

    # Those of an earlier process, whose runs recovery has closed.

    def adopt(self, incidents: Iterable[Incident], *, now: int, heal_seconds: float) -> None:
        """Take over what an earlier process left open. An event without a seq died with it: its incident is lost."""
        self._adopted_until_ns = now + int(heal_seconds * NS_PER_SECOND)
        for incident in incidents:
            if self._counts(incident):
                self._metrics.users.add(incident.series, incident.count, now)
            if incident.last_seq is None:
                self._end(incident, IncidentState.LOST, None, now)
            else:
                self._adopted.setdefault(incident.run_id, []).append(incident)

    def acknowledged(self, run_id: str, seq: int, now: int, unix_ns: int) -> None:
        """A user has acked 1..`seq` of a run that is not here: that heals what was adopted of it."""
        for incident in self._adopted.pop(run_id, ()):
            if incident.last_seq is not None and seq >= incident.last_seq:
                incident.late_seconds = max(0.0, (unix_ns - incident.since_unix_ns) / NS_PER_SECOND)
                for _ in range(incident.count if self._counts(incident) else 0):
                    self._metrics.event_healed(incident.link)
                self._end(incident, IncidentState.HEALED, unix_ns, now)
            else:
                self._adopted.setdefault(run_id, []).append(incident)

    def expire(self, now: int, unix_ns: int) -> None:
        """Give up on what was adopted and has not healed in time."""
        self._metrics.users.expire(now)
        if not self._adopted or now < self._adopted_until_ns:
            return
        for incidents in self._adopted.values():
            for incident in incidents:
                state = IncidentState.USER_GONE if incident.link in _AT_SOCKETS else IncidentState.LOST
                self._end(incident, state, unix_ns, now)
        self._adopted.clear()

    def _end(self, incident: Incident, state: IncidentState, unix_ns: int | None, now: int) -> None:
        incident.state = state
        incident.ended_unix_ns = max(incident.since_unix_ns, unix_ns or 0)
        if state is not IncidentState.HEALED:
            incident.late_seconds = None
        if self._counts(incident):
            self._metrics.users.end(incident.series, incident.count, now)
        self._keep(incident)
        self._log("incident_ended", incident, state=incident.state.value, late_seconds=incident.late_seconds)

    def _counts(self, incident: Incident) -> bool:
        return self._origins.of(incident.user_id) is Origin.USER

    def _log(self, event: str, incident: Incident, **further: object) -> None:
        origin = self._origins.of(incident.user_id)
        say = _log.warning if origin is Origin.USER else _log.info
        say(event, **_fields(incident), origin=origin.value, **further)

    # The event log.

    def _keep(self, incident: Incident) -> None:
        self._unstored[incident.incident_id] = incident
        self._changed.set()

    async def store_forever(self, store: IncidentStore) -> None:
        """Hand every change to the log. What it cannot take is kept, and offered again; the newest state counts."""
        self._store = store
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not await self.flush():
                await asyncio.sleep(STORE_RETRY_SECONDS)
                self._changed.set()

    async def flush(self) -> bool:
        """Store what changed; whether the log took all of it."""
        while self._unstored and self._store is not None:
            ids = list(self._unstored)[:STORED_AT_ONCE_MAX]
            taken = [self._unstored.pop(incident_id) for incident_id in ids]
            stored = False
            try:
                await self._store([replace(incident) for incident in taken])
                stored = True
            except Exception as error:  # noqa: BLE001 # the log may be gone: this is said, and tried again
                _log.error("incidents_not_stored", count=len(taken), error=str(error))
                return False
            finally:
                if not stored:
                    self._unstored = {incident.incident_id: incident for incident in taken} | self._unstored
        return True


def due_ns(ledger: RunLedger, opened: RunIncidents, now: int) -> int | None:
    """When to review a run's open incidents next, beside whenever it is acked; `None`: nothing comes by itself."""
    moments: list[int] = []
    for link, known in opened.items():
        if link in _AT_SOCKETS and not ledger.followers:
            moments.append(_gone_at(ledger, known.outstanding))
        elif link in (Link.BRIDGE, Link.EMITTER) or (
            link in _AT_SOCKETS and ledger.acking.isdisjoint(ledger.followers)
        ):
            moments.append(now + ledger.limits.step)
    waits = waits_until(ledger, opened)
    return min([*moments, waits] if waits else moments, default=None)


def waits_until(ledger: RunLedger, opened: RunIncidents) -> int:
    """Until when a run that has ended is not settled, because its open incidents may heal; 0 where none can."""
    if not ledger.ended_ns:
        return 0
    late = [lost.at_ns for known in opened.values() for lost in known.outstanding if _may_come(ledger, lost)]
    return max(ledger.ended_ns, *late) + ledger.limits.heal if late else 0


def _may_come(ledger: RunLedger, lost: Missing) -> bool:
    if lost.link is Link.ENGINE:
        return False
    if lost.seq is not None:
        return not replaced(ledger, lost.seq)
    return any(ledger.gone.get(-ordinal) is lost for ordinal in ledger.waiting)


def _gone_at(ledger: RunLedger, outstanding: list[Missing]) -> int:
    return max(ledger.left_ns, *(lost.at_ns for lost in outstanding)) + ledger.limits.heal


def _incident(ledger: RunLedger, lost: Missing) -> Incident:
    identity = ledger.identity
    return Incident(
        incident_id=str(uuid_utils.uuid7()),
        run_id=identity.run_id,
        user_id=identity.user_id,
        agent=identity.agent,
        trace_id=f"{identity.trace_id:032x}",
        link=lost.link,
        event_type=str(lost.event_type),
        first_seq=lost.seq,
        last_seq=lost.seq,
        count=1,
        since_unix_ns=ledger.unix_ns(lost.at_ns),
    )


def _fields(incident: Incident) -> dict[str, object]:
    return {
        "incident_id": incident.incident_id,
        "user_id": incident.user_id,
        "run_id": incident.run_id,
        "trace_id": incident.trace_id,
        "link": incident.link.value,
        "event_type": incident.event_type,
        "first_seq": incident.first_seq,
        "last_seq": incident.last_seq,
        "count": incident.count,
    }
