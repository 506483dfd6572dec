"""What servers emitted, held against a catalogue: what is not declared, and what is declared and was not seen."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tracewire_telemetry.catalog import METRICS, OTHER, PROBE_METRICS, PROCESS_METRICS
from tracewire_telemetry.catalog_attributes import AGENT_SCOPE, ATTRIBUTES, RESOURCE_ATTRIBUTES, SCOPE, Attribute
from tracewire_telemetry.catalog_labels import AGENT
from tracewire_telemetry.catalog_spans import ASGI_SCOPE, HTTP_REQUEST, SPANS
from tracewire_telemetry.catalog_specs import AttributeSpec, LabelSpec, MetricSpec, SpanSpec
from tracewire_telemetry.testing.spans import RecordedSpan
from tracewire_telemetry.vocabulary import MISSING_TYPES

TYPES: Final = {"string": str, "int": int, "bool": bool, "double": float}
OF: Final = {"{event type}": frozenset(MISSING_TYPES)}
"""What the second word of a span's name may be; others have any, or just what stands there."""


@dataclass(frozen=True)
class Catalogue:
    """All declarations, as they are or changed in one place."""

    metrics: Sequence[MetricSpec] = (*METRICS, *PROBE_METRICS, *PROCESS_METRICS)
    spans: Sequence[SpanSpec] = SPANS
    attributes: Mapping[str, AttributeSpec] = field(default_factory=lambda: {**ATTRIBUTES})
    resource: Sequence[AttributeSpec] = RESOURCE_ATTRIBUTES

    def spec_of(self, span: RecordedSpan) -> SpanSpec | None:
        """The declaration of this span, by scope and name; a request's name is its method and its path."""
        if span.scope == ASGI_SCOPE:
            return next((spec for spec in self.spans if spec.operation == HTTP_REQUEST.operation), None)
        operation, _, of = span.name.partition(" ")
        found = [spec for spec in self.spans if spec.operation == operation and spec.scope == span.scope]
        exact = [spec for spec in found if spec.of == of]
        return next((spec for spec in (*exact, *found) if spec.of == of or spec.of.startswith("{")), None)


@dataclass
class Seen:
    """Everything that some servers emitted."""

    scrapes: list[str] = field(default_factory=list)
    spans: list[RecordedSpan] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)

    @cached_property
    def families(self) -> list[Metric]:
        """The metrics of all scrapes, once the last of them is there."""
        return [family for text in self.scrapes for family in text_string_to_metric_families(text)]

    def ours(self) -> Iterator[RecordedSpan]:
        """The spans that Tracewire makes; agents make their own."""
        return (span for span in self.spans if span.scope in (SCOPE, ASGI_SCOPE))


def undeclared(catalogue: Catalogue, seen: Seen) -> set[str]:
    """Each thing that was seen and is not as the catalogue has it."""
    return {*_undeclared_metrics(catalogue, seen), *_undeclared_spans(catalogue, seen)}


def _undeclared_metrics(catalogue: Catalogue, seen: Seen) -> Iterator[str]:
    specs = {spec.full_name.removesuffix("_total"): spec for spec in catalogue.metrics}
    for family in seen.families:
        spec = specs.get(family.name)
        if spec is None:
            yield f"metric {family.name}"
            continue
        if (family.type, family.documentation) != (spec.kind, spec.help):
            yield f"metric {family.name} is a {family.type}: {family.documentation}"
        for sample in family.samples:
            own = {name: value for name, value in sample.labels.items() if name != "le"}
            if set(own) != set(spec.label_names):
                yield f"labels of {sample.name}: {sorted(own)}"
            for label in spec.label_specs:
                yield from _undeclared_value(sample.name, label, own.get(label.name, ""), seen)
            bound = float(sample.labels.get("le", "inf"))
            if bound not in (*spec.buckets, float("inf")):
                yield f"bucket {bound} of {sample.name}"


def _undeclared_value(name: str, label: LabelSpec, value: str, seen: Seen) -> Iterator[str]:
    known = label.values or ({*seen.agents, OTHER} if label.name == AGENT.name else {value})
    if value not in known:
        yield f"value of {name}: {label.name}={value}"


def _undeclared_spans(catalogue: Catalogue, seen: Seen) -> Iterator[str]:
    names = {(span.trace_id, span.span_id): span.name for span in seen.spans}
    resource = {spec.key for spec in catalogue.resource}
    # A stamp that was lost leaves no span: what hangs under it is an orphan, or under the link before.
    unstamped = {span.trace_id for span in seen.spans if Attribute.STAMPS_LOST in span.attributes}
    for span in seen.spans:
        yield from (f"resource attribute {key}" for key in span.resource.keys() ^ resource)
        if span.scope not in (SCOPE, ASGI_SCOPE, AGENT_SCOPE) and span.scope.startswith(SCOPE):
            yield f"scope {span.scope}"
    for span in seen.ours():
        spec = catalogue.spec_of(span)
        if spec is None:
            yield f"span {span.name}"
            continue
        operation, _, of = span.name.partition(" ")
        if of not in OF.get(spec.of, {of}):
            yield f"name of span {span.name}"
        if span.kind != spec.kind.name.lower():
            yield f"kind of span {operation}: {span.kind}"
        parent = names.get((span.trace_id, span.parent_id), "").partition(" ")[0]
        alone = spec.of == "replay" and not span.parent_id
        if parent != spec.parent and not alone and span.trace_id not in unstamped:
            yield f"parent of span {operation}: {parent or 'none'}"
        yield from (f"attribute of {operation}: {key}" for key in span.attributes.keys() - spec.attributes)
        yield from (f"no {key} on {operation}" for key in set(spec.always) - span.attributes.keys())
        yield from _undeclared_attributes(catalogue, spec, span.attributes)


def _undeclared_attributes(catalogue: Catalogue, spec: SpanSpec, attributes: Mapping[str, Any]) -> Iterator[str]:
    if spec.scope != SCOPE:
        return
    for key, value in attributes.items():
        declared = catalogue.attributes.get(key)
        if declared is None:
            yield f"attribute {key}"
        elif type(value) is not TYPES[declared.type]:
            yield f"type of {key}: {type(value).__name__}"
        elif declared.values and str(value) not in declared.values:
            yield f"value of {key}: {value}"
    link = attributes.get(Attribute.LINK)
    if spec.link is not None and link != spec.link and (spec.operation, link) != ("create", "engine"):
        yield f"link of {spec.operation}: {link}"


def unseen(catalogue: Catalogue, seen: Seen) -> set[str]:
    """Each thing that is declared and did not happen: a metric, a value that was never counted, a span, an attribute.

    A value of a closed set counts as seen where a counter or a histogram with it is above 0, or a gauge has it.
    """
    return {*_unseen_metrics(catalogue, seen), *_unseen_spans(catalogue, seen)}


def _unseen_metrics(catalogue: Catalogue, seen: Seen) -> Iterator[str]:
    moved: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for family in seen.families:
        for sample in family.samples:
            if sample.value or family.type == "gauge":
                moved[family.name] |= {("", ""), *sample.labels.items()}
    process = any(name.startswith("process_") for name in moved)  # where there is a /proc
    for spec in catalogue.metrics:
        if spec in PROCESS_METRICS and not process:
            continue
        values = moved[spec.full_name.removesuffix("_total")]
        if not values:
            yield spec.name
        for label in spec.label_specs:
            missing = (value for value in label.values if (label.name, value) not in values)
            yield from (f"{spec.name}{{{label.name}={value}}}" for value in missing)


def _unseen_spans(catalogue: Catalogue, seen: Seen) -> Iterator[str]:
    keys: dict[str, set[str]] = defaultdict(set)
    values: set[tuple[str, str]] = set()
    for span in seen.ours():
        spec = catalogue.spec_of(span)
        if spec is not None:
            keys[spec.named(spec.of)] |= {"", *span.attributes}
        if span.scope == SCOPE:
            values |= {(key, str(value)) for key, value in span.attributes.items()}
    for spec in catalogue.spans:
        found = keys[spec.named(spec.of)]
        if not found:
            yield spec.named(spec.of)
        yield from (f"{spec.named(spec.of)}: {key}" for key in spec.attributes if key not in found)
    for key, declared in catalogue.attributes.items():
        yield from (f"{key}={value}" for value in declared.values if (str(key), value) not in values)


def changed(specs: Iterable[Any], old: Any, new: Any) -> tuple[Any, ...]:
    """The declarations with one of them replaced, or left out for `None`."""
    kept = tuple(specs)
    assert old in kept
    return tuple(new if spec == old else spec for spec in kept if spec != old or new is not None)
