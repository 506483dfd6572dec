"""What has expired is said, and never a part of it is given: over sockets, over HTTP, to the Python client, and to who
was in the middle of reading it.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.event_source import ACCEPT, event_source
from support.servers import ServerUnderTest, server_under_test
from support.wire import Wire, wire_to
from tracewire.client import Client, RequestRejectedError
from tracewire.engine.agent import AgentSpec
from tracewire.runs.retention import NANOSECONDS_PER_HOUR
from tracewire_telemetry.vocabulary import TERMINAL_TYPES

KEPT = 100
EVENTS = 142
"""Of a run of `thinks`: 140 thoughts between its first event and its last."""
FIRST_KEPT = EVENTS - KEPT + 1
LARGE = (600, 60_000)
FIRST_LEFT = 503
"""Of a run of so many large events, which no socket's buffers hold, where its log begins once it was cut."""
SECONDS = 60
ALL = 2**62


async def thinks(ctx: Any) -> str:
    """As many thoughts as the input says, of so many characters."""
    thoughts, characters = ctx.input
    for number in range(thoughts):
        await ctx.thinking(f"{number} ".ljust(characters, "x"))
    return "done"


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    async with server_under_test(
        tmp_path / "data",
        agents=[AgentSpec("thinks", thinks)],
        run_events_max=KEPT,
        retention_sweep_seconds=3600,
        outbox_bytes_max=2**30,
        outbox_age_seconds=60,
        socket_deadline_seconds=90,
    ) as started:
        yield started


async def ended_run(chain: ServerUnderTest, thoughts: int = EVENTS - 2, characters: int = 10, **fields: Any) -> str:
    """A run of alice's that has ended, read by nobody."""
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        run_id = await wire.start_run([thoughts, characters], agent="thinks", **fields)
        await wire.receive_where(lambda frame: frame["type"] == "agent_completed")
    return run_id


async def sweep(chain: ServerUnderTest) -> None:
    await chain.server._retention.sweep()


async def remove(chain: ServerUnderTest, run_id: str) -> None:
    assert 1 == (await chain.server.log.remove([run_id], events_max=ALL, bytes_max=ALL)).runs


async def resumed(wire: Wire, run_id: str, last_seq: int) -> dict[str, Any]:
    await wire.send("resume", runs={run_id: last_seq})
    return await wire.receive_type("resumed")


# --- over a socket --------------------------------------------------------------------------------------------------


async def test_a_resume_before_the_window_is_told_where_the_log_begins(chain: ServerUnderTest) -> None:
    """`expired`, and nothing of the run follows; from where the log begins, and from behind it, it is all there."""
    run_id = await ended_run(chain)
    await sweep(chain)
    answer = {
        "type": "resumed",
        "run_id": run_id,
        "recovered": False,
        "state": "completed",
        "from_seq": FIRST_KEPT,
        "last_seq": EVENTS,
        "reason": "expired",
    }
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        for last_seq in (0, FIRST_KEPT - 2):
            assert answer == await resumed(wire, run_id, last_seq)
        assert (await resumed(wire, run_id, EVENTS))["recovered"]
        assert [] == wire.events(run_id)
        assert (await resumed(wire, run_id, FIRST_KEPT - 1))["recovered"]
        events = await wire.receive_run(run_id)
    assert list(range(FIRST_KEPT, EVENTS + 1)) == [event["seq"] for event in events]
    assert 'tracewire_resumes_total{outcome="expired"} 2.0' in chain.server.telemetry.metrics.exposition()[0].decode()


async def test_a_client_without_a_memory_finds_the_run_and_hears_that_it_has_expired(chain: ServerUnderTest) -> None:
    """`ready` lists what was not acked although its beginning is gone: left out, its loss would be silent."""
    run_id = await ended_run(chain)
    await sweep(chain)
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        [listed] = wire.frames[0]["runs"]
        assert (run_id, EVENTS, 0) == (listed["run_id"], listed["last_seq"], listed["acked_seq"])
        answer = await resumed(wire, run_id, listed["acked_seq"])
        assert ("expired", FIRST_KEPT) == (answer["reason"], answer["from_seq"])
        await resumed(wire, run_id, answer["from_seq"] - 1)
        await wire.receive_run(run_id)
        await wire.ack(run_id, EVENTS)
        await wire.send("resume", runs={run_id: EVENTS})
        await wire.receive_type("resumed")
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        assert [] == wire.frames[0]["runs"]


async def test_a_run_that_is_gone_whole_is_unknown(chain: ServerUnderTest) -> None:
    """As another user's is; and `ready` lists it no more."""
    run_id = await ended_run(chain)
    await remove(chain, run_id)
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        assert [] == wire.frames[0]["runs"]
        answer = await resumed(wire, run_id, 0)
    assert (False, "unknown_run", None) == (answer["recovered"], answer["reason"], answer["state"])


async def test_the_same_request_again_is_the_same_run_whose_beginning_has_expired(chain: ServerUnderTest) -> None:
    """Accepted, then `expired`: who repeats a request is not left to wait for events that do not come."""
    run_id = await ended_run(chain, request_id="request")
    await sweep(chain)
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        assert run_id == await wire.start_run([EVENTS - 2, 10], agent="thinks", request_id="request")
        answer = await wire.receive_type("resumed")
        assert ("expired", FIRST_KEPT) == (answer["reason"], answer["from_seq"])
        assert [] == wire.events(run_id)


@pytest.mark.parametrize("whole", [False, True], ids=["window", "whole run"])
async def test_a_reader_who_is_overtaken_is_not_led_past_the_gap(chain: ServerUnderTest, whole: bool) -> None:
    """What it has is whole up to where it is; then 4003, and the honest answer when it resumes from there."""
    run_id = await ended_run(chain, *LARGE)
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        assert (await resumed(wire, run_id, 0))["recovered"]
        await wire.receive_type("agent_started")
        if whole:
            await remove(chain, run_id)
        else:
            await chain.server.log.trim(run_id, FIRST_LEFT, b"{}")
        assert (4003, "resync") == await wire.closed()
        seqs = [event["seq"] for event in wire.events(run_id)]
    assert list(range(1, len(seqs) + 1)) == seqs
    assert len(seqs) < FIRST_LEFT - 1
    async with wire_to(chain.server.ws_url, chain.token("alice")) as wire:
        answer = await resumed(wire, run_id, len(seqs))
    expected = ("unknown_run", 0) if whole else ("expired", FIRST_LEFT)
    assert expected == (answer["reason"], answer["from_seq"])


async def test_clients_that_resume_while_the_window_moves_get_all_or_the_honest_answer(chain: ServerUnderTest) -> None:
    """Six cut themselves off and resume further back while the beginning expires under them: no gap, no repeat, no
    wait, and each has the run's end.
    """
    swept, answers, closes = asyncio.Event(), Counter[str](), set[int | None]()

    async def sweep_on() -> None:
        while not swept.is_set():
            await sweep(chain)
            await asyncio.sleep(0)

    async def reader(rng: random.Random) -> None:
        last_seq = 0
        while True:
            try:
                async with wire_to(chain.server.ws_url, chain.token("bob")) as wire:
                    answer = await resumed(wire, run_id, last_seq)
                    answers[answer.get("reason", "recovered")] += 1
                    assert answer["recovered"] or last_seq + 1 < answer["from_seq"]
                    if not answer["recovered"]:
                        last_seq = answer["from_seq"] - 1
                        continue
                    for _ in range(rng.randint(1, 400)):
                        event = await wire.receive_where(lambda frame: frame.get("run_id") == run_id)
                        assert last_seq + 1 == event["seq"]
                        last_seq += 1
                        if event["type"] in TERMINAL_TYPES:
                            return
                    last_seq = max(0, last_seq - rng.randint(0, 2 * KEPT))
            except ConnectionClosed:
                closes.add(wire.socket.close_code)

    async with wire_to(chain.server.ws_url, chain.token("bob")) as wire:
        run_id = await wire.start_run([2000, 1000], agent="thinks")
        sweeper = asyncio.create_task(sweep_on())
        try:
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*(reader(random.Random(seed)) for seed in range(6)))
        finally:
            swept.set()
            await sweeper
    assert {"recovered", "expired"} == set(answers)
    assert {4003} >= closes


# --- over HTTP ------------------------------------------------------------------------------------------------------


async def test_http_answers_gone_with_where_the_log_begins(chain: ServerUnderTest) -> None:
    """410, a problem document with the wire's word for it; the same for a stream, which an `EventSource` ends at."""
    run_id = await ended_run(chain)
    await sweep(chain)
    headers = {"Authorization": f"Bearer {chain.token('alice')}"}
    async with httpx.AsyncClient(base_url=chain.server.url, headers=headers) as http:
        for more in ({}, ACCEPT, ACCEPT | {"Last-Event-ID": "5"}):
            refused = await http.get(f"/runs/{run_id}/events", headers=more)
            problem = refused.json()
            assert (410, "application/problem+json") == (refused.status_code, refused.headers["content-type"])
            assert ("expired", 410) == (problem["code"], problem["status"])
            assert f"begins at seq {FIRST_KEPT}; ask after {FIRST_KEPT - 1}" in problem["detail"]
        page = (await http.get(f"/runs/{run_id}/events", params={"after": FIRST_KEPT - 1})).json()
        assert list(range(FIRST_KEPT, EVENTS + 1)) == [event["seq"] for event in page["events"]]
        await remove(chain, run_id)
        assert 404 == (await http.get(f"/runs/{run_id}/events")).status_code


async def test_a_stream_that_is_overtaken_ends_and_says_so(chain: ServerUnderTest) -> None:
    """It ends with a comment; its reader comes back with `Last-Event-ID`, and is told."""
    run_id = await ended_run(chain, *LARGE)
    seqs = []
    async with event_source(chain.server.url, chain.token("alice"), run_id) as source:
        seqs.append(int((await source.event()).id))
        await chain.server.log.trim(run_id, FIRST_LEFT, b"{}")
        while event := await source.event():
            seqs.append(int(event.id))
        assert "closed resync" in source.comments
    assert list(range(1, len(seqs) + 1)) == seqs
    headers = {"Authorization": f"Bearer {chain.token('alice')}", "Last-Event-ID": str(seqs[-1])} | ACCEPT
    async with httpx.AsyncClient(base_url=chain.server.url, headers=headers) as http:
        assert "expired" == json.loads((await http.get(f"/runs/{run_id}/events")).content)["code"]


# --- to the official client -----------------------------------------------------------------------------------------


async def test_the_python_client_tells_its_caller(chain: ServerUnderTest) -> None:
    """Who waits for events that have expired gets an error with that code, and does not wait for ever."""
    await ended_run(chain, request_id="request")
    await sweep(chain)
    async with asyncio.timeout(SECONDS), Client(chain.server.ws_url, chain.token("alice")) as client:
        run = await client.start_run([EVENTS - 2, 10], agent="thinks", request_id="request")
        with pytest.raises(RequestRejectedError) as told:
            await anext(run)
    assert "expired" == told.value.code


# --- by itself ------------------------------------------------------------------------------------------------------


async def test_a_server_sweeps_by_itself(tmp_path: Path) -> None:
    """In the background, by its settings: a run of long ago is gone a moment later, and that is logged and counted."""
    async with server_under_test(
        tmp_path / "data", agents=[AgentSpec("thinks", thinks)], retention_sweep_seconds=0.05, client_deadline_seconds=1
    ) as chain:
        run_id = await ended_run(chain, 3)
        chain.server._retention._unix_ns = lambda: time.time_ns() + 25 * NANOSECONDS_PER_HOUR
        async with asyncio.timeout(SECONDS):
            while await chain.server.log.run(run_id) is not None:
                await asyncio.sleep(0)
