"""Recorders of exported traces: one for a program in this process, one that receives OTLP from another.

Neither sets anything global. Both wait for what is to come instead of sleeping (`recording`).
"""

import gzip
import json
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any, Final, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tracewire_telemetry.testing.otlp_json import TraceFormatError, spans_from_json
from tracewire_telemetry.testing.recording import WAIT_SECONDS, LedgerReader, Recording
from tracewire_telemetry.testing.spans import from_otlp, from_sdk

__all__ = ["WAIT_SECONDS", "InProcessRecorder", "LedgerReader", "OtlpReceiver", "Recording"]
_STOP_LOOK_SECONDS: Final = 0.02
"""How soon a receiver that is left ends."""
_OTHER_SIGNALS: Final[Mapping[str, Any]] = {
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class InProcessRecorder(Recording, SpanExporter):
    """An exporter that records: give it to a server of this process, as `Server(settings, exporter=recorder)`, or give
    a program the `provider` that exports to it.
    """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Record one batch."""
        self.add(from_sdk(span) for span in spans)
        return SpanExportResult.SUCCESS

    def provider(self, resource: Mapping[str, Any] | None = None) -> TracerProvider:
        """A tracer provider whose spans are recorded as they end: pass it to the program, as in
        `FlaskInstrumentor().instrument_app(app, tracer_provider=recorder.provider())`. It is nobody's global one.
        """
        own = TracerProvider(
            resource=Resource.create(dict(resource)) if resource is not None else None, shutdown_on_exit=False
        )
        own.add_span_processor(SimpleSpanProcessor(self))
        return own


class OtlpReceiver(Recording):
    """Receives OTLP over HTTP: protobuf or JSON, gzipped or not, on a port of loopback (0: a free one).

    A context manager. `environment` is what the program under test needs. Traces become spans; metrics and log records
    are kept as texts.
    What cannot be read is answered with 4xx and noted in `problems`, which a wait that fails tells.
    """

    def __init__(self, *, port: int = 0, ledger: LedgerReader | None = None) -> None:
        super().__init__(ledger=ledger)
        self._server = _ReceivingServer(("127.0.0.1", port), _handler_of(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_LOOK_SECONDS,), name="otlp-receiver", daemon=True
        )

    @property
    def endpoint(self) -> str:
        """The base URL; exporters add `/v1/traces`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a program's OpenTelemetry SDK exports to here, soon after each span."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ReceivingServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the program was killed while it sent this
            super().handle_error(request, client_address)


def _handler_of(recording: Recording) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = _body(self.rfile, self.headers)
            if body is None:  # as above
                self.close_connection = True
                return
            status, why, json_body = 200, "", "json" in self.headers.get("Content-Type", "")
            try:
                _take(recording, self.path, body, self.headers.get("Content-Encoding", ""), json_body=json_body)
            except ValueError as error:
                status, why = (404, str(error)) if isinstance(error, _NoSuchPathError) else (400, str(error))
                recording.add_problem(f"POST {self.path}: {why}")
            answer = (json.dumps({"message": why} if why else {}) if json_body else why).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if json_body else "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            said = f"{self.requestline[:80]!r} was answered {code}: OTLP over HTTP/1.1 is spoken here, not gRPC"
            recording.add_problem(said)
            super().send_error(code, message, explain)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _body(stream: BufferedIOBase, headers: Message) -> bytes | None:
    """The request's body, however its length is told; `None` where the connection ended before it did."""
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        length = int(headers.get("Content-Length") or 0)
        whole = stream.read(length)
        return whole if len(whole) == length else None
    parts: list[bytes] = []
    while line := stream.readline():
        size = int(line.partition(b";")[0], 16)
        part = stream.read(size + 2)  # with the line end after it
        if len(part) < size + 2:
            return None
        if not size:
            return b"".join(parts)
        parts.append(part[:size])
    return None


class _NoSuchPathError(ValueError):
    pass


def _take(recording: Recording, path: str, body: bytes, encoding: str, *, json_body: bool) -> None:
    """Record one request.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    if path != "/v1/traces" and path not in _OTHER_SIGNALS:
        raise _NoSuchPathError("OTLP goes to /v1/traces, /v1/metrics or /v1/logs; set the endpoint without a path")
    if encoding not in ("", "identity", "gzip"):
        raise ValueError(f"Content-Encoding {encoding} is not read; use gzip or none")
    try:
        content = gzip.decompress(body) if encoding == "gzip" else body
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the body is not gzip: {error}") from error
    if json_body:
        text = content.decode("utf-8")
        if path == "/v1/traces":
            recording.add(spans_from_json(text, "the body"))
        else:
            recording.add_text(text)
        return
    try:
        message = _OTHER_SIGNALS.get(path, ExportTraceServiceRequest).FromString(content)
    except Exception as error:  # protobuf's own DecodeError, whose library is not declared
        raise TraceFormatError(f"the body is no protobuf of OTLP: {error}") from error
    if isinstance(message, ExportTraceServiceRequest):
        recording.add(from_otlp(message))
    else:
        recording.add_text(str(message))
