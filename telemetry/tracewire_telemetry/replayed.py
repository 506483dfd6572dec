"""The trace of a replay that came after its run was settled: the run's own trace has left, so this is one of its own.

A root `send replay` that links to the run's root, and under it a `settle replay` once the client has acked the range.
"""

import time
from typing import Any, Final

from msgspec import Struct
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as SpanLink
from opentelemetry.trace import SpanContext, TraceFlags

from tracewire_telemetry.carried import Replay
from tracewire_telemetry.catalog import SCOPE, Attribute
from tracewire_telemetry.catalog_spans import SEND_REPLAY, SETTLE_REPLAY
from tracewire_telemetry.catalog_specs import SpanSpec
from tracewire_telemetry.chain import is_sampled, new_trace_ids
from tracewire_telemetry.export import TraceQueue

_SETTLE_OFFSET: Final = 1


class ReplayedRun(Struct, frozen=True):
    """The settled run that was read back. The ids of its trace are lower-case hex, as the log holds them."""

    run_id: str
    user_id: str
    trace_id: str
    root_span_id: str


class ReplayTracing:
    """Exports the traces of replays; without an exporter, none."""

    def __init__(self, resource: Resource, queue: TraceQueue | None, *, version: str, share: float) -> None:
        self._resource = resource
        self._queue = queue
        self._scope = InstrumentationScope(SCOPE, version)
        self._share = share

    def replayed(self, run: ReplayedRun, replay: Replay) -> None:
        """Export one replay, acked or not, once; its moments are monotonic nanoseconds."""
        trace_id, span_id = new_trace_ids()
        if self._queue is None or not is_sampled(trace_id, self._share):
            return
        root = SpanContext(trace_id, span_id, False, TraceFlags(TraceFlags.SAMPLED))
        of_run = SpanContext(int(run.trace_id, 16), int(run.root_span_id, 16), False)
        spans = [
            self._span(SEND_REPLAY, root, None, run, replay, replay.started_ns, replay.ended_ns,
                       links=[SpanLink(of_run)], span_count=1 + bool(replay.acked_ns)),
        ]  # fmt: skip
        if replay.acked_ns:
            settle = SpanContext(trace_id, span_id + _SETTLE_OFFSET, False, root.trace_flags)
            spans.append(self._span(SETTLE_REPLAY, settle, root, run, replay, replay.ended_ns, replay.acked_ns))
        self._queue.offer(spans)

    def _span(
        self,
        spec: SpanSpec,
        context: SpanContext,
        parent: SpanContext | None,
        run: ReplayedRun,
        replay: Replay,
        started_ns: int,
        ended_ns: int,
        *,
        links: list[SpanLink] | None = None,
        span_count: int = 0,
    ) -> ReadableSpan:
        wall_ns = time.time_ns() - time.monotonic_ns()
        attributes: dict[str, Any] = {
            Attribute.MESSAGING_SYSTEM: SCOPE,
            Attribute.MESSAGING_OPERATION_NAME: spec.operation,
            Attribute.MESSAGING_BATCH_COUNT: replay.last_seq - replay.first_seq + 1,
            Attribute.RUN_ID: run.run_id,
            Attribute.USER_ID: run.user_id,
            Attribute.EVENT_FIRST_SEQ: replay.first_seq,
            Attribute.EVENT_LAST_SEQ: replay.last_seq,
            Attribute.LINK: str(spec.link),
        }
        if span_count:
            attributes[Attribute.SPAN_COUNT] = span_count
        return ReadableSpan(
            name=spec.named(spec.of),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=spec.kind,
            links=links or [],
            start_time=wall_ns + started_ns,
            end_time=wall_ns + max(started_ns, ended_ns),
            instrumentation_scope=self._scope,
        )
