"""The board "Process": the servers themselves, and the programs that tell of them."""

from typing import Final

from grafana_foundation_sdk.builders import table

from dashboards.generator import links, promql
from dashboards.generator.frame import Board, Placed, Row, query_variable
from dashboards.generator.house import COUNT, SECONDS, Asked, Column, number, rows
from dashboards.generator.outside import UP
from dashboards.generator.process_server import event_log, machine, sockets
from dashboards.generator.process_watchers import collector, spans, watchers
from tracewire_telemetry import catalog

_EACH: Final = "job, instance"


def board() -> Board:
    """What stands on it: the servers, then each part of one, then who watches them."""
    beside = query_variable(
        "beside",
        "Beside it",
        "The jobs of the programs beside Tracewire: Prometheus, Alertmanager, the Collector.",
        f"label_values({UP.full_name}{{{promql.NOT_OURS}}}, job)",
        every=None,
    )
    return Board(
        links.PROCESS,
        "Tracewire / Process",
        "Are the servers up, ready, and well; and do the programs that watch them do so?",
        [_state(), sockets(), event_log(), machine(), spans(), collector(), watchers()],
        variables=[beside],
    )


def _state() -> Row:
    up = promql.series(UP)
    return Row(
        "Are the servers up?",
        [
            Placed(
                number(
                    "Not up, or not ready",
                    "Servers that Prometheus cannot scrape, or that take no new work.",
                    COUNT,
                    Asked(f"count({up}) - {promql.summed(promql.series(catalog.READY))}"),
                    steps=((None, "green"), (1, "red")),
                    decimals=0,
                    none="no server",
                ),
                4,
                7,
            ),
            Placed(_instances(), 20, 7),
        ],
    )


def _instances() -> table.Panel:
    version = promql.summed(promql.series(catalog.BUILD_INFO), f"{_EACH}, version, python", "max")
    restarts = promql.summed(f"changes({promql.series(catalog.START_TIMESTAMP)}[{promql.RANGE}])", _EACH)
    last_watch = promql.age_when_scraped(catalog.WATCH_LAST_TICK, by=_EACH)
    yes = ((None, "red"), (1, "green"))
    words = {"0": "no", "1": "yes"}
    return rows(
        "Instances",
        "One row for each server. Started and version change with a deployment; a restart without one is a crash, or "
        "somebody. The watch must have looked at the deadlines within 10 s, or no missing event is noticed.",
        Asked(promql.summed(promql.series(UP), _EACH, "max")),
        Asked(promql.summed(promql.series(catalog.READY), _EACH, "max")),
        Asked(version),
        Asked(promql.summed(f"1000 * {promql.series(catalog.START_TIMESTAMP)}", _EACH, "max")),
        Asked(restarts),
        Asked(promql.summed(promql.series(catalog.RUNS_LOST_AT_START), _EACH, "max")),
        Asked(last_watch),
        columns=(
            Column(
                "instance",
                "Instance",
                links=[links.link("Live state", "http://${__data.fields.instance}/ready", elsewhere=True)],
            ),
            Column("job", "Job"),
            Column("Value #A", "Up", steps=yes, texts=words, width=70),
            Column("Value #B", "Ready", steps=yes, texts=words, width=70),
            Column("version", "Version", width=90),
            Column("python", "Python", width=90),
            Column("Value #C", "Build", hidden=True),
            Column("Value #D", "Started", unit="dateTimeFromNow"),
            Column("Value #E", "Restarts", unit="none", width=80, steps=((None, "transparent"), (1, "orange"))),
            Column("Value #F", "Runs lost", unit="none", width=90, steps=((None, "transparent"), (1, "orange"))),
            Column("Value #G", "Watch looked", unit=SECONDS, width=110, steps=((None, "green"), (10, "red"))),
        ),
        none="Prometheus knows no server",
    )
