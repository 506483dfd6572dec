"""A recorded span and a recorded trace, the same whether they were recorded in this process or came over OTLP."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan


class SpanEvent(Struct, frozen=True):
    """Something that a span says happened while it lasted; `time_ns` is Unix nanoseconds."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


class RecordedSpan(Struct, frozen=True):
    """One exported span. Ids are lower-case hex, `parent_id` is empty for a root; times are Unix nanoseconds.

    `kind` and `status` are OpenTelemetry's names in lower case: `internal`, `producer`, …; `unset`, `ok`, `error`.
    `links` are (trace id, span id), their attributes are in `link_attributes`, in the same order. `sampled` is the flag
    of the span's context; the SDK's OTLP exporter leaves it out, so that over OTLP it is always false.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    status: str
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    scope: str
    resource: Mapping[str, Any]
    sampled: bool
    status_message: str = ""
    events: tuple[SpanEvent, ...] = ()
    scope_version: str = ""
    link_attributes: tuple[Mapping[str, Any], ...] = ()


class RecordedTrace:
    """The spans of one trace."""

    def __init__(self, spans: Iterable[RecordedSpan]) -> None:
        self.spans = tuple(spans)
        self._by_id = {span.span_id: span for span in self.spans}
        self._children: dict[str, list[RecordedSpan]] | None = None

    def __iter__(self) -> Iterator[RecordedSpan]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def root(self) -> RecordedSpan:
        """The one span without a parent.

        Raises:
            AssertionError: there is none, or more than one.
        """
        roots = [span for span in self.spans if not span.parent_id]
        if len(roots) != 1:
            raise AssertionError(f"{len(roots)} roots in a trace of {len(self.spans)} spans: {[s.name for s in roots]}")
        return roots[0]

    @property
    def orphans(self) -> list[RecordedSpan]:
        """The spans whose parent the trace does not hold, roots left out."""
        return [span for span in self.spans if span.parent_id and span.parent_id not in self._by_id]

    def parent(self, span: RecordedSpan) -> RecordedSpan | None:
        """The span's parent, `None` where the trace does not hold it."""
        return self._by_id.get(span.parent_id)

    def children(self, span: RecordedSpan) -> list[RecordedSpan]:
        """The span's children, by start."""
        if self._children is None:
            self._children = {}
            for child in sorted(self.spans, key=lambda s: s.start_ns):
                self._children.setdefault(child.parent_id, []).append(child)
        return list(self._children.get(span.span_id, ()))

    def named(self, name: str) -> list[RecordedSpan]:
        """The spans of that name, by start."""
        return sorted((span for span in self.spans if span.name == name), key=lambda s: s.start_ns)

    @property
    def complete(self) -> bool:
        """Whether the root is here and says that it has as many spans as are here."""
        roots = [span for span in self.spans if not span.parent_id]
        return len(roots) == 1 and roots[0].attributes.get("tracewire.trace.span_count") == len(self.spans)

    def problems(self) -> list[str]:
        """What is wrong with the trace as a tree: orphans, repeated ids, a child that starts before its parent."""
        found = [] if self.spans else ["the trace is empty"]
        if len(self._by_id) != len(self.spans):
            found.append(f"{len(self.spans) - len(self._by_id)} span ids are repeated")
        if len(trace_ids := {span.trace_id for span in self.spans}) > 1:
            found.append(f"the spans are of {len(trace_ids)} traces: {sorted(trace_ids)}")
        for span in self.spans:
            parent = self.parent(span)
            if span.parent_id and parent is None:
                found.append(f"{span.name} is an orphan: its parent {span.parent_id} is not in the trace")
            if parent is not None and span.start_ns < parent.start_ns:
                found.append(f"{span.name} starts {parent.start_ns - span.start_ns} ns before its parent {parent.name}")
            if span.end_ns < span.start_ns:
                found.append(f"{span.name} ends before it starts")
        return found


def from_sdk(span: ReadableSpan) -> RecordedSpan:
    """A span of this process's SDK."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None  # noqa: S101 # an exported span has one
    return RecordedSpan(
        name=span.name,
        kind=span.kind.name.lower(),
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{parent.span_id:016x}" if parent is not None else "",
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        status=span.status.status_code.name.lower(),
        attributes={str(key): value for key, value in (span.attributes or {}).items()},
        links=tuple((f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links),
        scope=span.instrumentation_scope.name if span.instrumentation_scope else "",
        resource=dict(span.resource.attributes),
        sampled=bool(context.trace_flags.sampled),
        status_message=span.status.description or "",
        events=tuple(SpanEvent(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events),
        scope_version=(span.instrumentation_scope.version or "") if span.instrumentation_scope else "",
        link_attributes=tuple(dict(link.attributes or {}) for link in span.links),
    )


def from_otlp(request: ExportTraceServiceRequest) -> Iterator[RecordedSpan]:
    """The spans of an OTLP export."""
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield RecordedSpan(
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    status=span.status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
                    attributes=_attributes(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    scope=scope_spans.scope.name,
                    resource=resource,
                    sampled=bool(span.flags & 1),
                    status_message=span.status.message,
                    events=tuple(SpanEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events),
                    scope_version=scope_spans.scope.version,
                    link_attributes=tuple(_attributes(link.attributes) for link in span.links),
                )


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
