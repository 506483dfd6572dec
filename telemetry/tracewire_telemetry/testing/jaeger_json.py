"""Traces as Jaeger's HTTP API and its page give them: spans with tags, references, microseconds."""

from collections.abc import Iterator, Mapping
from typing import Any

from tracewire_telemetry.testing.json_parts import (
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    id_of,
    list_of,
    number_of,
    object_of,
    time_of,
)
from tracewire_telemetry.testing.spans import RecordedSpan, SpanEvent


def jaeger_spans(trace: Any, where: str) -> Iterator[RecordedSpan]:
    """The spans of one trace; `where` is what an error calls it.

    Raises:
        TraceFormatError: it is not of Jaeger's shape.
    """
    processes = object_of(object_of(trace, where).get("processes") or {}, f"{where}: processes")
    for number, span in enumerate(list_of(trace, "spans", where)):
        yield _jaeger_span(object_of(span, where), processes, f"{where}, span {number}")


def _jaeger_span(span: Mapping[str, Any], processes: Mapping[str, Any], where: str) -> RecordedSpan:
    tags = _tags(span, "tags", where)
    process = object_of(processes.get(str(span.get("processID"))) or {}, f"{where}: process")
    references = [object_of(reference, where) for reference in list_of(span, "references", where)]
    parents = [r for r in references if r.get("refType") == "CHILD_OF" and r.get("traceID") == span.get("traceID")]
    start_ns = time_of(span.get("startTime"), f"{where}: startTime", "microseconds") * 1000
    status = str(tags.pop("otel.status_code", "error" if tags.get("error") is True else "unset")).lower()
    return RecordedSpan(
        name=str(span.get("operationName", "")),
        kind=str(tags.pop("span.kind", "internal")),
        trace_id=id_of(span.get("traceID"), TRACE_ID_BYTES, f"{where}: traceID"),
        span_id=id_of(span.get("spanID"), SPAN_ID_BYTES, f"{where}: spanID"),
        parent_id=id_of(parents[0].get("spanID"), SPAN_ID_BYTES, f"{where}: parent") if parents else "",
        start_ns=start_ns,
        end_ns=start_ns + number_of(span.get("duration", 0), f"{where}: duration") * 1000,
        status=status,
        links=tuple(
            (id_of(r.get("traceID"), TRACE_ID_BYTES, where), id_of(r.get("spanID"), SPAN_ID_BYTES, where))
            for r in references
            if r not in parents[:1]
        ),
        scope=str(tags.pop("otel.scope.name", tags.pop("otel.library.name", ""))),
        scope_version=str(tags.pop("otel.scope.version", tags.pop("otel.library.version", ""))),
        status_message=str(tags.pop("otel.status_description", "")),
        resource={"service.name": process.get("serviceName", ""), **_tags(process, "tags", where)},
        sampled=True,
        attributes={key: value for key, value in tags.items() if key not in ("error", "internal.span.format")},
        events=tuple(
            SpanEvent(
                str(fields.pop("event", "")),
                time_of(log.get("timestamp"), f"{where}: timestamp", "microseconds") * 1000,
                fields,
            )
            for log in list_of(span, "logs", where)
            for fields in [_tags(log, "fields", where)]
        ),
    )


def _tags(owner: Any, name: str, where: str) -> dict[str, Any]:
    return {
        str(tag.get("key")): tag.get("value")
        for tag in (object_of(found, f"{where}: {name}") for found in list_of(owner, name, where))
    }
