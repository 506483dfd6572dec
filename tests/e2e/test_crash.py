"""A server that is killed, at moments chosen, and started again: what clients saw is there, each run is closed once,
and each run's trace is whole over all the processes that wrote it.
"""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.servers import ServerProcess
from support.wire import Frame, Wire, contract_problems, wire_to
from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX, Attribute
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedTrace

TESTS = Path(__file__).parents[1]
AGENTS = ("five", "waits", "waits_in_tool", "verbose_then_waits", "streams")
START_SECONDS = 30


class CrashScene:
    """One data folder and one receiver of traces, for the server processes that come after each other."""

    def __init__(self, folder: Path, receiver: OtlpReceiver) -> None:
        self.folder = folder
        self.receiver = receiver
        self._processes = 0

    def server(self, *arguments: str, killed_at: str = "", **environ: str) -> ServerProcess:
        """The next process; `killed_at` is a moment of `support.killed_server`."""
        self._processes += 1
        agents = [part for name in AGENTS for part in ("--agent", f"support.agents:{name}")]
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint, "TRACEWIRE_DRAIN_GRACE_SECONDS": "0"}
        program = ("-m", "support.killed_server", "--at", killed_at) if killed_at else ("-m", "tracewire.cli")
        return ServerProcess(
            self.folder / "data", *agents, *arguments, environ=variables | environ, cwd=TESTS, program=program
        )

    def trace(self, run_id: str) -> RecordedTrace:
        """The run's whole trace over all processes: a tree, and nothing of it twice."""
        trace = self.receiver.wait_for_run(run_id)
        assert [] == trace.problems()
        return trace

    def repeated_span_ids(self) -> list[tuple[str, str]]:
        """Spans that were exported more than once."""
        counts = Counter((span.trace_id, span.span_id) for span in self.receiver.spans)
        return [span for span, count in counts.items() if count > 1]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[CrashScene]:
    """An empty folder and a receiver."""
    with OtlpReceiver() as receiver:
        yield CrashScene(tmp_path, receiver)


async def start_and_lose(process: ServerProcess, agent: str, *, acking: bool = False) -> list[Frame]:
    """Start a run on a server that is going to be killed; its events that came."""
    async with wire_to(process.ws_url, process.token("ada")) as wire:
        await wire.send("start_run", request_id="lost", input="go", agent=agent)
        try:
            while True:
                frame = await wire.receive()
                if acking and "seq" in frame:
                    await wire.ack(frame["run_id"], frame["seq"])
        except ConnectionClosed:
            pass
        events = [frame for frame in wire.frames if "seq" in frame]
    assert -signal.SIGKILL == await asyncio.to_thread(process.process.wait, START_SECONDS)
    return events


async def read_back(process: ServerProcess, wire: Wire, seen: list[Frame]) -> list[Frame]:
    """Resume the one run of this user after what was seen of it: all of its events."""
    listed = wire.frames[0]["runs"]
    assert 1 == len(listed)
    run_id = listed[0]["run_id"]
    await wire.send("resume", runs={run_id: len(seen)})
    events = seen + await wire.receive_run(run_id)
    await wire.ack(run_id, len(events))
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {process.token('ada')}"}) as http:
        stored = (await http.get(f"{process.url}/runs/{run_id}/events")).json()["events"]
    assert events == stored
    assert [] == contract_problems(events)
    return events


def span_names(events: list[Frame]) -> Counter[str]:
    """What the recovered trace of a run with these events holds."""
    names = Counter([f"invoke_agent {events[0]['agent']}"])
    before = ""
    for event in events:
        if event["type"] == "tool_executing":
            names[f"execute_tool {event['data']['tool_name']}"] += 1
        if not event["type"] == before == "agent_delta":
            names[f"create {event['type']}"] += 1
            names[f"process {event['type']}"] += 1
        before = event["type"]
    return names


LOST: dict[str, Any] = {
    "tracewire.recovered": True,
    "error.type": "worker_lost",
    "tracewire.keep.reason": "error",
    "tracewire.run.outcome": "worker_lost",
}


@pytest.mark.parametrize(
    ("agent", "moment", "durable"),
    [
        ("five", "before:agent_started", 0),
        ("five", "after:agent_started", 1),
        ("five", "before:agent_thinking", 1),
        ("five", "after:tool_executing", 3),
        ("five", "before:agent_completed", 4),
        ("streams", "before:agent_completed", 7),
    ],
)
async def test_a_run_that_a_crash_leaves_open_is_closed_once_in_its_own_trace(
    scene: CrashScene, agent: str, moment: str, durable: int
) -> None:
    """Killed before its terminal event was durable: the next start ends it, and exports what the log holds of it."""
    with scene.server(killed_at=moment) as process:
        seen = await start_and_lose(process, agent)
    assert len(seen) <= durable
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            events = await read_back(process, wire, seen)
        trace = await asyncio.to_thread(scene.trace, events[0]["run_id"])
    closed = ["tool_completed"] * (moment == "after:tool_executing") + ["agent_error"]
    assert closed == [event["type"] for event in events[durable:]]
    assert "worker_lost" == events[-1]["data"]["code"]
    assert span_names(events) == Counter(span.name for span in trace)
    attributes = trace.root.attributes
    assert LOST == {name: attributes.get(name) for name in LOST}
    assert (None, len(events), None) == (
        attributes.get(Attribute.CHAIN_COMPLETE),
        attributes[Attribute.EVENTS_PENDING],
        attributes.get(Attribute.DELIVERY_MAX_MS),
    )
    assert ("error", len(trace)) == (trace.root.status, attributes[Attribute.SPAN_COUNT])
    parents = {f"00-{span.trace_id}-{span.span_id}-01" for span in trace if span.name.startswith("create ")}
    assert parents <= {event["traceparent"] for event in events}
    assert [] == scene.repeated_span_ids()


async def test_a_run_that_had_ended_when_the_server_was_killed_keeps_its_end(scene: CrashScene) -> None:
    """Killed between the durable terminal event and anybody's hearing of it: completed, and its trace says so."""
    with scene.server(killed_at="after:agent_completed") as process:
        seen = await start_and_lose(process, "five", acking=True)
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            events = await read_back(process, wire, seen)
        trace = await asyncio.to_thread(scene.trace, events[0]["run_id"])
        assert [] == process.log_records("run_lost_at_start")
    assert "agent_completed" == events[-1]["type"]
    assert span_names(events) == Counter(span.name for span in trace)
    attributes = trace.root.attributes
    assert ("unset", True, "completed") == (
        trace.root.status,
        attributes[Attribute.RECOVERED],
        attributes[Attribute.RUN_OUTCOME],
    )
    assert 1 <= attributes[Attribute.EVENTS_PENDING] <= 5
    assert [] == scene.repeated_span_ids()


@pytest.mark.parametrize(
    "moment", ["after:tool_completed", "before:agent_error", "after:agent_error", "stamped", "exported"]
)
async def test_a_server_that_is_killed_again_while_it_recovers_exports_nothing_twice(
    scene: CrashScene, moment: str
) -> None:
    """The third start finds what the second had done, and does the rest, once."""
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            await wire.start_run("go", agent="waits_in_tool")
            await wire.receive_type("tool_executing")
            seen = [frame for frame in wire.frames if "seq" in frame]
            process.stop(signal.SIGKILL)
    again = scene.server(killed_at=moment)
    try:  # it may be killed before or after it says that it is ready
        assert -signal.SIGKILL == await asyncio.to_thread(again.process.wait, START_SECONDS)
    finally:
        again.__exit__()
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            events = await read_back(process, wire, seen)
        run_id = events[0]["run_id"]
        assert ["tool_completed", "agent_error"] == [event["type"] for event in events[2:]]
        if moment == "stamped":  # the trace was as good as sent: it is lost, rather than perhaps sent twice
            process.stop()
            assert [] == list(scene.receiver.trace_of_run(run_id))
        else:
            trace = await asyncio.to_thread(scene.trace, run_id)
            assert span_names(events) == Counter(span.name for span in trace)
    assert [] == scene.repeated_span_ids()


async def test_a_restart_right_after_a_kill_finds_its_ports_and_its_folder(scene: CrashScene) -> None:
    """The same port and folder, at once, with a socket still open: clients come back to where they were."""
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            await wire.start_run("go", agent="waits")
            await wire.receive_type("agent_thinking")
            seen = [frame for frame in wire.frames if "seq" in frame]
            ports = ["--port", process.url.rpartition(":")[2], "--ops-port", process.ops_url.rpartition(":")[2]]
            process.stop(signal.SIGKILL)
            with scene.server(*ports) as restarted:
                assert (process.url, process.ops_url) == (restarted.url, restarted.ops_url)
                async with wire_to(restarted.ws_url, restarted.token("ada")) as resumed:
                    events = await read_back(restarted, resumed, seen)
    assert ["agent_started", "agent_thinking", "agent_error"] == [event["type"] for event in events]


def acked_on_disk(data_dir: Path, run_id: str) -> None:
    """Wait until the log's file holds an ack of this run: that is when a crash keeps it."""
    deadline = time.monotonic() + START_SECONDS
    with contextlib.closing(sqlite3.connect(f"file:{data_dir / 'events.db'}?mode=ro", uri=True)) as database:
        while database.execute("SELECT acked_seq FROM runs WHERE run_id = ?", (run_id,)).fetchone() == (0,):
            assert time.monotonic() < deadline


async def test_a_recovered_run_is_counted_and_its_ledger_answers_without_moments(scene: CrashScene) -> None:
    """Metrics say what the start closed and what reached nobody; the ledger has each event, and no stamp."""
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            run_id = await wire.start_run("go", agent="waits")
            await wire.receive_type("agent_thinking")
            await wire.ack(run_id, 1)
            await asyncio.to_thread(acked_on_disk, scene.folder / "data", run_id)
        process.stop(signal.SIGKILL)
    with scene.server() as process:
        trace = await asyncio.to_thread(scene.trace, run_id)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {process.token('ada')}"}) as http:
            ledger = (await http.get(f"{process.url}/runs/{run_id}/ledger")).json()
            metrics = (await http.get(f"{process.ops_url}/metrics")).text.splitlines()
    assert 2 == trace.root.attributes[Attribute.EVENTS_PENDING]
    assert ["agent_started", "agent_thinking", "agent_error"] == [row["type"] for row in ledger["events"]]
    moments = ("engine", "bridge", "emitter", "socket", "client", "verdict")
    assert {None} == {row[name] for row in ledger["events"] for name in moments}
    assert (True, False, 2, "worker_lost") == (
        ledger["settled"],
        ledger["chain_complete"],
        ledger["pending"],
        ledger["outcome"],
    )
    assert 'tracewire_runs_total{agent="waits",outcome="worker_lost"} 1.0' in metrics
    assert "tracewire_runs_lost_at_start 1.0" in metrics
    for event_type, count in (("agent_started", 0), ("agent_thinking", 1), ("agent_error", 1)):
        labels = f'event_type="{event_type}",origin="user",verdict="no_socket"'
        assert f"tracewire_deliveries_total{{{labels}}} {count}.0" in metrics, labels


async def test_a_long_run_that_is_recovered_stays_within_the_limit_of_spans(scene: CrashScene) -> None:
    """At most 2,000 spans; the root counts those that are there and those that are not."""
    with scene.server() as process:
        async with wire_to(process.ws_url, process.token("ada")) as wire:
            run_id = await wire.start_run(1_100, agent="verbose_then_waits")
            await wire.receive_where(lambda frame: frame.get("seq") == 1_101)
        process.stop(signal.SIGKILL)
    with scene.server():
        trace = await asyncio.to_thread(scene.trace, run_id)
    attributes = trace.root.attributes
    expected = 1 + 2 * 1_102
    assert SPANS_PER_RUN_MAX == len(trace) == attributes[Attribute.SPAN_COUNT]
    assert expected - SPANS_PER_RUN_MAX == attributes[Attribute.SPANS_DROPPED]
