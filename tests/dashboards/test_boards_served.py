"""Every query of the boards and of the rules, by a real Prometheus that scraped a real server with incidents in it."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
import yaml

from dashboards.generator import links
from support.alert_rules import DASHBOARDS, groups
from support.board_load import LOST, MISSED, board_server
from support.board_queries import (
    Board,
    Query,
    Value,
    annotation_queries,
    boards,
    interpolated,
    names,
    panels,
    queries,
    renamed,
    searches,
    selectors,
    variable_queries,
)
from support.board_rules import links_of
from support.board_watch import ALL, COLLECTORS, Watched
from support.monitoring import started_monitoring
from support.servers import FIVE
from support.webhook import Exposition
from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedSpan

BOARDS: Final = boards()
MISSING_NOW: Final = "Who misses what, at which link, since when"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All that, with our rules in a hurry."""
    folder = tmp_path_factory.mktemp("boards")
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(OtlpReceiver())
        process = stack.enter_context(board_server(folder / "data", receiver))
        targets = {"tracewire": process.ops_url.removeprefix("http://")}
        for page in COLLECTORS:
            lines = page.read_text(encoding="utf-8").splitlines()
            targets[f"otel-collector-{page.stem}"] = stack.enter_context(Exposition(lambda lines=lines: lines)).address
        with started_monitoring(folder / "m", targets) as monitoring:
            found = Watched(process, monitoring, receiver)
            found.open()
            try:
                yield found
            finally:
                found.close()


def without_data(watched: Watched, asked: list[Query], values: dict[str, Value] = ALL) -> set[str]:
    """Which queries find nothing."""
    return {query.where for query in asked if not watched.answer(query.expr, values)}


def of_panels() -> list[Query]:
    """Every query of every panel."""
    return [query for board in BOARDS.values() for query in queries(board)]


@pytest.mark.timeout(300)
def test_every_query_of_every_panel_returns_data(watched: Watched) -> None:
    """None of them by way of a made-up zero: with everything chosen, and with one server of two jobs."""
    assert len(of_panels()) > 100
    assert set() == without_data(watched, of_panels())
    address = watched.process.ops_url.removeprefix("http://")
    chosen: dict[str, Value] = {"job": ("tracewire", "tracewire-staging"), "instance": (address,), "agent": ("five",)}
    assert set() == without_data(watched, of_panels(), ALL | chosen)


def test_every_mark_and_every_variable_finds_something(watched: Watched) -> None:
    """Alerts, restarts and versions; and each variable's label is on the series that it is taken from."""
    marks = [query for board in BOARDS.values() for query in annotation_queries(board)]
    assert set() == without_data(watched, marks)
    for board in BOARDS.values():
        for query, label in variable_queries(board):
            assert [one for one in watched.answer(query.expr) if one["metric"].get(label)], (query.board, query.where)


def test_a_metric_under_another_name_leaves_its_panels_empty(watched: Watched) -> None:
    """The check above would notice: every metric of every query, one after the other."""
    for query in of_panels():
        for name in {selector.name for selector in selectors(query.expr)} - {""}:
            assert not watched.answer(renamed(query.expr, name)), (query.where, name)


def test_every_legend_and_every_column_is_a_label_that_is_there(watched: Watched) -> None:
    """A legend of a label that the query sums away would be empty."""
    for query in of_panels():
        wanted = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        for one in watched.answer(query.expr):
            assert wanted <= set(one["metric"]), query.where


def test_every_expression_of_every_rule_has_data(watched: Watched) -> None:
    """Each record and each alert; where an alert is silent, each series that it looks at."""
    silent = set()
    for group in groups():
        for rule in group["rules"]:
            if watched.asked(rule["expr"]):
                continue
            assert "alert" in rule, f"{rule['record']} records nothing"
            for selector in selectors(rule["expr"]):
                matchers = ", ".join(f'{label}{operator}"{value}"' for label, operator, value in selector.matchers)
                if not watched.asked(f"{selector.name}{{{matchers}}}" if matchers else selector.name):
                    silent.add(f"{rule['alert']}: {names(selector)[0]}")
            for name in set(re.findall(r"\b(tracewire_\w+)\b(?![{\w])", rule["expr"])):
                if not watched.asked(name):
                    silent.add(f"{rule['alert']}: {name}")
    assert silent == set()


# --- known values -----------------------------------------------------------------------------------------------------


def panel_query(board: str, where: str) -> str:
    """The query of a panel."""
    (found,) = [query.expr for query in queries(BOARDS[board]) if query.where == where]
    return found


def test_what_clients_have_had_and_acked_is_what_is_counted(watched: Watched) -> None:
    """Of the users who are served well, event by event, before anybody else came; none of them is missing."""
    assert watched.acked == sum(watched.verdicts.values())
    assert watched.verdicts.keys() <= {"in_time", "late"}


def test_the_objective_and_what_is_left_of_its_budget_are_what_the_verdicts_say(watched: Watched) -> None:
    """Of users' deliveries alone: the share in time, and how much of a thousandth the rest is."""
    verdicts = watched.by("verdict", 'sum by (verdict) (tracewire_deliveries_total{origin="user"})')
    bad = verdicts["late"] + verdicts["missing"]
    share = bad / (bad + verdicts["in_time"])
    (in_time,) = watched.answer(panel_query(links.DELIVERY, "In time, 30 days A"))
    (left,) = watched.answer(panel_query(links.DELIVERY, "Error budget left, 30 days A"))
    assert 1 - share == pytest.approx(float(in_time["value"][1]), abs=0.01)
    assert 1 - share / 0.001 == pytest.approx(float(left["value"][1]), abs=10)
    assert {"job": "tracewire"} == in_time["metric"]


def test_the_boards_name_who_misses_what_at_which_link_since_when(watched: Watched) -> None:
    """Exactly the users whose events were lost, and when their alerts began."""
    expected = {(user_id, *missed) for user_id, missed in MISSED.items()}
    for query in ("A", "B"):
        rows = watched.answer(panel_query(links.USERS, f"{MISSING_NOW} {query}"))
        found = {tuple(one["metric"][name] for name in ("user_id", "event_type", "link")) for one in rows}
        assert expected == found
    now = watched.now()
    assert all(watched.began < float(one["value"][1]) / 1000 <= now for one in rows)
    (user_id, *_) = MISSED
    (row,) = watched.answer(panel_query(links.USERS, "When events were missing A"), ALL | {"user": (user_id,)})
    assert user_id == row["metric"]["user_id"]


def test_the_matrix_of_missing_events_has_each_where_it_was_lost(watched: Watched) -> None:
    """By type and link, one each, and whatever the client did not ack behind it; increases are
    extrapolated, hence rounded.
    """
    rows = watched.answer(panel_query(links.DELIVERY, "Missing, by type and link A"))
    found = {(one["metric"]["event_type"], one["metric"]["link"]): round(float(one["value"][1])) for one in rows}
    unacked = ((event_type, "client") for event_type in FIVE)
    assert dict.fromkeys({*MISSED.values(), *unacked, ("agent_thinking", "engine")}, 1) == found


def test_a_quantile_lies_within_its_bucket(watched: Watched) -> None:
    """The p99 of the whole way: among the deliveries that were acked after more than 2 s, as one in ten was."""
    query = interpolated(panel_query(links.DELIVERY, "From engine to acknowledgement: p50, p99 B"), ALL)
    buckets = re.sub(r"^histogram_quantile\(0.99, (.*)\)$", r"\1", query)
    at = watched.now()
    (p99,) = watched.asked(query, at)
    counts = sorted((float(one["metric"]["le"]), float(one["value"][1])) for one in watched.asked(buckets, at))
    rank = 0.99 * counts[-1][1]
    index = next(index for index, (_, count) in enumerate(counts) if count >= rank)
    assert counts[index - 1][0] < float(p99["value"][1]) <= counts[index][0]
    assert counts[index - 1][0] >= 2.0


# --- from metrics to traces -------------------------------------------------------------------------------------------


def test_points_on_panels_lead_to_traces_that_were_exported(watched: Watched) -> None:
    """Each panel that asks for exemplars gets some; their trace ids are traces that the receiver has."""
    exported = {span.trace_id for span in watched.receiver.spans}
    asked = [query for query in of_panels() if query.exemplars]
    for query in asked:
        ids = watched.exemplars(interpolated(query.expr, ALL))
        assert ids, query.where
        if "missing" not in query.where:  # those of open runs are not exported yet
            assert ids & exported, query.where


def test_every_search_finds_spans_and_what_it_shows_is_on_them(watched: Watched) -> None:
    """By the conditions of its TraceQL, read here, on the spans that the server exported."""
    for board in BOARDS.values():
        for search in searches(board):
            found = found_spans(watched, search, ALL)
            assert found, search.where
            for name in search.expr.partition("| select(")[2].rstrip(")").split(", "):
                assert any(name.removeprefix("span.") in span.attributes for span in found), (search.where, name)


def found_spans(watched: Watched, search: Query, values: dict[str, Value]) -> list[RecordedSpan]:
    """The exported spans for which every condition of a search is true."""
    conditions = re.findall(r"^\{ (.+) \} \|", interpolated(search.expr, values))[0].split(" && ")
    return [span for span in watched.receiver.spans if all(holds(span, one) for one in conditions)]


def holds(span: RecordedSpan, condition: str) -> bool:
    """Whether a condition of our searches is true of a span."""
    if condition == "status = error":
        return span.status == "error"
    found = re.fullmatch(r"span\.([\w.]+) (=~|=|>=|>) (.+)", condition)
    assert found is not None, condition
    value = span.attributes.get(Attribute(found[1]))
    if value is None:
        return False
    if found[2] == "=~":
        return re.fullmatch(found[3].strip('"'), str(value)) is not None
    if found[2] == "=":
        return found[3].strip('"') == (str(value).lower() if isinstance(value, bool) else str(value))
    return float(value) >= float(found[3]) if found[2] == ">=" else float(value) > float(found[3])


def test_from_a_span_to_its_links_metrics(watched: Watched) -> None:
    """The queries that the data source of traces runs, with the link of a span in place."""
    text = (DASHBOARDS / "provisioning" / "datasources" / "tracewire.yaml").read_text(encoding="utf-8")
    (tempo,) = [one for one in yaml.safe_load(text)["datasources"] if one["type"] == "tempo"]
    for query in tempo["jsonData"]["tracesToMetrics"]["queries"]:
        expression = query["query"].replace("$$__tags", 'link="emitter"')
        assert [one for one in watched.asked(expression) if one["value"][1] != "NaN"], query["name"]


# --- from an alert to user, event, link, ledger and trace -------------------------------------------------------------


def test_from_an_alert_to_user_event_link_and_ledger_in_three_clicks(watched: Watched) -> None:
    """For each user who misses an event, by the addresses that a stranger is given, and no others; each answers."""
    firing = [one for one in watched.alerts() if one["labels"]["alertname"] == "TracewireUserEventsMissing"]
    assert set(MISSED) <= {one["labels"]["user_id"] for one in firing}
    for alert in (one for one in firing if one["labels"]["user_id"] in MISSED):
        # One: the alert's own link opens the board, with job and user chosen. It says which event, at which link.
        opened = urlsplit(alert["annotations"]["dashboard_url"])
        board = BOARDS[opened.path.removeprefix("/d/")]
        chosen = {name.removeprefix("var-"): values[0] for name, values in parse_qs(opened.query).items()}
        rows = watched.answer(panel_query(board["uid"], f"{MISSING_NOW} A"), ALL | chosen)
        (row,) = [one["metric"] for one in rows if one["metric"]["user_id"] == chosen["user"]]
        assert MISSED[chosen["user"]] == (row["event_type"], row["link"])
        # Two: the row's instance answers with the incidents of this user, which name the run.
        (incident,) = clicked(board, MISSING_NOW, "Live incidents of this user", row)["incidents"]
        found = tuple(incident[name] for name in ("user_id", "type", "link", "state"))
        assert (chosen["user"], row["event_type"], row["link"], "open") == found
        # Three: the run's ledger says how far each event came.
        run = {"tracewire.run.id": incident["run_id"], "ops": row["instance"]}
        ledger = clicked(board, "Missing events, and where", "Its ledger", run)
        assert (incident["trace_id"], False) == (ledger["trace_id"], ledger["chain_complete"])
        assert row["link"] in {one["link"] for one in ledger["missing"]}


def test_from_a_user_to_the_trace_that_shows_the_link_in_one_click(watched: Watched) -> None:
    """Once the run is settled: the search finds the span of the link that did not take the event, in the trace that the
    incident names.
    """
    board = BOARDS[links.USERS]
    (instance,) = {one["metric"]["instance"] for one in watched.answer('up{job=~"$job"}')}
    row = {"user_id": LOST, "instance": instance}
    (incident,) = clicked(board, MISSING_NOW, "Live incidents of this user", row)["incidents"]
    (search,) = [one for one in searches(board) if one.where == "Missing events, and where"]
    (span,) = found_spans(watched, search, ALL | {"user": LOST})
    assert (incident["trace_id"], "engine") == (span.trace_id, span.attributes[Attribute.LINK])
    assert "agent_thinking" == span.attributes[Attribute.EVENT_TYPE] == incident["type"]


def clicked(board: Board, panel: str, title: str, row: Mapping[str, str]) -> Any:
    """What the address behind a column's link answers, with the row's labels, or a variable, in it."""
    (shown,) = [one for one in panels(board) if one["title"] == panel]
    (link,) = [one for one in links_of(shown) if one["title"] == title]

    def value(found: re.Match[str]) -> str:
        return quote(row[next(filter(None, found.groups()))], safe=":")

    field = r'\$\{__data\.fields(?:\.(\w+)|\["([\w.]+)"\])(?::percentencode)?\}|\$\{(\w+)\}'
    return httpx.get(re.sub(field, value, link["url"]), timeout=10).raise_for_status().json()
