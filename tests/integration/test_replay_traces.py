"""What traces show of a replay: under the run's root while the run is unsettled, a trace of its own after that."""

import asyncio
from pathlib import Path

import httpx
import pytest

from support.agents import known_agents
from support.servers import ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.spans import RecordedTrace


async def settled_run(chain: ServerUnderTest) -> RecordedTrace:
    """The trace of a run that is settled: Ada's client had it all."""
    async with chain.client("ada") as client:
        run = await client.start_run("go", agent="five")
        assert 5 == len([envelope async for envelope in run])
        return await chain.trace(run.run_id)


async def replays(chain: ServerUnderTest, run_id: str, count: int) -> list[RecordedTrace]:
    """The traces of this many replays, once they are exported."""

    def enough(_: object) -> list[RecordedTrace] | None:
        found = chain.recorder.replays_of_run(run_id)
        return found if len(found) >= count else None

    found = await asyncio.to_thread(chain.recorder.wait_until, enough)
    assert found is not None
    return found


@pytest.mark.parametrize("after", [0, 2])
async def test_a_replay_of_a_settled_run_is_a_trace_that_links_to_the_runs(chain: ServerUnderTest, after: int) -> None:
    """One `send replay` with the range, and under it a `settle replay`, when the client has acked it all."""
    run = await settled_run(chain)
    run_id = str(run.root.attributes[Attribute.RUN_ID])
    async with wire_to(chain.server.ws_url, chain.token("ada")) as wire:
        await wire.send("resume", runs={run_id: after})
        assert 5 - after == len(await wire.receive_run(run_id))
        await wire.ack(run_id, 4)
        await wire.ack(run_id, 5)
        [replay] = await replays(chain, run_id, 1)
    assert [] == replay.problems()
    assert replay.complete
    send, settle = replay.spans
    assert [("send replay", "client", ""), ("settle replay", "client", send.span_id)] == [
        (span.name, span.kind, span.parent_id) for span in replay
    ]
    assert (((run.root.trace_id, run.root.span_id),), ()) == (send.links, settle.links)
    for span, link in ((send, "socket"), (settle, "client")):
        named = (Attribute.RUN_ID, Attribute.USER_ID, Attribute.EVENT_FIRST_SEQ, Attribute.EVENT_LAST_SEQ)
        assert [run_id, "ada", after + 1, 5] == [span.attributes[name] for name in named]
        assert (5 - after, link) == (span.attributes[Attribute.MESSAGING_BATCH_COUNT], span.attributes[Attribute.LINK])
    assert send.start_ns >= run.root.end_ns
    assert len(run) == len(chain.recorder.trace_of_run(run_id))


async def test_a_replay_that_nobody_acks_has_no_settle(chain: ServerUnderTest) -> None:
    """Neither where another resume takes its place, nor where the socket goes; each is exported once."""
    run_id = str((await settled_run(chain)).root.attributes[Attribute.RUN_ID])
    async with wire_to(chain.server.ws_url, chain.token("ada")) as wire:
        for after in (0, 3):
            await wire.send("resume", runs={run_id: after})
            await wire.receive_where(lambda frame: frame.get("seq") == 5)
    found = await replays(chain, run_id, 2)
    assert [["send replay"], ["send replay"]] == [[span.name for span in replay] for replay in found]
    assert [1, 4] == [replay.root.attributes[Attribute.EVENT_FIRST_SEQ] for replay in found]
    assert [True, True] == [replay.complete for replay in found]


async def test_a_stream_that_reads_a_settled_run_is_a_replay_without_settle(chain: ServerUnderTest) -> None:
    """Its reader cannot ack."""
    run_id = str((await settled_run(chain)).root.attributes[Attribute.RUN_ID])
    headers = {"Authorization": f"Bearer {chain.token('ada')}", "Accept": "text/event-stream", "Last-Event-ID": "1"}
    async with httpx.AsyncClient(headers=headers) as http:
        assert 200 == (await http.get(f"{chain.server.url}/runs/{run_id}/events")).status_code
    [replay] = await replays(chain, run_id, 1)
    attributes = replay.root.attributes
    assert (["send replay"], 2, 5) == (
        [span.name for span in replay],
        attributes[Attribute.EVENT_FIRST_SEQ],
        attributes[Attribute.EVENT_LAST_SEQ],
    )


async def test_a_replay_of_an_unsettled_run_is_in_the_runs_trace(tmp_path: Path) -> None:
    """The run goes on, and its own root has the pair; there is no other trace."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as chain:
        async with wire_to(chain.server.ws_url, chain.token("ada")) as first:
            run_id = await first.start_run("go", agent="waits")
            await first.receive_type("agent_thinking")
            async with wire_to(chain.server.ws_url, chain.token("ada")) as second:
                await second.send("resume", runs={run_id: 0})
                await second.receive_type("agent_thinking")
                await second.ack(run_id, 2)
                await second.send("cancel_run", run_id=run_id)
                assert 3 == len(await second.receive_run(run_id))
                await second.ack(run_id, 3)
                trace = await chain.trace(run_id)
        assert [] == chain.recorder.replays_of_run(run_id)
    [send] = trace.named("send replay")
    assert (trace.root.span_id, ["settle replay"]) == (send.parent_id, [span.name for span in trace.children(send)])
