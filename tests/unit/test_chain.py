"""The chain's spans: which there are for a ledger, under which parent, when, and under which ids."""

from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from tracewire_telemetry.catalog import SCOPE
from tracewire_telemetry.chain import (
    chain_spans,
    envelope_traceparents,
    is_sampled,
    keep_reason,
    new_trace_ids,
    parse_traceparent,
    tool_span_id,
)
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace, from_sdk
from tracewire_telemetry.vocabulary import EventType, KeepReason, Outcome
from unit.ledgers import ROOT_SPAN_ID, TRACE_ID, LedgerScript, identity_of, ns, unix_ns

STARTED, THINKING = EventType.AGENT_STARTED, EventType.AGENT_THINKING
DELTA, COMPLETED = EventType.AGENT_DELTA, EventType.AGENT_COMPLETED
ROOT = f"{ROOT_SPAN_ID:016x}"


def recorded(script: LedgerScript) -> RecordedTrace:
    """The chain's spans of this ledger."""
    spans = chain_spans(script.ledger, Resource({"service.name": "test"}), InstrumentationScope(SCOPE, "1"))
    return RecordedTrace(from_sdk(span) for span in spans)


def tree(trace: RecordedTrace) -> list[tuple[str, str, str]]:
    """Each span's name, kind, and the name of its parent."""
    named = {span.span_id: span.name for span in trace}
    return [(span.name, span.kind, "root" if span.parent_id == ROOT else named[span.parent_id]) for span in trace]


def test_an_event_that_crossed_all_links_has_one_span_a_link() -> None:
    """create under the run, process under create, send under process, settle under send, each between two stamps."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 10, socket)
    script.acknowledged(socket, 1, 20)
    trace = recorded(script)
    assert tree(trace) == [
        ("create agent_started", "producer", "root"),
        ("process agent_started", "consumer", "create agent_started"),
        ("send agent_started", "client", "process agent_started"),
        ("settle agent_started", "client", "send agent_started"),
    ]
    moments = [(10, 11), (11, 12), (12, 13), (13, 20)]
    assert [(unix_ns(start), unix_ns(end)) for start, end in moments] == [(s.start_ns, s.end_ns) for s in trace]
    assert [span.attributes["tracewire.link"] for span in trace] == ["bridge", "emitter", "socket", "client"]
    assert {"unset"} == {span.status for span in trace}
    assert {f"{TRACE_ID:032x}"} == {span.trace_id for span in trace}


def test_what_lost_its_stamp_leaves_no_span_and_no_orphan() -> None:
    """What would have hung under a span that is not there hangs under what that one would have hung under."""
    script = LedgerScript()
    socket = script.attached()
    unstamped = script.ledger.sequenced(script.emitted(STARTED, 10), 0)
    script.ledger.committed(unstamped, ns(12))
    script.ledger.written(socket, unstamped, ns(13))
    script.ledger.written(socket, script.sequenced(THINKING, 20), ns(23))
    script.durable(THINKING, 30)
    script.sent(COMPLETED, 40, socket)
    script.acknowledged(socket, 4, 50)
    assert tree(recorded(script)) == [
        ("process agent_started", "consumer", "root"),
        ("send agent_started", "client", "process agent_started"),
        ("settle agent_started", "client", "send agent_started"),
        ("create agent_thinking", "producer", "root"),
        ("send agent_thinking", "client", "create agent_thinking"),
        ("settle agent_thinking", "client", "send agent_thinking"),
        ("create agent_thinking", "producer", "root"),
        ("process agent_thinking", "consumer", "create agent_thinking"),
        ("settle agent_thinking", "client", "process agent_thinking"),
        ("create agent_completed", "producer", "root"),
        ("process agent_completed", "consumer", "create agent_completed"),
        ("send agent_completed", "client", "process agent_completed"),
        ("settle agent_completed", "client", "send agent_completed"),
    ]


def test_every_span_says_whose_and_which_event_it_is() -> None:
    """The attributes of one send, all of them."""
    script = LedgerScript(run_id="run-7")
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    (send,) = recorded(script).named("send agent_started")
    assert {
        "messaging.system": "tracewire",
        "messaging.operation.name": "send",
        "messaging.message.id": "run-7:1",
        "user.id": "ada",
        "tracewire.run.id": "run-7",
        "tracewire.event.type": "agent_started",
        "tracewire.event.seq": 1,
        "tracewire.link": "socket",
        "tracewire.socket": socket,
    } == send.attributes
    assert send.resource == {"service.name": "test"}
    assert send.scope == "tracewire"


def test_an_event_has_spans_for_the_links_that_it_crossed_and_for_no_other() -> None:
    """Durable and never sent: create and process. Sent and never acked: send too."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.sent(COMPLETED, 10, script.attached())
    assert [span.name for span in recorded(script)] == [
        "create agent_started",
        "process agent_started",
        "create agent_completed",
        "process agent_completed",
        "send agent_completed",
    ]


def test_ids_derive_from_run_seq_link_and_socket_and_are_unique() -> None:
    """Built twice, the same spans have the same ids; no two of a run share one, nor the root's or a tool's."""
    script = LedgerScript(required=(THINKING, EventType.TOOL_EXECUTING))
    phone, laptop = script.attached(), script.attached()
    for at in range(0, 200, 10):
        script.sent(STARTED if at == 0 else DELTA if at % 30 else EventType.INPUT_REQUIRED, at, phone, laptop)
    script.ledger.replayed(phone, 1, 3, ns(300), ns(301))
    script.ledger.replayed(laptop, 1, 3, ns(302), ns(303))
    script.emitted(COMPLETED, 400)
    script.overdue(5_000)
    script.ended(5_001)
    first, again = recorded(script), recorded(script)
    assert list(first) == list(again)
    ids = [span.span_id for span in first] + [ROOT]
    ids += [f"{tool_span_id(script.ledger.identity, seq):016x}" for seq in range(1, 21)]
    assert len(ids) == len(set(ids))


def test_the_envelope_carries_the_context_of_its_create_span() -> None:
    """A client that continues the trace hangs its spans under `create`."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.durable(THINKING, 10)
    create = recorded(script).named("create agent_thinking")[0]
    assert f"00-{create.trace_id}-{create.span_id}-01" == envelope_traceparents(script.ledger.identity)(2)
    assert envelope_traceparents(identity_of(sampled=False))(2).endswith("-00")


def test_ids_stay_within_64_bits_for_the_longest_runs() -> None:
    """A root id at its largest and a seq of a billion give a valid, non-zero id."""
    identity = identity_of(root_span_id=(1 << 62) - 1)
    context = parse_traceparent(envelope_traceparents(identity)(1_000_000_000))
    assert context is not None
    assert 0 < context.span_id < 1 << 64


def test_each_socket_has_a_send_and_the_first_ack_settles_under_its_own() -> None:
    """The laptop acked first: there is one settle, under the laptop's send, from its write to its ack."""
    script = LedgerScript()
    phone, laptop = script.attached(), script.attached()
    script.sent(STARTED, 0, phone, laptop)
    script.acknowledged(laptop, 1, 20)
    script.acknowledged(phone, 1, 30)
    trace = recorded(script)
    sends = trace.named("send agent_started")
    assert [phone, laptop] == [span.attributes["tracewire.socket"] for span in sends]
    (settle,) = trace.named("settle agent_started")
    assert sends[1].span_id == settle.parent_id
    assert (unix_ns(4), unix_ns(20)) == (settle.start_ns, settle.end_ns)


def test_each_event_settles_under_the_socket_whose_ack_covered_it() -> None:
    """The phone acked the first event, the laptop the second."""
    script = LedgerScript()
    phone, laptop = script.attached(), script.attached()
    script.sent(STARTED, 0, phone, laptop)
    script.sent(THINKING, 10, phone, laptop)
    script.acknowledged(phone, 1, 20)
    script.acknowledged(laptop, 2, 30)
    trace = recorded(script)
    sockets = [trace.parent(trace.named(f"settle {what}")[0]) for what in ("agent_started", "agent_thinking")]
    assert [span and span.attributes["tracewire.socket"] for span in sockets] == [phone, laptop]


def test_an_ack_over_a_socket_that_was_not_sent_the_event_settles_under_one_that_was() -> None:
    """A device that resumed may ack for another: the event still has its settle, under a send that exists."""
    script = LedgerScript()
    phone = script.attached()
    script.sent(STARTED, 0, phone)
    resumed = script.attached(10)
    script.acknowledged(resumed, 1, 20)
    trace = recorded(script)
    assert trace.named("send agent_started")[0].span_id == trace.named("settle agent_started")[0].parent_id
    assert {ROOT} == {span.parent_id for span in trace if trace.parent(span) is None}


def test_an_unbroken_burst_of_deltas_has_one_set_of_spans() -> None:
    """Three deltas, a thought, one delta: three sets, the first with its range and count."""
    script = LedgerScript()
    socket = script.attached()
    for at, event_type in ((0, DELTA), (10, DELTA), (20, DELTA), (30, THINKING), (40, DELTA)):
        script.sent(event_type, at, socket)
    script.acknowledged(socket, 5, 60)
    trace = recorded(script)
    names = [f"{operation} {what}" for what in ("agent_delta", "agent_thinking", "agent_delta")
             for operation in ("create", "process", "send", "settle")]  # fmt: skip
    assert names == [span.name for span in trace]
    burst, single = trace.named("create agent_delta")
    assert tuple(
        burst.attributes[key]
        for key in ("tracewire.event.first_seq", "tracewire.event.last_seq", "messaging.batch.message_count")
    ) == (1, 3, 3)
    assert "messaging.batch.message_count" not in single.attributes
    assert (unix_ns(0), unix_ns(21)) == (burst.start_ns, burst.end_ns)
    settle = trace.named("settle agent_delta")[0]
    assert (unix_ns(23), unix_ns(60)) == (settle.start_ns, settle.end_ns)


def test_a_socket_that_came_amid_a_burst_has_a_send_for_its_part() -> None:
    """It was sent the third delta alone: its send begins when that one was durable."""
    script = LedgerScript()
    early = script.attached()
    script.sent(DELTA, 0, early)
    script.sent(DELTA, 10, early)
    late = script.attached(15)
    script.sent(DELTA, 20, early, late)
    sends = recorded(script).named("send agent_delta")
    assert [(unix_ns(2), unix_ns(23)), (unix_ns(22), unix_ns(24))] == [(span.start_ns, span.end_ns) for span in sends]


def test_a_replay_is_one_pair_with_its_range_under_the_run() -> None:
    """`send replay`, and `settle replay` once it was acked."""
    script = LedgerScript()
    for at in (0, 10, 20):
        script.durable(THINKING, at)
    phone, laptop = script.attached(30), script.attached(30)
    script.ledger.replayed(phone, 1, 3, ns(31), ns(33))
    script.ledger.replayed(laptop, 3, 3, ns(34), ns(35))
    script.acknowledged(phone, 3, 40)
    trace = recorded(script)
    replays = [span for span in trace if span.name.endswith("replay")]
    assert [span.name for span in replays] == ["send replay", "settle replay"] * 2
    send, settle = replays[:2]
    assert (ROOT, send.span_id) == (send.parent_id, settle.parent_id)
    assert (unix_ns(31), unix_ns(33), unix_ns(33), unix_ns(40)) == (
        send.start_ns,
        send.end_ns,
        settle.start_ns,
        settle.end_ns,
    )
    assert tuple(
        send.attributes[key]
        for key in ("tracewire.event.first_seq", "tracewire.event.last_seq", "messaging.batch.message_count")
    ) == (1, 3, 3)
    assert [span for span in trace if span.name == "settle agent_thinking"] == []


def test_a_replay_that_was_not_acked_has_no_settle() -> None:
    """The client went before it acked."""
    script = LedgerScript()
    script.durable(THINKING, 0)
    script.ledger.replayed(script.attached(), 1, 1, ns(31), ns(33))
    assert [span.name for span in recorded(script) if span.name.endswith("replay")] == ["send replay"]


def _never_sequenced(script: LedgerScript) -> None:
    script.emitted(THINKING, 0)


def _never_durable(script: LedgerScript) -> None:
    script.sequenced(THINKING, 0)


def _never_written(script: LedgerScript) -> None:
    script.durable(THINKING, 0)


def _never_acked(script: LedgerScript) -> None:
    script.sent(THINKING, 0, 1)


@pytest.mark.parametrize(
    ("lost", "name", "kind", "link", "start_ms", "end_ms"),
    [
        (_never_sequenced, "create agent_thinking", "producer", "bridge", 0, 1_000),
        (_never_durable, "process agent_thinking", "consumer", "emitter", 1, 2_001),
        (_never_written, "send agent_thinking", "client", "socket", 2, 6_002),
        (_never_acked, "settle agent_thinking", "client", "client", 3, 10_003),
    ],
)
def test_a_missing_event_has_an_error_span_at_the_link_that_did_not_take_it(
    lost: Callable[[LedgerScript], None], name: str, kind: str, link: str, start_ms: float, end_ms: float
) -> None:
    """It ends at the deadline with `error.type` `event_missing`; it is the last of its chain, and no other errs."""
    script = LedgerScript()
    script.attached()
    lost(script)
    script.overdue(20_000)
    trace = recorded(script)
    errors = [span for span in trace if span.status == "error"]
    assert [name] == [span.name for span in errors]
    (error,) = errors
    assert (kind, link, "event_missing") == (
        error.kind,
        error.attributes["tracewire.link"],
        error.attributes["error.type"],
    )
    assert (unix_ns(start_ms), unix_ns(end_ms)) == (error.start_ns, error.end_ns)
    assert error == list(trace)[-1]
    assert {ROOT} == {span.parent_id for span in trace if trace.parent(span) is None}


def test_a_type_that_was_owed_and_never_shown_has_an_error_create_of_the_engine() -> None:
    """It hangs under the run, at its end, without a seq."""
    script = LedgerScript(required=(STARTED, THINKING))
    script.durable(STARTED, 0)
    script.ended(50)
    error = recorded(script).named("create agent_thinking")[0]
    assert (error.status, error.attributes["tracewire.link"], error.parent_id) == ("error", "engine", ROOT)
    assert "tracewire.event.seq" not in error.attributes
    assert (unix_ns(50), unix_ns(50)) == (error.start_ns, error.end_ns)


def test_an_event_that_the_bridge_took_too_late_has_an_error_create_and_the_rest_of_its_chain() -> None:
    """It came after all: its later links have their spans, and only `create` is an error."""
    script = LedgerScript()
    socket = script.attached()
    ordinal = script.emitted(THINKING, 0)
    script.overdue(1_000)
    seq = script.ledger.sequenced(ordinal, ns(5_000))
    script.ledger.committed(seq, ns(5_001))
    script.ledger.written(socket, seq, ns(5_002))
    script.acknowledged(socket, seq, 5_003)
    assert [(span.name, span.status) for span in recorded(script)] == [
        ("create agent_thinking", "error"),
        ("process agent_thinking", "unset"),
        ("send agent_thinking", "unset"),
        ("settle agent_thinking", "unset"),
    ]


def test_a_missing_event_that_the_log_refused_in_the_end_still_has_its_error_span() -> None:
    """Its seq was given to another; what was missing stays visible in the trace."""
    script = LedgerScript()
    seq = script.sequenced(THINKING, 0)
    script.overdue(2_001)
    script.ledger.revoked(seq)
    script.durable(COMPLETED, 3_000)
    errors = [span for span in recorded(script) if span.status == "error"]
    assert [(span.attributes["tracewire.event.type"], span.attributes["tracewire.link"]) for span in errors] == [
        ("agent_thinking", "emitter")
    ]


def test_a_missing_event_within_a_burst_marks_the_burst() -> None:
    """The second of three deltas was never acked, nor the third: one error, at the client."""
    script = LedgerScript()
    socket = script.attached()
    for at in (0, 10, 20):
        script.sent(DELTA, at, socket)
    script.acknowledged(socket, 1, 30)
    script.overdue(20_000)
    trace = recorded(script)
    assert [span.name for span in trace if span.status == "error"] == ["settle agent_delta"]
    assert [len(trace.named(f"{op} agent_delta")) for op in ("create", "process", "send", "settle")] == [1, 1, 1, 1]


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "acked_ms", "reason"),
    [
        (Outcome.COMPLETED, 2_000, None),
        (Outcome.COMPLETED, 2_001, KeepReason.SLOW),
        (Outcome.CANCELLED, 10, None),
        (Outcome.TIMEOUT, 10, KeepReason.ERROR),
        (Outcome.WORKER_LOST, 10_000, KeepReason.ERROR),
    ],
)
def test_a_bad_run_is_kept_for_its_worst_reason(outcome: Outcome, acked_ms: int, reason: KeepReason | None) -> None:
    """An error outranks slowness; a good run, completed or cancelled, has no reason."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, acked_ms)
    script.ended(acked_ms, outcome)
    assert reason is keep_reason(script.ledger)


def test_a_run_with_a_missing_event_is_kept() -> None:
    """Its reason is the incident."""
    script = LedgerScript(required=(THINKING,))
    script.ended(10)
    assert KeepReason.INCIDENT is keep_reason(script.ledger)


@pytest.mark.parametrize(
    ("random_bits", "share", "sampled"),
    [
        (0, 1.0, True),
        ((1 << 56) - 1, 0.0, False),
        ((1 << 55) - 1, 0.5, False),
        (1 << 55, 0.5, True),
        ((1 << 56) - 1, 0.001, True),
    ],
)
def test_the_share_of_good_runs_follows_from_the_low_56_bits_of_the_trace_id(
    random_bits: int, share: float, sampled: bool
) -> None:
    """Whatever the other 72 bits are: every process that asks gets the same answer."""
    for other_bits in (0, 1, (1 << 72) - 1):
        assert sampled is is_sampled(other_bits << 56 | random_bits, share)


def test_new_ids_are_random_and_leave_room_for_what_derives_from_them() -> None:
    """Ids of 1,000 runs differ, and are never zero."""
    ids = [new_trace_ids() for _ in range(1_000)]
    assert 1_000 == len({trace_id for trace_id, _ in ids}) == len({root for _, root in ids})
    assert all(0 < trace_id < 1 << 128 and 0 < root < 1 << 63 for trace_id, root in ids)


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "nonsense", "00-zz-11-01", f"00-{0:032x}-{1:016x}-01", f"ff-{1:032x}-{1:016x}-01"],
)
def test_a_malformed_traceparent_of_a_client_is_none(traceparent: str | None) -> None:
    """It is untrusted: it must not fail a run."""
    assert parse_traceparent(traceparent) is None


def test_a_traceparent_of_a_client_is_read() -> None:
    """Trace id, span id and the sampled flag."""
    context = parse_traceparent(f"00-{5:032x}-{6:016x}-01")
    assert context is not None
    assert (context.trace_id, context.span_id, context.trace_flags.sampled) == (5, 6, True)


# --- the SDK's own spans --------------------------------------------------------------------------------------------


def _live_twin(span: ReadableSpan) -> ReadableSpan:
    provider = TracerProvider(resource=span.resource, shutdown_on_exit=False)
    assert span.instrumentation_scope is not None
    tracer = provider.get_tracer(span.instrumentation_scope.name, span.instrumentation_scope.version)
    above = tracer.start_span("parent")
    live = tracer.start_span(
        span.name,
        context=set_span_in_context(above),
        kind=span.kind,
        attributes=dict(span.attributes or {}),
        start_time=span.start_time,
    )
    if span.status.status_code is StatusCode.ERROR:
        live.set_status(Status(StatusCode.ERROR, span.status.description))
    live.end(span.end_time)
    above.end()
    provider.shutdown()
    assert isinstance(live, ReadableSpan)
    return live


def _script_of_all_kinds() -> LedgerScript:
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, 10)
    script.sent(THINKING, 20, socket)
    script.ledger.replayed(socket, 2, 2, ns(40), ns(41))
    script.overdue(20_000)
    return script


def test_a_span_made_directly_is_encoded_as_one_of_a_live_tracer_is() -> None:
    """Through the OTLP encoder every span of ours has exactly the fields, and but for the ids the values, of a twin
    that the installed SDK made with `start_span`.
    """
    ours = list(
        chain_spans(_script_of_all_kinds().ledger, Resource({"service.name": "t"}), InstrumentationScope(SCOPE, "1"))
    )
    assert {SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT} == {span.kind for span in ours}
    assert {StatusCode.UNSET, StatusCode.ERROR} == {span.status.status_code for span in ours}
    for span in ours:
        encoded = [encode_spans([made]) for made in (span, _live_twin(span))]
        (mine,), (live,) = ([*request.resource_spans[0].scope_spans[0].spans] for request in encoded)
        assert {field.name for field, _ in live.ListFields()} == {field.name for field, _ in mine.ListFields()}
        for made in (mine, live):
            for field in ("trace_id", "span_id", "parent_span_id"):
                made.ClearField(field)
        assert live == mine
        assert encoded[0].resource_spans[0].scope_spans[0].scope == encoded[1].resource_spans[0].scope_spans[0].scope
        assert encoded[0].resource_spans[0].resource == encoded[1].resource_spans[0].resource


def test_a_chain_has_no_fault_as_a_tree() -> None:
    """No span starts before its parent, ends before it starts, or shares an id, also where events are missing."""
    trace = recorded(_script_of_all_kinds())
    trace_id, start = f"{TRACE_ID:032x}", unix_ns(0)
    root = RecordedSpan("root", "internal", trace_id, ROOT, "", start, start, "unset", {}, (), "", {}, True)
    assert RecordedTrace([root, *trace]).problems() == []
