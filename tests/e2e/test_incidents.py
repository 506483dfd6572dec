"""Missing events on a real server: each is noticed, named at the link that lost it, and nobody else is."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.agents import known_agents
from support.faults import withheld_write
from support.incident_clients import AT_THE_ENGINE, WITHIN_SECONDS, incidents, running, until
from support.losses import Losses, loser, loses
from support.servers import FIVE, ServerProcess, ServerUnderTest, server_under_test
from support.wire import TERMINAL_NAMES, Wire, wire_to
from tracewire.engine.agent import spec_of
from tracewire_telemetry.vocabulary import LINKS

DEADLINES: Final = {
    "start_deadline_seconds": 2,
    "tool_deadline_seconds": 1,
    "idle_deadline_seconds": 2,
    "bridge_deadline_seconds": 1,
    "emitter_deadline_seconds": 1.5,
    "outbox_age_seconds": 1,
    "socket_deadline_seconds": 2,
    "client_deadline_seconds": 2,
    "silence_deadline_seconds": 1.5,
}


async def series(server: ServerUnderTest) -> dict[tuple[str, ...], float]:
    """The series of one scrape: name, and the values of the labels in the order of their names."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{server.server.ops_url}/metrics")).text
    return {
        (sample.name.removeprefix("tracewire_"), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_each_type_that_is_lost_at_any_link_is_named_there_and_nobody_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 users who lose one of five types at one of five links, each the first event of that user's first run, and
    five clean ones, all together: one incident each of the 25. What was only held up heals when it is let go.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            server_under_test(tmp_path / "data", agents=[spec_of(loses)], **DEADLINES)
        )
        losses = Losses(monkeypatch)
        stack.callback(losses.held.set)
        cases = [(link.value, event_type) for link in LINKS for event_type in FIVE]
        wires: dict[str, tuple[Wire, str]] = {}
        for link, event_type in cases:
            but = event_type if link == "client" else ""
            user_id = loser(link, event_type)
            wires[user_id] = await stack.enter_async_context(running(server, user_id, but=but))
        for number in range(5):
            await stack.enter_async_context(running(server, f"clean-{number}"))
        found = await until(server, len(cases))
        named = {(one["user_id"], one["link"], one["type"]) for one in found}
        expected = {
            (loser(link, event_type), link, AT_THE_ENGINE[event_type] if link == "engine" else event_type)
            for link, event_type in cases
        }
        assert expected == named
        assert len(cases) == len(found)
        shown = {labels[1:4] for labels in await series(server) if labels[0] == "user_events_missing"}
        assert {(kind, link, user) for user, link, kind in expected} == shown
        for (link, event_type), user_id in zip(cases, wires, strict=True):
            wire, run_id = wires[user_id]
            arrived = event_type in [event["type"] for event in wire.events(run_id)]
            assert (link == "client") == arrived, user_id

        losses.held.set()
        held = [loser(link, event_type) for link, event_type in cases if link in ("bridge", "emitter")]
        held += [loser("engine", "agent_started"), loser("engine", "tool_completed")]
        async with asyncio.timeout(WITHIN_SECONDS):
            while {one["user_id"] for one in await incidents(server, state="healed")} != set(held):
                await asyncio.sleep(0)
        assert all(one["late_seconds"] > 0 for one in await incidents(server, state="healed"))
        assert len(cases) == len(await incidents(server))


async def test_a_client_that_lacks_an_event_is_told_to_come_back_and_its_resume_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server took the terminal event for written: at the client's deadline the socket is closed with 4003."""
    async with server_under_test(tmp_path / "data", agents=known_agents(), **DEADLINES) as server:
        token = server.token("ada")
        with monkeypatch.context() as patch:
            withheld_write("agent_completed")(patch, server.server)
            async with wire_to(server.server.ws_url, token) as wire:
                run_id = await wire.start_run("go", agent="five")
                await wire.receive_type("tool_completed")
                await wire.ack(run_id, 4)
                assert (await wire.closed())[0] == 4003
                assert not [event for event in wire.events(run_id) if event["type"] in TERMINAL_NAMES]
        [opened] = await until(server, 1)
        assert (opened["state"], opened["link"], opened["type"], opened["first_seq"], opened["count"]) == (
            "open", "client", "agent_completed", 5, 1,
        )  # fmt: skip
        async with wire_to(server.server.ws_url, token) as wire:
            await wire.send("resume", runs={run_id: 4})
            await wire.receive_type("agent_completed")
            await wire.ack(run_id, 5)
            [healed] = await until(server, 1, state="healed")
        assert (opened["incident_id"], opened["since"]) == (healed["incident_id"], healed["since"])
        assert healed["late_seconds"] > 0
        assert (await series(server))["events_healed_total", "client"] == 1
        trace = await server.trace(run_id)
        assert (trace.root.attributes["tracewire.chain.complete"], trace.root.attributes["tracewire.keep.reason"]) == (
            False,
            "incident",
        )


async def test_a_client_that_is_dead_misses_nothing_and_its_events_are_pending(tmp_path: Path) -> None:
    """Its process stands still: no pong comes, its socket is let go, and no incident is opened."""
    async with server_under_test(tmp_path / "data", agents=known_agents(), **DEADLINES) as server:
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            run_id = await wire.start_run("go", agent="waits")
            await wire.receive_type("agent_thinking")
            await wire.ack(run_id, 1)
            wire.socket.transport.pause_reading()
            connections = server.server.connections
            async with asyncio.timeout(WITHIN_SECONDS):
                while connections.count:
                    await asyncio.sleep(0)
            assert server.server.telemetry.watch.runs[run_id].ledger.pending == 1
            wire.cut()
        # The run itself is silent too long: that is the engine's, and true.
        assert {one["link"] for one in await incidents(server)} <= {"engine"}


async def test_a_count_that_differs_is_an_incident_at_the_client(tmp_path: Path) -> None:
    """It heals by a count that is right; the run is not settled before."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as server:
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            run_id = await wire.start_run("go", agent="five")
            await wire.receive_run(run_id)
            await wire.send("ack", run_id=run_id, seq=5, count=4)
            [opened] = await until(server, 1, state="open")
            assert (opened["link"], opened["type"], opened["first_seq"]) == ("client", "agent_completed", 5)
            await wire.ack(run_id, 5)
            [healed] = await until(server, 1, state="healed")
        assert opened["incident_id"] == healed["incident_id"]


async def test_a_user_sees_their_own_incidents_alone(tmp_path: Path) -> None:
    """On the public port, by their token; there is no filter by user there, and a filter that is wrong is refused."""
    async with server_under_test(tmp_path / "data", agents=known_agents()) as server:
        for user_id in ("ada", "bob"):
            async with wire_to(server.server.ws_url, server.token(user_id)) as wire:
                run_id = await wire.start_run("go", agent="five")
                await wire.receive_run(run_id)
                await wire.send("ack", run_id=run_id, seq=5, count=4)
        await until(server, 2)
        headers = {"Authorization": f"Bearer {server.token('ada')}"}
        async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
            own = (await http.get("/incidents")).json()
            assert [one["user_id"] for one in own["incidents"]] == ["ada"]
            assert own["next"] is None
            for query in ("user=bob", "link=wire", "type=agent_lost", "state=closed", "since=yesterday", "limit=0"):
                refused = await http.get(f"/incidents?{query}")
                assert (refused.status_code, refused.json()["code"]) == (400, "malformed"), query
            for moment, count in (("0001-01-01T00:00:00Z", 1), ("2999-01-01T00:00:00Z", 0)):
                page = await http.get(f"/incidents?since={moment}")
                assert (200, count) == (page.status_code, len(page.json()["incidents"])), "beyond what the log counts"
            assert (await http.get("/incidents", headers={"Authorization": ""})).status_code == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_open_incident_is_there_again_after_a_restart_and_heals_by_the_clients_ack(
    tmp_path: Path, number: signal.Signals
) -> None:
    """With its id and its first `since`, whether the server was stopped or killed."""
    environ = {
        "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1",
        "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1",
        "TRACEWIRE_HEAL_DEADLINE_SECONDS": "60",
    }
    data = tmp_path / "data"
    with ServerProcess(data, environ=environ) as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            run_id = await wire.start_run("what is missing in the sample recording?")
            await wire.receive_run(run_id)
            await wire.ack(run_id, 1)
            assert (await wire.closed())[0] == 4003
            last_seq = wire.events(run_id)[-1]["seq"]
        opened = await one_incident(process, "open")
        process.stop(number)
    with ServerProcess(data, environ=environ) as process:
        again = await one_incident(process, "open")
        assert opened == again
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            await wire.send("resume", runs={run_id: 1})
            await wire.receive_where(lambda frame: frame.get("seq") == last_seq)
            await wire.ack(run_id, last_seq)
            healed = await one_incident(process, "healed")
        assert (opened["incident_id"], opened["since"]) == (healed["incident_id"], healed["since"])


async def one_incident(process: ServerProcess, state: str) -> dict[str, Any]:
    """The one incident of the server, once it is in this state."""
    async with asyncio.timeout(WITHIN_SECONDS), httpx.AsyncClient(base_url=process.ops_url) as http:
        while True:
            found = (await http.get("/incidents", params={"state": state})).json()["incidents"]
            if found:
                [one] = found
                return dict(one)
            await asyncio.sleep(0)


async def test_a_server_whose_loop_stands_still_for_two_seconds_blames_nobody(tmp_path: Path) -> None:
    """Runs are under way, their clients ack: what was late by the stall is no incident."""
    async with server_under_test(tmp_path / "data", agents=known_agents(), run_starts_per_minute_max=1_000) as server:
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            for number in range(6):
                run_id = await wire.start_run("go", agent="five")
                if number % 2:
                    began = time.monotonic()
                    while time.monotonic() - began < 2:  # with the loop's events lying in their queues
                        pass
                events = await wire.receive_run(run_id)
                await wire.ack(run_id, len(events))
        assert await incidents(server) == []
