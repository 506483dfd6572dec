"""Traces from files: OTLP JSON, the file exporter's lines, Tempo's and Jaeger's answers, and what is none of these."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tracewire_telemetry.testing import TraceFormatError, read_traces
from tracewire_telemetry.testing.otlp_json import spans_from_json

TRACE, ROOT, CHILD = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def otlp(**root: Any) -> dict[str, Any]:
    """An OTLP document of a root and a child, as the specification writes it; fields of the root may be changed."""
    first = {
        "traceId": TRACE,
        "spanId": ROOT,
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": "1000",
        "endTimeUnixNano": "9000",
        "attributes": [
            {"key": "text", "value": {"stringValue": "a"}},
            {"key": "count", "value": {"intValue": "7"}},
            {"key": "share", "value": {"doubleValue": 0.5}},
            {"key": "fine", "value": {"boolValue": True}},
            {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "b"}]}}},
            {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": 2}}]}}},
            {"key": "empty", "value": {}},
        ],
        "status": {"code": 2, "message": "no"},
        "links": [{"traceId": "f" * 32, "spanId": "e" * 16, "attributes": []}],
        "events": [{"name": "sent", "timeUnixNano": "2000", "attributes": []}],
    } | root
    second = {
        "traceId": TRACE,
        "spanId": CHILD,
        "parentSpanId": ROOT,
        "name": "query",
        "kind": "SPAN_KIND_CLIENT",
        "startTimeUnixNano": 2000,
        "endTimeUnixNano": 3000,
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    scope = {"name": "http", "version": "1.2"}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": [first, second]}]}]}


def in_base64(document: Any) -> Any:
    """The document with its ids as protobuf's own JSON has them."""
    if isinstance(document, dict):
        ids = ("traceId", "spanId", "parentSpanId")
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode() if key in ids else in_base64(value)
            for key, value in document.items()
        }
    return [in_base64(item) for item in document] if isinstance(document, list) else document


def jaeger() -> dict[str, Any]:
    """The same two spans as Jaeger gives them."""

    def tags(**values: Any) -> list[dict[str, Any]]:
        return [{"key": key.replace("_", "."), "type": "string", "value": value} for key, value in values.items()]

    status = [{"key": "otel.status_code", "value": "ERROR"}, {"key": "otel.status_description", "value": "no"}]
    scope = [{"key": "otel.scope.name", "value": "http"}]
    first = {
        "traceID": TRACE,
        "spanID": ROOT,
        "operationName": "GET /",
        "references": [{"refType": "FOLLOWS_FROM", "traceID": "f" * 32, "spanID": "e" * 16}],
        "startTime": 1,
        "duration": 8,
        "tags": [*tags(span_kind="server", text="a"), *status, *scope],
        "logs": [{"timestamp": 2, "fields": [{"key": "event", "value": "sent"}]}],
        "processID": "p1",
    }
    second = {
        "traceID": TRACE,
        "spanID": CHILD,
        "operationName": "query",
        "references": [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": ROOT}],
        "startTime": 2,
        "duration": 1,
        "tags": [*tags(span_kind="client"), *scope],
        "processID": "p1",
    }
    return {"data": [{"traceID": TRACE, "spans": [first, second], "processes": {"p1": {"serviceName": "shop"}}}]}


LINES = "\n".join(json.dumps(document) for document in (otlp(), {"resourceMetrics": []}, {"resourceLogs": []}))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(otlp()),
        json.dumps(otlp(), indent=2),
        LINES,
        json.dumps([otlp()]),
        json.dumps(in_base64({"batches": otlp()["resourceSpans"]})),
        json.dumps({"trace": otlp()}),
        json.dumps({"result": otlp()}),
        json.dumps(jaeger()),
        gzip.compress(json.dumps(otlp()).encode()),
    ],
    ids=["otlp", "indented", "lines", "list", "tempo", "tempo 2", "jaeger 3", "jaeger", "gzip"],
)
def test_a_trace_is_read_however_it_was_exported(content: str | bytes, tmp_path: Path) -> None:
    """One trace of two spans: names, kinds, ids, times, status, links, events, scope, resource."""
    path = tmp_path / "trace.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    [trace] = read_traces(path)
    root, [child] = trace.root, trace.children(trace.root)
    assert (root.name, root.kind, root.trace_id, root.span_id) == ("GET /", "server", TRACE, ROOT)
    assert (root.start_ns, root.end_ns, root.status, root.status_message) == (1000, 9000, "error", "no")
    assert root.links == (("f" * 32, "e" * 16),)
    assert [(event.name, event.time_ns) for event in root.events] == [("sent", 2000)]
    assert (root.scope, root.resource["service.name"], root.attributes["text"]) == ("http", "shop", "a")
    assert (child.name, child.kind, child.span_id, child.status) == ("query", "client", CHILD, "unset")
    assert (child.start_ns, child.end_ns) == (2000, 3000)


def test_every_kind_of_value_is_read() -> None:
    """64-bit integers come as texts."""
    [root, _] = spans_from_json(json.dumps(otlp()))
    assert root.attributes == {
        "text": "a", "count": 7, "share": 0.5, "fine": True, "list": [1, "b"], "map": {"k": 2}, "empty": None,
    }  # fmt: skip


def test_traces_of_a_file_are_kept_apart_in_the_order_of_their_start(tmp_path: Path) -> None:
    """Several documents, a line each."""
    path = tmp_path / "traces.jsonl"
    later, earlier = (
        otlp(traceId="a" * 32, startTimeUnixNano="5"),
        otlp(traceId="b" * 32, startTimeUnixNano="4"),
    )
    path.write_text("\n".join(map(json.dumps, (later, earlier))) + "\n")
    traces = [(trace.spans[0].trace_id[0], len(trace)) for trace in read_traces(path)]
    assert traces == [("b", 1), ("a", 1), ("0", 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; export the trace anew"),
        ("not JSON", "is no JSON"),
        (json.dumps(otlp()) + "\n{broken", ", line 2: is no JSON"),
        ('{"spans": []}', "is no trace: expected OTLP JSON (`resourceSpans`), Tempo's"),
        ("3", "found int"),
        ('{"resourceSpans": []}', "holds no span"),
        ('{"resourceMetrics": []}', "holds no span"),
        ('{"resourceSpans": 3}', "resourceSpans must be a list, found 3"),
        (json.dumps(otlp(traceId="xyz")), "span 0: traceId is 'xyz', must be 32 hex digits"),
        (json.dumps(otlp(spanId=None)), "spanId is None, must be 16 hex digits"),
        (json.dumps(otlp(startTimeUnixNano="yesterday")), "startTimeUnixNano is 'yesterday', must be Unix nano"),
        (json.dumps(otlp(kind="SPAN_KIND_ODD")), "kind is 'SPAN_KIND_ODD', must be one of unspecified, internal"),
        (json.dumps(otlp(status={"code": 9})), "status.code is 9, must be one of unset, ok, error"),
        (json.dumps(otlp(attributes=[{"key": "n", "value": {"intValue": "x"}}])), "n: intValue 'x'"),
        (json.dumps(otlp(attributes=[{"key": "n", "value": 3}])), "n: a value must be as {stringValue: …}"),
        (json.dumps(otlp(attributes=[{"key": "n", "value": {"odd": 1}}])), "n: odd is no kind of value"),
        (json.dumps(otlp(attributes=["n"])), "an attribute must be {key, value}, found 'n'"),
        (json.dumps(otlp(attributes=[{"key": "n", "value": {"arrayValue": 3}}])), "n: must be an object, found 3"),
        (json.dumps(otlp(attributes=[{"key": "n", "value": {"kvlistValue": 3}}])), "n: must be an object, found 3"),
        (json.dumps(otlp(status=3)), "span 0: status: must be an object, found 3"),
        (json.dumps(otlp(flags="x")), "span 0: flags is 'x', must be a whole number"),
        ('{"resourceSpans": [{"scopeSpans": [3]}]}', "resourceSpans[0]: must be an object, found 3"),
        ('{"resourceSpans": [{"scopeSpans": [{"scope": 3}]}]}', "scope: must be an object, found 3"),
        ('{"data": [{"spans": [3]}]}', "data[0]: must be an object, found 3"),
        ('{"data": [{"spans": [{"tags": [3]}]}]}', "span 0: tags: must be an object, found 3"),
        ('{"data": [{"spans": [{}], "processes": 3}]}', "processes: must be an object, found 3"),
        ('{"data": [{"spans": [{"startTime": "x"}]}]}', "startTime is 'x', must be Unix microseconds"),
        (b"\x1f\x8bnot gzip", "is neither text in UTF-8 nor such a text gzipped"),
        (b"\xff\xfe\x00", "is neither text in UTF-8 nor such a text gzipped"),
    ],
)
def test_what_is_no_trace_is_said_with_the_place(content: str | bytes, said: str, tmp_path: Path) -> None:
    """The file, where in it, what is there, what must be."""
    path = tmp_path / "trace.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TraceFormatError) as raised:
        read_traces(path)
    assert str(raised.value).startswith(str(path))
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """As any other that cannot be read."""
    with pytest.raises(TraceFormatError, match=r"gone.json: cannot be read: No such file"):
        read_traces(tmp_path / "gone.json")
