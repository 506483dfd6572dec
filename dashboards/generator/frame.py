"""What every board has: its variables, annotations and links, and a grid without holes."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from dashboards.generator import links
from dashboards.generator.house import PROMETHEUS
from dashboards.generator.outside import UP
from dashboards.generator.promql import alerts, series
from tracewire_telemetry.catalog import BUILD_INFO, START_TIMESTAMP

SCHEMA_VERSION: Final = 39
"""Grafana 11.0's; later ones raise it by themselves when they load a board."""
WIDTH: Final = 24
JOBS: Final = "tracewire.*"
"""Every job so named is a Tracewire server: the rules take it so too."""


class Placed(NamedTuple):
    """A panel and its size, in the grid's units."""

    panel: Builder[dashboard.Panel]
    width: int
    height: int


class Row(NamedTuple):
    """A heading and the panels under it, left to right. Panels that stand side by side have the same height."""

    title: str
    panels: Sequence[Placed]


class Board(NamedTuple):
    """One board. `variables` are those beside the ones that all have."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Builder[dashboard.VariableModel]] = ()
    since: str = "now-3h"


class Annotation(dashboard.AnnotationQuery):
    """Marks on the panels' time axis. The SDK's own leaves out what Prometheus's annotations are named by."""

    def __init__(self, name: str, expr: str, color: str, title: str, text: str, *, at_value: bool = False) -> None:
        super().__init__(name=name, datasource=PROMETHEUS, enable=True, hide=False, icon_color=color, expr=expr)
        self._more = {"titleFormat": title, "textFormat": text, "useValueForTime": at_value, "step": "30s"}

    def to_json(self) -> dict[str, object]:
        """As Grafana reads it."""
        return super().to_json() | self._more


class _Made(Builder[dashboard.AnnotationQuery]):
    """What is built already, for whoever asks for a builder."""

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation

    def build(self) -> dashboard.AnnotationQuery:
        return self._annotation


def built(board: Board) -> dashboard.Dashboard:
    """The board as Grafana's model.

    Raises:
        ValueError: a row of panels leaves a hole; says where.
    """
    made = builders.Dashboard(board.title).uid(board.uid).description(board.description).tags(["tracewire"])
    made = made.readonly().timezone("browser").time(board.since, "now").refresh("30s")
    made = made.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    for variable in (*_variables(), *board.variables):
        made = made.with_variable(variable)
    for annotation in _annotations():
        made = made.annotation(_Made(annotation))
    made = made.links([_to(uid, title) for uid, title in links.TITLES.items() if uid != board.uid])
    top = 0
    for number, row in enumerate(board.rows, start=1):
        heading = builders.Row(row.title).id(100 * number).grid_pos(dashboard.GridPos(h=1, w=WIDTH, x=0, y=top))
        made = made.with_row(heading)
        top += 1
        for panel, position in zip(row.panels, _places(row, top), strict=True):
            made = made.with_panel(_Fixed(panel.panel, 100 * number + row.panels.index(panel) + 1, position))
        top = max(position.y + position.h for position in _places(row, top))
    finished = made.build()
    finished.schema_version = SCHEMA_VERSION
    for model in finished.templating.list_val or []:  # what only variables of intervals have
        model.auto = model.auto_min = model.auto_count = None
    return finished


class _Fixed(Builder[dashboard.Panel]):
    """A panel with its id and its place."""

    def __init__(self, panel: Builder[dashboard.Panel], number: int, position: dashboard.GridPos) -> None:
        self._built = panel.build()
        self._built.id_val, self._built.grid_pos = number, position

    def build(self) -> dashboard.Panel:
        return self._built


def _places(row: Row, top: int) -> list[dashboard.GridPos]:
    found: list[dashboard.GridPos] = []
    left = 0
    for panel in row.panels:
        if left and found[-1].h != panel.height:
            raise ValueError(f"{row.title}: panels side by side are {found[-1].h} and {panel.height} high")
        found.append(dashboard.GridPos(h=panel.height, w=panel.width, x=left, y=top))
        left += panel.width
        if left > WIDTH:
            raise ValueError(f"{row.title}: a line of panels is {left} wide, and the grid {WIDTH}")
        if left == WIDTH:
            left, top = 0, top + panel.height
    if left:
        raise ValueError(f"{row.title}: the last line of panels is {left} wide, and the grid {WIDTH}")
    return found


def query_variable(
    name: str, label: str, description: str, query: str, *, multi: bool = True, every: str | None = ".+"
) -> builders.QueryVariable:
    """A variable whose values Prometheus knows; others can be typed. `every` is what All stands for: without it, each
    of the values.
    """
    chosen: Any = ["All"] if multi else "All"
    value: Any = ["$__all"] if multi else "$__all"
    made = _single(name, label, description, query).multi(multi=multi).include_all(include_all=True)
    made = made.current(dashboard.VariableOption(selected=True, text=chosen, value=value))
    return made.all_value(every) if every else made


def _single(name: str, label: str, description: str, query: str) -> builders.QueryVariable:
    made = builders.QueryVariable(name).label(label).description(description).datasource(PROMETHEUS)
    made = made.query({"qryType": 1, "query": query, "refId": name}).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    return made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).allow_custom_value(allow_custom_value=True)


def ops_variable() -> builders.QueryVariable:
    """Whose ops port links to ledgers ask: one instance."""
    return _single(
        "ops",
        "Ledger asked at",
        "The instance whose ops port answers the links to ledgers; each instance on the same log can.",
        f'label_values({UP.full_name}{{job=~"$job", instance=~"$instance"}}, instance)',
    )


def _variables() -> list[Builder[dashboard.VariableModel]]:
    sources = [
        builders.DatasourceVariable(f"{kind}_datasource")
        .type(kind)
        .label(f"{kind.title()} data source")
        .description(description)
        .current(dashboard.VariableOption(selected=True, text=kind.title(), value=f"tracewire-{kind}"))
        for kind, description in (("prometheus", "Where the metrics are."), ("tempo", "Where the traces are."))
    ]
    up = f'label_values({UP.full_name}{{job=~"'
    job = query_variable(
        "job", "Job", "The installations: jobs whose name begins with tracewire.", f'{up}{JOBS}"}}, job)', every=JOBS
    )
    instance = query_variable(
        "instance", "Instance", "The servers, by the address that is scraped.", f'{up}$job"}}, instance)'
    )
    return [*sources, job, instance]


def _annotations() -> list[Annotation]:
    firing = alerts('alertname=~"Tracewire.*"', 'alertname!="TracewireWatchdog"', 'alertstate="firing"')
    appeared = series(BUILD_INFO)
    return [
        Annotation("Alerts", firing, "red", "{{alertname}}", "{{user_id}} {{event_type}} {{link}} {{instance}}"),
        Annotation("Restarts", f"{series(START_TIMESTAMP)} * 1000", "orange", "Started", "{{instance}}", at_value=True),
        Annotation(
            "Version changes",
            f"count by (job, version) ({appeared}) unless count by (job, version) ({appeared} offset 5m)",
            "blue",
            "Version {{version}}",
            "{{job}}",
        ),
    ]


def _to(uid: str, title: str) -> builders.DashboardLink:
    shown = builders.DashboardLink(title).type(dashboard.DashboardLinkType.LINK).url(f"/d/{uid}")
    return shown.icon("dashboard").tooltip(title).keep_time(keep_time=True).include_vars(include_vars=True)
