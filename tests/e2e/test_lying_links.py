"""Links that say they passed an event on and did not, and links that did and lost their stamp: told apart.

| who lies (stamps, reports success, passes nothing on) | link named | how it is noticed |
| --- | --- | --- |
| engine | bridge, the next | the bridge's deadline: it never gave the event its seq |
| bridge | emitter, the next | the emitter's deadline: the seq is not in the log |
| emitter | socket, the next | the next event finds a gap, or, behind the last one, the socket's deadline |
| socket | client, the next | the client's deadline: it is alive, and acks nothing from the gap on |
| client | client, itself | at once: the count that it sends with the ack is not the seq |

It is the next, since `link` is the first that has *not* taken the event, and a liar has the stamp of one that has.
Nobody comes after the client: one that lies about its count too is beyond what a server can know.

A stamp that was lost is shown to be just that by any stamp of a later link, an ack above all: no incident, no span of
that link, a null in the run's ledger, `tracewire.stamps.lost` on the root span, a log line and a metric. An ack that
was lost is covered by the next one; if it was the last, it is as if the client had not sent it, and heals when it
resumes. Where no later link can tell, as behind the socket of a reader that never acks, stamp and event are one.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import structlog.testing
from prometheus_client.parser import text_string_to_metric_families

from support.incident_clients import incidents, running, until
from support.lies import honest, lie, lose_stamps
from support.losses import loser as about
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import EVENT_NAMES, TERMINAL_NAMES, wire_to
from tracewire.engine.agent import spec_of
from tracewire_telemetry.vocabulary import LINKS

NAMED: Final = {"engine": "bridge", "bridge": "emitter", "emitter": "socket", "socket": "client", "client": "client"}
QUICK: Final = {
    "bridge_deadline_seconds": 1,
    "emitter_deadline_seconds": 1.5,
    "outbox_age_seconds": 1,
    "socket_deadline_seconds": 2,
    "client_deadline_seconds": 2,
    "silence_deadline_seconds": 1.5,
    "idle_deadline_seconds": 60,
    "heal_deadline_seconds": 60,
}


@contextlib.asynccontextmanager
async def miscounting(server: ServerUnderTest, user_id: str, event_type: str) -> AsyncIterator[None]:
    """A run whose client says of one event that it processed it, and has not counted it."""
    async with wire_to(server.server.ws_url, server.token(user_id)) as wire:
        run_id = await wire.start_run("go", agent="honest")
        short = 0
        while True:
            event = await wire.receive_type(*EVENT_NAMES)
            short |= event["type"] == event_type
            await wire.send("ack", run_id=run_id, seq=event["seq"], count=event["seq"] - short)
            if event["type"] in TERMINAL_NAMES:
                break
        yield


async def test_a_link_that_lies_is_noticed_and_it_or_the_next_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of five links about each of five types, and five honest users: an incident for each lie, as in the table."""
    cases = {about(link.value, event_type): (link.value, event_type) for link in LINKS for event_type in FIVE}
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            server_under_test(tmp_path / "data", agents=[spec_of(honest)], **QUICK)
        )
        lie(monkeypatch)
        for user_id, (link, event_type) in cases.items():
            client = (
                miscounting(server, user_id, event_type)
                if link == "client"
                else running(server, user_id, agent="honest")
            )
            await stack.enter_async_context(client)
        for number in range(5):
            await stack.enter_async_context(running(server, f"honest-{number}", agent="honest"))
        found = await until(server, len(cases))
        named = {one["user_id"]: (one["link"], one["type"]) for one in found}
        assert {user_id: (NAMED[link], event_type) for user_id, (link, event_type) in cases.items()} == named
        assert len(cases) == len(found)


async def test_a_stamp_that_was_lost_is_told_apart_from_an_event_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stamp of one run each, at five links and of five types, while later links have theirs: every event is in
    time, the chain is whole, and what is said is that a stamp is lost, and where.
    """
    cases = {about(link.value, event_type): (link.value, event_type) for link in LINKS for event_type in FIVE}
    last_ack = about("client", "agent_completed")
    with structlog.testing.capture_logs() as logged:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                server_under_test(tmp_path / "data", agents=[spec_of(honest)], **QUICK)
            )
            lose_stamps(monkeypatch)
            runs = {
                user_id: (await stack.enter_async_context(running(server, user_id, agent="honest")))[1]
                for user_id in cases
                if user_id != last_ack
            }
            traces = {user_id: await server.trace(run_id) for user_id, run_id in runs.items()}
            rows = {user_id: await ledger_rows(server, run_id) for user_id, run_id in runs.items()}
            lost_stamps = await stamps_lost(server)
            assert await incidents(server) == []

            client = await stack.enter_async_context(running(server, last_ack, agent="honest"))
            [opened] = await until(server, 1)
            assert ("client", "agent_completed") == (opened["link"], opened["type"])
            assert (await client[0].closed())[0] == 4003
            monkeypatch.undo()
            async with wire_to(server.server.ws_url, server.token(last_ack)) as wire:
                await wire.send("resume", runs={client[1]: 5})
                await until(server, 1, state="healed")
    for user_id, run_id in runs.items():
        link, event_type = cases[user_id]
        seq = FIVE.index(event_type) + 1
        unstamped = {(row["seq"], name.value) for row in rows[user_id] for name in LINKS if row[name.value] is None}
        assert ({(seq, link)} if link != "client" else set()) == unstamped, user_id
        assert {row["verdict"] for row in rows[user_id]} == {"in_time"}, user_id
        root = traces[user_id].root.attributes
        assert root["tracewire.chain.complete"] is True
        assert root.get("tracewire.stamps.lost", 0) == len(unstamped)
        assert "tracewire.keep.reason" not in root, user_id
        spans = {(span.attributes["tracewire.event.seq"], span.attributes["tracewire.link"]) for span in traces[user_id]
                 if "tracewire.event.seq" in span.attributes}  # fmt: skip
        whole = {(number, name.value) for number in range(1, 6) for name in LINKS if name.value != "engine"}
        assert whole - unstamped == spans, user_id
        said = [line["links"] for line in logged if line["event"] == "stamps_lost" and line["run_id"] == run_id]
        assert said == ([{link: 1}] if unstamped else []), user_id
    assert {link.value: 5.0 for link in LINKS if link.value != "client"} == lost_stamps


async def ledger_rows(server: ServerUnderTest, run_id: str) -> list[dict[str, Any]]:
    """The run's ledger, an event a row."""
    async with httpx.AsyncClient(base_url=server.server.ops_url) as http:
        rows: list[dict[str, Any]] = (await http.get(f"/runs/{run_id}/ledger")).raise_for_status().json()["events"]
    return rows


async def stamps_lost(server: ServerUnderTest) -> dict[str, float]:
    """What is counted as lost, by link."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{server.server.ops_url}/metrics")).text
    return {
        sample.labels["link"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tracewire_stamps_lost_total"
    }
