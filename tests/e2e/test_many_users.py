"""Fifty users with four runs each at once: everybody gets all of their own, and nobody anything of another's."""

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import httpx

from support.agents import known_agents
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import Wire, contract_problems, wire_to
from tracewire.timeline import settled_ledger
from tracewire_telemetry.testing import assert_chain

USERS = 50
RUNS = 4


class Person:
    """One user with a mark that occurs nowhere else: in the user's id, and in every input."""

    def __init__(self, number: int) -> None:
        self.mark = uuid.uuid4().hex
        self.user_id = f"user-{number}-{self.mark}"
        self.inputs = [f"input {run} of {self.mark}" for run in range(RUNS)]
        self.raw: list[str] = []
        self.run_ids: list[str] = []

    async def go(self, server: ServerUnderTest, all_ready: asyncio.Barrier) -> None:
        """Connect, wait for the others, start every run at once, and receive and ack all of them to their end."""
        async with wire_to(server.server.ws_url, server.token(self.user_id)) as wire:
            await all_ready.wait()
            for text in self.inputs:
                await wire.send("start_run", request_id=text, input=text, agent="five")
            await self._receive_all(wire)
            for run_id in self.run_ids:
                events = wire.events(run_id)
                assert contract_problems(events) == []
                assert [event["type"] for event in events] == list(FIVE)
                await wire.ack(run_id, len(events))
            for run_id in self.run_ids:
                await server.trace(run_id)
            await all_ready.wait()
            # Whatever came astray would have come before the answer to this.
            await wire.send("ack", run_id="no run of mine", seq=1)
            await wire.receive_type("rejected")
            self.raw = wire.raw
            self._check_own(wire)

    async def _receive_all(self, wire: Wire) -> None:
        ended = 0
        while ended < RUNS:
            ended += (await wire.receive())["type"] == "agent_completed"
        self.run_ids = [frame["run_id"] for frame in wire.frames if frame["type"] == "run_accepted"]

    def _check_own(self, wire: Wire) -> None:
        """Each run shows this user's own input and id, and the socket carried nothing but these runs."""
        by_request = {frame["request_id"]: frame for frame in wire.frames if frame["type"] == "run_accepted"}
        assert sorted(by_request) == sorted(self.inputs)
        for text, accepted in by_request.items():
            started, thinking, executing, completed, ended = wire.events(accepted["run_id"])
            assert started["data"]["message"] == "five started"
            assert thinking["data"]["text"] == f"for {self.user_id}"
            assert executing["data"]["arguments"] == {"for": self.user_id, "input": text}
            assert completed["data"]["result"] == f"seen by {self.user_id}"
            assert ended["data"]["output"] == f"answer for {self.user_id}: {text}"
        kinds = Counter(frame["type"] for frame in wire.frames)
        assert kinds == {"ready": 1, "run_accepted": RUNS, "rejected": 1} | dict.fromkeys(FIVE, RUNS)


async def test_everybody_gets_all_of_their_own_and_nothing_of_anothers(tmp_path: Path) -> None:
    """Contents are searched, not only ids; every receipt agrees, every ledger is settled, every trace is whole."""
    people = [Person(number) for number in range(USERS)]
    async with server_under_test(tmp_path / "data", agents=known_agents(), heartbeat_seconds=300) as server:
        all_ready = asyncio.Barrier(USERS)
        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(person.go(server, all_ready))
        run_ids = [run_id for person in people for run_id in person.run_ids]
        assert len(set(run_ids)) == USERS * RUNS
        await check_ledgers(server, people)
        check_traces(server, people)
    strangers = {
        (reader.user_id, writer.user_id)
        for reader in people
        for writer in people
        if reader is not writer
        for needle in (writer.mark, *writer.run_ids)
        if any(needle in raw for raw in reader.raw)
    }
    assert strangers == set()
    assert all(any(person.mark in raw for raw in person.raw) for person in people)


async def check_ledgers(server: ServerUnderTest, people: list[Person]) -> None:
    """Each run's ledger is settled and whole, and names its user."""
    async with httpx.AsyncClient(base_url=server.server.ops_url) as http:
        for person in people:
            for run_id in person.run_ids:
                ledger = await settled_ledger(http, run_id)
                assert ledger is not None
                assert ledger["user_id"] == person.user_id
                assert (ledger["settled"], ledger["chain_complete"], ledger["pending"]) == (True, True, 0)
                assert ledger["missing"] == ledger["waiting"] == []
                assert [row["verdict"] for row in ledger["events"]] == ["in_time"] * len(FIVE)
    assert server.server.telemetry.watch.events_open == 0


def check_traces(server: ServerUnderTest, people: list[Person]) -> None:
    """Each run's trace holds its five events' spans, all of them this user's."""
    for person in people:
        for run_id in person.run_ids:
            trace = server.recorder.trace_of_run(run_id)
            assert_chain(trace, events=FIVE, user_id=person.user_id)
            assert len(trace) == 2 + 4 * len(FIVE)
