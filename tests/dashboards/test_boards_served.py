"""Every query of the boards and of the rules, by a real Prometheus that scraped a real server with incidents in it."""

import asyncio
import math
import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import yaml

from dashboards.generator import links
from support.alert_rules import DASHBOARDS, groups
from support.board_load import LATE_RUNS, MISSED, board_server, served_badly, served_otherwise, served_well
from support.board_queries import (
    Query,
    Value,
    annotation_queries,
    boards,
    interpolated,
    names,
    queries,
    renamed,
    searches,
    selectors,
    variable_queries,
)
from support.monitoring import Monitoring, started_monitoring
from support.servers import FIVE, ServerProcess
from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedSpan

BOARDS: Final = boards()
SECONDS: Final = 90.0
ALL: Final[dict[str, Value]] = {
    "job": "tracewire.*",
    "instance": ".+",
    "user": ".+",
    "agent": ".+",
    "beside": ".+",
    "__rate_interval": "2m",
    "__range": "1h",
}
"""What Grafana puts in place when nothing is chosen; its interval for rates is longer than the load takes."""
OF_THE_COLLECTOR: Final = {"Spans in and out A", "Spans in and out B", "Queue A", "Queue B"} | {
    f"Spans lost {ref}" for ref in "ABC"
}
"""There is no Collector here. The tests of otel-collector.yaml scrape a real one."""
UNTIL: Final = (
    f'count(ALERTS{{alertname="TracewireUserEventsMissing", alertstate="firing"}}) == {len(MISSED)}',
    f"sum(tracewire_events_missing_total) == {len(MISSED) + len(FIVE) - 1}",
    "job:tracewire_deliveries_bad:ratio_rate3d > 0",
    "job:tracewire_deliveries_bad:increase3d > 0",
    "tracewire_canary_last_success_timestamp_seconds",
    "tracewire_canary_detection_last_success_timestamp_seconds",
    f'sum(tracewire_deliveries_total{{verdict="late"}}) == {LATE_RUNS * len(FIVE)}',
    'sum(tracewire_deliveries_total{verdict="no_socket"}) > 0',
    'sum(tracewire_events_healed_total) >= 0 and on () sum(tracewire_resumes_total{outcome="recovered"}) > 0',
    "sum(tracewire_spans_exported_total) > 0",
    "prometheus_rule_evaluation_failures_total",
    "alertmanager_notifications_total > 0",
)
"""What Prometheus has seen before anything is asked."""


class Watched:
    """A server, what watches it, and its users, who go on in a thread of their own until it is closed."""

    def __init__(self, process: ServerProcess, monitoring: Monitoring, receiver: OtlpReceiver) -> None:
        self.process, self.monitoring, self.receiver = process, monitoring, receiver
        self.acked = 0
        self.verdicts: dict[str, float] = {}
        self._ready, self._over = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._http = httpx.Client(base_url=monitoring.prometheus.url, timeout=10)
        self._thread = threading.Thread(target=self._run)

    def open(self) -> None:
        """Until the load has been seen."""
        self._thread.start()
        try:
            assert self._ready.wait(3 * SECONDS), "the load did not come to its end"
            if self._failed:
                raise self._failed
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The users go away."""
        self._over.set()
        self._thread.join(SECONDS)
        self._http.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._users())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the thread was started
            self._failed = error
        finally:
            self._ready.set()

    async def _users(self) -> None:
        await asyncio.to_thread(self.monitoring.wait_for, 'up{job="tracewire"} == 1', SECONDS)
        self.acked = await served_well(self.process)
        counted = f'sum(tracewire_deliveries_total{{origin="user"}}) >= {self.acked}'
        await asyncio.to_thread(self.monitoring.wait_for, counted, SECONDS)
        self.verdicts = self.by("verdict", 'sum by (verdict) (tracewire_deliveries_total{origin="user"})')
        async with served_badly(self.process):
            await served_otherwise(self.process)
            for expression in UNTIL:
                await asyncio.to_thread(self.monitoring.wait_for, expression, SECONDS)
            self._ready.set()
            await asyncio.to_thread(self._over.wait)

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values of a query by a label, without the zeros."""
        found = {one["metric"][label]: float(one["value"][1]) for one in self.monitoring.query(expression)}
        return {name: value for name, value in found.items() if value}

    def answer(self, expression: str, values: dict[str, Value] = ALL) -> list[dict[str, Any]]:
        """The series of a board's query that have a number."""
        found = self.asked(interpolated(expression, values))
        return [one for one in found if not math.isnan(float(one["value"][1]))]

    def asked(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """What a query finds now, or at a moment, so that two of them see the same samples."""
        moment = {} if at is None else {"time": str(at)}
        answer = self._http.get("/api/v1/query", params={"query": expression, **moment})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def exemplars(self, expression: str) -> set[str]:
        """The trace ids that a query's exemplars lead to."""
        now = self.now()
        params = {"query": expression, "start": str(now - 3600), "end": str(now)}
        found = self._http.get("/api/v1/query_exemplars", params=params).raise_for_status().json()["data"]
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    def now(self) -> float:
        """Prometheus's time, Unix seconds."""
        return float(self.asked("vector(time())")[0]["value"][1])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All that, with our rules in a hurry."""
    folder = tmp_path_factory.mktemp("boards")
    with OtlpReceiver() as receiver, board_server(folder / "data", receiver) as process:
        targets = {"tracewire": process.ops_url.removeprefix("http://")}
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
    """All but those of a Collector, whose tests have one; with everything chosen, and with one server of two jobs."""
    assert len(of_panels()) > 100
    assert OF_THE_COLLECTOR == without_data(watched, of_panels())
    address = watched.process.ops_url.removeprefix("http://")
    chosen: dict[str, Value] = {"job": ("tracewire", "tracewire-staging"), "instance": (address,), "agent": ("five",)}
    assert OF_THE_COLLECTOR == without_data(watched, of_panels(), ALL | chosen)


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
    assert {line for line in silent if not line.startswith("TracewireCollectorLosing: otelcol_")} == set()


# --- known values -----------------------------------------------------------------------------------------------------


def panel_query(board: str, where: str) -> str:
    """The query of a panel."""
    (found,) = [query.expr for query in queries(BOARDS[board]) if query.where == where]
    return found


def test_what_clients_have_had_and_acked_is_what_is_counted(watched: Watched) -> None:
    """Of the users who are served well, event by event, before anybody else came."""
    assert {"in_time": watched.acked} == watched.verdicts


def test_the_boards_name_who_misses_what_at_which_link_since_when(watched: Watched) -> None:
    """Exactly the users whose events were lost, and when their alerts began."""
    table = "Who misses what, at which link, since when"
    expected = {(user_id, *missed) for user_id, missed in MISSED.items()}
    for query in ("A", "B"):
        rows = watched.answer(panel_query(links.USERS, f"{table} {query}"))
        found = {tuple(one["metric"][name] for name in ("user_id", "event_type", "link")) for one in rows}
        assert expected == found
    now = watched.now()
    assert all(now - 3 * SECONDS < float(one["value"][1]) / 1000 <= now for one in rows)
    (user_id, *_) = MISSED
    (row,) = watched.answer(panel_query(links.USERS, "When events were missing A"), ALL | {"user": (user_id,)})
    assert user_id == row["metric"]["user_id"]


def test_the_matrix_of_missing_events_has_each_where_it_was_lost(watched: Watched) -> None:
    """By type and link, one each, and whatever the client did not ack behind it; increases are
    extrapolated, hence rounded.
    """
    rows = watched.answer(panel_query(links.DELIVERY, "Missing, by type and link A"))
    found = {(one["metric"]["event_type"], one["metric"]["link"]): round(float(one["value"][1])) for one in rows}
    assert dict.fromkeys({*MISSED.values(), *((event_type, "client") for event_type in FIVE)}, 1) == found


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
    spans = watched.receiver.spans
    for board in BOARDS.values():
        for search in searches(board):
            conditions, selected = re.findall(r"^\{ (.+) \} \| select\((.+)\)$", interpolated(search.expr, ALL))[0]
            found = [span for span in spans if all(holds(span, one) for one in conditions.split(" && "))]
            assert found, search.where
            for name in selected.split(", "):
                assert all(name.removeprefix("span.") in span.attributes for span in found), (search.where, name)


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
