"""Incidents that an earlier process left open, taken over at the start.

Their runs are closed by then: recovery has ended them. An incident whose events are durable heals when its user acks
them; one whose events never became durable is lost.
"""

from typing import Final

from msgspec.structs import replace

from tracewire.errors import EventsExpiredError
from tracewire.eventlog import EventLog, IncidentQuery
from tracewire.events import decode_envelope
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import IncidentState
from tracewire_telemetry.watch import Watch

PAGE: Final = 500


async def adopt_incidents(log: EventLog, watch: Watch) -> None:
    """Hand every open incident of the log to the watch, with its first `since`.

    Raises:
        LogUnavailableError: the log cannot be read.
    """
    before: str | None = None
    while page := await log.incidents(IncidentQuery(PAGE, before_id=before, state=IncidentState.OPEN)):
        watch.adopt([await _as_durable(log, incident) for incident in page])
        before = page[-1].incident_id


async def _as_durable(log: EventLog, incident: Incident) -> Incident:
    """The incident without its seqs, where the log does not hold the event that opened it.

    What recovery has appended may stand at that seq now: the type tells.
    """
    if incident.first_seq is None:
        return incident
    try:
        found = await log.replay(incident.run_id, incident.first_seq - 1, limit=1)
    except EventsExpiredError:
        return incident  # retention removes only what is durable
    durable = bool(found) and decode_envelope(found[0].body).type.value == incident.event_type
    return incident if durable else replace(incident, first_seq=None, last_seq=None)
