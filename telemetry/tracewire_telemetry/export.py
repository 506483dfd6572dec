"""The way out for traces: a queue bounded in bytes, and one thread that hands whole runs to an OTLP exporter.

Nothing on the path of an event waits for it. What does not fit is dropped by the whole run, and counted by reason.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import SpanDropReason

TraceExporter = SpanExporter
"""What takes whole traces: any exporter of the SDK, OTLP or in memory."""
SPAN_BYTES: Final = 700
"""What a queued span is taken to weigh: measured at about 640 bytes encoded."""
SPANS_PER_EXPORT: Final = 512


def exporter_from_environment(environ: Mapping[str, str]) -> SpanExporter | None:
    """OTLP over HTTP as the standard `OTEL_*` variables say, or `None` where none of them asks for it.

    Raises:
        ValueError: a variable asks for something that is not built in; the message names it.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (base and f"{base.rstrip('/')}/v1/traces")
    if wanted not in ("", "otlp", "none"):
        raise ValueError(f"OTEL_TRACES_EXPORTER={wanted}: only otlp and none are built in")
    if wanted == "none" or not (endpoint or wanted):
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf is built in")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}: must be a URL, as in http://127.0.0.1:4318")
    return OTLPSpanExporter(endpoint=endpoint or None)


class TraceQueue:
    """Whole runs on their way to the exporter."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics, *, bytes_max: int) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._bytes_max = bytes_max
        self._runs: deque[Sequence[ReadableSpan]] = deque()
        self._bytes = 0
        self._exporting = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._export_all, name="tracewire-trace-export", daemon=True)
        self._thread.start()

    def offer(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue one run's spans, or drop and count them where the queue is full."""
        size = len(spans) * SPAN_BYTES
        with self._changed:
            if self._closing or self._bytes + size > self._bytes_max:
                reason = SpanDropReason.SHUTDOWN if self._closing else SpanDropReason.QUEUE_FULL
                self._metrics.spans_dropped(reason, len(spans))
                return
            self._runs.append(spans)
            self._bytes += size
            self._changed.notify_all()

    @property
    def half_full(self) -> bool:
        """Whether who can wait had better."""
        return self._bytes > self._bytes_max // 2

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything queued was handed to the exporter; whether that came about in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs and not self._exporting, timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Export what is queued for at most this long; what is left is dropped and counted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        with self._changed:
            left = sum(len(run) for run in self._runs)
            self._runs.clear()
        if left:
            self._metrics.spans_dropped(SpanDropReason.SHUTDOWN, left)

    def _export_all(self) -> None:
        while batch := self._next_batch():
            try:
                result = self._exporter.export(batch)
            except Exception:  # noqa: BLE001 # an exporter's failure must not end the thread; it is counted
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                self._metrics.spans_exported(len(batch))
            else:
                self._metrics.spans_dropped(SpanDropReason.EXPORT_FAILED, len(batch))
            with self._changed:
                self._bytes -= len(batch) * SPAN_BYTES
                self._exporting = False
                self._changed.notify_all()
        self._exporter.shutdown()

    def _next_batch(self) -> list[ReadableSpan]:
        with self._changed:
            self._changed.wait_for(lambda: self._runs or self._closing)
            batch: list[ReadableSpan] = []
            while self._runs and len(batch) < SPANS_PER_EXPORT:
                batch.extend(self._runs.popleft())
            self._exporting = bool(batch)
            return batch
