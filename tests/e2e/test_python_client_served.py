"""The Python client and a real server process: killed under it, and for longer than a token holds."""

import asyncio
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

from chaos.killing import free_ports
from support.servers import ServerProcess, settings_for
from tracewire.client import Client, Stage
from tracewire.engine.agent import agent
from tracewire.gateway.auth import sign_token

TESTS = Path(__file__).resolve().parents[1]
WAIT_SECONDS = 60.0
TOKEN_SECONDS = 5.0
RUN_SECONDS = 8.0
"""Beyond the first token and its leeway."""
PATIENT = "e2e.test_python_client_served:patient"


@agent(name="patient")
async def patient(ctx: Any) -> str:
    """Thinks, and goes on for as many seconds as its input says, or until it is stopped."""
    await ctx.thinking("for a while")
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=ctx.input)
    return "done"


async def test_a_run_whose_server_is_killed_ends_by_itself_when_the_server_is_back(tmp_path: Path) -> None:
    """SIGKILL, a while without a server, a restart: the iteration goes on to `worker_lost`, and its receipt agrees."""
    port, ops_port = free_ports(Random(), 2)
    place = ("--port", str(port), "--ops-port", str(ops_port), "--agent", PATIENT)
    stages: list[Stage] = []

    async def note(client: Client) -> None:
        async for state in client.states():
            stages.append(state.stage)  # noqa: PERF401 # it is read while it grows

    server = ServerProcess(tmp_path / "data", *place, cwd=TESTS)
    try:
        await asyncio.to_thread(server.__enter__)
        async with Client(server.ws_url, server.token("ada")) as client, asyncio.timeout(WAIT_SECONDS):
            noting = asyncio.create_task(note(client))
            run = await client.start_run(600, agent="patient")
            assert ["agent_started", "agent_thinking"] == [(await anext(run)).type for _ in range(2)]
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            starting = asyncio.create_task(client.start_run(0, agent="patient", request_id="while it was down"))
            while stages.count(Stage.RECONNECTING) < 2:  # one attempt found nobody
                await asyncio.wait([noting], timeout=0.05)
            server.__exit__()
            server = ServerProcess(tmp_path / "data", *place, cwd=TESTS)
            await asyncio.to_thread(server.__enter__)
            assert [(3, "agent_error")] == [(envelope.seq, envelope.type) async for envelope in run]
            assert run.terminal is not None
            assert ("worker_lost", True) == (run.terminal.data["code"], run.receipt_agrees)
            started = await starting
            assert [1, 2, 3] == [envelope.seq async for envelope in started]
        await noting
    finally:
        server.__exit__()
    assert (Stage.READY, Stage.RECONNECTING) == (stages[0], stages[1])
    assert (Stage.READY, Stage.CLOSED) == (stages[-2], stages[-1])


async def test_a_run_that_outlasts_its_token_keeps_its_connection(tmp_path: Path) -> None:
    """The token is renewed on the open socket: nothing is lost, and nothing is connected anew."""
    environ = {"TRACEWIRE_JWT_LEEWAY_SECONDS": "1"}
    with ServerProcess(tmp_path / "data", "--agent", PATIENT, cwd=TESTS, environ=environ) as server:
        settings, given = settings_for(server.data_dir), []

        async def provide() -> str:
            given.append(time.time())
            return sign_token(settings, "ada", ttl_seconds=TOKEN_SECONDS)

        async with Client(server.ws_url, provide) as client, asyncio.timeout(WAIT_SECONDS):
            connection_id = client.ready["connection_id"]
            run = await client.start_run(RUN_SECONDS, agent="patient")
            assert ["agent_started", "agent_thinking", "agent_completed"] == [envelope.type async for envelope in run]
            assert run.receipt_agrees
            assert connection_id == client.ready["connection_id"]
        assert len(given) >= 2
