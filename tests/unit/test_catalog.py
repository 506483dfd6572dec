"""The catalogue says each thing once and leaves nothing out: groups, logged events, the page written from it."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dashboards import reference
from tracewire_telemetry import catalog, catalog_labels, catalog_spans
from tracewire_telemetry.catalog import METRICS, PROBE_METRICS, PROCESS_METRICS, MetricSpec
from tracewire_telemetry.catalog_attributes import ATTRIBUTES, RESOURCE_ATTRIBUTES, SCOPE, Attribute
from tracewire_telemetry.catalog_logs import LOGS
from tracewire_telemetry.catalog_spans import SPANS
from tracewire_telemetry.catalog_specs import LabelSpec, SpanSpec

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "telemetry").rglob("*.py")])
LEVELS: Final = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def test_every_metric_stands_in_one_group() -> None:
    """What is declared beside the groups would be on no page and in no check."""
    declared = [value for value in vars(catalog).values() if isinstance(value, MetricSpec)]
    assert Counter(declared) == Counter({*METRICS, *PROBE_METRICS})
    names = [spec.full_name for spec in (*declared, *PROCESS_METRICS)]
    assert len(set(names)) == len(names)


def test_every_span_and_every_label_that_is_declared_is_used() -> None:
    """A span that stands in no list, or a label that no metric has, is a leftover."""
    spans = [value for value in vars(catalog_spans).values() if isinstance(value, SpanSpec)]
    assert Counter(spans) == Counter(SPANS)
    labels = {value for value in vars(catalog_labels).values() if isinstance(value, LabelSpec)}
    assert labels == {label for spec in (*METRICS, *PROBE_METRICS) for label in spec.label_specs}


def test_every_attribute_is_on_a_span_of_ours() -> None:
    """And each span of ours has none that is not declared."""
    used = {key for spec in SPANS if spec.scope == SCOPE for key in spec.attributes}
    assert used == set(ATTRIBUTES) == set(Attribute)


def test_every_span_hangs_under_one_that_is_declared() -> None:
    """By its operation, or nowhere."""
    assert {spec.parent for spec in SPANS} - {spec.operation for spec in SPANS} == {""}


def test_a_closed_set_that_leaves_a_member_out_is_refused() -> None:
    """So is one that says something of what does not exist."""
    with pytest.raises(ValueError, match="late"):
        catalog_labels._meanings(catalog_labels.Verdict, {catalog_labels.Verdict.IN_TIME: "in time"})


def test_no_name_is_written_a_second_time_where_it_is_emitted() -> None:
    """Code takes metrics, spans and attributes from the catalogue: a name of them stands nowhere else as a text."""
    names = {
        *(spec.full_name for spec in (*METRICS, *PROBE_METRICS)),
        *(spec.operation for spec in SPANS if spec.operation.endswith(("_agent", "_tool"))),
        *ATTRIBUTES,
        *(spec.key for spec in RESOURCE_ATTRIBUTES),
    }
    product = [
        path
        for path in SOURCES
        if "telemetry" in path.parts and not path.name.startswith("catalog") and "testing" not in path.parts
    ]
    written = [
        f"{path.name}:{node.lineno} {node.value}"
        for path in product
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert written == []


def logged() -> Iterator[tuple[str, str, Path]]:
    """Each event that code logs, with its level and its file. `_log` of the incidents chooses between two levels."""
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            on, verb, event = ast.unparse(call.func.value), call.func.attr, call.args[0]
            if not (isinstance(event, ast.Constant) and isinstance(event.value, str)):
                continue
            if on in ("_log", "log") and verb in LEVELS:
                yield event.value, LEVELS[verb], path
            elif (on, verb) == ("self", "_log"):
                yield from ((event.value, level, path) for level in ("warning", "info"))


def test_every_event_that_is_logged_is_declared_with_its_levels_and_no_other() -> None:
    """Who greps the log for a name from the page finds it, and what the log says is on the page."""
    found: dict[str, set[str]] = defaultdict(set)
    for event, level, _ in logged():
        found[event].add(level)
    assert len(found) > 60
    assert {spec.event: set(spec.levels) for spec in LOGS} == found
    assert len({spec.event for spec in LOGS}) == len(LOGS)


def test_every_call_that_logs_names_its_event_in_place() -> None:
    """A name that is put together could not be looked up."""
    unnamed = [
        f"{path.name}:{call.lineno}"
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) in ("_log", "log", "structlog.get_logger()")
        and call.func.attr in LEVELS
        and not (call.args and isinstance(call.args[0], ast.Constant))
    ]
    assert unnamed == []


def test_the_reference_page_is_as_the_catalogue_has_it() -> None:
    """`make reference` writes it; whoever changes a name changes the page."""
    assert reference.page() == reference.PAGE.read_text(encoding="utf-8"), "run `make reference`"


def test_the_operators_page_says_the_number_of_series_that_there_are() -> None:
    """A figure that is written by hand grows old."""
    bare = reference._series(0, 0)
    agent, tool = reference._series(1, 0) - bare, reference._series(0, 1) - bare
    said = f"| {bare}, {agent} for each agent and {tool} for each tool,"
    assert said in (reference.FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_reference_page_names_everything_and_its_links_lead_somewhere() -> None:
    """Every name of the catalogue, and every heading and file that the page links to."""
    page = reference.PAGE.read_text(encoding="utf-8")
    names = [
        *(spec.full_name for spec in (*METRICS, *PROBE_METRICS, *PROCESS_METRICS)),
        *(value for spec in METRICS for _, values in spec.labels for value in values),
        *(spec.named(spec.of) for spec in SPANS),
        *ATTRIBUTES,
        *(spec.event for spec in LOGS),
    ]
    assert [name for name in names if f"`{name}`" not in page] == []
    headings = {
        file: {
            re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
            for line in text.splitlines()
            if line[:1] == "#"
        }
        for file, text in (("", page), ("runbook.md", (reference.FOLDER / "runbook.md").read_text(encoding="utf-8")))
    }
    links = re.findall(r"\]\(([\w./]*)#?([\w-]*)\)", page)
    assert len(links) > 20
    for file, heading in links:
        assert not file or (reference.FOLDER / file).exists(), file
        assert not heading or heading in headings[file], (file, heading)
