"""Writes `dashboards/reference.md`, what operators look names up in: `make reference`. A test fails where they differ.

Everything on the page comes from the catalogue, and the alerts from Prometheus's rules.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped] # it ships no types

from tracewire_telemetry.catalog import METRIC_GROUPS, METRICS, PROBE_METRICS, PROCESS_METRICS
from tracewire_telemetry.catalog_attributes import AGENT_SCOPE, ATTRIBUTES, RESOURCE_ATTRIBUTES, SCOPE
from tracewire_telemetry.catalog_labels import AGENT, PYTHON, TOOL, USER_ID, VERSION
from tracewire_telemetry.catalog_logs import LOG_GROUPS
from tracewire_telemetry.catalog_spans import SPANS
from tracewire_telemetry.catalog_specs import AttributeSpec, LabelSpec, MetricSpec, SpanSpec

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER / "reference.md"
RULES: Final = FOLDER / "prometheus" / "rules"
_UNITS: Final = {"s": "seconds", "By": "bytes", "1": ""}
_INTRO: Final = """\
# Reference

Everything that Tracewire emits, by its name. Written by `make reference` from the catalogue
(`telemetry/tracewire_telemetry/catalog*.py`) and the rules: change those, not this page.

What an alert asks for is in the [runbook](runbook.md), how to set all of it up in the [README](README.md).
[Metrics](#metrics) · [Labels](#labels) · [Spans](#spans) · [Attributes](#attributes) · [Log records](#log-records) ·
[Alerts](#alerts)
"""


def page() -> str:
    """The whole page."""
    sections = (_metrics(), _labels(), _spans(), _attributes(), _logs(), _alerts())
    return _INTRO + "".join("\n" + "\n".join(section) + "\n" for section in sections)


# Metrics.


def _metrics() -> Iterator[str]:
    yield "## Metrics"
    yield ""
    bare = _series(0, 0)
    each_agent, each_tool = _series(1, 0) - bare, _series(0, 1) - bare
    yield f"""\
On the ops port, at `/metrics`. A server has {bare} series from its start, {each_agent} more for each agent and
{each_tool} for each tool that an agent declares (one of each is `other`); at most 200 name users in violation
(`TRACEWIRE_MISSING_USERS_NAMED_MAX`). Buckets are powers of two: 2⁻¹⁶ to 2⁶ s, for `run_seconds` 2⁻⁴ to 2¹² s. There
are no `_created` series; exemplars are in the OpenMetrics format."""
    for title, group in METRIC_GROUPS:
        yield from ("", f"### {title}", "")
        yield from _metric_table(group)
    yield from ("", "### Of the process", "", "By prometheus-client, where there is a `/proc`.", "")
    yield from _metric_table(PROCESS_METRICS)
    yield from ("", "### Of `tracewire probe`", "", "On a port of its own (`--every`, `--metrics-port`).", "")
    yield from _metric_table(PROBE_METRICS)


def _series(agents: int, tools: int) -> int:
    """How many series a server has, those that come and go left out."""
    known = {AGENT.name: agents, TOOL.name: tools, VERSION.name: 1, PYTHON.name: 1, USER_ID.name: 0}
    return sum(spec.series(known) for spec in METRICS if not spec.passing)


def _metric_table(specs: Sequence[MetricSpec]) -> Iterator[str]:
    yield from _head("metric", "type", "unit", "labels", "series", "what it says")
    for spec in specs:
        labels = ", ".join(f"`{label.name}`" for label in spec.label_specs)
        passing = " It comes and goes." if spec.passing else ""
        yield _row(f"`{spec.full_name}`", spec.kind, _UNITS.get(spec.unit, spec.unit), labels, _count(spec),
                   spec.help + passing)  # fmt: skip


def _count(spec: MetricSpec) -> str:
    """The number of its series, times what is filled at start."""
    once = spec.series({AGENT.name: 1, TOOL.name: 1, VERSION.name: 1, PYTHON.name: 1, USER_ID.name: 1})
    names = spec.label_names
    if USER_ID.name in names:
        return "200 at most"
    per = [f"each {name}" for name in (AGENT.name, TOOL.name) if name in names]
    return " for ".join([str(once), *per])


def _labels() -> Iterator[str]:
    yield from (
        "## Labels",
        "",
        "Closed sets: every series is there at 0 from the start, unless its metric comes and goes.",
    )
    of: dict[LabelSpec, list[str]] = {}
    for spec in (*METRICS, *PROBE_METRICS):
        for label in spec.label_specs:
            names = of.setdefault(label, [])
            names += [f"`{spec.full_name}`"] if f"`{spec.full_name}`" not in names else []
    for label, metrics in of.items():
        yield from ("", f"### `{label.name}` of {', '.join(metrics)}", "", label.meaning)
        if label.bound:
            yield f"Bounded by: {label.bound}."
        if label.values:
            yield ""
            yield from _head("value", "meaning")
            yield from (_row(f"`{value}`", meaning) for value, meaning in label.values.items())


# Spans.


def _spans() -> Iterator[str]:
    yield from ("## Spans", "")
    yield """\
One trace a run. It leaves when the run is settled, whole or not at all: `tracewire.trace.span_count` on its root says
how many spans it has. The stamp of the link in brackets ends the span."""
    yield from ("", "```text")
    for root in (spec for spec in SPANS if not spec.parent):
        yield from _tree(root, 0)
    yield "```"
    yield ""
    yield f"An agent's own spans nest under the run's and the tools': scope `{AGENT_SCOPE}`, or that of who makes them."
    for spec in SPANS:
        yield from ("", f"### `{_name(spec)}`", "", spec.meaning, "")
        yield f"- kind {spec.kind.name}, {_under(spec)}, scope `{spec.scope}`" + _stamped(spec)
        if spec.links_to:
            yield f"- links to {spec.links_to}"
        if spec.error:
            yield f"- status ERROR: {spec.error}"
        yield f"- always: {', '.join(f'`{key}`' for key in spec.always)}"
        yield from (f"- `{key}`: {when}" for key, when in spec.sometimes.items())


def _tree(spec: SpanSpec, depth: int) -> Iterator[str]:
    stamped = f"  [{spec.link.value}]" if spec.link is not None else ""
    yield f"{'  ' * depth}{_name(spec)}  {spec.kind.name}{stamped}"
    for child in SPANS:
        # Replays hang under replays, events under events.
        if child.parent == spec.operation and (spec.of in ("{agent}", child.of)):
            yield from _tree(child, depth + 1)


def _name(spec: SpanSpec) -> str:
    return spec.named(spec.of)


def _under(spec: SpanSpec) -> str:
    return f"under `{spec.parent}`" if spec.parent else "a root"


def _stamped(spec: SpanSpec) -> str:
    return f", ended by the stamp of `{spec.link.value}`" if spec.link is not None else ""


def _attributes() -> Iterator[str]:
    yield from ("## Attributes", "", f"Of the spans of scope `{SCOPE}`.", "")
    yield from _head("attribute", "type", "from", "values", "on", "what it says")
    for key, spec in ATTRIBUTES.items():
        on = ", ".join(dict.fromkeys(f"`{one.operation}`" for one in SPANS if key in one.attributes))
        unit = f" ({spec.unit})" if spec.unit else ""
        yield _row(f"`{spec.key}`", spec.type + unit, spec.source, _values(spec), on, spec.meaning)
    yield from ("", "### Of the resource", "", "`OTEL_RESOURCE_ATTRIBUTES` adds to these, and wins.", "")
    yield from _head("attribute", "values", "what it says")
    yield from (_row(f"`{spec.key}`", spec.cardinality, spec.meaning) for spec in RESOURCE_ATTRIBUTES)


# Logs and alerts.


def _logs() -> Iterator[str]:
    yield from ("## Log records", "", "One line of JSON a record, on standard error; `event` is the name here.")
    for title, group in LOG_GROUPS:
        yield from ("", f"### Logged: {title}", "")
        yield from _head("event", "level", "what it means")
        yield from (_row(f"`{spec.event}`", ", ".join(spec.levels), spec.meaning) for spec in group)


def _alerts() -> Iterator[str]:
    yield from (
        "## Alerts",
        "",
        "Each with its section in the runbook. `kf`: how long it fires on (`keep_firing_for`).",
        "",
    )
    yield from _head("alert", "severity", "for", "kf", "says")
    groups: list[Any] = [
        group for path in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"]
    ]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in (rule for rule in rules if "alert" in rule):
        name = rule["alert"]
        yield _row(f"[{name}](runbook.md#{name.lower()})", rule["labels"]["severity"], rule.get("for", ""),
                   rule.get("keep_firing_for", ""), _said(rule["annotations"]["summary"]))  # fmt: skip
    yield from ("", "### Recorded", "", "For the alerts on the objective's burn, and for boards.", "")
    yield from (f"- `{rule['record']}`" for rule in rules if "record" in rule)


def _said(summary: str) -> str:
    """The summary without its template: labels by their names, the value as N, of a choice the first part."""
    said = summary.replace("{{ . }}", "*instance*")
    said = re.sub(r"\{\{ with .*?\}\}(.*?)\{\{ else \}\}.*?\{\{ end \}\}", r"\1", said)
    said = re.sub(r"\{\{ \$value .*?\}\}", "N", said)
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", said)


def _values(spec: AttributeSpec) -> str:
    return ", ".join(f"`{value.lower()}`" for value in spec.values) or spec.cardinality


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), _row(*("---" for _ in names))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
