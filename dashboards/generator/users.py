"""The board "Users": who misses which event at which link, since when, and the traces that show it."""

from typing import Final

from grafana_foundation_sdk.builders import table

from dashboards.generator import links, promql, traceql
from dashboards.generator.found import found_columns
from dashboards.generator.frame import Board, Placed, Row, ops_variable, query_variable
from dashboards.generator.house import COUNT, SINCE, Asked, Column, lines, number, rows, timeline, traces
from tracewire_telemetry.catalog import (
    USER_EVENTS_MISSING,
    USER_SLOTS_OVERFLOW,
    USERS_AFFECTED,
    Attribute,
)

_THIS: Final = 'user_id=~"$user"'
_KEY: Final = "job, user_id, event_type, link"
_USER: Final = "user_id"


def board() -> Board:
    """What stands on it: all users first, then the one that was chosen."""
    variable = query_variable(
        "user",
        "User",
        "Users who miss events now, as the metrics name them. Any other user's id can be typed.",
        f"label_values({promql.series(USER_EVENTS_MISSING)}, user_id)",
        multi=False,
    )
    return Board(
        links.USERS,
        "Tracewire / Users",
        "Which user misses which event at which link, since when; and from there to the live ledger and to the trace.",
        [_now(), _one(), _traces()],
        variables=[variable, ops_variable()],
    )


def _now() -> Row:
    missing = promql.series(USER_EVENTS_MISSING)
    return Row(
        "Missing now",
        [
            Placed(
                number(
                    "Users affected",
                    "Users who miss an event now, whether a series names them or not.",
                    COUNT,
                    Asked(promql.summed(promql.series(USERS_AFFECTED))),
                    steps=((None, "green"), (1, "orange"), (11, "red")),
                    decimals=0,
                ),
                4,
                5,
            ),
            Placed(
                number(
                    "Events missing",
                    "Events that the named users miss now.",
                    COUNT,
                    Asked(promql.summed(missing)),
                    steps=((None, "green"), (1, "red")),
                    decimals=0,
                    none="none",
                ),
                4,
                5,
            ),
            Placed(
                number(
                    "Slots taken, at most",
                    "Series of users in the fullest process; each process has 200 of them. A user takes one for each "
                    "type and link.",
                    COUNT,
                    Asked(f"max(count by (job, instance) ({missing}))"),
                    steps=((None, "green"), (150, "orange"), (200, "red")),
                    decimals=0,
                    none="none",
                ),
                4,
                5,
            ),
            Placed(
                number(
                    "Without a slot",
                    "Series that found no slot: those users have no alert of their own. The live incidents have all.",
                    COUNT,
                    Asked(promql.summed(promql.series(USER_SLOTS_OVERFLOW))),
                    steps=((None, "green"), (1, "red")),
                    decimals=0,
                ),
                4,
                5,
            ),
            Placed(
                lines(
                    "Users affected, over time",
                    "Users who miss an event, by instance. One instance alone: look there. All at once: what they "
                    "have in common.",
                    COUNT,
                    Asked(promql.summed(promql.series(USERS_AFFECTED), "instance"), "{{instance}}"),
                    stacked=True,
                ),
                8,
                5,
            ),
            Placed(_table(), 24, 9),
        ],
    )


def _table() -> table.Panel:
    count = promql.summed(promql.series(USER_EVENTS_MISSING), f"{_KEY}, instance")
    began = promql.alerts('alertname="TracewireUserEventsMissing"', series_name="ALERTS_FOR_STATE")
    since = promql.summed(began, _KEY, "max")
    user = links.field(_USER)
    live = links.incidents("${__data.fields.instance}", user)
    return rows(
        "Who misses what, at which link, since when",
        "One row for each user, type and link in violation; a row stays for two and a half scrapes at least. Since: "
        "when Prometheus first saw it. A click on a user chooses them for the panels below; on an instance it asks the "
        "live server, which names the run.",
        Asked(count),
        Asked(f"1000 * {since} * on ({_KEY}) group_right () ({count} >= bool 0)"),
        columns=(
            Column(_USER, "User", links=[links.link("This user", links.to_board(links.USERS, user=user))]),
            Column("event_type", "Event", links=[links.link("Runbook", links.to_board(links.RUNBOOK))]),
            Column("link", "Link", links=[links.link("The links' rates", links.to_board(links.DELIVERY))]),
            Column("Value #A", "Missing", unit="none", width=100, steps=((None, "orange"), (10, "red"))),
            Column("Value #B", "Since", unit=SINCE, width=180),
            Column(
                "instance",
                "Instance",
                links=[links.link("Live incidents of this user", live, elsewhere=True)],
            ),
            Column("job", "Job"),
        ),
        none="Nobody misses an event",
        first="Since",
    )


def _one() -> Row:
    shown = promql.summed(promql.series(USER_EVENTS_MISSING, _THIS), "user_id, event_type, link", "max")
    live = links.incidents("${ops}", "${user:percentencode}")
    return Row(
        "The user that is chosen: ${user}",
        [
            Placed(
                timeline(
                    "When events were missing",
                    "A bar for as long as events of the user were missing at a link, with how many. Choose the user "
                    "above: with All, every user who was in violation is here.",
                    Asked(shown, "{{user_id}}: {{event_type}} at {{link}}"),
                    steps=((None, "orange"), (10, "red")),
                    links=[links.link("Live incidents of this user", live, elsewhere=True)],
                ),
                24,
                7,
            )
        ],
    )


def _traces() -> Row:
    agent = (Column(Attribute.AGENT_NAME, "Agent"), Column(Attribute.RUN_OUTCOME, "Outcome"))
    not_yet = " A trace is here once its run is settled; the live incidents answer at once."
    hashed = " Traces have users' ids as they are: where metrics hash them, type the id."
    return Row(
        "Traces of ${user}",
        [
            Placed(
                traces(
                    "Missing events, and where",
                    "The span of the link that did not take an event, with type and seq. A click on the span opens the "
                    "trace there, on the run its ledger." + not_yet + hashed,
                    traceql.MISSING_EVENTS,
                    columns=found_columns(
                        Column(Attribute.EVENT_TYPE, "Event"),
                        Column(Attribute.LINK, "Link"),
                        Column(Attribute.EVENT_SEQ, "Seq", width=70),
                    ),
                ),
                24,
                8,
            ),
            Placed(
                traces(
                    "Runs with missing events",
                    "Runs whose chain is not complete: at least one of their events was missing at a link." + not_yet,
                    traceql.INCOMPLETE_RUNS,
                    columns=found_columns(*agent),
                ),
                12,
                8,
            ),
            Placed(
                traces(
                    "Runs with pending events",
                    "Runs that ended while none of the user's sockets followed them. Their events wait in the log, and "
                    "are no loss." + not_yet,
                    traceql.PENDING_RUNS,
                    columns=found_columns(*agent, Column(Attribute.EVENTS_PENDING, "Pending", width=80)),
                ),
                12,
                8,
            ),
        ],
    )
