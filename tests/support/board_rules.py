"""What must hold for every board: each rule gives a line for each place where it does not."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from dashboards.generator.outside import OUTSIDE
from support.alert_rules import groups
from support.board_queries import (
    Board,
    Panel,
    Query,
    Selector,
    annotation_queries,
    names,
    panels,
    queries,
    searches,
    selectors,
    variable_queries,
    variables,
)
from tracewire_telemetry.catalog import METRICS, PROCESS_METRICS, Attribute

WIDTH: Final = 24
SOURCES: Final = {"prometheus": "${prometheus_datasource}", "tempo": "${tempo_datasource}"}
UNITS: Final = frozenset({"none", "short", "percentunit", "bytes", "s", "ms", "cps", "dateTimeFromNow"})
"""Of Grafana's; others may be added when a panel needs them."""
BUILT_IN: Final = frozenset({"__url_time_range", "__data"})
"""What Grafana itself puts into links."""
OPS_ADDRESS: Final = re.compile(r"http://\$\{(__data\.fields\.instance|ops)\}/(incidents|ready|runs/)")
QUANTILE: Final = re.compile(r"by \([^)]*\ble\) \(rate\([\w:]+_bucket\{")
OWN: Final = {spec.full_name: spec for spec in (*METRICS, *PROCESS_METRICS)}
THEIRS: Final = {metric.full_name: metric for metric in OUTSIDE}
WORDS: Final = frozenset(
    {"sum", "max", "min", "count", "by", "on", "bool", "or", "unless", "offset", "group_right", "time", "m"}
    | {"rate", "increase", "changes", "timestamp", "histogram_quantile"}
)
"""Of PromQL's own, those that the boards use; `m` is the unit of an offset."""
_SUFFIX: Final = re.compile(r"_(bucket|sum|count)$")
Boards = Mapping[str, Board]
Rule = Callable[[Board, Boards], Iterator[str]]


def problems(board: Board, all_boards: Boards) -> list[str]:
    """Every line of every rule, each with the rule's name."""
    return [f"{rule.__name__}: {line}" for rule in RULES for line in rule(board, all_boards)]


def identity(board: Board, _: Boards) -> Iterator[str]:
    """Fixed uids and ids, nothing that changes from one writing to the next, and nobody edits what is generated."""
    if not re.fullmatch(r"tracewire-[a-z]+", board.get("uid", "")):
        yield f"the uid is {board.get('uid')}"
    if found := {"id", "version", "iteration", "gnetId"} & set(board):
        yield f"{sorted(found)} belong to one Grafana"
    if board["editable"] or board["schemaVersion"] != 39:
        yield "it must be read-only, in Grafana 11.0's schema"
    ids = [panel["id"] for panel in board["panels"]]
    if len(ids) != len(set(ids)):
        yield "two panels have one id"
    if not board["title"] or not board["description"] or "tracewire" not in board["tags"]:
        yield "it has no title, description or tag"


def templates(board: Board, _: Boards) -> Iterator[str]:
    """Data sources, job and instance can be chosen, several of them, and all at once."""
    found = variables(board)
    for kind in SOURCES:
        if found.get(f"{kind}_datasource", {}).get("query") != kind:
            yield f"there is no variable for the data source {kind}"
    for name in ("job", "instance"):
        if not (found.get(name, {}).get("multi") and found[name]["includeAll"] and found[name]["allValue"]):
            yield f"the variable {name} does not take several values, and all"
    for name, variable in found.items():
        if not variable["label"] or not variable["description"]:
            yield f"the variable {name} has no label or description"
        if variable["type"] == "query" and variable["datasource"]["uid"] != SOURCES["prometheus"]:
            yield f"the variable {name} has a data source of its own"


def furniture(board: Board, _: Boards) -> Iterator[str]:
    """Title, description and a unit of Grafana's on every panel, and the data source that was chosen."""
    for panel in panels(board):
        if not panel.get("title") or len(panel.get("description", "")) < 15:
            yield f"{panel['id']}: no title or no description"
        if panel["type"] == "text":
            continue
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{panel['title']}: no unit"
        if not panel.get("targets"):
            yield f"{panel['title']}: no query"
        for source in [panel["datasource"], *(target["datasource"] for target in panel.get("targets", []))]:
            if source["uid"] != SOURCES.get(source["type"]):
                yield f"{panel['title']}: its data source is {source}"


def scope(board: Board, _: Boards) -> Iterator[str]:
    """Every selector keeps to the jobs and instances that were chosen; what is summed up by job has no instance."""
    for query in asked(board):
        for selector in selectors(query.expr):
            by = {(label, operator): value for label, operator, value in selector.matchers}
            if ("job", "!~") in by and by["job", "!~"] == "tracewire.*":
                continue  # of the programs beside us: alerts on them, and which they are
            job = by.get(("job", "=~"))
            if job not in ("$job", "$beside") and not (selector.name == "up" and job == "tracewire.*"):
                yield f"{query.where}: {selector.name} is not narrowed to the jobs chosen"
            at_job = selector.name.startswith("job:") or job != "$job" or query.where == "variable instance"
            if not at_job and by.get(("instance", "=~")) not in ("$instance", "$instance|"):
                yield f"{query.where}: {selector.name} is not narrowed to the instances chosen"
        if rest := bare(query.expr):
            yield f"{query.where}: {rest} without matchers"


def bare(expression: str) -> set[str]:
    """Names in a query that are neither functions nor labels, and have no matchers."""
    text = re.sub(r"[\w:]*\{[^{}]*\}(\[[^\]]*\])?", " ", expression)
    text = re.sub(r"\b(by|on|group_left|group_right|ignoring)\s*\([^()]*\)", " ", text)
    return {word for word in re.findall(r"[A-Za-z_:][\w:]*", text) if word not in WORDS}


def rates(board: Board, _: Boards) -> Iterator[str]:
    """A rate over every counter and none over a gauge; rates over what Grafana says fits the scrape interval."""
    for query in queries(board):
        for selector in selectors(query.expr):
            called = re.search(r"(\w+)\($", selector.before)
            function = called[1] if called else ""
            if function == "rate" and selector.window != "$__rate_interval":
                yield f"{query.where}: a rate over {selector.window}"
            if kind_of(selector) != "gauge" and function not in ("rate", "increase"):
                yield f"{query.where}: {selector.name} is a counter, and its rate is not taken"
            if kind_of(selector) == "gauge" and function in ("rate", "increase"):
                yield f"{query.where}: {selector.name} is a gauge, and a rate is taken"
        if "histogram_quantile" in query.expr and not QUANTILE.search(query.expr):
            yield f"{query.where}: a quantile needs the rates of buckets, by le"
        if re.search(r"\bor vector\(|\bor on\(\) vector\(", query.expr):
            yield f"{query.where}: what is not there is shown as a number"


def kind_of(selector: Selector) -> str:
    """Counter, gauge or histogram; what a rule recorded is a gauge."""
    name = names(selector)[0]
    if name in THEIRS:
        return THEIRS[name].kind
    spec = OWN.get(name) or OWN.get(_SUFFIX.sub("", name))
    return spec.kind if spec else "gauge"


def known(board: Board, _: Boards) -> Iterator[str]:
    """Every metric is the catalogue's, a rule's record, or on the list of other programs'; so are labels and values."""
    recorded = {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}
    for query in asked(board):
        for selector in selectors(query.expr):
            name = names(selector)[0]
            spec = OWN.get(name) or OWN.get(_SUFFIX.sub("", name))
            if spec is None and name not in recorded and name not in THEIRS:
                yield f"{query.where}: nothing tells {name}"
            for label, _operator, value in selector.matchers:
                closed = dict(spec.labels).get(label, ()) if spec else ()
                if closed and not value.startswith("$") and not set(value.split("|")) <= set(closed):
                    yield f"{query.where}: {label} is never {value}"
                if spec and label not in {*spec.label_names, "job", "instance", "le"}:
                    yield f"{query.where}: {name} has no label {label}"
    for search in searches(board):
        for name in re.findall(r"span\.([\w.]+)", search.expr):
            if name not in set(Attribute):
                yield f"{search.where}: no span has {name}"


def roads(board: Board, all_boards: Boards) -> Iterator[str]:
    """Links lead to boards that are there, with variables that they have, or to the ops port; nothing else."""
    for where, url, columns in addresses(board):
        for name in re.findall(r"\$\{(\w+)", url):
            if name not in BUILT_IN and name not in variables(board):
                yield f"{where}: {name} is no variable here"
        for field in re.findall(r'\$\{__data\.fields(?:\.(\w+)|\["([^"]+)"\])', url):
            if columns and (field[0] or field[1]) not in columns:
                yield f"{where}: there is no column {field[0] or field[1]}"
        to_board = re.match(r"/d/([\w-]+)", url)
        if to_board is None:
            if not OPS_ADDRESS.match(url):
                yield f"{where}: {url} leads nowhere that is known"
            continue
        target = all_boards.get(to_board[1])
        if target is None:
            yield f"{where}: there is no board {to_board[1]}"
            continue
        passed = set(re.findall(r"var-(\w+)=", url)) | set(re.findall(r"\$\{(\w+):queryparam\}", url))
        if missing := passed - set(variables(target)):
            yield f"{where}: {to_board[1]} has no variable {sorted(missing)}"
        if (panel := re.search(r"viewPanel=(\d+)", url)) and int(panel[1]) not in {one["id"] for one in panels(target)}:
            yield f"{where}: {to_board[1]} has no panel {panel[1]}"


def addresses(board: Board) -> Iterator[tuple[str, str, set[str]]]:
    """Every link: where it stands, its address, and the columns that it can name."""
    for link in board["links"]:
        yield f"board's link {link['title']}", link["url"], set()
    for panel in panels(board):
        overrides = panel.get("fieldConfig", {}).get("overrides", [])
        columns = {override["matcher"]["options"] for override in overrides}
        for link in links_of(panel):
            yield f"{panel['title']}: {link['title']}", link["url"], columns
        if panel["type"] == "text":
            for title, url in re.findall(r"\[([^\]]+)\]\((/[^)]+)\)", panel["options"]["content"]):
                yield f"{panel['title']}: {title}", url, set()


def links_of(panel: Panel) -> Iterator[dict[str, Any]]:
    """The links of a panel, of its series and of its columns."""
    yield from panel.get("links", [])
    config = panel.get("fieldConfig", {"defaults": {}, "overrides": []})
    yield from config["defaults"].get("links", [])
    for override in config["overrides"]:
        for changed in override["properties"]:
            if changed["id"] == "links":
                yield from changed["value"]


def grid(board: Board, _: Boards) -> Iterator[str]:
    """Panels fill their lines and do not lie over each other."""
    cells: dict[tuple[int, int], int] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > WIDTH:
            yield f"{panel['id']} lies beyond the edge"
        for y in range(place["y"], place["y"] + place["h"]):
            for x in range(place["x"], place["x"] + place["w"]):
                if (x, y) in cells:
                    yield f"{panel['id']} lies over {cells[x, y]}"
                    return
                cells[x, y] = panel["id"]
    bottom = max(y for _, y in cells) + 1
    if len(cells) != WIDTH * bottom:
        yield f"{WIDTH * bottom - len(cells)} cells are empty"


def asked(board: Board) -> Iterator[Query]:
    """All PromQL of a board: of its panels, annotations and variables."""
    yield from queries(board)
    yield from annotation_queries(board)
    yield from (query for query, _ in variable_queries(board))


RULES: Final[tuple[Rule, ...]] = (identity, templates, furniture, scope, rates, known, roads, grid)
