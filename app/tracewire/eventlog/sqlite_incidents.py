"""Incidents in the embedded log: their table, how they are written, and how they are asked for.

Enters: incidents, and queries of the port. Leaves: statements for `sqlite_writes` and `sqlite_reader`.
"""

from typing import Any, Final

import msgspec

from tracewire.eventlog import IncidentQuery
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import IncidentState, Link

_COLUMNS: Final = ", ".join(Incident.__struct_fields__)
STORE_INCIDENT: Final = (
    f"INSERT INTO incidents ({_COLUMNS}) VALUES ({', '.join('?' * len(Incident.__struct_fields__))})"  # noqa: S608 # names of ours
    " ON CONFLICT (incident_id) DO UPDATE SET last_seq = excluded.last_seq, count = excluded.count,"
    " state = excluded.state, ended_unix_ns = excluded.ended_unix_ns, late_seconds = excluded.late_seconds"
)


def values_of(incident: Incident) -> tuple[Any, ...]:
    """The incident as `STORE_INCIDENT` takes it."""
    return tuple(str(value) if isinstance(value, str) else value for value in msgspec.structs.astuple(incident))


def incident_of(row: tuple[Any, ...]) -> Incident:
    """A row of `incidents_query`."""
    incident = Incident(*row)
    incident.link = Link(incident.link)
    incident.state = IncidentState(incident.state)
    return incident


def incidents_query(query: IncidentQuery) -> tuple[str, list[str | int]]:
    """The statement, and what to bind to it."""
    conditions = [
        (condition, value)
        for condition, value in (
            ("incident_id < ?", query.before_id),
            ("user_id = ?", query.user_id),
            ("run_id = ?", query.run_id),
            ("link = ?", query.link and query.link.value),
            ("event_type = ?", query.event_type),
            ("state = ?", query.state and query.state.value),
            ("since_unix_ns >= ?", query.since_unix_ns),
        )
        if value is not None
    ]
    where = " AND ".join(condition for condition, _ in conditions) or "TRUE"
    sql = f"SELECT {_COLUMNS} FROM incidents WHERE {where} ORDER BY incident_id DESC LIMIT ?"  # noqa: S608 # names of ours
    return sql, [*(value for _, value in conditions), max(query.limit, 0)]
