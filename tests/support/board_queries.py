"""The boards as data: their panels and queries, and what Grafana puts in place of variables before it asks."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from support.alert_rules import DASHBOARDS

FOLDER = DASHBOARDS / "grafana"
PROMETHEUS = "prometheus"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::(\w+))?\})")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\{([^{}]*)\}(?:\[([^\]]*)\])?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')

Board = dict[str, Any]
Panel = dict[str, Any]
Value = str | tuple[str, ...]


class Query(NamedTuple):
    """One query of a board: of a panel, of a variable or of an annotation."""

    board: str
    where: str
    expr: str
    legend: str = ""
    exemplars: bool = False
    panel: int = 0


class Selector(NamedTuple):
    """A series selector: its name (empty where a matcher has it), its matchers as (label, operator, value), its range,
    and what stands before it.
    """

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    window: str
    before: str


def boards(folder: Path = FOLDER) -> dict[str, Board]:
    """Every board that is committed, by its uid."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {board["uid"]: board for board in found}


def panels(board: Board) -> Iterator[Panel]:
    """The panels, without the headings of rows."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def variables(board: Board) -> dict[str, dict[str, Any]]:
    """The variables by name."""
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def queries(board: Board) -> Iterator[Query]:
    """The PromQL of the panels, one for each of their queries."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            if "expr" in target:
                where = f"{panel.get('title')} {target['refId']}"
                legend = target.get("legendFormat", "")
                yield Query(board["uid"], where, target["expr"], legend, bool(target.get("exemplar")), panel["id"])


def annotation_queries(board: Board) -> Iterator[Query]:
    """The PromQL of the marks on the time axis."""
    for annotation in board["annotations"]["list"]:
        yield Query(board["uid"], f"annotation {annotation['name']}", annotation["expr"])


def variable_queries(board: Board) -> Iterator[tuple[Query, str]]:
    """The series whose label fills a variable, and that label."""
    for name, variable in variables(board).items():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None, f"{board['uid']} {name}: {variable['query']['query']}"
            yield Query(board["uid"], f"variable {name}", found[1]), found[2]


def searches(board: Board) -> Iterator[Query]:
    """The TraceQL of the panels."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            if "query" in target:
                yield Query(board["uid"], panel["title"], target["query"], panel=panel["id"])


def interpolated(expression: str, values: Mapping[str, Value]) -> str:
    """The query as Grafana sends it to Prometheus: several values of a variable become alternatives of a pattern.

    Raises:
        AssertionError: a variable has no value.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        assert name in values, f"${name} has no value in {expression}"
        given = values[name]
        if isinstance(given, str):
            return given
        escaped = [re.sub(r"([\\^$.*+?()\[\]{}|])", r"\\\\\1", one) for one in given]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value, expression)


def selectors(expression: str) -> list[Selector]:
    """The series selectors of a query, in their order. Matchers hold no braces."""
    found = []
    for match in _SELECTOR.finditer(expression.replace("${", "$(")):
        matchers = tuple((name, operator, value) for name, operator, value in _MATCHER.findall(match[2]))
        found.append(Selector(match[1] or "", matchers, match[3] or "", expression[: match.start()]))
    return found


def names(selector: Selector) -> list[str]:
    """The metrics that it can select: its own name, or those that its pattern spells out."""
    if selector.name:
        return [selector.name]
    (pattern,) = [value for label, _, value in selector.matchers if label == "__name__"]
    return [pattern.replace("(_total)?", ending) for ending in ("", "_total")] if "(_total)?" in pattern else [pattern]


def renamed(expression: str, name: str) -> str:
    """The query with a metric under another name."""
    return re.sub(rf"(?<![\w:]){re.escape(name)}(?=\{{)", f"{name}_renamed", expression)
