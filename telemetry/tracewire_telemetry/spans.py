"""One trace a run: the live spans of the run and its tools, and the holding of a trace until it is whole.

The run's and the tools' spans are the SDK's own, so that what an agent instruments itself nests under them. The
chain's spans are built from the ledger when the run is settled (`chain.py`). All spans of a trace are held
(`HoldingProcessor`) and leave together.
"""

import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as SpanLink
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import TracerProvider as TracerProviderApi

from tracewire_telemetry.catalog import SCOPE, SPANS_PER_RUN_MAX, Attribute
from tracewire_telemetry.catalog_attributes import AGENT_SCOPE
from tracewire_telemetry.catalog_spans import EXECUTE_TOOL, INVOKE_AGENT
from tracewire_telemetry.catalog_specs import SpanSpec
from tracewire_telemetry.chain import (
    ChainSpans,
    is_sampled,
    keep_reason,
    span_context,
    tool_span_id,
)
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.verdicts import delivery_max_ns, stamps_lost
from tracewire_telemetry.vocabulary import KeepReason, Outcome, SpanDropReason, ToolStatus

_forced_ids: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("tracewire_span_ids", default=None)
_current_tracer_provider: contextvars.ContextVar[TracerProviderApi | None] = contextvars.ContextVar(
    "tracewire_tracer_provider", default=None
)


class _RunIdGenerator(IdGenerator):
    """Random ids, but for the spans whose ids derive from the run."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_span_id(self) -> int:
        forced = _forced_ids.get()
        return forced[1] if forced else self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        forced = _forced_ids.get()
        return forced[0] if forced else self._random.generate_trace_id()


class _RecordAll(Sampler):
    """Records every span, and sets the sampled flag as the share of good runs says for its trace."""

    def __init__(self, share: float) -> None:
        self._share = share

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[SpanLink] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        sampled = is_sampled(trace_id, self._share)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY, attributes)

    def get_description(self) -> str:
        return f"TracewireRecordAll{{{self._share}}}"


SPANS_PER_TURN: Final = 200
"""Spans built before the event loop gets its turn: 5,000 at once hold it for 46 ms."""


class HoldingProcessor(SpanProcessor):
    """Keeps the ended spans of open runs until their trace is complete."""

    def __init__(self, dropped: Callable[[SpanDropReason, int], None]) -> None:
        self._held: dict[int, list[ReadableSpan]] = {}
        self._cut: dict[int, int] = {}
        self._dropped = dropped

    def hold(self, trace_id: int) -> None:
        """Keep this trace's spans from now on."""
        self._held[trace_id] = []

    def release(self, trace_id: int) -> tuple[list[ReadableSpan], int]:
        """Give back the trace's spans, and how many were past its limit. What ends later is dropped and counted."""
        return self._held.pop(trace_id, []), self._cut.pop(trace_id, 0)

    def on_end(self, span: ReadableSpan) -> None:
        trace_id = span.context.trace_id if span.context else 0
        held = self._held.get(trace_id)
        if held is None:
            if Attribute.SPAN_COUNT not in (span.attributes or {}):  # a run's root ends when its trace has left
                self._dropped(SpanDropReason.LATE, 1)
        elif len(held) >= SPANS_PER_RUN_MAX - 1:
            self._cut[trace_id] = self._cut.get(trace_id, 0) + 1
            self._dropped(SpanDropReason.RUN_LIMIT, 1)
        else:
            held.append(span)


class RunTracing:
    """Makes the spans of runs with one tracer provider of its own. Without an exporter it records nothing."""

    def __init__(
        self,
        resource: Resource,
        *,
        version: str,
        share: float,
        recording: bool,
        dropped: Callable[[SpanDropReason, int], None],
    ) -> None:
        self.recording = recording
        self.share = share
        self._dropped = dropped
        self._resource = resource
        self._scope = InstrumentationScope(SCOPE, version)
        self._processor = HoldingProcessor(dropped)
        self._provider = TracerProvider(
            sampler=_RecordAll(share), resource=resource, shutdown_on_exit=False, id_generator=_RunIdGenerator()
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer(SCOPE, version)

    def open(self, ledger: RunLedger, links: Sequence[SpanContext], *, recovered: bool = False) -> "RunSpans":
        """Start the run's span, which links to `links` and has no parent. `recovered` marks a run whose ledger was
        lost in a crash, and is made up from what is durable of it.
        """
        identity = ledger.identity
        if not self.recording:
            return RunSpans(self, ledger, NonRecordingSpan(span_context(identity, identity.root_span_id)))
        self._processor.hold(identity.trace_id)
        root = self._start(
            INVOKE_AGENT,
            identity.agent,
            Context(),
            (identity.trace_id, identity.root_span_id),
            ledger.opened_unix_ns,
            {
                Attribute.PROVIDER_NAME: SCOPE,
                Attribute.AGENT_NAME: identity.agent,
                Attribute.CONVERSATION_ID: identity.thread_id,
                Attribute.RUN_ID: identity.run_id,
                Attribute.USER_ID: identity.user_id,
                Attribute.LINK: str(INVOKE_AGENT.link),
            },
            [SpanLink(link) for link in links],
        )
        return RunSpans(self, ledger, root, recovered=recovered)

    def _start(
        self,
        spec: SpanSpec,
        of: str,
        parent: Context,
        ids: tuple[int, int],
        start_unix_ns: int,
        attributes: Mapping[Attribute, Any],
        links: Sequence[SpanLink] = (),
    ) -> Span:
        token = _forced_ids.set(ids)
        try:
            return self._tracer.start_span(
                spec.named(of),
                parent,
                spec.kind,
                {
                    Attribute.OPERATION_NAME.value: spec.operation,
                    **{str(key): value for key, value in attributes.items()},
                },
                links,
                start_unix_ns,
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            _forced_ids.reset(token)


class RunSpans:
    """The live spans of one run, and what turns its ledger into the rest of the trace."""

    def __init__(self, tracing: RunTracing, ledger: RunLedger, root: Span, *, recovered: bool = False) -> None:
        self._tracing = tracing
        self._recovered = recovered
        self._ledger = ledger
        self._root = root
        self._parent = set_span_in_context(root, Context())
        self._tools: list[ToolSpan] = []
        self._held: list[ReadableSpan] = []
        self._chain: list[ReadableSpan] = []
        self._built = False
        self._cut = 0
        self._over = 0

    @property
    def tracer_provider(self) -> TracerProviderApi:
        """For an agent's own instrumentation: its spans belong to the run's trace and leave with it."""
        return self._tracing._provider

    @property
    def tracer(self) -> Tracer:
        """A tracer for an agent's own spans."""
        return self._tracing._provider.get_tracer(AGENT_SCOPE)

    def enter(self) -> None:
        """Make the run's span current in this context, for good: call it within the agent's own context."""
        _current_tracer_provider.set(self.tracer_provider if self._tracing.recording else None)
        attach(self._parent)

    def start_tool(self, seq: int, tool_name: str, tool_call_id: str) -> "ToolSpan":
        """Start the span of the tool call that `tool_executing` with this seq announced, and make it current."""
        ledger = self._ledger
        ids = (ledger.identity.trace_id, tool_span_id(ledger.identity, seq))
        if not self._tracing.recording:
            return ToolSpan(ledger, NonRecordingSpan(span_context(ledger.identity, ids[1])))
        span = self._tracing._start(
            EXECUTE_TOOL,
            tool_name,
            self._parent,
            ids,
            ledger.unix_ns(ledger.known_ns(seq)),
            {
                Attribute.TOOL_NAME: tool_name,
                Attribute.TOOL_CALL_ID: tool_call_id,
                Attribute.RUN_ID: ledger.identity.run_id,
                Attribute.USER_ID: ledger.identity.user_id,
            },
        )
        tool = ToolSpan(ledger, span)
        self._tools.append(tool)
        return tool

    def build(self) -> Iterator[None]:
        """Build the chain's spans of the settled run, a turn of the event loop's worth at a time."""
        ledger, tracing = self._ledger, self._tracing
        if self._built or not tracing.recording:
            return
        self._built = True
        for tool in self._tools:  # those that their agent left open: the run's end closed them
            tool.end(ToolStatus.CANCELLED, ledger.ended_ns)
        self._held, self._cut = tracing._processor.release(ledger.identity.trace_id)
        room = SPANS_PER_RUN_MAX - 1 - len(self._held)
        chain = ChainSpans(ledger, tracing._resource, tracing._scope, recovered=self._recovered)
        for number, span in enumerate(chain.all(), start=1):
            if number <= room:
                self._chain.append(span)
            chain.counting = number >= room
            self._over = max(0, number - room)
            if not number % SPANS_PER_TURN:
                yield

    def finish(self) -> list[ReadableSpan]:
        """The whole trace of a settled run: root first, each span after its parent. Call it once, after `build`.

        Empty where the run is not kept, or nothing is recorded.
        """
        ledger = self._ledger
        if not self._tracing.recording:
            return []
        for _ in self.build():
            pass
        reason = keep_reason(ledger)
        if self._over:
            self._tracing._dropped(SpanDropReason.RUN_LIMIT, self._over)
        self._end_root(reason, 1 + len(self._held) + len(self._chain), self._over + self._cut)
        if reason is None and not ledger.identity.sampled:
            return []
        assert isinstance(self._root, ReadableSpan)  # noqa: S101 # what a recording SDK tracer starts is one
        self._held.sort(key=lambda span: span.start_time or 0)
        return [self._root, *self._held, *self._chain]

    def _end_root(self, reason: KeepReason | None, span_count: int, dropped: int) -> None:
        ledger, root = self._ledger, self._root
        outcome = ledger.outcome or Outcome.WORKER_LOST
        root.set_attribute(Attribute.RUN_OUTCOME, outcome.value)
        root.set_attribute(Attribute.SPAN_COUNT, span_count)
        if self._recovered:
            root.set_attribute(Attribute.RECOVERED, True)
        else:
            root.set_attribute(Attribute.DELIVERY_MAX_MS, delivery_max_ns(ledger) / 1e6)
        if ledger.pending:
            root.set_attribute(Attribute.EVENTS_PENDING, ledger.pending)
        if ledger.missing:
            root.set_attribute(Attribute.CHAIN_COMPLETE, False)
        elif not ledger.pending:
            root.set_attribute(Attribute.CHAIN_COMPLETE, True)
        if reason is not None:
            root.set_attribute(Attribute.KEEP_REASON, reason.value)
        if dropped:
            root.set_attribute(Attribute.SPANS_DROPPED, dropped)
        if not self._recovered and (lost := stamps_lost(ledger)):
            root.set_attribute(Attribute.STAMPS_LOST, lost.total())
        if outcome not in (Outcome.COMPLETED, Outcome.CANCELLED):
            root.set_attribute(Attribute.ERROR_TYPE, outcome.value)
            root.set_status(Status(StatusCode.ERROR, outcome.value))
        root.end(ledger.unix_ns(ledger.ended_ns))


class ToolSpan:
    """A tool call's live span. `enter` and `leave` bracket it in the agent's own context."""

    __slots__ = ("_context", "_ledger", "_span", "_token")

    def __init__(self, ledger: RunLedger, span: Span) -> None:
        self._ledger = ledger
        self._span = span
        self._token: Any = None

    def enter(self) -> None:
        """Make the span current, so that the agent's own spans nest under it."""
        self._token = attach(set_span_in_context(self._span))

    def leave(self) -> None:
        """Make current again what was."""
        if self._token is not None:
            detach(self._token)
            self._token = None

    def end(self, status: ToolStatus, ended_ns: int) -> None:
        """End the span at this monotonic moment; a second end changes nothing."""
        if not self._span.is_recording():
            return
        self._span.set_attribute(Attribute.TOOL_STATUS, status.value)
        if status is not ToolStatus.OK:
            self._span.set_attribute(Attribute.ERROR_TYPE, status.value)
            if status is not ToolStatus.CANCELLED:
                self._span.set_status(Status(StatusCode.ERROR, status.value))
        self._span.end(self._ledger.unix_ns(ended_ns))


class RunTracerProvider(TracerProviderApi):
    """The tracer provider of whichever run the caller is in; outside of runs its spans are not recorded.

    `tracewire serve` names it as the process's default by OpenTelemetry's own variable `OTEL_PYTHON_TRACER_PROVIDER`
    (entry point `opentelemetry_tracer_provider`), so that libraries which ask for the global provider find the run
    that they work for. A provider that is configured otherwise, by that variable or in code, wins.
    """

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Tracer:
        return _RunTracer(instrumenting_module_name, instrumenting_library_version, schema_url)


class _RunTracer(Tracer):
    def __init__(self, name: str, version: str | None, schema_url: str | None) -> None:
        self._arguments = (name, version, schema_url)

    def _tracer(self) -> Tracer:
        provider = _current_tracer_provider.get()
        if provider is None:
            return NoOpTracer()
        return provider.get_tracer(*self._arguments)

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._tracer().start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer().start_as_current_span(*args, **kwargs)


AgentTracer = Tracer
AgentTracerProvider = TracerProviderApi
