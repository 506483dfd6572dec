"""A `start_run` that is repeated for a run that has ended, while a part of it is being read back."""

import asyncio
from collections.abc import Sequence

import pytest

from support.servers import ServerUnderTest
from support.wire import wire_to
from tracewire.eventlog import StoredEvent


async def test_a_repeated_start_gives_all_of_a_run_whose_end_is_being_read_back(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume after the second event has not caught up yet: who starts the run again still gets it from the first."""
    async with chain.client("ada") as client:
        run = await client.start_run("go", agent="five", request_id="again")
        assert 5 == len([envelope async for envelope in run])
    await chain.trace(run.run_id)
    read, answered = chain.server.log.replay, asyncio.Event()

    async def replay(run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        if after_seq:
            await answered.wait()
        return await read(run_id, after_seq, limit=limit)

    monkeypatch.setattr(chain.server.log, "replay", replay)
    async with wire_to(chain.server.ws_url, chain.token("ada")) as wire:
        await wire.send("resume", runs={run.run_id: 2})
        await wire.send("start_run", request_id="again", agent="five", input="go")
        await wire.receive_type("run_accepted")
        answered.set()
        assert [1, 2, 3, 4, 5] == [event["seq"] for event in await wire.receive_run(run.run_id)]
