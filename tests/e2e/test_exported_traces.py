"""What an OTLP receiver gets from a real `tracewire serve`: for each run exactly the spans of its chain."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.servers import FIVE, ServerProcess
from support.wire import Frame, Wire, contract_problems, wire_to
from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX, Attribute
from tracewire_telemetry.testing import GoldenTraces, assert_chain
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

TESTS = Path(__file__).parents[1]
AGENTS = (
    "five",
    "streams",
    "raises",
    "overdue",
    "waits_in_tool",
    "traced",
    "traced_thread",
    "overdue_after_a_second",
    "verbose",
)
CHAIN = {"create": "producer", "process": "consumer", "send": "client", "settle": "client"}
LINK_OF = {"create": "bridge", "process": "emitter", "send": "socket", "settle": "client"}
SpanShape = tuple[str, str, int | None, str, int | None]
"""Name, kind, and seq of a span, then name and seq of its parent."""


class Traced:
    """A server process, and the receiver of its traces."""

    def __init__(self, process: ServerProcess, receiver: OtlpReceiver) -> None:
        self.process = process
        self.receiver = receiver

    async def run(self, user: str, agent: str, input_value: Any = "go", **fields: Any) -> list[Frame]:
        """The events of one run, all of them acked at its end."""
        async with wire_to(self.process.ws_url, self.process.token(user)) as wire:
            run_id = await wire.start_run(input_value, agent=agent, **fields)
            events = await wire.receive_run(run_id)
            await wire.ack(run_id, len(events))
            self.trace(run_id)
        assert contract_problems(events) == []
        return events

    def trace(self, run_id: str) -> RecordedTrace:
        """The run's whole trace; it is well-formed as a tree."""
        trace = self.receiver.wait_for_run(run_id)
        assert trace.problems() == []
        return trace

    def edge_spans(self) -> list[RecordedSpan]:
        """The spans that belong to no run."""
        spans = self.receiver.spans
        of_runs = {span.trace_id for span in spans if "tracewire.run.id" in span.attributes}
        return [span for span in spans if span.trace_id not in of_runs]


@contextmanager
def traced_server(folder: Path, **environ: str) -> Iterator[Traced]:
    """`tracewire serve` with the agents of these tests, exporting to a receiver of its own."""
    arguments = [part for name in AGENTS for part in ("--agent", f"support.agents:{name}")]
    with OtlpReceiver() as receiver:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "TRACEWIRE_DRAIN_GRACE_SECONDS": "0", **environ}
        with ServerProcess(folder / "data", *arguments, environ=variables, cwd=TESTS) as process:
            yield Traced(process, receiver)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """One such server for the tests that leave it as it is."""
    with traced_server(tmp_path_factory.mktemp("traced")) as started:
        yield started


def shape(trace: RecordedTrace, span: RecordedSpan) -> SpanShape:
    """A span as it is compared with what is expected."""
    parent = trace.parent(span)
    return (span.name, span.kind, seq_of(span), parent.name if parent else "", seq_of(parent) if parent else None)


def seq_of(span: RecordedSpan) -> int | None:
    """The seq of a chain's span."""
    return span.attributes.get(Attribute.EVENT_SEQ)


def expected_shapes(events: list[Frame], *, sends: int = 1, settled: bool = True) -> Counter[SpanShape]:
    """The spans that telemetry.md §2 asks for a run with these events, written to `sends` sockets."""
    root = f"invoke_agent {events[0]['agent']}"
    expected: Counter[SpanShape] = Counter({(root, "internal", None, "", None): 1})
    before = ""
    for event in events:
        name, seq = event["type"], event["seq"]
        if name == "tool_executing":
            expected[f"execute_tool {event['data']['tool_name']}", "internal", None, root, None] += 1
        if name == "agent_delta" and before == "agent_delta":
            continue
        before = name
        expected[f"create {name}", "producer", seq, root, None] += 1
        expected[f"process {name}", "consumer", seq, f"create {name}", seq] += 1
        if sends:
            expected[f"send {name}", "client", seq, f"process {name}", seq] += sends
        if settled:
            expected[f"settle {name}", "client", seq, f"send {name}", seq] += 1
    return expected


async def test_a_run_exports_exactly_the_spans_of_its_chain(traced: Traced, golden_trace: GoldenTraces) -> None:
    """Names, kinds, parents and attributes are those of telemetry.md §2, none starts before its parent, the root counts
    all; the golden trace shows it whole.
    """
    events = await traced.run("exact", "five")
    trace = traced.trace(events[0]["run_id"])
    assert_chain(trace, events=FIVE, user_id="exact")
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events)
    assert trace.root.attributes[Attribute.SPAN_COUNT] == len(trace) == 2 + 4 * 5
    golden_trace(trace)


async def test_every_span_says_whose_it_is_and_which_link_it_shows(traced: Traced) -> None:
    """The attributes are those of the catalogue, and an envelope's `traceparent` is its `create` span."""
    events = await traced.run("attributes", "five")
    run_id = events[0]["run_id"]
    trace = traced.trace(run_id)
    for span in trace:
        assert span.attributes[Attribute.RUN_ID] == run_id
        assert span.attributes[Attribute.USER_ID] == "attributes"
        assert span.scope == "tracewire"
        assert span.resource["service.name"] == "tracewire"
        assert {"service.version", "service.namespace", "service.instance.id"} <= span.resource.keys()
        operation, _, event_type = span.name.partition(" ")
        if operation in CHAIN:
            assert span.kind == CHAIN[operation]
            assert span.attributes[Attribute.LINK] == LINK_OF[operation]
            assert span.attributes[Attribute.EVENT_TYPE] == event_type
            assert span.attributes[Attribute.MESSAGING_OPERATION_NAME] == operation
            assert span.attributes[Attribute.MESSAGING_SYSTEM] == "tracewire"
            assert span.attributes[Attribute.MESSAGING_MESSAGE_ID] == f"{run_id}:{seq_of(span)}"
    root = trace.root.attributes
    assert root[Attribute.OPERATION_NAME] == "invoke_agent"
    assert root[Attribute.AGENT_NAME] == "five"
    assert root[Attribute.RUN_OUTCOME] == "completed"
    assert root[Attribute.LINK] == "engine"
    tool = trace.named("execute_tool look")[0].attributes
    assert tool[Attribute.TOOL_CALL_ID] == events[2]["data"]["tool_call_id"]
    assert tool[Attribute.TOOL_NAME] == "look"
    assert [event["traceparent"] for event in events] == [
        f"00-{span.trace_id}-{span.span_id}-01"
        for event in events
        for span in trace.named(f"create {event['type']}")
        if seq_of(span) == event["seq"]
    ]


async def test_contiguous_deltas_share_one_set_of_spans(traced: Traced) -> None:
    """A burst has one span a link, with its first and last seq and its size; a thought in between splits it."""
    events = await traced.run("bursts", "streams")
    assert [event["seq"] for event in events if event["type"] == "agent_delta"] == [2, 3, 4, 6, 7]
    trace = traced.trace(events[0]["run_id"])
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events)
    for operation in CHAIN:
        bursts = [span.attributes for span in trace.named(f"{operation} agent_delta")]
        assert [
            (burst[Attribute.EVENT_FIRST_SEQ], burst[Attribute.EVENT_LAST_SEQ], burst[Attribute.MESSAGING_BATCH_COUNT])
            for burst in bursts
        ] == [(2, 4, 3), (6, 7, 2)]


async def test_two_sockets_of_a_user_are_two_sends_and_one_settle(traced: Traced) -> None:
    """Each socket's write is a span of its own; the settle hangs under the one that was acked first."""
    token = traced.process.token("twice")
    async with wire_to(traced.process.ws_url, token) as first, wire_to(traced.process.ws_url, token) as second:
        run_id = await first.start_run("go", agent="five")
        events = await first.receive_run(run_id)
        assert await second.receive_run(run_id) == events
        await second.ack(run_id, len(events))
        trace = traced.trace(run_id)
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events, sends=2)
    for event in events:
        sends = trace.named(f"send {event['type']}")
        assert {span.attributes[Attribute.SOCKET] for span in sends} == {1, 2}
        parent = trace.parent(trace.named(f"settle {event['type']}")[0])
        assert parent is not None
        assert parent.attributes[Attribute.SOCKET] == 2


@pytest.mark.parametrize(
    ("agent", "input_value", "code"), [("raises", "exception", "agent_exception"), ("overdue", "go", "timeout")]
)
async def test_a_run_that_fails_says_so_on_its_root(traced: Traced, agent: str, input_value: str, code: str) -> None:
    """The root has status ERROR, the code of the `agent_error` as its error type, and why its trace is kept."""
    events = await traced.run(f"fails by {code}", agent, input_value)
    trace = traced.trace(events[0]["run_id"])
    assert events[-1]["data"]["code"] == code
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events)
    assert trace.root.status == "error"
    attributes = trace.root.attributes
    assert attributes[Attribute.ERROR_TYPE] == attributes[Attribute.RUN_OUTCOME] == code
    assert attributes[Attribute.KEEP_REASON] == "error"
    assert attributes[Attribute.CHAIN_COMPLETE] is True


async def test_a_cancelled_run_says_so_on_its_root_and_is_no_error(traced: Traced) -> None:
    """The outcome is `cancelled`, on the run's span and on that of the tool in which it was."""
    async with wire_to(traced.process.ws_url, traced.process.token("cancels")) as wire:
        run_id = await wire.start_run("go", agent="waits_in_tool")
        await wire.receive_type("tool_executing")
        await wire.send("cancel_run", run_id=run_id)
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        trace = traced.trace(run_id)
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events)
    assert trace.root.status == "unset"
    assert trace.root.attributes[Attribute.RUN_OUTCOME] == "cancelled"
    assert Attribute.ERROR_TYPE not in trace.root.attributes
    assert Attribute.KEEP_REASON not in trace.root.attributes
    tool = trace.named("execute_tool hang")[0]
    assert (tool.status, tool.attributes[Attribute.TOOL_STATUS]) == ("unset", "cancelled")


@pytest.mark.parametrize("agent", ["traced", "traced_thread"])
async def test_an_agents_own_spans_nest_under_the_span_of_its_tool(traced: Traced, agent: str) -> None:
    """By `ctx.tracer` and by OpenTelemetry's global API, in a task and in a thread; they leave with the trace."""
    events = await traced.run(f"own spans of {agent}", agent)
    trace = traced.trace(events[0]["run_id"])
    tool = trace.named("execute_tool look")[0]
    [own] = trace.named("own inside")
    [library] = trace.named("library inside")
    assert own.parent_id == tool.span_id
    assert library.parent_id == own.span_id
    assert library.scope == "a.library"
    assert [span.parent_id for span in trace.named("library outside")] == [trace.root.span_id] * (agent == "traced")
    added = len(trace) - expected_shapes(events).total()
    assert added == len([span for span in trace if span.scope != "tracewire"])
    assert trace.root.attributes[Attribute.SPAN_COUNT] == len(trace)


async def test_a_run_links_to_its_handshake_and_to_its_clients_trace_and_hangs_under_neither(traced: Traced) -> None:
    """A client's `traceparent` is untrusted: a link, never the parent; a malformed one is ignored."""
    theirs = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    events = await traced.run("linked", "five", traceparent=f"00-{theirs[0]}-{theirs[1]}-01")
    root = traced.trace(events[0]["run_id"]).root
    handshakes = {
        (span.trace_id, span.span_id)
        for span in traced.edge_spans()
        if span.name == "handshake /ws" and span.attributes[Attribute.USER_ID] == "linked"
    }
    assert len(handshakes) == 1
    assert set(root.links) == {theirs, *handshakes}
    assert root.trace_id != theirs[0]
    events = await traced.run("linked badly", "five", traceparent="00-nonsense")
    assert len(traced.trace(events[0]["run_id"]).root.links) == 1


async def test_events_that_nobody_acked_when_the_user_went_are_pending_on_the_root(traced: Traced) -> None:
    """The client left after acking two events: the rest are counted as pending, and the chain is called neither whole
    nor broken.
    """
    token = traced.process.token("leaves")
    async with wire_to(traced.process.ws_url, token) as wire:
        run_id = await wire.start_run("go", agent="waits_in_tool")
        await wire.receive_type("tool_executing")
        await wire.ack(run_id, 2)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=traced.process.url, headers=headers) as http:
        assert (await http.delete(f"/runs/{run_id}")).status_code == 202
        trace = traced.trace(run_id)
        events = (await http.get(f"/runs/{run_id}/events")).json()["events"]
    assert [event["type"] for event in events][-2:] == ["tool_completed", "agent_cancelled"]
    assert trace.root.attributes[Attribute.EVENTS_PENDING] == len(events) - 2
    assert Attribute.CHAIN_COMPLETE not in trace.root.attributes
    assert [len(trace.named(f"settle {event['type']}")) for event in events] == [1, 1, 0, 0]
    assert [len(trace.named(f"process {event['type']}")) for event in events] == [1, 1, 1, 1]


async def test_a_run_that_no_socket_follows_has_neither_sends_nor_settles(traced: Traced) -> None:
    """A run started over HTTP while its user has no socket: durable, every event pending."""
    headers = {"Authorization": f"Bearer {traced.process.token('away')}"}
    async with httpx.AsyncClient(base_url=traced.process.url, headers=headers) as http:
        run_id = (await http.post("/runs", json={"agent": "five", "input": "go"})).json()["run_id"]
        trace = traced.trace(run_id)
        events = (await http.get(f"/runs/{run_id}/events")).json()["events"]
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(events, sends=0, settled=False)
    assert trace.root.attributes[Attribute.EVENTS_PENDING] == 5
    assert Attribute.CHAIN_COMPLETE not in trace.root.attributes
    assert trace.root.attributes[Attribute.RUN_OUTCOME] == "completed"


async def test_a_replay_is_one_pair_of_spans_with_its_range(traced: Traced) -> None:
    """Events read back after a resume of an open run: `send replay` under the root, `settle replay` under that."""
    token = traced.process.token("resumes")
    async with wire_to(traced.process.ws_url, token) as wire:
        run_id = await wire.start_run("go", agent="waits_in_tool")
        await wire.receive_type("tool_executing")
        wire.cut()
    async with wire_to(traced.process.ws_url, token) as wire:
        await wire.send("resume", runs={run_id: 0})
        await wire.receive_type("tool_executing")
        await wire.ack(run_id, 2)
        await wire.send("cancel_run", run_id=run_id)
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        trace = traced.trace(run_id)
    assert contract_problems(events) == []
    [send] = trace.named("send replay")
    [settle] = trace.named("settle replay")
    assert (send.parent_id, settle.parent_id) == (trace.root.span_id, send.span_id)
    for span in (send, settle):
        assert span.attributes[Attribute.EVENT_FIRST_SEQ] == 1
        assert span.attributes[Attribute.EVENT_LAST_SEQ] == 2
        assert span.attributes[Attribute.MESSAGING_BATCH_COUNT] == 2


async def test_ids_are_unique_across_every_trace_of_a_server(traced: Traced) -> None:
    """No span of any run so far was exported twice, and no id of one run recurs in another."""
    for number in range(5):
        await traced.run(f"unique {number}", "five")
    ids = Counter((span.trace_id, span.span_id) for span in traced.receiver.spans)
    assert [repeated for repeated, count in ids.items() if count > 1] == []
    roots = [span for span in traced.receiver.spans if span.name.startswith("invoke_agent")]
    assert len({span.trace_id for span in roots}) == len(roots)


async def test_a_run_of_many_events_exports_at_most_2000_spans_and_counts_the_rest(traced: Traced) -> None:
    """The root says how many there are and how many were left out; what is there is still a tree."""
    thoughts = 600
    events = await traced.run("verbose", "verbose", thoughts)
    assert len(events) == thoughts + 2
    trace = traced.trace(events[0]["run_id"])
    assert len(trace) == trace.root.attributes[Attribute.SPAN_COUNT] == SPANS_PER_RUN_MAX
    owed = expected_shapes(events).total()
    assert trace.root.attributes[Attribute.SPANS_DROPPED] == owed - SPANS_PER_RUN_MAX


async def test_no_span_lasts_as_long_as_its_socket(tmp_path: Path) -> None:
    """A socket is open for more than a second, and once the server has stopped everything is exported: the handshake's
    span was over before the run began, and no other span of the edge comes near.
    """
    with traced_server(tmp_path) as traced:
        events = await traced.run("long", "overdue_after_a_second")
        root = traced.trace(events[0]["run_id"]).root
        assert traced.process.stop() == 0
        edge = traced.edge_spans()
    assert root.end_ns - root.start_ns > 1_000_000_000
    assert [span.name for span in edge] == ["handshake /ws"]
    assert edge[0].end_ns <= root.start_ns
    assert edge[0].end_ns - edge[0].start_ns < 1_000_000_000


async def test_an_http_request_has_one_span_without_its_messages(tmp_path: Path) -> None:
    """The ASGI instrumentation covers HTTP; health checks are left out."""
    with traced_server(tmp_path) as traced:
        headers = {"Authorization": f"Bearer {traced.process.token('reader')}"}
        async with httpx.AsyncClient(base_url=traced.process.url, headers=headers) as http:
            for path in ("/live", "/ready", "/runs", "/agents"):
                assert (await http.get(path)).status_code == 200
        assert traced.process.stop() == 0
        edge = traced.edge_spans()
    assert [span.attributes.get("http.target") or span.attributes.get("url.path") for span in edge] == [
        "/runs",
        "/agents",
    ]
    assert {span.kind for span in edge} == {"server"}


async def test_with_a_share_of_nothing_only_bad_runs_are_exported(tmp_path: Path) -> None:
    """A good run leaves nothing and says so in its flags; a failed one leaves everything all the same."""
    with traced_server(tmp_path, TRACEWIRE_TRACE_SHARE="0") as traced:
        async with wire_to(traced.process.ws_url, traced.process.token("sampled")) as wire:
            good, failed = [await acked_run(wire, agent) for agent in ("five", "overdue")]
            trace = traced.trace(failed[0]["run_id"])
        assert traced.process.stop() == 0
        spans = traced.receiver.spans
    assert {event["traceparent"][-3:] for event in good + failed} == {"-00"}
    assert {span.trace_id for span in spans} == {trace.root.trace_id}
    assert Counter(shape(trace, span) for span in trace) == expected_shapes(failed)
    assert trace.root.attributes[Attribute.KEEP_REASON] == "error"


async def acked_run(wire: Wire, agent: str) -> list[Frame]:
    """The events of one run, acked."""
    run_id = await wire.start_run("go", agent=agent)
    events = await wire.receive_run(run_id)
    await wire.ack(run_id, len(events))
    return events


async def test_nothing_is_exported_where_no_variable_asks_for_it(tmp_path: Path) -> None:
    """Without `OTEL_…` the receiver stays empty, and runs go on as ever."""
    with traced_server(tmp_path, OTEL_SDK_DISABLED="true") as traced:
        async with wire_to(traced.process.ws_url, traced.process.token("untraced")) as wire:
            events = await acked_run(wire, "traced")
        assert contract_problems(events) == []
        assert traced.process.stop() == 0
        assert traced.receiver.spans == []


async def test_a_receiver_that_is_gone_holds_up_neither_runs_nor_the_servers_end(tmp_path: Path) -> None:
    """The spans are dropped and counted; runs complete, and the process ends in time with code 0."""
    with traced_server(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as traced:
        async with wire_to(traced.process.ws_url, traced.process.token("untraced")) as wire:
            events = await acked_run(wire, "five")
        assert contract_problems(events) == []
        assert traced.process.stop() == 0
