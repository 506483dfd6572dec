"""The chain of a run in one line: what a real server's trace shows, and what is said of one that was bent."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.agents import known_agents
from support.agents import streams as streams_agent
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire.engine.agent import spec_of
from tracewire_telemetry.testing import ClientRecord, RecordedTrace, assert_chain, some_events
from tracewire_telemetry.testing.runs import LINK_NAMES, events_received
from tracewire_telemetry.testing.spans import RecordedSpan

Bend = Callable[[RecordedSpan], RecordedSpan | None]


async def trace_of(server: ServerUnderTest, agent: str, *, acked: bool = True) -> RecordedTrace:
    """The trace of one run, of which all was acked, or nothing."""
    async with wire_to(server.server.ws_url, server.token("ada")) as wire:
        run_id = await wire.start_run("ask", agent=agent)
        events = await wire.receive_run(run_id)
        if acked:
            await wire.ack(run_id, len(events))
            return await server.trace(run_id)
    return await server.trace(run_id)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RecordedTrace]:
    """Traces of a real server: of the five events, of streamed text, of a run whose user went without an ack."""

    async def recorded() -> dict[str, RecordedTrace]:
        folder = tmp_path_factory.mktemp("chains") / "data"
        async with server_under_test(folder, agents=[*known_agents(), spec_of(streams_agent)]) as server:
            return {
                "five": await trace_of(server, "five"),
                "streams": await trace_of(server, "streams"),
                "unacked": await trace_of(server, "five", acked=False),
            }

    return asyncio.run(recorded())


def test_a_whole_chain_is_held_in_one_line(traces: dict[str, RecordedTrace]) -> None:
    """Five events, in order, each across all five links, of one user."""
    found = assert_chain(traces["five"], events=FIVE, user_id="ada")
    assert [(seq, name, LINK_NAMES) for seq, name in enumerate(FIVE, 1)] == [
        (event.seq, event.event_type, event.links) for event in found
    ]


def test_bursts_are_as_many_events_as_they_hold(traces: dict[str, RecordedTrace]) -> None:
    """Deltas have one set of spans a burst, and are counted one by one."""
    deltas = some_events("agent_delta", at_least=1)
    expected = ["agent_started", deltas, "agent_thinking", deltas, "agent_completed"]
    assert len(assert_chain(traces["streams"], events=expected)) == 8
    with pytest.raises(AssertionError, match="must be agent_started, agent_delta × n, agent_completed"):
        assert_chain(traces["streams"], events=["agent_started", deltas, "agent_completed"])
    few = some_events("agent_delta", at_most=2)
    with pytest.raises(AssertionError, match="the events are agent_started, agent_delta, agent_delta, agent_delta"):
        assert_chain(traces["streams"], events=["agent_started", few, "agent_thinking", few, "agent_completed"])


def test_events_that_nobody_acked_are_named(traces: dict[str, RecordedTrace]) -> None:
    """Which, and at which link; and that they are pending."""
    with pytest.raises(AssertionError) as raised:
        assert_chain(traces["unacked"], events=FIVE)
    for seq, name in enumerate(FIVE, 1):
        assert f"event {seq} {name} is lost at client: its client did not ack it" in str(raised.value)
    assert "5 events are pending" in str(raised.value)


def without(name: str) -> Bend:
    """Every span but those of that name."""
    return lambda span: None if span.name == name else span


def with_attributes(name: str, **attributes: Any) -> Bend:
    """The spans of that name with other attributes; underscores stand for dots."""
    changed = {key.replace("_", ".", 2): value for key, value in attributes.items()}
    return lambda span: replace(span, attributes={**span.attributes, **changed}) if span.name == name else span


def failed(name: str) -> Bend:
    """The spans of that name as those of a missing event."""
    return lambda span: replace(span, status="error") if span.name == name else span


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (without("settle tool_completed"), "event 4 tool_completed is lost at client: its client did not ack it"),
        (without("send agent_thinking"), "event 2 agent_thinking is lost at socket: it did not cross socket"),
        (failed("process agent_started"), "event 1 agent_started is lost at emitter: it did not cross emitter"),
        (without("create tool_executing"), "event 3 tool_executing is lost at bridge"),
        (without("settle tool_completed"), "the trace is cut: its root does not count as many spans as are here"),
        (without("process tool_completed"), "send tool_completed is an orphan"),
        (without("invoke_agent five"), "it has 0 roots"),
        (with_attributes("send agent_started", user_id="eve"), "send agent_started is of user 'eve', must be of 'ada'"),
        (with_attributes("send agent_started", tracewire_run_id="r2"), "send agent_started is of run 'r2', must be of"),
        (with_attributes("invoke_agent five", tracewire_run_outcome="timeout"), "ended as timeout, must end as compl"),
        (with_attributes("invoke_agent five", tracewire_chain_complete=False), "server itself says that the chain is"),
        (with_attributes("invoke_agent five", tracewire_stamps_lost=2), "2 stamps were lost"),
        (
            with_attributes("execute_tool look", tracewire_tool_status="timeout"),
            "tool look (call_1) ended with timeout",
        ),
    ],
)
def test_a_chain_that_was_bent_is_named_by_event_and_link(
    traces: dict[str, RecordedTrace], bend: Bend, said: str
) -> None:
    """Each link, the whole of the trace, whose it is, how it ended; with a table of what crossed what."""
    bent = [span for original in traces["five"] if (span := bend(original)) is not None]
    with pytest.raises(AssertionError) as raised:
        assert_chain(bent, events=FIVE, user_id="ada")
    assert said in str(raised.value)
    assert "seq  event" in str(raised.value)


def test_a_run_of_somebody_else_is_said_once(traces: dict[str, RecordedTrace]) -> None:
    """Not of each of its spans."""
    with pytest.raises(AssertionError) as raised:
        assert_chain(traces["five"], events=FIVE, user_id="eve")
    assert [f"  all {len(traces['five'])} spans are of user 'ada', must be of 'eve'"] == [
        line for line in str(raised.value).splitlines() if "of user" in line
    ]


def test_joined_deltas_are_as_many_events_as_they_hold() -> None:
    """A slow client gets several in one frame (`first_seq`); frames of other runs are not its business."""
    frames = [
        {"type": "agent_started", "run_id": "r1", "seq": 1},
        {"type": "agent_delta", "run_id": "r1", "seq": 4, "first_seq": 2},
        {"type": "agent_completed", "run_id": "r2", "seq": 5},
        {"type": "ping", "id": 1},
    ]
    received = events_received(ClientRecord("ada", "r1", frames, acked_seq=3))
    assert [(event.seq, event.event_type, event.whole) for event in received] == [
        (1, "agent_started", True),
        (2, "agent_delta", True),
        (3, "agent_delta", True),
        (4, "agent_delta", False),
    ]


def test_other_events_than_expected_are_named(traces: dict[str, RecordedTrace]) -> None:
    """One that was never emitted, one too many, another order."""
    with pytest.raises(AssertionError, match="input_required is not there: it was never emitted"):
        assert_chain(traces["five"], events=[*FIVE[:4], "input_required", FIVE[4]])
    for wrong in (FIVE[:4], [FIVE[0], FIVE[2], FIVE[1], *FIVE[3:]]):
        with pytest.raises(AssertionError, match="the events are agent_started, agent_thinking, tool_executing"):
            assert_chain(traces["five"], events=wrong)


def test_an_empty_recording_always_fails() -> None:
    """Also where no event is expected."""
    with pytest.raises(AssertionError, match="the recording is empty"):
        assert_chain([], events=[])


async def test_a_run_that_is_not_settled_says_who_has_not_acked(tmp_path: Path) -> None:
    """The recorder of a server under test asks its ledger."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as server:
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            run_id = await wire.start_run("ask", agent="five")
            await wire.receive_run(run_id)
            await wire.ack(run_id, 4)
            with pytest.raises(AssertionError) as raised:
                await asyncio.to_thread(server.recorder.wait_for_run, run_id, timeout_seconds=0.2)
        assert "event 5 agent_completed has not crossed client: user ada has not acked it" in str(raised.value)
