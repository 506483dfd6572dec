"""Runs and clients at the edges of their lives: what is left open, read slowly, lost, cut off or asked for again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from support.agents import known_agents
from support.servers import ServerUnderTest, server_under_test
from tracewire.client import Client, ConnectionFailedError, RequestRejectedError
from tracewire.client_run import ClientRun
from tracewire.engine.agent import agent, spec_of
from tracewire.engine.agent_context import TOOL_NAME_CHARACTERS_MAX
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Link, Outcome
from tracewire_telemetry.watch import Watch
from unit.ledgers import LedgerScript, identity_of, ns

WAIT_SECONDS = 15.0


@agent(name="leaves_tool_open")
async def leaves_tool_open(ctx: Any) -> None:
    """Opens a tool call and never closes it."""
    await ctx.tool("left").open()


@agent(name="swallows_cancel_in_tool")
async def swallows_cancel_in_tool(ctx: Any) -> None:
    """Is cancelled inside a tool, and stays in it until its run is long over."""
    async with ctx.tool("left"):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if ctx.bridge.contract.ended:
                    raise
                await _until(lambda: bool(ctx.bridge.contract.ended))
                return


@agent(name="names_tool_at_length")
async def names_tool_at_length(ctx: Any) -> None:
    """Calls a tool by a name of as many characters as its input says."""
    async with ctx.tool("t" * int(ctx.input)):
        raise ValueError("no good")


@agent(name="raises_unwritable")
async def raises_unwritable(ctx: Any) -> None:
    """Raises, in a tool, an error whose text is no Unicode that could be written."""
    async with ctx.tool("look"):
        raise ValueError("bad \udc80")


@agent(name="outstays_tool", tool_seconds=0.05)
async def outstays_tool(ctx: Any) -> str:
    """Swallows the end of its tool's time, and then goes on as if nothing had been."""
    try:
        async with ctx.tool("look"):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    except TimeoutError as error:
        return str(error)
    return "it was not told"


@agent(name="gives_up_at_once")
async def gives_up_at_once(ctx: Any) -> None:
    """Cancels a call of its own while that is only being announced, and goes on."""

    async def call() -> None:
        async with ctx.tool("look"):
            await asyncio.Event().wait()

    calling = asyncio.create_task(call())
    await _until(lambda: bool(ctx.run.ledger.types[-1:] == bytes([EVENT_TYPES.index(EventType.TOOL_EXECUTING)])))
    calling.cancel()
    await asyncio.wait({calling})
    await ctx.thinking("of something else")


AGENTS = (
    leaves_tool_open,
    swallows_cancel_in_tool,
    names_tool_at_length,
    raises_unwritable,
    outstays_tool,
    gives_up_at_once,
)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # what it waits for has no event; it is the loop's turns that pass, not time
        await asyncio.sleep(0)


@asynccontextmanager
async def chain_of(tmp_path: Path, **overrides: Any) -> AsyncIterator[ServerUnderTest]:
    """A server with the agents of this module."""
    agents = [*known_agents(), *map(spec_of, AGENTS)]
    async with asyncio.timeout(60), server_under_test(tmp_path / "data", agents=agents, **overrides) as chain:
        yield chain


def _cut(chain: ServerUnderTest) -> None:
    for session in list(chain.server.gateway.sessions):
        session.transport.abort()


# Runs.


@pytest.mark.parametrize("agent_name", ["leaves_tool_open", "swallows_cancel_in_tool"])
async def test_a_tool_that_its_agent_left_open_has_its_span(tmp_path: Path, agent_name: str) -> None:
    """The run's end closes the call: its span ends with it, as cancelled, and leaves with the trace."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        run = await client.start_run("go", agent=agent_name)
        async for envelope in run:
            if envelope.type is EventType.TOOL_EXECUTING and agent_name == "swallows_cancel_in_tool":
                await run.cancel()
        trace = await chain.trace(run.run_id)
    statuses = [span.attributes["tracewire.tool.status"] for span in trace.spans if span.name == "execute_tool left"]
    assert statuses == ["cancelled"]
    assert trace.root.attributes["tracewire.trace.span_count"] == len(trace.spans)


async def test_a_tool_name_that_no_event_could_hold_ends_the_run_as_the_agents_error(tmp_path: Path) -> None:
    """The call is refused before its first event, so that its second can always be written."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        for length in (TOOL_NAME_CHARACTERS_MAX + 1, 65_220):
            run = await client.start_run(length, agent="names_tool_at_length")
            assert [envelope.type.value async for envelope in run] == ["agent_started", "agent_error"]
            assert run.terminal is not None
            assert run.terminal.data["code"] == "agent_exception"
        run = await client.start_run(TOOL_NAME_CHARACTERS_MAX, agent="names_tool_at_length")
        assert [envelope.type.value async for envelope in run][1:3] == ["tool_executing", "tool_completed"]


async def test_an_error_that_is_no_writable_text_is_told_all_the_same(tmp_path: Path) -> None:
    """Tool and run both fail as the agent's error, with what cannot be written escaped."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        run = await client.start_run("go", agent="raises_unwritable")
        _, _, completed, failed = [envelope.data async for envelope in run]
    assert (completed["status"], completed["error"]) == ("error", "ValueError: bad \\udc80")
    assert (failed["code"], failed["message"]) == ("agent_exception", "ValueError: bad \\udc80")


async def test_a_call_that_is_cancelled_while_it_is_announced_is_closed_at_once(tmp_path: Path) -> None:
    """What the log took has happened: the pair is whole before the agent goes on."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        run = await client.start_run("go", agent="gives_up_at_once")
        types = [envelope.type.value async for envelope in run]
    assert types[1:] == ["tool_executing", "tool_completed", "agent_thinking", "agent_completed"]


async def test_a_tool_that_swallows_its_deadline_has_passed_it_all_the_same(tmp_path: Path) -> None:
    """The call ends with `timeout`, and the agent gets the `TimeoutError`, when its block lets go."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        run = await client.start_run("go", agent="outstays_tool")
        _, _, completed, ended = [envelope.data async for envelope in run]
    assert completed["status"] == "timeout"
    assert ended["output"] == "tool look passed its deadline of 0.05 s"


# The ledger.


def test_what_a_slow_replay_has_yet_to_reach_is_not_missing() -> None:
    """As long as it gets on; once it stands still for a deadline, the next event is."""
    script = LedgerScript()
    for _ in range(10):
        script.durable(EventType.AGENT_THINKING, 0)
    socket = script.attached(10)
    for seq, at_ms in ((1, 5_000), (2, 10_000), (3, 15_000)):
        script.ledger.replayed(socket, seq, seq, ns(10), ns(at_ms))
        script.acknowledged(socket, seq, at_ms + 1)
    assert script.overdue(20_999) == []
    assert [(lost.link, lost.seq) for lost in script.overdue(21_000)][:1] == [(Link.SOCKET, 4)]


def test_a_reader_is_owed_nothing_of_what_it_asked_to_be_left_out() -> None:
    """Who read the first events as a page and then streams the rest makes none of them missing."""
    script = LedgerScript()
    for _ in range(3):
        script.durable(EventType.AGENT_THINKING, 0)
    script.ledger.attached(ns(10), reader=True, after_seq=2)
    assert [(lost.link, lost.seq) for lost in script.overdue(60_000)] == [(Link.SOCKET, 3)]


def test_replays_to_two_sockets_at_once_are_one_each_and_acked_when_all_of_it_is() -> None:
    """However their writes alternate; an ack of a first part does not stand for what is replayed after it."""
    script = LedgerScript()
    for _ in range(4):
        script.durable(EventType.AGENT_THINKING, 0)
    first, second = script.attached(10), script.attached(10)
    for seq in range(1, 5):
        script.ledger.replayed(first, seq, seq, ns(10), ns(11))
        script.ledger.replayed(second, seq, seq, ns(10), ns(11))
        if seq == 2:
            script.acknowledged(first, 2, 12)
    assert [(replay.socket, replay.last_seq, replay.acked_ns) for replay in script.ledger.replays] == [
        (first, 4, 0),
        (second, 4, 0),
    ]


async def test_an_ack_past_the_ledgers_end_keeps_no_run_from_being_settled(tmp_path: Path) -> None:
    """A run whose chain broke is closed in the log alone, and its client acks that event too."""
    async with chain_of(tmp_path) as chain:
        watch: Watch = chain.server.telemetry.watch
        broken = watch.open(identity_of("broken"), [], now=ns(0), unix_ns=1)
        socket = broken.attached(acking=True)
        broken.ledger.committed(broken.ledger.sequenced(broken.ledger.emitted(EventType.AGENT_STARTED, 1), 2), 3)
        broken.ended(Outcome.WORKER_LOST)
        broken.ledger.replayed(socket, 1, 2, 4, 5)
        assert broken.acknowledged(socket, 2) == 1
        async with chain.client("alice") as client:
            run = await client.start_run("go", agent="five")
            assert len([envelope async for envelope in run]) == 5
            assert len((await chain.trace(run.run_id)).spans) > 1


# The Python client.


async def test_the_same_request_again_gives_the_ended_run_again(tmp_path: Path) -> None:
    """On the same connection too, from its first event, at once after its end."""
    async with chain_of(tmp_path) as chain, chain.client("alice") as client:
        for _ in range(2):
            run = await client.start_run("go", agent="five", request_id="again")
            assert [envelope.seq async for envelope in run] == [1, 2, 3, 4, 5]
            assert run.receipt_agrees


async def test_a_run_that_the_server_does_not_have_any_more_is_said_to_be_lost(tmp_path: Path) -> None:
    """After a reconnect its resume is not recovered: who iterates is told, and does not wait for ever."""
    async with chain_of(tmp_path) as chain, Client(chain.server.ws_url, chain.token("alice")) as client:
        lost = client._runs["gone"] = ClientRun(client._send, "gone", "request", "thread")
        _cut(chain)
        with pytest.raises(RequestRejectedError) as raised:
            await anext(lost)
        assert raised.value.code == "unknown_run"


async def test_a_run_of_which_the_server_has_less_than_its_client_is_said_to_be_lost(tmp_path: Path) -> None:
    """A log that was put back refuses the resume, and the error says so."""
    async with chain_of(tmp_path) as chain, Client(chain.server.ws_url, chain.token("alice")) as client:
        run = await client.start_run("go", agent="waits")
        assert [(await anext(run)).seq for _ in range(2)] == [1, 2]
        run.last_seq = 99
        _cut(chain)
        with pytest.raises(RequestRejectedError) as raised:
            await anext(run)
        assert raised.value.code == "ack_ahead"


async def test_who_waits_for_a_run_is_told_that_the_client_was_closed(tmp_path: Path) -> None:
    """The iteration ends with an error: the run has not."""
    async with chain_of(tmp_path) as chain:
        client = await chain.client("alice").__aenter__()
        run = await client.start_run("go", agent="waits")
        assert [(await anext(run)).seq for _ in range(2)] == [1, 2]
        waiting = asyncio.ensure_future(anext(run))
        await client.close()
        with pytest.raises(ConnectionFailedError, match="closed"):
            await waiting


async def test_a_connection_that_was_ready_starts_its_backoff_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost twenty times, it comes back as soon as after the first: the waits do not add up over its life."""
    monkeypatch.setattr("tracewire.client_connection.BACKOFF_SECONDS_MIN", 0.0005)
    monkeypatch.setattr("tracewire.client_connection.BACKOFF_SECONDS_MAX", 3600.0)
    async with chain_of(tmp_path) as chain, Client(chain.server.ws_url, chain.token("alice")) as client:
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(20):
                lost = client.ready
                _cut(chain)
                await _until(lambda lost=lost: client.ready is not lost)


async def test_an_ack_that_the_connection_took_with_it_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ack of an ended run is not forgotten: the next connection resumes it, which counts as one."""
    async with chain_of(tmp_path) as chain, Client(chain.server.ws_url, chain.token("alice")) as client:
        first = client._connection.socket
        assert first is not None
        send = first.send

        async def cut_at_ack(data: bytes, *, text: bool) -> None:
            if b'"ack"' in data:
                first.transport.abort()
                raise ConnectionClosedError(None, None)
            await send(data, text=text)

        monkeypatch.setattr(first, "send", cut_at_ack)
        run = await client.start_run("go", agent="five")
        assert len([envelope async for envelope in run]) == 5
        await _until(lambda: client._connection.socket is not first and client._connection.is_ready.is_set())
        after = await client.start_run("go", agent="five")
        assert len([envelope async for envelope in after]) == 5
        summary = await chain.server.log.run(run.run_id)
    assert summary is not None
    assert (summary.acked_seq, summary.last_seq) == (5, 5)
