"""What a client is told when its server goes, and what becomes of the last events."""

import asyncio
from pathlib import Path

import httpx
import pytest

from support.agents import known_agents
from support.servers import ServerUnderTest, server_under_test
from tracewire.client import Client, ConnectionFailedError, RequestRejectedError


async def test_a_start_after_the_connection_is_gone_for_good_fails_by_name(tmp_path: Path) -> None:
    """A client that does not reconnect says so, instead of waiting for ever."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as chain:
        client = await chain.client("alice").__aenter__()
    with pytest.raises(ConnectionFailedError, match="4000"):
        await client.start_run("hello", agent="five")
    await client.close()


async def test_a_run_that_the_drain_ends_is_acknowledged_to_its_end(tmp_path: Path) -> None:
    """The server waits for the acks of the last events before it closes the sockets: the chain is complete."""
    async with server_under_test(tmp_path / "data", agents=known_agents(), drain_grace_seconds=0) as chain:
        client = await chain.client("alice").__aenter__()
        run = await client.start_run("hello", agent="waits")
        assert "agent_started" == (await anext(run)).type
    received = [envelope.type.value async for envelope in run]
    await client.close()
    trace = await chain.trace(run.run_id)
    assert "agent_error" == received[-1]
    assert run.receipt_agrees
    assert (True, "worker_lost") == (
        trace.root.attributes.get("tracewire.chain.complete"),
        trace.root.attributes["tracewire.run.outcome"],
    )


async def test_a_run_that_was_started_elsewhere_is_acked_by_every_client_that_is_sent_it(tmp_path: Path) -> None:
    """A connected client acks what it is sent, although nobody there iterates over it: nothing counts as missing."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as chain, chain.client("alice") as client:
        own = await client.start_run("hello", agent="five")
        assert 5 == len([envelope async for envelope in own])
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {chain.token('alice')}"}) as http:
            started = await http.post(f"{chain.server.url}/runs", json={"input": "hello", "agent": "five"})
        trace = await chain.trace(started.json()["run_id"])
    assert trace.root.attributes["tracewire.chain.complete"] is True
    assert 5 == sum(span.name.startswith("settle ") for span in trace)


async def test_two_starts_of_one_request_id_at_once_give_one_run(chain: ServerUnderTest) -> None:
    """Both callers get the same run."""
    async with chain.client("alice") as client:
        first, second = await asyncio.gather(
            *(client.start_run("hello", agent="five", request_id="the-same") for _ in range(2))
        )
        assert first is second
        assert 5 == len([envelope async for envelope in first])


async def test_a_refusal_that_nobody_waits_for_is_told(tmp_path: Path) -> None:
    """Cancelling a run that has ended is refused, and the client's owner hears of it."""
    refused: asyncio.Queue[RequestRejectedError] = asyncio.Queue()
    async with server_under_test(tmp_path / "data", agents=known_agents()) as chain:
        client = Client(chain.server.ws_url, chain.token("alice"), on_rejected=refused.put_nowait)
        async with client:
            run = await client.start_run("hello", agent="five")
            assert 5 == len([envelope async for envelope in run])
            await run.cancel()
            async with asyncio.timeout(10):
                assert "run_ended" == (await refused.get()).code


async def test_a_start_that_another_client_made_is_given_whole_to_who_repeats_it(chain: ServerUnderTest) -> None:
    """A client that has only counted the run until then gets every event of it, from the first one on."""
    async with chain.client("alice") as first, chain.client("alice") as second:
        started = await first.start_run("hello", agent="waits", request_id="the-same")
        assert ["agent_started", "agent_thinking"] == [(await anext(started)).type.value for _ in range(2)]
        await _until_watched(second, started.run_id, last_seq=2)
        repeated = await second.start_run("hello", agent="waits", request_id="the-same")
        async with asyncio.timeout(10):
            assert [1, 2] == [(await anext(repeated)).seq for _ in range(2)]
            await repeated.cancel()
            assert ["agent_cancelled"] == [envelope.type.value async for envelope in repeated]
        assert repeated.receipt_agrees


async def _until_watched(client: Client, run_id: str, *, last_seq: int) -> None:
    async with asyncio.timeout(10):
        while run_id not in client._runs or client._runs[run_id].last_seq < last_seq:
            await asyncio.sleep(0)
