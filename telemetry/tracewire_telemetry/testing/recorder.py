"""Recorders of exported traces: one for a program in this process, one that receives OTLP from another.

Neither sets anything global. Both wait for what is to come instead of sleeping.
"""

import gzip
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace, from_otlp, from_sdk

WAIT_SECONDS = 15.0
_T = TypeVar("_T")


class Recording:
    """Spans as they came in. Safe to use from several threads."""

    def __init__(self) -> None:
        self._spans: list[RecordedSpan] = []
        self._changed = threading.Condition()

    @property
    def spans(self) -> list[RecordedSpan]:
        """Everything recorded so far."""
        with self._changed:
            return list(self._spans)

    def trace_of_run(self, run_id: str) -> RecordedTrace:
        """What was recorded of a run's trace so far."""
        spans = self.spans
        replays = {span.trace_id for span in spans if _is_replay_root(span)}
        trace_ids = {span.trace_id for span in spans if span.attributes.get("tracewire.run.id") == run_id} - replays
        return RecordedTrace(span for span in spans if span.trace_id in trace_ids)

    def replays_of_run(self, run_id: str) -> list[RecordedTrace]:
        """The traces of replays that came after the run was settled, in the order of their export."""
        spans = self.spans
        roots = [span for span in spans if _is_replay_root(span) and span.attributes.get("tracewire.run.id") == run_id]
        return [RecordedTrace(span for span in spans if span.trace_id == root.trace_id) for root in roots]

    def wait_for_run(self, run_id: str, *, timeout_seconds: float = WAIT_SECONDS) -> RecordedTrace:
        """Wait until the run's trace is whole, by the span count on its root.

        Blocks the calling thread: from async code, run it in a thread (`asyncio.to_thread`).

        Raises:
            AssertionError: it did not become whole in time; the message says what is there.
        """

        def whole(_: Sequence[RecordedSpan]) -> RecordedTrace | None:
            trace = self.trace_of_run(run_id)
            return trace if trace.complete else None

        found = self.wait_until(whole, timeout_seconds=timeout_seconds)
        if found is None:
            trace = self.trace_of_run(run_id)
            names = sorted(span.name for span in trace)
            raise AssertionError(f"the trace of run {run_id} is not whole: {len(names)} spans are here: {names}")
        return found

    def wait_until(
        self, look: Callable[[Sequence[RecordedSpan]], _T | None], *, timeout_seconds: float = WAIT_SECONDS
    ) -> _T | None:
        """Wait until `look` finds something in the spans; `None` where it does not in time."""
        found: list[_T] = []

        def looked() -> bool:
            seen = look(self._spans)
            if seen is not None:
                found.append(seen)
            return bool(found)

        with self._changed:
            self._changed.wait_for(looked, timeout_seconds)
        return found[0] if found else None

    def _add(self, spans: Iterable[RecordedSpan]) -> None:
        with self._changed:
            self._spans.extend(spans)
            self._changed.notify_all()


def _is_replay_root(span: RecordedSpan) -> bool:
    return not span.parent_id and span.name == "send replay"


class InProcessRecorder(Recording, SpanExporter):
    """An exporter that records: give it to a server of this process, as `Server(settings, exporter=recorder)`."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition(threading.RLock())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Record one batch."""
        self._add(from_sdk(span) for span in spans)
        return SpanExportResult.SUCCESS


class OtlpReceiver(Recording):
    """Receives OTLP over HTTP on a free port of loopback, or on this one. Use it as a context manager.

    `endpoint` goes into `OTEL_EXPORTER_OTLP_ENDPOINT` of the program under test.
    """

    def __init__(self, *, port: int = 0) -> None:
        super().__init__()
        self._changed = threading.Condition(threading.RLock())
        recording = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the program was killed while it sent this
                    self.close_connection = True
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                recording._add(from_otlp(ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # as above
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp-receiver", daemon=True)

    @property
    def endpoint(self) -> str:
        """The base URL; exporters add `/v1/traces`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
