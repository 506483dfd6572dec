"""A server that is told to stop, with real signals: nothing is cut off, everything leaves, and it is over in time."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import httpx
import pytest

from support.servers import START_SECONDS, ServerProcess
from support.wire import Wire, contract_problems, wire_to
from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.recorder import OtlpReceiver

TESTS = Path(__file__).parents[1]
AGENTS = ("waits", "waits_in_tool", "holds_the_loop")
USERS, SOCKETS_PER_USER = 15, 8
"""More sockets than one batch of closes takes."""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where all processes of a test export to."""
    with OtlpReceiver() as started:
        yield started


def serve(folder: Path, endpoint: str, **environ: str) -> ServerProcess:
    """`tracewire serve` with the agents of these tests."""
    agents = [part for name in AGENTS for part in ("--agent", f"support.agents:{name}")]
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environ}
    return ServerProcess(folder / "data", *agents, environ=variables, cwd=TESTS)


async def exit_code(process: ServerProcess) -> int:
    """Wait for the end of the process."""
    return await asyncio.to_thread(process.process.wait, START_SECONDS)


async def read_to_the_close(wire: Wire, run_id: str, *, acking: bool) -> tuple[int, str]:
    """Receive the run's events to the last, ack them if so told, and wait for the server's close."""
    events = await wire.receive_run(run_id)
    assert [] == contract_problems(events)
    assert ("agent_error", "worker_lost") == (events[-1]["type"], events[-1]["data"]["code"])
    if acking:
        await wire.ack(run_id, len(events))
    return await wire.closed()


async def test_a_drain_cuts_off_no_last_frame_and_exports_every_run(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Many sockets, some of whose clients never ack: each gets `draining`, its run's end and 4000; the exit code is 0,
    each trace has left, and the next start finds nothing to do.
    """
    with serve(tmp_path, receiver.endpoint, TRACEWIRE_DRAIN_GRACE_SECONDS="0") as process:
        async with AsyncExitStack() as stack:
            wires: list[tuple[Wire, str, bool]] = []
            for user in range(USERS):
                token = process.token(f"user-{user}")
                own = [await stack.enter_async_context(wire_to(process.ws_url, token)) for _ in range(SOCKETS_PER_USER)]
                run_id = await own[0].start_run("go", agent="waits_in_tool")
                wires += [(wire, run_id, user % 3 != 0) for wire in own]
            for wire, _, _ in wires:
                await wire.receive_type("tool_executing")
            process.process.send_signal(signal.SIGTERM)
            closes = await asyncio.gather(*(read_to_the_close(wire, run, acking=acks) for wire, run, acks in wires))
        assert 0 == await exit_code(process)
    assert Counter({(4000, "draining"): USERS * SOCKETS_PER_USER}) == Counter(closes)
    assert [1] * len(wires) == [sum(frame["type"] == "draining" for frame in wire.frames) for wire, _, _ in wires]
    for run_id, acked in {run_id: acks for _, run_id, acks in wires}.items():
        trace = await asyncio.to_thread(receiver.wait_for_run, run_id)
        assert [] == trace.problems()
        attributes = trace.root.attributes
        assert (None, "worker_lost") == (attributes.get(Attribute.RECOVERED), attributes[Attribute.RUN_OUTCOME])
        assert (True if acked else None) == attributes.get(Attribute.CHAIN_COMPLETE)
    with serve(tmp_path, receiver.endpoint) as process:
        process.stop()
        assert [] == process.log_records("run_lost_at_start") + process.log_records("traces_recovered")


async def test_a_drain_is_over_in_time_though_a_client_and_the_collector_are_stuck(tmp_path: Path) -> None:
    """By default within 10 s (past that, the exit code is 1), and not ready from the first moment on."""
    # It takes connections, and answers none.
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serve(tmp_path, endpoint) as process:
            async with wire_to(process.ws_url, process.token("ada")) as wire, httpx.AsyncClient() as http:
                await wire.start_run("go", agent="waits")
                await wire.receive_type("agent_thinking")
                wire.socket.transport.pause_reading()
                began = time.monotonic()
                process.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(START_SECONDS):
                    while (ready := await http.get(f"{process.ops_url}/ready")).status_code == 200:
                        pass
                assert {"drain": "the server is stopping"} == ready.json()["reasons"]
                code = await exit_code(process)
                print(f"drained in {time.monotonic() - began:.1f} s")
            assert 0 == code, process.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once_and_the_next_start_closes_what_was_open(
    tmp_path: Path, receiver: OtlpReceiver, number: int
) -> None:
    """Nothing that a client saw is missing, the run is closed once, in its own trace."""
    patient = {"TRACEWIRE_DRAIN_GRACE_SECONDS": "60", "TRACEWIRE_DRAIN_SECONDS_MAX": "90"}
    with serve(tmp_path, receiver.endpoint, **patient) as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            run_id = await wire.start_run("go", agent="waits_in_tool")
            await wire.receive_type("tool_executing")
            process.process.send_signal(number)
            await wire.receive_type("draining")
            process.process.send_signal(number)
            assert 1 == await exit_code(process)
            seen = wire.events(run_id)
    assert ["agent_started", "tool_executing"] == [event["type"] for event in seen]
    await resumed_after_restart(tmp_path, receiver, run_id, seen)


async def test_signals_end_a_server_whose_loop_is_blocked(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """An agent that holds the event loop holds the drain back, and not the second signal."""
    with serve(tmp_path, receiver.endpoint) as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            run_id = await wire.start_run(10 * START_SECONDS, agent="holds_the_loop")
            await wire.receive_type("agent_thinking")
            seen = wire.events(run_id)
            async with asyncio.timeout(START_SECONDS):
                while not process.log_records("event_loop_blocked"):
                    await asyncio.sleep(0)
            # Again and again: two at the same moment may reach two threads, and the blocked one hears of one alone.
            for _ in range(5):
                process.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.process.wait, 1)
                    break
            assert 1 == process.process.returncode
    await resumed_after_restart(tmp_path, receiver, run_id, seen)


async def resumed_after_restart(
    folder: Path, receiver: OtlpReceiver, run_id: str, seen: list[dict[str, object]]
) -> None:
    """What was seen is in the log, and the run is closed once, in its own trace."""
    with serve(folder, receiver.endpoint, TRACEWIRE_DRAIN_GRACE_SECONDS="0") as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            await wire.send("resume", runs={run_id: 0})
            events = await wire.receive_run(run_id)
        trace = await asyncio.to_thread(receiver.wait_for_run, run_id)
    assert seen == events[: len(seen)]
    assert [] == contract_problems(events)
    assert [] == trace.problems()
    assert ("worker_lost", True) == (trace.root.attributes["error.type"], trace.root.attributes[Attribute.RECOVERED])
