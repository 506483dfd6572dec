"""Recorders: what they take, what they refuse, and what a wait that fails has to say."""

import gzip
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from opentelemetry import trace as global_trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from support.made_spans import basket, made
from tracewire_telemetry.testing import InProcessRecorder, OtlpReceiver, Recording, assert_no_secret
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver on a free port."""
    with OtlpReceiver() as started:
        yield started


def show(provider: Any) -> None:
    """A program: a request with everything that a span can have."""
    tracer = provider.get_tracer("shop", "1.2")
    with tracer.start_as_current_span("other") as other:
        pass
    with tracer.start_as_current_span(
        "GET /", kind=SpanKind.SERVER, links=[Link(other.get_span_context(), {"why": "x"})]
    ) as root:
        root.set_attributes({"text": "a", "count": 7, "share": 0.5, "fine": True, "list": ["a", "b"]})
        root.add_event("sent", {"bytes": 3}, timestamp=5)
        root.set_status(Status(StatusCode.ERROR, "no"))
        with tracer.start_as_current_span("query", kind=SpanKind.CLIENT):
            pass


def comparable(trace: RecordedTrace) -> list[Any]:
    """What must be the same however a span came in: everything but ids, times, and tuples for lists."""
    return [
        (s.name, s.kind, s.status, s.status_message, s.scope, s.scope_version, s.resource["service.name"],
         {key: list(value) if isinstance(value, tuple) else value for key, value in s.attributes.items()},
         s.events, s.link_attributes)
        for s in sorted(trace, key=lambda s: s.start_ns)
    ]  # fmt: skip


def test_a_program_of_this_process_is_recorded_without_any_global_state() -> None:
    """Two recorders side by side hold each their own; the global provider is as it was."""
    before = global_trace.get_tracer_provider()
    ours, theirs = InProcessRecorder(), InProcessRecorder()
    show(ours.provider({"service.name": "shop"}))
    assert global_trace.get_tracer_provider() is before
    assert theirs.spans == []
    trace = ours.wait_for_trace(spans=2)
    assert [s.name for s in sorted(trace, key=lambda s: s.start_ns)] == ["GET /", "query"]
    assert trace.root.resource["service.name"] == "shop"
    assert [event.attributes for event in trace.root.events] == [{"bytes": 3}]


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_comes_over_otlp_is_what_the_process_has(receiver: OtlpReceiver, compression: Compression) -> None:
    """By the SDK's own exporter, gzipped or not."""
    recorder = InProcessRecorder()
    provider = recorder.provider({"service.name": "shop"})
    exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    show(provider)
    here = recorder.wait_for_trace(spans=2)
    there = receiver.wait_for_trace(lambda trace: trace.spans[0].trace_id == here.spans[0].trace_id)
    assert comparable(there) == comparable(here)
    exporter.shutdown()


def json_body() -> bytes:
    """A span as OTLP JSON."""
    span = {
        "traceId": "a" * 32, "spanId": "b" * 16, "name": "GET /", "startTimeUnixNano": "1", "endTimeUnixNano": "2",
    }  # fmt: skip
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


@pytest.mark.parametrize("gzipped", [False, True])
def test_json_bodies_are_taken(receiver: OtlpReceiver, gzipped: bool) -> None:
    """As exporters of other languages send them."""
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if gzipped else {})
    body = gzip.compress(json_body()) if gzipped else json_body()
    answer = httpx.post(f"{receiver.endpoint}/v1/traces", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {})
    assert receiver.wait_for_trace().root.name == "GET /"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "said"),
    [
        ("/v1/traces", {}, b"\xff\xff\xff", 400, "the body is no protobuf of OTLP"),
        ("/v1/traces", {"Content-Type": "application/json"}, b"{}", 400, "the body: is no trace"),
        ("/v1/traces", {"Content-Type": "application/json"}, b"\xff", 400, "utf-8"),
        ("/v1/traces", {"Content-Encoding": "gzip"}, b"not gzip", 400, "the body is not gzip"),
        ("/v1/traces", {"Content-Encoding": "br"}, b"", 400, "Content-Encoding br is not read; use gzip or none"),
        ("/", {}, b"", 404, "OTLP goes to /v1/traces, /v1/metrics or /v1/logs"),
    ],
)
def test_what_cannot_be_read_is_refused_and_told_by_the_wait_that_fails(
    receiver: OtlpReceiver, path: str, headers: dict[str, str], body: bytes, status: int, said: str
) -> None:
    """The program gets 4xx and the reason; the tester the same."""
    answer = httpx.post(f"{receiver.endpoint}{path}", content=body, headers=headers)
    assert answer.status_code == status
    assert said in answer.text
    with pytest.raises(AssertionError) as raised:
        receiver.wait_for_trace(timeout_seconds=0)
    assert f"what came could not be read: POST {path}: " in str(raised.value)
    assert said in str(raised.value)


def test_a_body_in_chunks_is_taken(receiver: OtlpReceiver) -> None:
    """As clients send it that do not know its length before."""
    parts = (json_body()[at : at + 50] for at in range(0, len(json_body()), 50))
    answer = httpx.post(f"{receiver.endpoint}/v1/traces", content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert receiver.wait_for_trace().root.name == "GET /"


def test_a_program_that_speaks_grpc_is_told_of(receiver: OtlpReceiver) -> None:
    """It is the default of many SDKs, and would leave the recording empty without a word."""
    host, _, port = receiver.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as grpc:
        grpc.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"505" in grpc.recv(1_000)
    with pytest.raises(
        AssertionError, match=r"PRI \* HTTP/2.0.*answered 505: OTLP over HTTP/1.1 is spoken here, not gRPC"
    ):
        receiver.wait_for_trace(timeout_seconds=0)


def test_metrics_and_logs_are_kept_to_be_searched_for_secrets(receiver: OtlpReceiver) -> None:
    """They are no traces, and may hold what no signal may."""
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "signed in with s3cret"
    httpx.post(f"{receiver.endpoint}/v1/logs", content=request.SerializeToString()).raise_for_status()
    with pytest.raises(AssertionError, match="metrics or logs 1"):
        assert_no_secret(receiver, values=["s3cret"])


def test_the_environment_leads_a_process_to_the_receiver(receiver: OtlpReceiver) -> None:
    """The standard variables, as every SDK reads them."""
    assert receiver.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == receiver.endpoint
    assert receiver.environment["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"


def test_a_wait_ends_when_the_trace_comes() -> None:
    """Woken by the export that makes it whole, from another thread, after it had looked in vain."""
    recording = Recording()
    spans = list(basket())
    recording.add(spans[:-1])
    looked = threading.Event()
    found: list[int | None] = []

    def look(seen: Sequence[RecordedSpan]) -> int | None:
        looked.set()
        return len(seen) if len(seen) == len(spans) else None

    waiting = threading.Thread(target=lambda: found.append(recording.wait_until(look, timeout_seconds=60)))
    waiting.start()
    assert looked.wait(30)
    recording.add(spans[-1:])
    waiting.join(30)
    assert found == [6]
    assert len(recording.wait_for_trace(timeout_seconds=0)) == 6


def test_a_wait_for_a_trace_says_what_came_and_what_it_lacks() -> None:
    """Nothing; no root; too few spans; none that is meant."""
    recording = Recording()
    with pytest.raises(AssertionError, match="no such trace after 0 s\n  nothing was recorded"):
        recording.wait_for_trace(timeout_seconds=0)
    recording.add(s for s in basket() if s.parent_id)
    with pytest.raises(AssertionError, match=r"lacks the parent of query.*; it has query, tax, stock, price, answer"):
        recording.wait_for_trace(timeout_seconds=0)
    recording.clear()
    recording.add(basket())
    with pytest.raises(AssertionError, match="lacks 2 of 8 spans"):
        recording.wait_for_trace(spans=8, timeout_seconds=0)
    with pytest.raises(AssertionError, match="lacks what was asked for"):
        recording.wait_for_trace(lambda trace: len(trace) > 6, timeout_seconds=0)


def run_span(name: str, parent: Any = None, *, seq: int = 0, event_type: str = "", **attributes: Any) -> Any:
    """A span of run r1."""
    own = {"tracewire.run.id": "r1", **attributes}
    if seq:
        own |= {"tracewire.event.seq": seq, "tracewire.event.type": event_type}
    return made(name, parent, attributes=own)


def test_a_wait_for_a_run_says_which_links_of_which_event_are_not_here() -> None:
    """A trace of which some spans were lost on their way."""
    recording = Recording()
    root = run_span("invoke_agent five", **{"tracewire.trace.span_count": 9})
    created = [run_span("create agent_started", root, seq=n, event_type="agent_started") for n in (1, 3)]
    processed = run_span("process agent_started", created[0], seq=1, event_type="agent_started")
    recording.add([*created, processed])
    with pytest.raises(AssertionError, match="its root is missing; 3 spans are here"):
        recording.wait_for_run("r1", timeout_seconds=0)
    recording.add([root])
    with pytest.raises(AssertionError) as raised:
        recording.wait_for_run("r1", timeout_seconds=0)
    for line in (
        "its root counts 9 spans; 4 spans are here",
        "event 1 agent_started: no span of socket, client",
        "event 2: no span at all",
        "event 3 agent_started: no span of emitter, socket, client",
    ):
        assert line in str(raised.value)


def ledger(_: str) -> dict[str, Any]:
    """A run that ended, and of which the last event was not acked, as `/runs/{id}/ledger` tells it."""
    crossed = dict.fromkeys(("engine", "bridge", "emitter", "socket", "client"), 1.0)
    return {
        "user_id": "ada", "agent": "five", "outcome": "completed", "sockets": 1, "settled": False,
        "events": [
            {"seq": 1, "type": "agent_started", **crossed},
            {"seq": 2, "type": "tool_completed", **crossed, "socket": None, "client": None},
            {"seq": 3, "type": "agent_completed", **crossed, "client": None},
        ],
        "waiting": ["agent_thinking"],
        "missing": [{"link": "socket", "event_type": "tool_completed", "seq": 2}],
    }  # fmt: skip


def test_a_wait_for_a_run_of_which_nothing_came_says_who_did_not_ack() -> None:
    """By the run's ledger, where there is one to ask; else what to look for."""
    recording = Recording()
    with pytest.raises(AssertionError, match="is the run ended, and did its client ack every event"):
        recording.wait_for_run("r1", timeout_seconds=0)
    with pytest.raises(AssertionError) as raised:
        recording.wait_for_run("r1", timeout_seconds=0, ledger=ledger)
    for line in (
        "the run of user ada, agent five, ended as completed",
        "event 2 tool_completed has not crossed socket, client",
        "event 3 agent_completed has not crossed client: user ada has not acked it",
        "agent_thinking was emitted and waits at the bridge",
        "MISSING at socket: tool_completed 2",
    ):
        assert line in str(raised.value)
