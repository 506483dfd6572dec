"""Everything that a server needs to be seen: metrics, tracing and the watch, built together and owned together.

Providers are made here and handed on; nothing global is set or reset.
"""

import re
import time
import uuid
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanContext

from tracewire_telemetry import catalog
from tracewire_telemetry.catalog import SCOPE, Attribute
from tracewire_telemetry.catalog_attributes import ResourceAttribute
from tracewire_telemetry.catalog_spans import HANDSHAKE
from tracewire_telemetry.export import TraceQueue
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.recovered import RunRecovery
from tracewire_telemetry.replayed import ReplayTracing
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.user_gauge import UserGauge
from tracewire_telemetry.watch import Watch

EXPORT_FLUSH_SECONDS: Final = 2.0
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_ID_IN_PATH: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_NAME_CHARACTERS_MAX: Final = 80


class TelemetryOptions(Struct, frozen=True):
    """`trace_share` (0 to 1) of good runs is exported; `trace_queue_bytes_max` waits for the exporter at most.

    `users_named_max` series name users in violation, each for `users_named_seconds_min` at least, by their ids or, if
    `users_hashed`, by a hash.
    """

    version: str
    environment: str = "development"
    trace_share: float = 1.0
    trace_queue_bytes_max: int = 32 * 1024 * 1024
    users_named_max: int = 200
    users_named_seconds_min: float = 37.5
    users_hashed: bool = False
    deadlines: LinkDeadlines = LinkDeadlines()


class _OneByOne(SpanProcessor):
    """Hands a span of the edge (an HTTP request, a handshake) on as soon as it ends."""

    def __init__(self, queue: TraceQueue) -> None:
        self._queue = queue

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._queue.offer([span])


class Telemetry:
    """The telemetry of one server. With no exporter nothing is recorded for traces; all else is the same.

    `agents` and `tools` are the label values that metrics know from the start.
    """

    def __init__(
        self,
        options: TelemetryOptions,
        exporter: SpanExporter | None,
        *,
        agents: Iterable[str] = (),
        tools: Iterable[str] = (),
    ) -> None:
        users = UserGauge(
            slots=options.users_named_max,
            least_seconds=options.users_named_seconds_min,
            hashed=options.users_hashed,
        )
        self.metrics = Metrics(version=options.version, agents=agents, tools=tools, users=users)
        self._queue = TraceQueue(exporter, self.metrics, bytes_max=options.trace_queue_bytes_max) if exporter else None
        resource = server_resource(options)
        self.tracing = RunTracing(
            resource,
            version=options.version,
            share=options.trace_share,
            recording=exporter is not None,
            dropped=self.metrics.spans_dropped,
        )
        self._edge = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(options.trace_share)), resource=resource, shutdown_on_exit=False
        )
        if self._queue is not None:
            self._edge.add_span_processor(_OneByOne(self._queue))
        self._edge_tracer = self._edge.get_tracer(SCOPE, options.version)
        self.watch = Watch(self.metrics, self.tracing, self._queue, deadlines=options.deadlines)
        self.recovery = RunRecovery(self.metrics, self.tracing, self._queue, self.watch.origins)
        self.replays = ReplayTracing(resource, self._queue, version=options.version, share=options.trace_share)
        self._publish_gauges()

    def instrument(self, app: Any, *, excluded_paths: str) -> Any:
        """The ASGI application with a span around each HTTP request; paths that match the expression get none, and
        neither do streams of events: theirs would last as long as they do.
        """
        if self._queue is None:
            return app
        traced = OpenTelemetryMiddleware(
            app,
            tracer_provider=self._edge,
            excluded_urls=excluded_paths,
            exclude_spans=["receive", "send"],
            default_span_details=_request_name,
            server_request_hook=_without_query,
        )

        async def edge(scope: Any, receive: Any, send: Any) -> None:
            await (app if _asks_for_stream(scope) else traced)(scope, receive, send)

        return edge

    def handshake(self, user_id: str, connection_id: str, started_unix_ns: int) -> SpanContext | None:
        """Record a handshake that began then and is done now; the context to link runs to, where it is recorded."""
        if self._queue is None:
            return None
        span = self._edge_tracer.start_span(
            HANDSHAKE.named(HANDSHAKE.of),
            kind=HANDSHAKE.kind,
            attributes={str(Attribute.USER_ID): user_id, str(Attribute.CONNECTION_ID): connection_id},
            start_time=started_unix_ns,
        )
        span.end()
        return span.get_span_context()

    async def close(self) -> None:
        """Settle, export what is queued within `EXPORT_FLUSH_SECONDS`, and stop."""
        await self.watch.close()
        if self._queue is not None:
            self._queue.close(EXPORT_FLUSH_SECONDS)

    def _publish_gauges(self) -> None:
        watch, metrics, started = self.watch, self.metrics, time.time()
        metrics.before_scrape = watch.flush_open_runs
        metrics.gauge(catalog.RUNS_OPEN, lambda: watch.open_count)
        metrics.gauge(catalog.RUN_OLDEST_SECONDS, lambda: watch.oldest_seconds)
        metrics.gauge(catalog.LEDGER_EVENTS_OPEN, lambda: watch.events_open)
        metrics.gauge(catalog.WATCH_LAST_TICK, lambda: watch.last_tick_unix_seconds or time.time())
        metrics.gauge(catalog.EVENT_LOOP_LAG, lambda: watch.loop_lag_seconds)
        metrics.gauge(catalog.START_TIMESTAMP, lambda: started)


def _asks_for_stream(scope: Any) -> bool:
    return scope["type"] == "http" and any(
        name == b"accept" and b"text/event-stream" in value.lower() for name, value in scope["headers"]
    )


def _request_name(scope: Any) -> tuple[str, dict[str, Any]]:
    """A request's span name, of low cardinality: an id in the path is `{id}`. Unknown methods are `HTTP`."""
    method = scope["method"] if scope["method"] in _METHODS else "HTTP"
    return f"{method} {_ID_IN_PATH.sub('{id}', scope['path'])}"[:_NAME_CHARACTERS_MAX], {}


def _without_query(span: Span, scope: Any) -> None:
    """Leave the query string out of the span: somebody may put a secret there, though it is taken from nowhere."""
    if not scope.get("query_string") or not isinstance(span, ReadableSpan):
        return
    attributes = span.attributes or {}
    for name in ("http.url", "http.target", "url.full"):
        value = attributes.get(name)
        if isinstance(value, str):
            span.set_attribute(name, value.partition("?")[0])
    if "url.query" in attributes:
        span.set_attribute("url.query", "")


def server_resource(options: TelemetryOptions) -> Resource:
    """Who speaks: ours, with what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say laid over it."""
    ours = Resource.create(
        {
            ResourceAttribute.SERVICE_NAME: SCOPE,
            ResourceAttribute.SERVICE_NAMESPACE: SCOPE,
            ResourceAttribute.SERVICE_VERSION: options.version,
            ResourceAttribute.SERVICE_INSTANCE_ID: str(uuid.uuid4()),
            ResourceAttribute.DEPLOYMENT_ENVIRONMENT_NAME: options.environment,
        }
    )
    return ours.merge(OTELResourceDetector().detect())
