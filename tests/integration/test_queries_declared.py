"""Whatever a rule or a panel asks for exists: metrics, their labels and values, recorded rules, attributes of spans.

That each query returns data from a real server is in the boards' own tests.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
import yaml

from support.alert_rules import DASHBOARDS, groups
from tracewire_telemetry.catalog import METRICS, PROBE_METRICS, PROCESS_METRICS, MetricSpec
from tracewire_telemetry.catalog_attributes import ATTRIBUTES, RESOURCE_ATTRIBUTES, Attribute

BOARDS: Final = sorted((DASHBOARDS / "grafana").rglob("*.json"))
METRIC: Final = re.compile(r"(?<![:\w])(?:tracewire|process)_\w+")
SELECTOR: Final = re.compile(r"(?<![:\w])(tracewire_\w+)\{([^}]*)\}")
MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
RECORDED: Final = re.compile(r"\bjob:tracewire\w+:\w+")
ATTRIBUTE: Final = re.compile(r"\b(?:span|resource)\.([a-z_.]*[a-z_])")
TARGET: Final = {"job", "instance", "le"}
OTHERS: Final = {"tracewire_delivery", "tracewire_users", "tracewire_runs", "tracewire_process"}
"""What looks like a metric in a board's text and is none: uids, where a board writes them with `_`."""


def expressions_of_rules() -> list[str]:
    """The expressions of all rules."""
    return [rule["expr"] for group in groups() for rule in group["rules"]]


def queries_of(board: Any) -> Iterator[str]:
    """Every query of a board: of panels, annotations and variables."""
    if isinstance(board, dict):
        for key, value in board.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from queries_of(value)
    elif isinstance(board, list):
        for value in board:
            yield from queries_of(value)


def unknown(queries: Iterable[str], metrics: Iterable[MetricSpec], attributes: Iterable[str]) -> set[str]:
    """What is asked for and not declared: a metric, a label, a value, a recorded rule, an attribute of a span."""
    declared = {spec.full_name: spec for spec in metrics}
    recorded = {rule.get("record") for group in groups() for rule in group["rules"]}
    known = set(attributes)
    found: set[str] = set()
    for query in queries:
        found |= {name for name in METRIC.findall(query) if _spec_of(name, declared) is None and name not in OTHERS}
        found |= set(RECORDED.findall(query)) - recorded
        found |= set(ATTRIBUTE.findall(query)) - known
        for name, inside in SELECTOR.findall(query):
            spec = _spec_of(name, declared)
            if spec is not None:
                found |= set(_unknown_in(name, spec, inside))
    return found


def _spec_of(name: str, declared: dict[str, MetricSpec]) -> MetricSpec | None:
    bare = re.sub(r"_(bucket|sum|count)$", "", name)
    spec = declared.get(name) or declared.get(bare)
    return spec if spec is None or name == spec.full_name or spec.kind == "histogram" else None


def _unknown_in(name: str, spec: MetricSpec, inside: str) -> Iterator[str]:
    closed = dict(spec.labels)
    for label, _, values in MATCHER.findall(inside):
        if label not in closed and label not in TARGET:
            yield f"{name}{{{label}}}"
        elif closed.get(label):
            plain = [value for value in values.split("|") if re.fullmatch(r"\w+", value)]
            yield from (f"{name}{{{label}={value}}}" for value in plain if value not in closed[label])


DECLARED: Final = (*METRICS, *PROBE_METRICS, *PROCESS_METRICS)
KEYS: Final = {*ATTRIBUTES, *(spec.key for spec in RESOURCE_ATTRIBUTES)}


def test_every_name_that_a_rule_asks_for_is_declared() -> None:
    """With the labels and the values that it selects by."""
    assert len(expressions_of_rules()) > 30
    assert unknown(expressions_of_rules(), DECLARED, KEYS) == set()


def test_there_are_boards() -> None:
    """No board would be no wrong query."""
    assert len(BOARDS) >= 4


def test_every_name_that_a_board_asks_for_is_declared() -> None:
    """With the labels and the values that it selects by, and the attributes of spans that it looks for."""
    for path in BOARDS:
        queries = list(queries_of(json.loads(path.read_text())))
        assert unknown(queries, DECLARED, KEYS) == set(), path.name


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rate(tracewire_runs_total[5m])", set()),
        ("rate(tracewire_run_total[5m])", {"tracewire_run_total"}),
        ("tracewire_runs_open_count", {"tracewire_runs_open_count"}),
        ('tracewire_link_seconds_bucket{link="socket", le="+Inf"}', set()),
        ('tracewire_link_seconds_bucket{link="sockets"}', {"tracewire_link_seconds_bucket{link=sockets}"}),
        ('tracewire_link_seconds_bucket{links="socket"}', {"tracewire_link_seconds_bucket{links}"}),
        ('tracewire_deliveries_total{job="$job", verdict=~"late|lost"}', {"tracewire_deliveries_total{verdict=lost}"}),
        ("job:tracewire_deliveries_bad:ratio_rate7m", {"job:tracewire_deliveries_bad:ratio_rate7m"}),
        ("{ span.tracewire.run.id = \"x\" && resource.service.name = \"tracewire\" }", set()),
        ('{ span.tracewire.chain.whole = false }', {"tracewire.chain.whole"}),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_noticed(query: str, expected: set[str]) -> None:
    """A metric, a label, a value, a recorded rule, an attribute."""
    assert unknown([query], DECLARED, KEYS) == expected


def test_a_renamed_metric_breaks_the_rules_that_ask_for_it() -> None:
    """A catalogue without a metric or an attribute leaves what asks for it without an answer."""
    without = [spec for spec in DECLARED if spec.name != "users_affected"]
    assert unknown(expressions_of_rules(), without, KEYS) == {"tracewire_users_affected"}
    assert unknown(["{ span.user.id = `x` }"], DECLARED, KEYS - {Attribute.USER_ID}) == {"user.id"}


def test_the_rules_are_those_that_prometheus_loads() -> None:
    """So that no file of rules is left out of the check."""
    config = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["rules/*.yaml"]
