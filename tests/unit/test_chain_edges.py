"""What the chain's spans say in full: of events that never got a seq, of replays, of recovered runs; and their ids."""

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from tracewire_telemetry.chain import ChainSpans, chain_spans, envelope_traceparents, parse_traceparent, tool_span_id
from tracewire_telemetry.vocabulary import EventType, Link
from unit.ledgers import ROOT_SPAN_ID, TRACE_ID, LedgerScript, identity_of, ns, unix_ns

STARTED, THINKING, DELTA = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_DELTA
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def built(script: LedgerScript, *, recovered: bool = False) -> list[ReadableSpan]:
    """The spans as they are handed to the exporter."""
    return list(ChainSpans(script.ledger, Resource({}), InstrumentationScope("test"), recovered=recovered).all())


def whole() -> LedgerScript:
    """One event that crossed every link."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 10, socket)
    script.acknowledged(socket, 1, 20)
    return script


def test_every_context_is_of_the_runs_trace_local_and_flagged_as_the_run_is() -> None:
    """An unsampled run's spans say so, should they be kept."""
    for sampled in (True, False):
        script = LedgerScript(sampled=sampled)
        script.durable(STARTED, 0)
        for span in built(script):
            context = span.get_span_context()
            assert context is not None
            flags = (context.trace_id, context.is_remote, int(context.trace_flags))
            assert (TRACE_ID, False, int(sampled)) == flags


def test_spans_of_a_run_that_is_not_recovered_do_not_speak_of_it() -> None:
    """Those of one that is say yes."""
    assert [None] * 4 == [(span.attributes or {}).get("tracewire.recovered") for span in built(whole())]
    assert [True] * 4 == [(span.attributes or {}).get("tracewire.recovered") for span in built(whole(), recovered=True)]


def test_only_the_span_of_the_missing_link_is_an_error_and_says_which() -> None:
    """With a description, which some backends show alone."""
    script = LedgerScript()
    script.attached()
    script.durable(STARTED, 0)
    script.overdue(7_000)
    spans = built(script)
    assert ["create agent_started", "process agent_started", "send agent_started"] == [span.name for span in spans]
    assert [None, None, "event_missing"] == [span.status.description for span in spans]
    assert [None, None, "event_missing"] == [(span.attributes or {}).get("error.type") for span in spans]


def test_events_that_never_got_a_seq_have_spans_of_their_own() -> None:
    """Two owed types are two spans, from when they were owed to when they were missed, without a seq."""
    script = LedgerScript(run_id="run-7")
    script.durable(STARTED, 0)
    script.ledger.never_emitted(THINKING, ns(10), ns(40))
    script.ledger.never_emitted(EventType.TOOL_EXECUTING, ns(20), ns(50))
    first, second = built(script)[2:]
    assert {
        "messaging.system": "tracewire",
        "messaging.operation.name": "create",
        "user.id": "ada",
        "tracewire.run.id": "run-7",
        "tracewire.event.type": "agent_thinking",
        "tracewire.link": "engine",
        "error.type": "event_missing",
    } == dict(first.attributes or {})
    assert [
        ("create agent_thinking", unix_ns(10), unix_ns(40)),
        ("create tool_executing", unix_ns(20), unix_ns(50)),
    ] == [(span.name, span.start_time, span.end_time) for span in (first, second)]
    assert [ROOT_SPAN_ID] * 2 == [span.parent.span_id for span in (first, second) if span.parent is not None]


def test_no_two_spans_of_a_run_have_one_id() -> None:
    """Events of several sockets, bursts, replays to two sockets, tools, and what never got a seq."""
    script = LedgerScript()
    sockets = [script.attached(), script.attached()]
    script.sent(STARTED, 0, *sockets)
    for number in range(3):
        script.sent(DELTA, 10 + number, *sockets)
    for socket in sockets:
        script.ledger.replayed(socket, 1, 2, ns(30), ns(31))
        script.ledger.replayed(socket, 1, 3, ns(32), ns(33))
    script.acknowledged(sockets[0], 4, 40)
    for number in range(3):
        script.ledger.never_emitted(THINKING, ns(number), ns(50))
    contexts = [span.get_span_context() for span in built(script)]
    ids = [context.span_id for context in contexts if context is not None]
    ids += [tool_span_id(script.ledger.identity, seq) for seq in range(1, 6)]
    assert len(ids) == len(set(ids)) > 20
    assert not {0, ROOT_SPAN_ID} & set(ids)


def test_a_replay_says_which_socket_and_a_live_event_too() -> None:
    """And nothing else of the chain has a socket."""
    script = whole()
    script.ledger.replayed(1, 1, 1, ns(30), ns(31))
    script.acknowledged(1, 1, 40)
    said = {span.name: (span.attributes or {}).get("tracewire.socket") for span in built(script)}
    assert {
        "create agent_started": None,
        "process agent_started": None,
        "send agent_started": 1,
        "settle agent_started": None,
        "send replay": 1,
    } == said


def test_counting_builds_nothing_more() -> None:
    """From then on it is the last one again, as often as there are spans."""
    script = whole()
    script.sent(THINKING, 30)
    chain = ChainSpans(script.ledger, Resource({}), InstrumentationScope("test"))
    spans = []
    for number, span in enumerate(chain.all(), start=1):
        spans.append(span)
        chain.counting = number >= 2
    assert 6 == len(spans)
    assert "process agent_started" == spans[1].name
    assert all(span is spans[1] for span in spans[1:])


def test_a_burst_ends_where_another_event_begins() -> None:
    """An odd number of deltas, and an even one."""
    for count in (1, 2, 3, 4):
        script = LedgerScript()
        for _ in range(count):
            script.durable(DELTA, 0)
        script.durable(THINKING, 10)
        creates = [span for span in built(script) if span.name.startswith("create ")]
        assert ["create agent_delta", "create agent_thinking"] == [span.name for span in creates]
        assert count + 1 == (creates[1].attributes or {})["tracewire.event.seq"]
        assert (count if count > 1 else None) == (creates[0].attributes or {}).get("messaging.batch.message_count")


def test_an_id_is_never_zero() -> None:
    """What derives to nothing, which would be no valid id, is one."""
    identity = identity_of(root_span_id=(1 << 64) - (7 << 22) - (5 << 19))
    assert 1 == tool_span_id(identity, 7)
    identity = identity_of(root_span_id=(1 << 64) - (7 << 22) - (1 << 19))
    assert f"00-{TRACE_ID:032x}-{1:016x}-01" == envelope_traceparents(identity)(7)


def test_a_clients_context_is_read_from_its_text_alone() -> None:
    """Not from whatever is current where it is read."""
    parsed = parse_traceparent(TRACEPARENT)
    assert parsed is not None
    assert (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7) == (parsed.trace_id, parsed.span_id)
    current = NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(1)))
    with use_span(current):
        assert parse_traceparent("00-zz-zz-01") is None


def test_what_settled_it_hangs_under_the_send_that_was_acked_first() -> None:
    """Of two sockets the one whose client acked; of one that was not written live, the first that was."""
    script = LedgerScript()
    first, second = script.attached(), script.attached()
    script.sent(STARTED, 0, first, second)
    script.acknowledged(second, 1, 20)
    spans = list(chain_spans(script.ledger, Resource({}), InstrumentationScope("test")))
    sends = {(span.attributes or {})["tracewire.socket"]: span for span in spans if span.name.startswith("send ")}
    [settle] = [span for span in spans if span.name.startswith("settle ")]
    assert settle.parent == sends[second].get_span_context()
    assert Link.CLIENT.value == (settle.attributes or {})["tracewire.link"]
