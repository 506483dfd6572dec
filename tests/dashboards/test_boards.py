"""The boards are what their generator writes, and hold to every rule for boards; each rule can fail."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.generator import __main__ as generator
from dashboards.generator import links, promql
from dashboards.generator.frame import Placed, Row, _places
from dashboards.generator.house import page
from dashboards.generator.outside import OUTSIDE
from support.alert_rules import DASHBOARDS, alerts, groups
from support.board_queries import (
    Board,
    boards,
    interpolated,
    panels,
    queries,
    renamed,
    searches,
    selectors,
    variables,
)
from support.board_rules import problems
from tracewire_telemetry.catalog import METRICS

BOARDS = boards()


def test_the_committed_boards_are_what_the_generator_writes() -> None:
    """`make dashboards` would change nothing; and it writes the same a second time."""
    written = {path.name: path.read_text(encoding="utf-8") for path in generator.FOLDER.glob("*.json")}
    assert generator.files() == written, "run `make dashboards`, and look at what it changes"
    assert generator.files() == written


def test_the_generator_removes_boards_that_are_no_more(tmp_path: Path) -> None:
    """Grafana would go on showing them."""
    (tmp_path / "tracewire-gone.json").write_text("{}")
    generator.write(tmp_path)
    assert set(generator.files()) == {path.name for path in tmp_path.iterdir()}


def test_there_are_the_boards_of_the_contract() -> None:
    """Four to watch, and the runbook; under uids that links from anywhere can keep."""
    assert {
        "tracewire-delivery": "Tracewire / Delivery",
        "tracewire-users": "Tracewire / Users",
        "tracewire-runs": "Tracewire / Runs and agents",
        "tracewire-process": "Tracewire / Process",
        "tracewire-runbook": "Tracewire / Runbook",
    } == {uid: board["title"] for uid, board in BOARDS.items()}
    assert set(links.TITLES) == set(BOARDS)


@pytest.mark.parametrize("uid", BOARDS)
def test_a_board_holds_to_every_rule(uid: str) -> None:
    """Variables, titles, units, matchers, rates, names, links, layout."""
    assert problems(BOARDS[uid], BOARDS) == []


@pytest.mark.parametrize("uid", BOARDS)
def test_a_board_is_read_by_grafanas_own_model(uid: str) -> None:
    """Nothing of a panel, variable or link is lost on the way through the model of Grafana's SDK."""
    board = BOARDS[uid]
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for part in ("panels", "links", "uid", "time", "schemaVersion"):
        assert board[part] == read[part], part
    for variable, again in zip(variables(board).values(), variables(read).values(), strict=True):
        assert again == again | variable


# --- each rule can fail -----------------------------------------------------------------------------------------------


def panel_of(board: Board, kind: str = "timeseries") -> dict[str, Any]:
    """The first panel of this kind."""
    return next(panel for panel in panels(board) if panel["type"] == kind)


def first_query(board: Board, containing: str) -> dict[str, Any]:
    """The first target whose query contains this."""
    return next(
        target for panel in panels(board) for target in panel["targets"] if containing in target.get("expr", "")
    )


def replaced(containing: str, by: str) -> Callable[[Board], None]:
    """A change of one query."""

    def change(board: Board) -> None:
        target = first_query(board, containing)
        target["expr"] = target["expr"].replace(containing, by)

    return change


def without(*path: str) -> Callable[[Board], None]:
    """A time series panel without this."""

    def change(board: Board) -> None:
        part = panel_of(board)
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]

    return change


def redirected(pattern: str, to: str) -> Callable[[Board], None]:
    """Every link of this kind leads elsewhere."""

    def change(board: Board) -> None:
        for panel in panels(board):
            config = panel["fieldConfig"]
            properties = [one for override in config["overrides"] for one in override["properties"]]
            of_columns = [link for one in properties if one["id"] == "links" for link in one["value"]]
            for link in [*config["defaults"].get("links", []), *of_columns]:
                link["url"] = re.sub(pattern, to, link["url"])

    return change


def changed(**values: Any) -> Callable[[Board], None]:
    """A board with other values."""
    return lambda board: board.update(values)


def with_variable(name: str, **values: Any) -> Callable[[Board], None]:
    """A variable with other values."""

    def change(board: Board) -> None:
        next(one for one in board["templating"]["list"] if one["name"] == name).update(values)

    return change


def moved(by: int) -> Callable[[Board], None]:
    """A panel beside its place."""

    def change(board: Board) -> None:
        panel_of(board)["gridPos"]["x"] += by

    return change


def narrower(board: Board) -> None:
    """A hole beside a panel."""
    panel_of(board)["gridPos"]["w"] -= 1


def same_ids(board: Board) -> None:
    """Two panels with one id."""
    board["panels"][1]["id"] = board["panels"][2]["id"]


def fixed_source(board: Board) -> None:
    """A data source that cannot be chosen."""
    panel_of(board)["targets"][0]["datasource"] = {"type": "prometheus", "uid": "tracewire-prometheus"}


def unknown_attribute(board: Board) -> None:
    """A search by what no span has."""
    target = panel_of(board, "table")
    target["targets"][0] = {**target["targets"][0], "query": "{ span.tracewire.user = 1 }"}
    del target["targets"][0]["expr"]


MUTANTS: dict[str, tuple[str, Callable[[Board], None]]] = {
    "another uid": ("identity", changed(uid="Boards")),
    "an id of one Grafana": ("identity", changed(id=7)),
    "editable": ("identity", changed(editable=True)),
    "a newer schema": ("identity", changed(schemaVersion=42)),
    "no description of the board": ("identity", changed(description="")),
    "two ids the same": ("identity", same_ids),
    "one job only": ("templates", with_variable("job", multi=False)),
    "no All for instances": ("templates", with_variable("instance", includeAll=False)),
    "no variable for the traces": ("templates", with_variable("tempo_datasource", query="jaeger")),
    "no label of a variable": ("templates", with_variable("job", label="")),
    "a variable's own data source": ("templates", with_variable("job", datasource={"uid": "prometheus"})),
    "no title": ("furniture", without("title")),
    "no description": ("furniture", without("description")),
    "no unit": ("furniture", without("fieldConfig", "defaults", "unit")),
    "no query": ("furniture", without("targets")),
    "a fixed data source": ("furniture", fixed_source),
    "no job": ("scope", replaced('job=~"$job", ', "")),
    "another job": ("scope", replaced('job=~"$job"', 'job="tracewire"')),
    "no instance": ("scope", replaced(', instance=~"$instance"', "")),
    "no matchers": (
        "scope",
        replaced('tracewire_users_affected{job=~"$job", instance=~"$instance"}', "tracewire_users_affected"),
    ),
    "a fixed interval": ("rates", replaced("$__rate_interval", "5m")),
    "a counter as it is": ("rates", replaced("rate(tracewire_events_total", "max(tracewire_events_total")),
    "a rate of a gauge": ("rates", replaced("sum(tracewire_users_affected", "rate(tracewire_users_affected")),
    "a quantile without le": ("rates", replaced("by (le) (rate(", "by (link) (rate(")),
    "a quantile of sums": ("rates", replaced("_seconds_bucket{", "_seconds_sum{")),
    "a number for nothing": (
        "rates",
        replaced("sum(tracewire_users_affected", "1 or vector(0 * (tracewire_users_affected"),
    ),
    "a metric that nothing tells": ("known", replaced("tracewire_users_affected{", "tracewire_users_hit{")),
    "a record that no rule makes": ("known", replaced(":increase1h{", ":increase2h{")),
    "a value that a label never has": ("known", replaced('link="engine"', 'link="motor"')),
    "a label that a metric has not": ("known", replaced('link="engine"', 'station="engine"')),
    "an attribute that no span has": ("known", unknown_attribute),
    "a link to no board": ("roads", redirected("/d/tracewire-users", "/d/tracewire-people")),
    "a variable that the board has not": ("roads", redirected("var-user=", "var-person=")),
    "a variable that is not here": ("roads", redirected(r"\$\{job:", "${jobs:")),
    "a column that is not there": ("roads", redirected(r"fields\.user_id", "fields.person")),
    "a route that the server has not": ("roads", redirected("/incidents", "/alerts")),
    "one over the other": ("grid", moved(-1)),
    "beyond the edge": ("grid", moved(1)),
    "a hole": ("grid", narrower),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_board_that_is_wrong_in_one_place_breaks_its_rule(name: str) -> None:
    """Otherwise the rule would hold nothing."""
    rule, change = MUTANTS[name]
    board = copy.deepcopy(BOARDS[links.DELIVERY])
    change(board)
    assert any(line.startswith(f"{rule}: ") for line in problems(board, {**BOARDS, links.DELIVERY: board}))


def test_a_hole_in_a_row_is_refused_by_the_generator() -> None:
    """Lines that are too long, too short or of unequal height do not become a board."""
    panel = page("title", "description", "text")
    for sizes in ([(24, 4), (12, 4)], [(12, 4), (12, 5)], [(16, 4), (16, 4)]):
        with pytest.raises(ValueError, match="row: "):
            _places(Row("row", [Placed(panel, *size) for size in sizes]), 0)


# --- what the boards leave out, and what stands between a query and its answer ----------------------------------------


def test_every_metric_of_the_catalogue_is_on_a_board() -> None:
    """Who looks for it in Grafana finds it; none is measured for nobody."""
    asked = " ".join(query.expr for board in BOARDS.values() for query in queries(board))
    assert [spec.full_name for spec in METRICS if spec.full_name not in asked] == []


def test_the_list_of_other_programs_metrics_holds_nothing_that_no_board_asks_for() -> None:
    """What is no longer asked for is taken off the list."""
    asked = " ".join(query.expr for board in BOARDS.values() for query in queries(board))
    assert [metric.full_name for metric in OUTSIDE if metric.full_name not in asked] == []


def test_the_boards_burn_is_the_alerts() -> None:
    """The same windows are recorded and shown, over the same budget."""
    recorded = {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}
    shown = {selector.name for query in queries(BOARDS[links.DELIVERY]) for selector in selectors(query.expr)}
    ratios = {name for name in recorded if ":ratio_rate" in name}
    assert ratios == {name for name in shown if ":ratio_rate" in name}
    assert f"* {promql.BUDGET}" in alerts()["TracewireDeliveryBurnFast"]["expr"]
    assert float(promql.BUDGET) == pytest.approx(1 - promql.OBJECTIVE)


def test_every_alert_has_its_section_on_the_runbooks_board() -> None:
    """With the text of the runbook, and a link to it at the top."""
    board = BOARDS[links.RUNBOOK]
    sections = {panel["title"]: panel for panel in panels(board)}
    contents = sections["Alerts"]["options"]["content"]
    runbook = (DASHBOARDS / "runbook.md").read_text(encoding="utf-8")
    for name in alerts():
        assert sections[name]["options"]["content"] in runbook
        assert f"[{name}](/d/tracewire-runbook?viewPanel={sections[name]['id']})" in contents


def test_exemplars_are_asked_for_where_metrics_have_them() -> None:
    """The way from a point on a panel to its trace: missing events, and deliveries at each link and the whole way."""
    asked = [query for board in BOARDS.values() for query in queries(board) if query.exemplars]
    having = ("tracewire_events_missing_total", "tracewire_link_seconds_bucket", "tracewire_delivery_seconds_bucket")
    assert set(having) == {selector.name for query in asked for selector in selectors(query.expr)}
    assert 11 == len(asked)


def test_variables_are_put_in_place_as_grafana_does() -> None:
    """One value as it is, several as alternatives, special characters escaped, All as its own pattern."""
    values = {"job": ".+", "instance": ("a:1", "b.c:2"), "user": ("ada+1",), "__rate_interval": "1m"}
    query = 'rate(x{job=~"$job", instance=~"${instance}", user=~"$user"}[$__rate_interval])'
    expected = r'rate(x{job=~".+", instance=~"(a:1|b\\.c:2)", user=~"ada\\+1"}[1m])'
    assert expected == interpolated(query, values)
    with pytest.raises(AssertionError, match="agent has no value"):
        interpolated('x{agent="$agent"}', values)


def test_a_metric_is_renamed_wherever_a_query_selects_it_and_nowhere_else() -> None:
    """Names that begin with it, and labels, stay."""
    query = "up{} / on (up) up_time{} + sum by (up) (up{})"
    assert "up_renamed{} / on (up) up_time{} + sum by (up) (up_renamed{})" == renamed(query, "up")


def test_searches_select_what_their_tables_show() -> None:
    """A column that is not selected would be empty."""
    for board in BOARDS.values():
        for search in searches(board):
            selected = set(re.findall(r"span\.([\w.]+)", search.expr.partition("| select(")[2]))
            panel = next(panel for panel in panels(board) if panel["id"] == search.panel)
            columns = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            assert selected == {name for name in columns if "." in name}
