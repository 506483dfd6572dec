"""The way out for traces: what is queued, what is dropped and counted, and how closing ends."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tracewire_telemetry.chain import chain_spans
from tracewire_telemetry.export import SPAN_BYTES, SPANS_PER_EXPORT, TraceQueue, exporter_from_environment
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EventType, SpanDropReason
from unit.ledgers import LedgerScript

WAIT_SECONDS = 10.0


class Exporter(SpanExporter):
    """Notes what it is given, and answers as it is told; while `open` is not set it hangs."""

    def __init__(self, answer: Callable[[], SpanExportResult] = lambda: SpanExportResult.SUCCESS) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.stopped = threading.Event()
        self._answer = answer

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take one batch."""
        self.batches.append(list(spans))
        self.entered.set()
        assert self.open.wait(WAIT_SECONDS)
        return self._answer()

    def shutdown(self) -> None:
        """Note that the queue let go."""
        self.stopped.set()


def spans(count: int) -> list[ReadableSpan]:
    """One run's spans."""
    script = LedgerScript()
    for _ in range(-(-count // 2)):
        script.durable(EventType.AGENT_THINKING, 0)
    return list(chain_spans(script.ledger, Resource({}), InstrumentationScope("test")))[:count]


def counted(metrics: Metrics) -> dict[str, float]:
    """Exported spans, and dropped ones by reason, where there are any."""
    values = {reason.value: metrics.registry.get_sample_value("tracewire_spans_dropped_total", {"reason": reason.value})
              for reason in SpanDropReason}  # fmt: skip
    values["exported"] = metrics.registry.get_sample_value("tracewire_spans_exported_total")
    return {name: value for name, value in values.items() if value}


class Queued:
    """A queue with its exporter and metrics."""

    def __init__(self, exporter: Exporter, *, bytes_max: int = 10_000_000) -> None:
        self.exporter = exporter
        self.metrics = Metrics(version="1")
        self.queue = TraceQueue(exporter, self.metrics, bytes_max=bytes_max)

    def end(self) -> None:
        """Let the exporter go, and wait for the thread."""
        self.exporter.open.set()
        self.queue.close(WAIT_SECONDS)
        assert self.exporter.stopped.wait(WAIT_SECONDS)


@pytest.fixture
def queued() -> Iterator[Callable[..., Queued]]:
    """Makes queues, and ends them."""
    made: list[Queued] = []

    def make(exporter: Exporter | None = None, *, bytes_max: int = 10_000_000) -> Queued:
        made.append(Queued(exporter or Exporter(), bytes_max=bytes_max))
        return made[-1]

    yield make
    for queue in made:
        queue.end()


MakeQueue = Callable[..., Queued]


def test_runs_reach_the_exporter_whole_and_in_order(queued: MakeQueue) -> None:
    """Two runs of three and five spans, each within one batch."""
    made = queued()
    first, second = spans(3), spans(5)
    made.queue.offer(first)
    made.queue.offer(second)
    assert made.queue.flush(WAIT_SECONDS)
    assert [*first, *second] == [span for batch in made.exporter.batches for span in batch]
    assert counted(made.metrics) == {"exported": 8}


def test_runs_that_wait_leave_together_but_never_in_parts(queued: MakeQueue) -> None:
    """While one export goes on four runs of 200 wait: the next batch stops at the run that fills it."""
    made = queued()
    made.exporter.open.clear()
    made.queue.offer(spans(1))
    assert made.exporter.entered.wait(WAIT_SECONDS)
    for _ in range(4):
        made.queue.offer(spans(200))
    made.exporter.open.set()
    assert made.queue.flush(WAIT_SECONDS)
    assert [len(batch) for batch in made.exporter.batches] == [1, 600, 200]
    assert SPANS_PER_EXPORT == 512


def test_a_run_that_does_not_fit_is_dropped_whole_and_counted(queued: MakeQueue) -> None:
    """Room for ten spans, seven taken by the export that goes on: a run of four is dropped, one of three fits."""
    made = queued(bytes_max=10 * SPAN_BYTES)
    made.exporter.open.clear()
    made.queue.offer(spans(7))
    assert made.exporter.entered.wait(WAIT_SECONDS)
    made.queue.offer(spans(4))
    made.queue.offer(spans(3))
    made.queue.offer(spans(1))
    made.exporter.open.set()
    assert made.queue.flush(WAIT_SECONDS)
    assert [len(batch) for batch in made.exporter.batches] == [7, 3]
    assert counted(made.metrics) == {"exported": 10, "queue_full": 5}


def test_room_comes_back_when_a_batch_has_left(queued: MakeQueue) -> None:
    """A queue of ten spans takes ten runs of ten, one after the other."""
    made = queued(bytes_max=10 * SPAN_BYTES)
    for _ in range(10):
        made.queue.offer(spans(10))
        assert made.queue.flush(WAIT_SECONDS)
    assert counted(made.metrics) == {"exported": 100}


def _failure() -> SpanExportResult:
    return SpanExportResult.FAILURE


def _error() -> SpanExportResult:
    raise ConnectionError("the receiver is gone")


@pytest.mark.parametrize("answer", [_failure, _error])
def test_what_the_exporter_does_not_take_is_counted_and_the_next_run_is_tried(
    queued: MakeQueue, answer: Callable[[], SpanExportResult]
) -> None:
    """It may say so or raise."""
    answers = iter([answer, lambda: SpanExportResult.SUCCESS])
    made = queued(Exporter(lambda: next(answers)()))
    made.queue.offer(spans(3))
    assert made.queue.flush(WAIT_SECONDS)
    made.queue.offer(spans(2))
    assert made.queue.flush(WAIT_SECONDS)
    assert counted(made.metrics) == {"exported": 2, "export_failed": 3}


def test_closing_exports_what_waits_and_lets_the_exporter_go(queued: MakeQueue) -> None:
    """Nothing is lost where the exporter works."""
    made = queued()
    made.queue.offer(spans(3))
    made.queue.close(WAIT_SECONDS)
    assert made.exporter.stopped.is_set()
    assert counted(made.metrics) == {"exported": 3}


def test_closing_does_not_wait_for_an_exporter_that_hangs(queued: MakeQueue) -> None:
    """It returns at its limit with the exporter still inside its call; what waited is dropped and counted."""
    made = queued()
    made.exporter.open.clear()
    made.queue.offer(spans(2))
    assert made.exporter.entered.wait(WAIT_SECONDS)
    made.queue.offer(spans(3))
    made.queue.offer(spans(4))
    began = time.monotonic()
    made.queue.close(0.01)
    assert time.monotonic() - began < WAIT_SECONDS / 4
    assert not made.exporter.stopped.is_set()
    assert counted(made.metrics) == {"shutdown": 7}


def test_what_is_offered_after_closing_is_dropped_and_counted(queued: MakeQueue) -> None:
    """A run that settles too late does not vanish in silence."""
    made = queued()
    made.queue.close(WAIT_SECONDS)
    made.queue.offer(spans(3))
    assert counted(made.metrics) == {"shutdown": 3}


def test_a_flush_says_whether_it_came_about(queued: MakeQueue) -> None:
    """Not while the exporter hangs."""
    made = queued()
    made.exporter.open.clear()
    made.queue.offer(spans(1))
    assert not made.queue.flush(0.01)
    made.exporter.open.set()
    assert made.queue.flush(WAIT_SECONDS)


def test_offering_never_waits_for_the_exporter(queued: MakeQueue) -> None:
    """With the exporter hanging and the queue full, a hundred offers return."""
    made = queued(bytes_max=SPAN_BYTES)
    made.exporter.open.clear()
    run = spans(1)
    made.queue.offer(run)
    assert made.exporter.entered.wait(WAIT_SECONDS)
    for _ in range(100):
        made.queue.offer(run)
    assert counted(made.metrics) == {"queue_full": 100}


# --- the standard variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {"OTEL_SDK_DISABLED": " TRUE ", "OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "mine"},
    ],
)
def test_nothing_is_exported_where_no_variable_asks_for_it(environ: Mapping[str, str]) -> None:
    """None set, or the standard ways to say no."""
    assert exporter_from_environment(environ) is None


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9/otlp/"}, "http://127.0.0.1:9/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/t"}, "http://127.0.0.1:9/t"),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/t",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:8",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "http://127.0.0.1:9/t",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": " OTLP "}, "http://localhost:4318/v1/traces"),
    ],
)
def test_the_standard_variables_say_where_traces_go(
    environ: Mapping[str, str], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were given, not those that this process happens to have."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    exporter = exporter_from_environment(environ)
    assert isinstance(exporter, OTLPSpanExporter)
    exporter.shutdown()
    assert endpoint == exporter._endpoint


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_a_variable_that_asks_for_what_is_not_built_in_is_named(environ: Mapping[str, str]) -> None:
    """A start that would lose traces in silence is a start that fails, saying which variable and value."""
    wanted = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    with pytest.raises(ValueError, match=wanted or environ["OTEL_TRACES_EXPORTER"]):
        exporter_from_environment(environ)
