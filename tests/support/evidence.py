"""Three witnesses of many runs at once: what clients received, what the traces say, what the metrics counted.

A server process, real sockets, a real OTLP export.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from msgspec import Struct

from support.chain_checks import AGENT
from support.servers import ServerProcess
from support.wire import Frame, is_terminal, wire_to
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.runs import ClientRecord
from tracewire_telemetry.testing.spans import RecordedTrace
from tracewire_telemetry.testing.witnesses import Agreement, assert_witnesses_agree

USERS: Final = 200
RUNS: Final = 1_000
RUNS_PER_USER_MAX: Final = 8
TRACES_SECONDS: Final = 60.0
TESTS: Final = Path(__file__).parents[1]


class Evidence(Struct, frozen=True):
    """What the three have to say, and for how long all of it went on (seconds)."""

    clients: list[ClientRecord]
    traces: list[RecordedTrace]
    metrics_before: str
    metrics_after: str
    seconds: float
    users_at_once: int

    def agree(self) -> Agreement:
        """Hold them against each other."""
        return assert_witnesses_agree(
            self.clients, self.traces, metrics_before=self.metrics_before, metrics_after=self.metrics_after
        )


@asynccontextmanager
async def witnessed_server(folder: Path, **environ: str) -> AsyncIterator[tuple[ServerProcess, OtlpReceiver]]:
    """`tracewire serve` with the known agent, exporting to a receiver."""
    with OtlpReceiver() as receiver:
        variables = {
            **receiver.environment,
            "TRACEWIRE_DRAIN_GRACE_SECONDS": "0",
            "TRACEWIRE_RUNS_PER_USER_MAX": str(RUNS_PER_USER_MAX),
            "TRACEWIRE_HEARTBEAT_SECONDS": "300",
            **environ,
        }
        process = ServerProcess(folder / "data", "--agent", f"support.agents:{AGENT}", environ=variables, cwd=TESTS)
        await asyncio.to_thread(process.__enter__)
        try:
            yield process, receiver
        finally:
            await asyncio.to_thread(process.__exit__)


async def gather_evidence(process: ServerProcess, receiver: OtlpReceiver, *, users: int, runs: int) -> Evidence:
    """So many users, all connected before the first run, share the runs out; what the three witnesses then have."""
    begun = time.monotonic()
    shares = [runs // users + (number < runs % users) for number in range(users)]
    if max(shares) > RUNS_PER_USER_MAX:
        raise ValueError(f"{max(shares)} runs a user at once: at most {RUNS_PER_USER_MAX}")
    everybody = asyncio.Barrier(users)
    async with httpx.AsyncClient(base_url=process.ops_url, timeout=30) as ops:
        before = (await ops.get("/metrics")).text
        async with asyncio.TaskGroup() as group:
            people = [
                group.create_task(_person(process, f"user-{number:03}", share, everybody))
                for number, share in enumerate(shares)
            ]
        clients = [record for person in people for record in person.result()]
        traces = await asyncio.to_thread(_traces, receiver, clients)
        after = (await ops.get("/metrics")).text
    return Evidence(clients, traces, before, after, time.monotonic() - begun, users)


async def _person(process: ServerProcess, user_id: str, runs: int, everybody: asyncio.Barrier) -> list[ClientRecord]:
    """One user: connects, waits for the others, starts every run at once, receives and acks each to its end.

    The socket stays open until everybody is done, so that all of them are there at once.
    """
    async with wire_to(process.ws_url, process.token(user_id)) as wire:
        await everybody.wait()
        for number in range(runs):
            await wire.send("start_run", request_id=f"{user_id} {number}", input=f"ask {number}", agent=AGENT)
        run_ids: list[str] = []
        ended: set[str] = set()
        while len(ended) < runs:
            frame = await wire.receive()
            if frame["type"] == "run_accepted":
                run_ids.append(frame["run_id"])
            assert frame["type"] != "rejected", frame
            if any(is_terminal(frame, run_id) for run_id in run_ids):
                ended.add(frame["run_id"])
                await wire.ack(frame["run_id"], frame["seq"])
        await everybody.wait()
        # Whatever came astray, or twice, would have come before the answer to this.
        await wire.send("ack", run_id="no run of mine", seq=1)
        await wire.receive_type("rejected")
        return [ClientRecord(user_id, run_id, wire.events(run_id), _acked(wire.events(run_id))) for run_id in run_ids]


def _acked(events: list[Frame]) -> int:
    """As far as the events came in order and without a gap: an honest client promises no more."""
    return next((seq for seq, event in enumerate(events) if event["seq"] != seq + 1), len(events))


def _traces(receiver: OtlpReceiver, clients: list[ClientRecord]) -> list[RecordedTrace]:
    until = time.monotonic() + TRACES_SECONDS
    return [
        receiver.wait_for_run(client.run_id, timeout_seconds=max(0.0, until - time.monotonic())) for client in clients
    ]
