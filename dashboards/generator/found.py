"""The columns of a table of traces, and where a click on each leads."""

from dashboards.generator import links
from dashboards.generator.house import Column
from tracewire_telemetry.catalog import Attribute


def found_columns(*more: Column) -> tuple[Column, ...]:
    """Time, user, what the board adds, the run with its ledger, and the span, which opens the trace.

    Names are those of Grafana's table of spans and of the attributes that the search selects.
    """
    user = links.to_board(links.USERS, user=links.field(Attribute.USER_ID))
    ledger = links.ledger(links.field(Attribute.RUN_ID))
    return (
        Column("traceIdHidden", "Trace", hidden=True),
        Column("time", "Time", width=170),
        Column(Attribute.USER_ID, "User", links=[links.link("This user", user)]),
        *more,
        Column(Attribute.RUN_ID, "Run", links=[links.link("Its ledger", ledger, elsewhere=True)]),
        Column("spanID", "Trace"),
        Column("name", "Span"),
        Column("duration", "Duration"),
        Column("traceName", "Started as", hidden=True),
        Column("traceService", "Service", hidden=True),
    )
