"""The live spans of a run and its tools, what nests under them, and the trace that leaves when the run is settled."""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, get_current_span, use_span

from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX
from tracewire_telemetry.chain import parse_traceparent, span_context, tool_span_id
from tracewire_telemetry.spans import RunSpans, RunTracerProvider, RunTracing
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace, from_sdk
from tracewire_telemetry.vocabulary import EventType, Outcome, SpanDropReason, ToolStatus
from unit.ledgers import MS, OPENED_NS, ROOT_SPAN_ID, TRACE_ID, LedgerScript, ns, unix_ns

STARTED, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_COMPLETED
EXECUTING, TOOL_COMPLETED = EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED


class Traced:
    """A run with live spans, and the count of spans that were dropped."""

    def __init__(
        self,
        *,
        recording: bool = True,
        share: float = 1.0,
        links: Sequence[SpanContext] = (),
        tracing: RunTracing | None = None,
        **identity: Any,
    ) -> None:
        self.dropped: Counter[SpanDropReason] = Counter()
        self.script = LedgerScript(**identity)
        self.tracing = tracing or RunTracing(
            Resource({"service.name": "test"}), version="1", share=share, recording=recording, dropped=self._count
        )
        self.spans: RunSpans = self.tracing.open(self.script.ledger, links)

    def _count(self, reason: SpanDropReason, count: int) -> None:
        self.dropped[reason] += count

    def in_agent(self, what: Callable[[], None]) -> None:
        """Do this in a context of its own, as the agent's task does."""

        def entered() -> None:
            self.spans.enter()
            what()

        contextvars.copy_context().run(entered)

    def finished(self, outcome: Outcome = Outcome.COMPLETED, at_ms: float = 100) -> RecordedTrace:
        """End the run, and give its trace."""
        self.script.ended(at_ms, outcome)
        return RecordedTrace(from_sdk(span) for span in self.spans.finish())


def test_the_root_has_the_ids_the_times_and_the_attributes_of_its_run() -> None:
    """A completed run with everything acked."""
    traced = Traced(run_id="run-1")
    socket = traced.script.attached()
    traced.script.sent(COMPLETED, 0, socket)
    traced.script.acknowledged(socket, 1, 7)
    trace = traced.finished(at_ms=2)
    root = trace.root
    assert (root.name, root.kind, root.status, root.sampled) == ("invoke_agent five", "internal", "unset", True)
    assert (f"{TRACE_ID:032x}", f"{ROOT_SPAN_ID:016x}", "") == (root.trace_id, root.span_id, root.parent_id)
    assert (unix_ns(0), unix_ns(2)) == (root.start_ns, root.end_ns)
    assert root.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "tracewire",
        "gen_ai.agent.name": "five",
        "gen_ai.conversation.id": "thread",
        "user.id": "ada",
        "tracewire.run.id": "run-1",
        "tracewire.run.outcome": "completed",
        "tracewire.link": "engine",
        "tracewire.trace.span_count": 5,
        "tracewire.chain.complete": True,
        "tracewire.delivery.max_ms": 7.0,
    }
    assert (trace.complete, trace.problems(), len(trace)) == (True, [], 5)


def test_the_root_links_to_the_handshake_and_to_the_client_and_has_no_parent() -> None:
    """Also where another span is current while the run is opened."""
    remote = parse_traceparent(f"00-{5:032x}-{6:016x}-01")
    assert remote is not None
    handshake = span_context(LedgerScript(trace_id=7).ledger.identity, 8)
    outer = Traced()
    with use_span(outer.spans._root):
        traced = Traced(links=[handshake, remote], trace_id=9)
    root = traced.finished().root
    assert ((f"{7:032x}", f"{8:016x}"), (f"{5:032x}", f"{6:016x}")) == root.links
    assert ("", f"{9:032x}") == (root.parent_id, root.trace_id)
    outer.finished()


@pytest.mark.parametrize(
    ("outcome", "status", "error_type"),
    [
        (Outcome.COMPLETED, "unset", None),
        (Outcome.CANCELLED, "unset", None),
        *((outcome, "error", outcome.value) for outcome in Outcome if outcome.value not in ("completed", "cancelled")),
    ],
)
def test_the_root_says_how_the_run_ended(outcome: Outcome, status: str, error_type: str | None) -> None:
    """Every way to fail is an error with its code; completed and cancelled are not."""
    root = Traced().finished(outcome).root
    assert (outcome.value, status, error_type) == (
        root.attributes["tracewire.run.outcome"],
        root.status,
        root.attributes.get("error.type"),
    )
    assert ("error" if error_type else None) == root.attributes.get("tracewire.keep.reason")


def test_the_root_of_a_run_whose_user_was_away_says_how_much_is_pending() -> None:
    """The chain is neither complete nor broken."""
    traced = Traced()
    traced.script.durable(STARTED, 0)
    traced.script.durable(COMPLETED, 10)
    attributes = traced.finished().root.attributes
    assert attributes["tracewire.events.pending"] == 2
    assert "tracewire.chain.complete" not in attributes


def test_the_root_of_a_run_with_a_missing_event_says_so() -> None:
    """The chain is not complete, and the trace is kept for the incident."""
    attributes = Traced(required=(STARTED,)).finished().root.attributes
    assert (attributes["tracewire.chain.complete"], attributes["tracewire.keep.reason"]) == (False, "incident")


def tool_of(traced: Traced, at_ms: float, inside: Callable[[], None], status: ToolStatus = ToolStatus.OK) -> int:
    """One tool call of 5 ms with `inside` done in it; gives the seq of its `tool_executing`."""
    seq: int = traced.script.durable(EXECUTING, at_ms)
    span = traced.spans.start_tool(seq, "look", "call_1")
    span.enter()
    inside()
    span.leave()
    traced.script.durable(TOOL_COMPLETED, at_ms + 3)
    span.end(status, ns(at_ms + 5))
    return seq


def test_a_tools_span_derives_its_id_and_nests_under_the_run() -> None:
    """It begins with the engine's stamp of `tool_executing`."""
    traced = Traced(run_id="run-1")
    seqs: list[int] = []
    traced.in_agent(lambda: seqs.append(tool_of(traced, 10, lambda: None)))
    tool = traced.finished().named("execute_tool look")[0]
    assert f"{tool_span_id(traced.script.ledger.identity, seqs[0]):016x}" == tool.span_id
    assert ("internal", f"{ROOT_SPAN_ID:016x}", "unset") == (tool.kind, tool.parent_id, tool.status)
    assert (unix_ns(10), unix_ns(15)) == (tool.start_ns, tool.end_ns)
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.call.id": "call_1",
        "tracewire.run.id": "run-1",
        "user.id": "ada",
        "tracewire.tool.status": "ok",
    }


@pytest.mark.parametrize(
    ("status", "span_status", "error_type"),
    [
        (ToolStatus.OK, "unset", None),
        (ToolStatus.ERROR, "error", "error"),
        (ToolStatus.TIMEOUT, "error", "timeout"),
        (ToolStatus.CANCELLED, "unset", "cancelled"),
    ],
)
def test_a_tools_span_says_how_it_ended(status: ToolStatus, span_status: str, error_type: str | None) -> None:
    """A cancelled call is no error of the tool's."""
    traced = Traced()
    traced.in_agent(lambda: (tool_of(traced, 10, lambda: None, status), None)[1])
    tool = traced.finished().named("execute_tool look")[0]
    assert (status.value, span_status, error_type) == (
        tool.attributes["tracewire.tool.status"],
        tool.status,
        tool.attributes.get("error.type"),
    )


def test_a_tools_span_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    """The bridge may close a call that the agent closes again: the first end stands, and the SDK does not complain."""
    traced = Traced()
    span = traced.spans.start_tool(traced.script.durable(EXECUTING, 10), "look", "call_1")
    span.end(ToolStatus.TIMEOUT, ns(20))
    span.end(ToolStatus.OK, ns(30))
    assert caplog.records == []
    (tool,) = traced.finished().named("execute_tool look")
    assert ("timeout", unix_ns(20)) == (tool.attributes["tracewire.tool.status"], tool.end_ns)


def test_an_agents_own_spans_nest_under_its_run_and_its_tools() -> None:
    """One around the tool call, one inside it, one after it, made with the run's tracer."""
    traced = Traced()
    tracer = traced.spans.tracer

    def agent() -> None:
        with tracer.start_as_current_span("plan"):
            tool_of(traced, 10, lambda: tracer.start_span("query").end())
        tracer.start_span("sum up").end()

    traced.in_agent(agent)
    trace = traced.finished()
    parents = {span.name: parent.name for span in trace if (parent := trace.parent(span)) is not None}
    assert parents["query"] == "execute_tool look"
    assert "invoke_agent five" == parents["plan"] == parents["sum up"] == parents["execute_tool look"]
    assert trace.complete


def test_a_library_that_asks_for_the_default_provider_finds_the_run_that_it_works_for() -> None:
    """Two agents run side by side: each one's spans go into its own trace."""
    tracing = RunTracing(Resource({}), version="1", share=1.0, recording=True, dropped=lambda reason, count: None)
    first, second = Traced(tracing=tracing, trace_id=1), Traced(tracing=tracing, trace_id=2)
    tracer = RunTracerProvider().get_tracer("library", "2")

    def agent(name: str) -> Callable[[], None]:
        def work() -> None:
            with tracer.start_as_current_span(f"{name} outer"):
                tracer.start_span(f"{name} inner").end()

        return work

    first.in_agent(agent("first"))
    second.in_agent(agent("second"))
    for traced, name in ((first, "first"), (second, "second")):
        trace = traced.finished()
        outer, inner = trace.named(f"{name} outer")[0], trace.named(f"{name} inner")[0]
        assert (trace.root.span_id, outer.span_id) == (outer.parent_id, inner.parent_id)
        assert ({"library"}, 3) == ({span.scope for span in (outer, inner)}, len(trace))


def test_outside_of_runs_the_default_provider_records_nothing() -> None:
    """A library's background work is nobody's: no span, no error."""
    tracer = RunTracerProvider().get_tracer("library")
    with tracer.start_as_current_span("work") as span:
        assert not span.is_recording()
    assert not tracer.start_span("more").is_recording()


async def test_tasks_that_an_agent_starts_belong_to_its_run() -> None:
    """The context travels with the task; the starting task's own is left as it was."""
    traced = Traced()
    tracer = RunTracerProvider().get_tracer("library")

    async def work(name: str) -> None:
        tracer.start_span(name).end()

    async def agent() -> None:
        traced.spans.enter()
        await asyncio.gather(work("a"), work("b"))

    await asyncio.create_task(agent())
    assert not get_current_span().get_span_context().is_valid
    trace = traced.finished()
    assert [trace.root.span_id] * 2 == [trace.named(name)[0].parent_id for name in ("a", "b")]


def test_without_an_exporter_nothing_is_recorded_and_everything_works() -> None:
    """The agent's tracers give spans that carry the run's context and are not recorded."""
    traced = Traced(recording=False)
    seen: list[SpanContext] = []

    def agent() -> None:
        tool_of(traced, 10, lambda: seen.append(get_current_span().get_span_context()))
        assert not RunTracerProvider().get_tracer("library").start_span("work").is_recording()

    traced.in_agent(agent)
    assert list(traced.finished()) == []
    assert [(TRACE_ID, tool_span_id(traced.script.ledger.identity, 1))] == [(c.trace_id, c.span_id) for c in seen]


def test_a_good_run_outside_the_share_is_recorded_and_not_exported() -> None:
    """Its flag says so from the start; a bad one is exported all the same."""
    low_bits = 1
    good, bad = (Traced(share=0.5, trace_id=low_bits, sampled=False) for _ in range(2))
    assert not good.spans._root.get_span_context().trace_flags.sampled
    assert good.spans._root.is_recording()
    assert list(good.finished()) == []
    trace = bad.finished(Outcome.AGENT_EXCEPTION)
    assert (trace.root.attributes["tracewire.keep.reason"], len(trace), trace.root.sampled) == ("error", 1, False)


def test_a_span_that_ends_after_its_run_was_settled_is_dropped_and_counted() -> None:
    """An agent that goes on after the end adds nothing to a trace that has left."""
    traced = Traced()
    late: list[ReadableSpan] = []
    traced.in_agent(lambda: late.append(traced.spans.tracer.start_span("late")))  # type: ignore[arg-type] # an SDK span
    trace = traced.finished()
    late[0].end()  # type: ignore[attr-defined] # an SDK span
    assert dict(traced.dropped) == {SpanDropReason.LATE: 1}
    assert 1 == len(trace) == trace.root.attributes["tracewire.trace.span_count"]


def test_the_runs_own_root_is_not_counted_as_late() -> None:
    """It ends in `finish`, after its trace was released."""
    traced = Traced()
    traced.finished()
    assert dict(traced.dropped) == {}


def of_many_events(count: int) -> Traced:
    """A run of so many events that crossed all links: four chain spans each."""
    traced = Traced()
    socket = traced.script.attached()
    for _ in range(count):
        traced.script.sent(EventType.AGENT_THINKING, 0, socket)
    traced.script.acknowledged(socket, count, 10)
    return traced


def test_a_run_has_at_most_2000_spans_and_says_how_many_were_dropped() -> None:
    """600 events make 2,400 spans of the chain; the root, which counts too, says how many are not there."""
    traced = of_many_events(600)
    trace = traced.finished()
    assert SPANS_PER_RUN_MAX == len(trace) == trace.root.attributes["tracewire.trace.span_count"]
    assert trace.root.attributes["tracewire.spans.dropped"] == 401
    assert dict(traced.dropped) == {SpanDropReason.RUN_LIMIT: 401}
    assert trace.complete


def test_a_run_that_just_fits_drops_nothing() -> None:
    """1,999 spans beside the root: three of an event that was not acked, 499 times four."""
    traced = Traced()
    socket = traced.script.attached()
    for _ in range(500):
        traced.script.sent(EventType.AGENT_THINKING, 0, socket)
    traced.script.acknowledged(socket, 499, 10)
    trace = traced.finished()
    assert (len(trace), dict(traced.dropped)) == (SPANS_PER_RUN_MAX, {})
    assert "tracewire.spans.dropped" not in trace.root.attributes


def test_spans_of_the_agents_own_count_towards_the_limit() -> None:
    """2,100 of them: the trace has 2,000 spans in all, and says how many are missing, each counted once."""
    traced = Traced()
    traced.script.durable(STARTED, 0)

    def agent() -> None:
        for _ in range(2_100):
            traced.spans.tracer.start_span("own").end()

    traced.in_agent(agent)
    trace = traced.finished()
    assert SPANS_PER_RUN_MAX == len(trace) == trace.root.attributes["tracewire.trace.span_count"]
    expected = 2_100 + 2 + 1 - SPANS_PER_RUN_MAX
    assert {SpanDropReason.RUN_LIMIT: expected} == dict(traced.dropped)
    assert expected == trace.root.attributes["tracewire.spans.dropped"]


def test_the_trace_leaves_whole_root_first() -> None:
    """What an exporter gets: the run's span, the live ones, then the chain's."""
    traced = of_many_events(1)
    traced.in_agent(lambda: traced.spans.tracer.start_span("own").end())
    names = [span.name for span in traced.finished()]
    assert names[:3] == ["invoke_agent five", "own", "create agent_thinking"]


def test_a_clock_that_is_stepped_while_the_run_goes_on_changes_no_span() -> None:
    """All moments count from the run's one wall-clock anchor."""
    traced = Traced()
    traced.in_agent(lambda: (tool_of(traced, 1_000, lambda: None), None)[1])
    trace = traced.finished(at_ms=2_000)
    tool: RecordedSpan = trace.named("execute_tool look")[0]
    assert tool.start_ns - trace.root.start_ns == 1_000 * MS
    assert traced.script.ledger.ended_ns == OPENED_NS + 2_000 * MS
