"""What a client is told when its server goes, and what becomes of the last events."""

from pathlib import Path

import pytest

from support.agents import known_agents
from support.servers import server_under_test
from tracewire.client import ConnectionFailedError


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
