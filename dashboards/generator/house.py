"""How our panels look: one builder for each kind, none without a title, a description and a unit."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, tempo, text, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType
from grafana_foundation_sdk.models.text import TextMode

from dashboards.generator.links import Link, panel_link

PROMETHEUS: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${prometheus_datasource}")
TEMPO: Final = dashboard.DataSourceRef(type_val="tempo", uid="${tempo_datasource}")
SECONDS: Final = "s"
COUNT: Final = "short"
PER_SECOND: Final = "cps"
SHARE: Final = "percentunit"
BYTES: Final = "bytes"
SINCE: Final = "dateTimeFromNow"
"""Of milliseconds since 1970."""
TRACES_SHOWN: Final = 20

Property = dashboard.DynamicConfigValue
Steps = Sequence[tuple[float | None, str]]
GOOD: Final[Steps] = ((None, "green"),)


class Asked(NamedTuple):
    """One query of a panel and what its series are called. `exemplars` leads from a point to its trace."""

    expr: str
    legend: str = ""
    exemplars: bool = False


class Column(NamedTuple):
    """How one column of a table is shown: in a colour by steps of its number, or by its text."""

    name: str
    title: str
    unit: str = ""
    links: Sequence[Link] = ()
    width: int = 0
    steps: Steps = ()
    texts: dict[str, str] | None = None
    colors: dict[str, str] | None = None
    hidden: bool = False


def lines(
    title: str,
    description: str,
    unit: str,
    *asked: Asked,
    steps: Steps = GOOD,
    stacked: bool = False,
    bars: bool = False,
    links: Sequence[Link] = (),
    top: float | None = None,
) -> timeseries.Panel:
    """Series over time. With more than one step, the steps are drawn as dashed lines."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).min(0).datasource(PROMETHEUS)
    panel = panel.targets([_query(one, index) for index, one in enumerate(asked)])
    panel = panel.line_width(1).fill_opacity(60 if bars else 25 if stacked else 8)
    panel = panel.show_points(common.VisibilityMode.NEVER)
    panel = panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    panel = panel.legend(legend.placement(common.LegendPlacement.BOTTOM).show_legend(show_legend=True))
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel = panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    if stacked or bars:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if top is not None:
        panel = panel.max(top)
    if len(steps) > 1:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(style)
    return panel.data_links([panel_link(str(one["title"]), str(one["url"])) for one in links]) if links else panel


def number(
    title: str,
    description: str,
    unit: str,
    *asked: Asked,
    steps: Steps = GOOD,
    decimals: int | None = None,
    none: str = "no data",
    graph: bool = False,
    links: Sequence[Link] = (),
    texts: dict[str, str] | None = None,
) -> stat.Panel:
    """What is so now, coloured by its steps; `graph` draws how it came to it. `none` stands where nothing is found.

    `texts` stand in place of single values.
    """
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(PROMETHEUS).no_value(none)
    panel = panel.targets([_query(one, index, instant=not graph) for index, one in enumerate(asked)])
    coloured = common.BigValueColorMode.BACKGROUND if len(steps) > 1 else common.BigValueColorMode.NONE
    panel = panel.thresholds(_thresholds(steps)).color_mode(coloured)
    panel = panel.graph_mode(common.BigValueGraphMode.AREA if graph else common.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
    if decimals is not None:
        panel = panel.decimals(decimals)
    if texts:
        results = {value: dashboard.ValueMappingResult(text=shown) for value, shown in texts.items()}
        panel = panel.mappings([dashboard.ValueMap(options=results)])
    return panel.data_links([panel_link(str(one["title"]), str(one["url"])) for one in links]) if links else panel


def rows(
    title: str,
    description: str,
    *asked: Asked,
    columns: Sequence[Column],
    none: str,
    unit: str = COUNT,
    first: str = "",
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
) -> table.Panel:
    """A table of what is so now. Several queries are merged into one row for each set of labels.

    Rows are in the order of the column that is entitled `first`, where it is named.
    """
    panel = table.Panel().title(title).description(description).unit(unit).datasource(PROMETHEUS).no_value(none)
    panel = panel.targets([_query(one, index, instant=True, tabular=True) for index, one in enumerate(asked)])
    if first:
        panel = panel.sort_by([common_builders.TableSortByFieldState().display_name(first)])
    merged = [transformation("merge")] if len(asked) > 1 and not transformations else []
    return _shown(panel.transformations([*merged, *transformations]), (Column("Time", "Time", hidden=True), *columns))


def traces(title: str, description: str, search: str, *, columns: Sequence[Column]) -> table.Panel:
    """A table of spans that a TraceQL search finds; each leads to its trace."""
    query = tempo.TempoQuery().ref_id("A").query(search).query_type("traceql").filters([])
    query = query.limit(TRACES_SHOWN).spss(3).table_type(SearchTableType.SPANS).datasource(TEMPO)
    panel = table.Panel().title(title).description(description).unit("none").datasource(TEMPO)
    return _shown(panel.no_value("none in this time").with_target(query), columns)


def timeline(title: str, description: str, asked: Asked, *, steps: Steps, links: Sequence[Link]) -> statetimeline.Panel:
    """For each series, when it was there and how high."""
    panel = statetimeline.Panel().title(title).description(description).unit(COUNT).datasource(PROMETHEUS)
    panel = panel.with_target(_query(asked, 0)).thresholds(_thresholds(steps)).show_value(common.VisibilityMode.AUTO)
    panel = panel.color_scheme(dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel = panel.row_height(0.8).fill_opacity(80).per_page(20).no_value("no event missing in this time")
    return panel.data_links([panel_link(str(one["title"]), str(one["url"])) for one in links])


def page(title: str, description: str, markdown: str) -> text.Panel:
    """A text to read."""
    return text.Panel().title(title).description(description).mode(TextMode.MARKDOWN).content(markdown)


def transformation(name: str, **options: object) -> dashboard.DataTransformerConfig:
    """One of Grafana's transformations of what a query gave."""
    return dashboard.DataTransformerConfig(id_val=name, options=options)


def _query(asked: Asked, index: int, *, instant: bool = False, tabular: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id(chr(ord("A") + index)).expr(asked.expr).datasource(PROMETHEUS)
    query = query.legend_format(asked.legend or "__auto").exemplar(asked.exemplars)
    query = query.format(PromQueryFormat.TABLE if tabular else PromQueryFormat.TIME_SERIES)
    return query.instant() if instant else query.range()


def _thresholds(steps: Steps) -> dashboard_builders.ThresholdsConfig:
    made = [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _shown(panel: table.Panel, columns: Sequence[Column]) -> table.Panel:
    panel = panel.cell_height(common.TableCellHeight.SM)
    for column in columns:
        panel = panel.override_by_name(column.name, list(_properties(column)))
    order = {column.name: index for index, column in enumerate(columns)}
    return panel.with_transformation(transformation("organize", indexByName=order))


def _properties(column: Column) -> Sequence[Property]:
    # Else the table's own text for finding nothing at all would stand in each empty cell.
    found = [Property(id_val="displayName", value=column.title), Property(id_val="noValue", value="–")]
    if column.hidden:
        found.append(Property(id_val="custom.hidden", value=True))
    if column.unit:
        found.append(Property(id_val="unit", value=column.unit))
    if column.width:
        found.append(Property(id_val="custom.width", value=column.width))
    if column.links:
        found.append(Property(id_val="links", value=list(column.links)))
    if column.texts:
        found.append(_mapped({value: {"text": shown} for value, shown in column.texts.items()}))
    if column.colors:
        found.append(_mapped({value: {"color": color} for value, color in column.colors.items()}))
        found.append(Property(id_val="custom.cellOptions", value={"type": "color-text"}))
    if column.steps:
        steps = [{"value": value, "color": color} for value, color in column.steps]
        found.append(Property(id_val="thresholds", value={"mode": "absolute", "steps": steps}))
        found.append(Property(id_val="custom.cellOptions", value={"type": "color-background", "mode": "basic"}))
    return found


def _mapped(results: dict[str, dict[str, object]]) -> Property:
    ordered = {value: {**shown, "index": index} for index, (value, shown) in enumerate(results.items())}
    return Property(id_val="mappings", value=[{"type": "value", "options": ordered}])
