"""The chain's spans of a settled run: `create`, `process`, `send` and `settle` of each event, built from the ledger.

They are `ReadableSpan`s made directly, at 1.5 to 1.8 µs each against 12 through `start_span`. The SDK advises against
it: its version is pinned, and a test holds such a span against a live one. Their ids derive from the run's (run, seq,
link, socket), so that nothing is ever exported twice, not even after a crash.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tracewire_telemetry.catalog import EVENT_MISSING, SCOPE, Attribute
from tracewire_telemetry.catalog_spans import CREATE, PROCESS, SEND, SEND_REPLAY, SETTLE, SETTLE_REPLAY
from tracewire_telemetry.catalog_specs import SpanSpec
from tracewire_telemetry.ledger import Missing, RunIdentity, RunLedger
from tracewire_telemetry.verdicts import delivery_max_ns
from tracewire_telemetry.vocabulary import KeepReason, Link, Outcome

SLOW_NS: Final = 2_000_000_000
"""A run with a delivery longer than this is kept whatever the share of good runs."""

_CREATE, _PROCESS, _SEND, _SETTLE, _TOOL, _SEND_REPLAY, _SETTLE_REPLAY = range(1, 8)
_SEQ_SHIFT, _KIND_SHIFT, _SOCKET_MASK = 22, 19, (1 << 19) - 1
_ID_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_RANDOM_BITS: Final = 56
_UNSET: Final = Status(StatusCode.UNSET)
_propagator = TraceContextTextMapPropagator()


def new_trace_ids() -> tuple[int, int]:
    """A random trace id (128 bits) and root span id (63 bits, so that what derives from it stays within 64)."""
    return random.getrandbits(128) or 1, random.getrandbits(62) or 1


def is_sampled(trace_id: int, share: float) -> bool:
    """Whether the share (0 to 1) of good runs keeps this trace; the same answer wherever it is asked.

    The low 56 bits count as random (W3C Trace Context, level 2).
    """
    return trace_id & ((1 << _RANDOM_BITS) - 1) >= int((1 - share) * (1 << _RANDOM_BITS))


def _derived(identity: RunIdentity, kind: int, seq: int, socket: int = 0) -> int:
    index = seq << _SEQ_SHIFT | kind << _KIND_SHIFT | socket & _SOCKET_MASK
    return (identity.root_span_id + index) & _ID_MASK or 1


def tool_span_id(identity: RunIdentity, seq: int) -> int:
    """The id of the span of the tool call that `tool_executing` with this seq announced."""
    return _derived(identity, _TOOL, seq)


def envelope_traceparents(identity: RunIdentity) -> Callable[[int], str]:
    """Gives for each seq the W3C `traceparent` of its envelope: the context of its `create` span."""
    head, tail = f"00-{identity.trace_id:032x}-", f"-0{int(identity.sampled)}"
    first = identity.root_span_id + (_CREATE << _KIND_SHIFT)

    def traceparent(seq: int) -> str:
        return f"{head}{(first + (seq << _SEQ_SHIFT)) & _ID_MASK or 1:016x}{tail}"

    return traceparent


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """A client's trace context, or `None` where there is none or it is malformed. It is never trusted as a parent."""
    if not traceparent:
        return None
    context = get_current_span(_propagator.extract({"traceparent": traceparent}, Context())).get_span_context()
    return context if context.is_valid else None


def keep_reason(ledger: RunLedger) -> KeepReason | None:
    """Why this run is kept whatever the share of good runs, or `None` for a good one."""
    if ledger.outcome not in (Outcome.COMPLETED, Outcome.CANCELLED):
        return KeepReason.ERROR
    if ledger.missing:
        return KeepReason.INCIDENT
    return KeepReason.SLOW if delivery_max_ns(ledger) > SLOW_NS else None


def chain_spans(ledger: RunLedger, resource: Resource, scope: InstrumentationScope) -> Iterator[ReadableSpan]:
    """`create`, `process`, `send` and `settle` of each event, deltas by the burst; then missing ones and replays."""
    return ChainSpans(ledger, resource, scope).all()


def _bursts(ledger: RunLedger) -> Iterator[tuple[int, int]]:
    """The seqs by the unit that gets one set of spans: an event, or an unbroken burst of deltas."""
    first = 1
    while first <= ledger.last_seq:
        last = first
        if ledger.is_delta(first):
            while last < ledger.last_seq and ledger.is_delta(last + 1):
                last += 1
        yield first, last
        first = last + 1


class ChainSpans:
    """The chain's spans of one run, built one by one as they are asked for.

    With `counting` set, from then on each is the last one built again: enough to count those past a limit.
    `recovered` marks them: their moments are those of the envelopes, not stamps.
    """

    def __init__(
        self, ledger: RunLedger, resource: Resource, scope: InstrumentationScope, *, recovered: bool = False
    ) -> None:
        self._ledger = ledger
        self._recovered = recovered
        self._resource = resource
        self._scope = scope
        self._flags = TraceFlags(int(ledger.identity.sampled))
        self._missing = {lost.seq: lost for lost in ledger.missing if lost.seq is not None}
        self._root = span_context(ledger.identity, ledger.identity.root_span_id)
        self._last: ReadableSpan | None = None
        self.counting = False

    def all(self) -> Iterator[ReadableSpan]:
        """Every span, each after its parent."""
        for first, last in _bursts(self._ledger):
            yield from self.event(first, last)
        yield from self.unsequenced()
        yield from self.replays()

    def event(self, first: int, last: int) -> Iterator[ReadableSpan]:
        """The spans of one event, or of an unbroken burst of deltas from `first` to `last`."""
        ledger = self._ledger
        begin, end = first - 1, last - 1
        missing = next((self._missing[seq] for seq in range(first, last + 1) if seq in self._missing), None)
        lost = missing.link if missing else None
        attributes = self._attributes(first, last)
        create = self._context(_CREATE, first)
        if ledger.bridge[end]:  # a stamp that was lost leaves no span
            yield self._span(CREATE, create, self._root, attributes,
                             ledger.known_ns(first), ledger.bridge[end], missing)  # fmt: skip
        else:
            create = self._root  # what follows hangs where it would have hung
        process = self._context(_PROCESS, first)
        if ledger.emitter[end] or lost is Link.EMITTER:
            yield self._span(PROCESS, process, create, attributes,
                             ledger.bridge[begin] or ledger.known_ns(first), ledger.emitter[end],
                             missing)  # fmt: skip
        else:
            process = create
        sent: dict[int, SpanContext] = {}
        for socket, send in ledger.sends.items():
            low, high = max(first, send.first_seq), min(last, send.first_seq + len(send.stamps) - 1)
            if low <= high:
                written_ns = send.stamps[high - send.first_seq]
                if written_ns:
                    context = sent[socket] = self._context(_SEND, first, socket)
                    yield self._span(SEND, context, process, attributes,
                                     ledger.emitter[low - 1] or ledger.known_ns(low), written_ns,
                                     socket=socket)  # fmt: skip
        if lost is Link.SOCKET:
            yield self._span(SEND, self._context(_SEND, first), process, attributes,
                             ledger.emitter[begin], 0, missing)  # fmt: skip
        if (ledger.client[end] and (sent or not ledger.socket[end])) or lost is Link.CLIENT:
            socket = self._settling_socket(last, sent)
            parent = sent.get(socket, process)
            written = ledger.sends[socket].stamps if socket in ledger.sends else None
            position = last - ledger.sends[socket].first_seq if written else 0
            started = written[position] if written and 0 <= position < len(written) else ledger.socket[end]
            started = started or ledger.emitter[end]
            yield self._span(SETTLE, self._context(_SETTLE, first), parent, attributes,
                             min(started, ledger.client[end] or started), ledger.client[end],
                             missing)  # fmt: skip

    def unsequenced(self) -> Iterator[ReadableSpan]:
        """What never got a seq: lost before the bridge, or owed by the agent and never emitted."""
        for number, missing in enumerate(lost for lost in self._ledger.missing if lost.seq is None):
            attributes = {**self._common(), Attribute.EVENT_TYPE: str(missing.event_type)}
            context = self._context(_CREATE, 0, number + 1)
            yield self._span(CREATE, context, self._root, attributes,
                             missing.since_ns, 0, missing, link=missing.link)  # fmt: skip

    def replays(self) -> Iterator[ReadableSpan]:
        """What was read back from the log, a pair of spans for each range and socket."""
        for number, replay in enumerate(self._ledger.replays):
            attributes = {
                **self._common(),
                Attribute.EVENT_FIRST_SEQ: replay.first_seq,
                Attribute.EVENT_LAST_SEQ: replay.last_seq,
                Attribute.MESSAGING_BATCH_COUNT: replay.last_seq - replay.first_seq + 1,
            }
            context = self._context(_SEND_REPLAY, replay.first_seq, number)
            yield self._span(SEND_REPLAY, context, self._root, attributes,
                             replay.started_ns, replay.ended_ns, socket=replay.socket)  # fmt: skip
            if replay.acked_ns:
                settle = self._context(_SETTLE_REPLAY, replay.first_seq, number)
                yield self._span(SETTLE_REPLAY, settle, context, attributes, replay.ended_ns, replay.acked_ns)

    def _settling_socket(self, seq: int, sent: Mapping[int, SpanContext]) -> int:
        """The socket over which the event was acked first, or else the one it was first written to."""
        acks = self._ledger.acks  # in order and without gaps
        position = bisect_left(acks, seq, key=lambda ack: ack.last_seq)
        socket = acks[position].socket if position < len(acks) else 0
        return socket if socket in sent else next(iter(sent), socket)

    def _common(self) -> dict[str, Any]:
        identity = self._ledger.identity
        common: dict[str, Any] = {
            Attribute.MESSAGING_SYSTEM: SCOPE,
            Attribute.RUN_ID: identity.run_id,
            Attribute.USER_ID: identity.user_id,
        }
        if self._recovered:
            common[Attribute.RECOVERED] = True
        return common

    def _attributes(self, first: int, last: int) -> dict[str, Any]:
        event_type = self._ledger.event_type(first).value
        attributes = self._common()
        attributes[Attribute.MESSAGING_MESSAGE_ID] = f"{self._ledger.identity.run_id}:{first}"
        attributes[Attribute.EVENT_TYPE] = event_type
        attributes[Attribute.EVENT_SEQ] = first
        if last > first:
            attributes[Attribute.EVENT_FIRST_SEQ] = first
            attributes[Attribute.EVENT_LAST_SEQ] = last
            attributes[Attribute.MESSAGING_BATCH_COUNT] = last - first + 1
        return attributes

    def _context(self, kind: int, seq: int, socket: int = 0) -> SpanContext:
        identity = self._ledger.identity
        return SpanContext(identity.trace_id, _derived(identity, kind, seq, socket), False, self._flags)

    def _span(
        self,
        spec: SpanSpec,
        context: SpanContext,
        parent: SpanContext,
        attributes: Mapping[str, Any],
        started_ns: int,
        ended_ns: int,
        missing: Missing | None = None,
        *,
        link: Link | None = None,
        socket: int = 0,
    ) -> ReadableSpan:
        if self.counting and self._last is not None:
            return self._last
        at = link or spec.link
        lost = missing is not None and missing.link is at
        own: dict[str, Any] = {
            **attributes,
            Attribute.MESSAGING_OPERATION_NAME: spec.operation,
        }
        if at is not None:
            own[Attribute.LINK] = at.value
        if socket:
            own[Attribute.SOCKET] = socket
        if lost and missing is not None:
            own[Attribute.ERROR_TYPE] = EVENT_MISSING
            ended_ns = missing.at_ns
        self._last = ReadableSpan(
            name=spec.named(own.get(Attribute.EVENT_TYPE) or spec.of),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=own,
            kind=spec.kind,
            status=Status(StatusCode.ERROR, EVENT_MISSING) if lost else _UNSET,
            start_time=self._ledger.unix_ns(started_ns),
            end_time=self._ledger.unix_ns(max(started_ns, ended_ns)),
            instrumentation_scope=self._scope,
        )
        return self._last


def span_context(identity: RunIdentity, span_id: int) -> SpanContext:
    """The context of a span of this run's trace."""
    return SpanContext(identity.trace_id, span_id, False, TraceFlags(int(identity.sampled)))


TraceContext = SpanContext
"""A span's context, by a name of ours: only this package imports OpenTelemetry."""
