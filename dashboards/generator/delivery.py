"""The board "Delivery": whether users get their events, and which link of the chain takes them."""

from grafana_foundation_sdk.builders import table

from dashboards.generator import links, promql
from dashboards.generator.delivery_chain import chain, missing, to_users
from dashboards.generator.frame import Board, Placed, Row
from dashboards.generator.house import (
    COUNT,
    SECONDS,
    SHARE,
    SINCE,
    Asked,
    Column,
    lines,
    number,
    rows,
)
from tracewire_telemetry.catalog import (
    CANARY_DETECTION_LAST_SUCCESS,
    CANARY_LAST_SUCCESS,
    USERS_AFFECTED,
)


def board() -> Board:
    """What stands on it, in the order in which one asks."""
    return Board(
        links.DELIVERY,
        "Tracewire / Delivery",
        "Do users get their events, and if not, which link does not take them? From here down to the user and the "
        "trace.",
        [_well(), chain(), missing()],
        since="now-6h",
    )


def _well() -> Row:
    bad, counted = (promql.verdicts(values, over="30d") for values in (promql.BAD, promql.COUNTED))
    return Row(
        "Do users get their events?",
        [
            Placed(
                number(
                    "In time, 30 days",
                    "The objective: 99.9 % of deliveries to users are acknowledged within 2 s, over 30 days. The "
                    "canary's own and those to users without a socket do not count. Prometheus must keep 30 days for "
                    "it; with less it is over what there is.",
                    SHARE,
                    Asked(f"1 - {bad} / ({counted} > 0)", "{{job}}"),
                    steps=((None, "red"), (promql.OBJECTIVE, "green")),
                    decimals=3,
                    none="no traffic",
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Error budget left, 30 days",
                    "What is left of the 0.1 % of deliveries that may be late or missing in 30 days. Below zero the "
                    "objective is missed.",
                    SHARE,
                    Asked(f"1 - {bad} / ({counted} > 0) / {promql.BUDGET}", "{{job}}"),
                    steps=((None, "red"), (0, "orange"), (0.25, "green")),
                    decimals=1,
                    none="no traffic",
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Late or missing, last hour",
                    "Deliveries to users that were late or missing. Fewer than 10 alert nobody by their rate; each "
                    "missing one has its user's own alert.",
                    COUNT,
                    Asked(promql.bad_count("1h"), "{{job}}"),
                    steps=((None, "green"), (1, "orange"), (10, "red")),
                    decimals=0,
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Users affected",
                    "Users who miss an event now. More than 10 at once is a broken link rather than many clients.",
                    COUNT,
                    Asked(promql.summed(promql.series(USERS_AFFECTED))),
                    steps=((None, "green"), (1, "orange"), (11, "red")),
                    decimals=0,
                    links=[to_users()],
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Canary: since its last success",
                    "How long ago the oldest canary last got all of its five events over a real socket. Over 90 s it "
                    "fails, and users fare no better.",
                    SECONDS,
                    Asked(promql.age(CANARY_LAST_SUCCESS)),
                    steps=((None, "green"), (60, "orange"), (90, "red")),
                    decimals=0,
                    none="no canary",
                ),
                4,
                4,
            ),
            Placed(
                number(
                    "Detection: since its last success",
                    "How long ago a planted missing event was last found. Over 15 minutes, that no user's alert fires "
                    "means nothing.",
                    SECONDS,
                    Asked(promql.age(CANARY_DETECTION_LAST_SUCCESS)),
                    steps=((None, "green"), (600, "orange"), (900, "red")),
                    decimals=0,
                    none="no canary",
                ),
                4,
                4,
            ),
            Placed(_alerts(), 14, 9),
            Placed(
                lines(
                    "Burn of the error budget, by window",
                    "How many times as fast as the budget allows it is used up: at 1 it lasts exactly 30 days. Alerts "
                    "fire at 14.4 (1 h and 5 min), 6 (6 h and 30 min), 3 (1 d and 2 h) and 1 (3 d and 6 h). A window "
                    "without any delivery has no line.",
                    "none",
                    *(
                        Asked(f"{promql.bad_share(window)} / {promql.BUDGET}", f"{window}, {{{{job}}}}")
                        for window in promql.BURN_WINDOWS
                    ),
                    steps=((None, "green"), (1, "orange"), (14.4, "red")),
                ),
                10,
                9,
            ),
        ],
    )


def _alerts() -> table.Panel:
    labels = "alertname, severity, job, instance, user_id, event_type, link"
    named = ('alertname=~"Tracewire.*"', 'alertname!="TracewireWatchdog"')
    began = promql.summed(promql.alerts(*named, series_name="ALERTS_FOR_STATE"), labels, "max")
    firing = promql.summed(promql.alerts(*named, 'alertstate="firing"'), labels, "max")
    return rows(
        "Alerts that fire",
        "Tracewire's alerts as Prometheus evaluates them, those on the programs beside it too. A click on a user leads "
        "to what they miss and to their traces, on an alert to the runbook, on an instance to its live incidents.",
        Asked(f"1000 * {began} * on ({labels}) {firing}"),
        columns=(
            Column("severity", "Severity", width=90, colors={"critical": "red", "warning": "orange"}),
            Column("alertname", "Alert", links=[links.link("Runbook", links.to_board(links.RUNBOOK))]),
            Column(
                "user_id",
                "User",
                links=[links.link("This user", links.to_board(links.USERS, user=links.field("user_id")))],
            ),
            Column("event_type", "Event"),
            Column("link", "Link", width=80),
            Column(
                "instance",
                "Instance",
                links=[links.link("Live incidents", links.incidents("${__data.fields.instance}"), elsewhere=True)],
            ),
            Column("job", "Job", hidden=True),
            Column("Value", "Since", unit=SINCE, width=130),
        ),
        none="No alert fires",
        first="Severity",
    )
