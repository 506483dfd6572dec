"""Traces from files and JSON bodies: OTLP JSON as exporters, the Collector's file exporter, Tempo and Jaeger give it.

What is read: an OTLP document (`resourceSpans`), one such document a line, Tempo's answer by trace id (`batches`, or
`trace` in the second version of its API), Jaeger's (`data`, or `result` in the third), and lists of these; gzipped too.
Ids may be hex, as OTLP asks, or base64, as protobuf's own JSON has them.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tracewire_telemetry.testing.jaeger_json import jaeger_spans
from tracewire_telemetry.testing.json_parts import (
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    TraceFormatError,
    id_of,
    list_of,
    named,
    number_of,
    object_of,
    time_of,
)
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace, SpanEvent

__all__ = ["TraceFormatError", "group_by_trace", "read_traces", "spans_from_json"]
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
_GZIP: Final = b"\x1f\x8b"


def read_traces(path: str | Path) -> list[RecordedTrace]:
    """The traces of a file, in the order of their first span's start.

    Raises:
        TraceFormatError: the file cannot be read, is no trace, or holds none.
    """
    __tracebackhide__ = True
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise TraceFormatError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        text = (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceFormatError(f"{file}: is neither text in UTF-8 nor such a text gzipped: {error}") from None
    if not text.strip():
        raise TraceFormatError(f"{file}: is empty; export the trace anew")
    try:
        traces = group_by_trace(spans_from_json(text, str(file)))
    except TraceFormatError as error:
        raise error.with_traceback(None) from None  # the place in the file is what counts, not that in the reader
    if not traces:
        raise TraceFormatError(f"{file}: holds no span; export a trace that has some")
    return traces


def group_by_trace(spans: Iterable[RecordedSpan]) -> list[RecordedTrace]:
    """The spans by their trace ids, in the order of each trace's first start."""
    by_id: defaultdict[str, list[RecordedSpan]] = defaultdict(list)
    for span in spans:
        by_id[span.trace_id].append(span)
    return [RecordedTrace(found) for found in sorted(by_id.values(), key=lambda own: min(s.start_ns for s in own))]


def spans_from_json(text: str, where: str = "the text") -> list[RecordedSpan]:
    """The spans of a JSON document, or of one document a line. `where` is what an error calls the text.

    Raises:
        TraceFormatError: it is no JSON, or not of a shape that is known.
    """
    try:
        return list(_document(json.loads(text), where))
    except json.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise TraceFormatError(f"{where}: is no JSON: {error}") from None
    spans: list[RecordedSpan] = []
    for number, line in lines:
        at = f"{where}, line {number}"
        try:
            spans += _document(json.loads(line), at)
        except json.JSONDecodeError as error:
            raise TraceFormatError(f"{at}: is no JSON: {error}") from None
    return spans


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _document(document: Any, where: str) -> Iterator[RecordedSpan]:
    if isinstance(document, list):
        for index, part in enumerate(document):
            yield from _document(part, f"{where}[{index}]")
        return
    known = document if isinstance(document, dict) else {}
    for name in ("resourceSpans", "resource_spans", "batches"):
        if name in known:
            yield from _resource_spans(list_of(known, name, where), f"{where}: {name}")
            return
    for name in ("trace", "result"):
        if name in known:
            yield from _document(known[name], f"{where}: {name}")
            return
    if isinstance(known.get("data"), list):
        for index, trace in enumerate(known["data"]):
            yield from jaeger_spans(trace, f"{where}: data[{index}]")
        return
    if {"resourceMetrics", "resourceLogs"} & known.keys():
        return  # the file exporter of a Collector may write all signals into one file
    what = f"an object with {sorted(known)[:8]}" if known else f"{type(document).__name__}"
    raise TraceFormatError(
        f"{where}: is no trace: expected OTLP JSON (`resourceSpans`), Tempo's (`batches` or `trace`) or Jaeger's "
        f"(`data` or `result`), found {what}"
    )


def _resource_spans(parts: list[Any], where: str) -> Iterator[RecordedSpan]:
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        resource = _attributes(object_of(object_of(part, at).get("resource") or {}, at), at)
        for name in ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            for scoped in list_of(part, name, at):
                held = list_of(scoped, "spans", at)
                scope = object_of(scoped.get("scope") or scoped.get("instrumentationLibrary") or {}, f"{at}: scope")
                for number, span in enumerate(held):
                    yield _span(object_of(span, at), scope, resource, f"{at}, span {number}")


def _span(span: Mapping[str, Any], scope: Mapping[str, Any], resource: dict[str, Any], where: str) -> RecordedSpan:
    status = object_of(span.get("status") or {}, f"{where}: status")
    links = [object_of(link, where) for link in list_of(span, "links", where)]
    return RecordedSpan(
        name=str(span.get("name", "")),
        kind=named(span.get("kind", 0), _KINDS, "SPAN_KIND_", f"{where}: kind"),
        trace_id=id_of(span.get("traceId"), TRACE_ID_BYTES, f"{where}: traceId"),
        span_id=id_of(span.get("spanId"), SPAN_ID_BYTES, f"{where}: spanId"),
        parent_id=id_of(span.get("parentSpanId"), SPAN_ID_BYTES, f"{where}: parentSpanId", required=False),
        start_ns=time_of(span.get("startTimeUnixNano"), f"{where}: startTimeUnixNano"),
        end_ns=time_of(span.get("endTimeUnixNano"), f"{where}: endTimeUnixNano"),
        status=named(status.get("code", 0), _STATUSES, "STATUS_CODE_", f"{where}: status.code"),
        attributes=_attributes(span, where),
        links=tuple(
            (
                id_of(k.get("traceId"), TRACE_ID_BYTES, f"{where}: link"),
                id_of(k.get("spanId"), SPAN_ID_BYTES, f"{where}: link"),
            )
            for k in links
        ),
        scope=str(scope.get("name", "")),
        resource=resource,
        sampled=bool(number_of(span.get("flags", 0), f"{where}: flags") & 1),
        status_message=str(status.get("message", "")),
        events=tuple(
            SpanEvent(
                str(e.get("name", "")), time_of(e.get("timeUnixNano", 0), f"{where}: event"), _attributes(e, where)
            )
            for e in list_of(span, "events", where)
        ),
        scope_version=str(scope.get("version", "")),
        link_attributes=tuple(_attributes(link, where) for link in links),
    )


def _attributes(owner: Mapping[str, Any], where: str, name: str = "attributes") -> dict[str, Any]:
    found = {}
    for pair in list_of(owner, name, where):
        if not isinstance(pair, dict) or "key" not in pair:
            raise TraceFormatError(f"{where}: an attribute must be {{key, value}}, found {pair!r}")
        found[str(pair["key"])] = _value(pair.get("value"), f"{where}: {pair['key']}")
    return found


def _value(value: Any, where: str) -> Any:
    if not value:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise TraceFormatError(f"{where}: a value must be as {{stringValue: …}}, found {value!r}")
    [(kind, content)] = value.items()
    try:
        match kind:
            case "stringValue" | "boolValue" | "bytesValue":
                return content
            case "intValue":
                return int(content)
            case "doubleValue":
                return float(content)
            case "arrayValue":
                return [_value(item, where) for item in list_of(content, "values", where)]
            case "kvlistValue":
                return _attributes(content, where, "values")
            case _:
                pass
    except TraceFormatError:
        raise  # names the place within
    except (TypeError, ValueError) as error:
        raise TraceFormatError(f"{where}: {kind} {content!r}: {error}") from None
    raise TraceFormatError(f"{where}: {kind} is no kind of value")
