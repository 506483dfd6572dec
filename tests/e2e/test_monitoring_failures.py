"""What watches the server fails, and comes back: nobody is alerted twice, and no event waits for it."""

import asyncio
import contextlib
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.monitoring import Monitoring, free_port, monitoring_beside
from support.servers import ServerProcess
from support.webhook import Exposition
from support.wire import wire_to
from tracewire_telemetry.export import SPAN_BYTES
from tracewire_telemetry.testing.recorder import OtlpReceiver

SECONDS: Final = 90.0
NAME: Final = "TracewireUserEventsMissing"
TESTS: Final = Path(__file__).parents[1]
RESTART: Final = {"keep_firing_for: 5m": "keep_firing_for: 15m"}
"""15 s here: longer than a server takes to start on a machine that is busy."""
PATIENT: Final = {
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1",
    "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1",
    "TRACEWIRE_HEAL_DEADLINE_SECONDS": "600",
    "TRACEWIRE_MISSING_SHOWN_SECONDS": "2.5",
}

# --- an incident in the middle of which something fails ---------------------------------------------------------------


class Gate:
    """A proxy before a server's metrics, which can break: it answers then with a page of its own."""

    def __init__(self, ops_url: str) -> None:
        self.broken = threading.Event()
        self._metrics_url = f"{ops_url}/metrics"
        self.page = Exposition(self._lines)

    def _lines(self) -> list[str]:
        if self.broken.is_set():
            return ["<html><h1>502 Bad Gateway</h1></html>"]
        return httpx.get(self._metrics_url, timeout=10).text.splitlines()


async def unacked(process: ServerProcess, user_id: str) -> tuple[str, int]:
    """A run of this user whose client acks no event past the first, and is sent away for it; its last seq."""
    async with wire_to(process.ws_url, process.token(user_id)) as wire:
        run_id = await wire.start_run("what is missing in the sample recording?")
        await wire.receive_run(run_id)
        await wire.ack(run_id, 1)
        assert (await wire.closed())[0] == 4003
        return run_id, wire.events(run_id)[-1]["seq"]


async def resumed(process: ServerProcess, user_id: str, run_id: str, last_seq: int) -> None:
    """The client comes back, and acks the rest."""
    async with wire_to(process.ws_url, process.token(user_id)) as wire:
        await wire.send("resume", runs={run_id: 1})
        await wire.receive_where(lambda frame: frame.get("seq") == last_seq)
        await wire.ack(run_id, last_seq)
        async with httpx.AsyncClient(base_url=process.ops_url) as http, asyncio.timeout(SECONDS):
            while (await http.get("/incidents", params={"state": "open"})).json()["incidents"]:
                await asyncio.sleep(0)


def statuses(monitoring: Monitoring, user_id: str) -> list[str]:
    """What was told of this user, in order."""
    return [one.status for one in monitoring.receiver.told(NAME) if one.body["groupLabels"]["user_id"] == user_id]


async def told(monitoring: Monitoring, status: str, *user_ids: str) -> None:
    """Until the last that was told of each user is this."""
    await asyncio.to_thread(
        monitoring.receiver.wait,
        lambda: all(statuses(monitoring, user_id)[-1:] == [status] for user_id in user_ids),
        SECONDS,
        f"{user_ids} {status}",
    )


@pytest.mark.timeout(300)
async def test_a_server_or_a_scrape_that_fails_in_the_middle_is_still_one_firing_and_one_resolved(
    tmp_path: Path,
) -> None:
    """While one user each misses an event, one server is killed and starts again, and another cannot be scraped."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        arguments = (tmp_path / "killed", "--ops-port", str(port))
        killed = stack.enter_context(ServerProcess(*arguments, environ=PATIENT))
        unseen = stack.enter_context(ServerProcess(tmp_path / "unseen", environ=PATIENT))
        gate = Gate(unseen.ops_url)
        stack.enter_context(gate.page)
        targets = {"tracewire": f"127.0.0.1:{port}", "tracewire-unseen": gate.page.address}
        monitoring = await stack.enter_async_context(monitoring_beside(tmp_path / "m", targets, replace=RESTART))
        anns, bobs = await asyncio.gather(unacked(killed, "ann"), unacked(unseen, "bob"))
        await told(monitoring, "firing", "ann", "bob")

        gate.broken.set()
        killed.stop(signal.SIGKILL)
        for job in targets:
            await waited(monitoring, f'up{{job="{job}"}} == 0')
            await waited(monitoring, f'absent(tracewire_user_events_missing{{job="{job}"}})')
        gate.broken.clear()
        started = stack.enter_context(ServerProcess(*arguments, environ=PATIENT))
        for job in targets:
            await waited(monitoring, f'tracewire_user_events_missing{{job="{job}"}} > 0')
        assert (["firing"], ["firing"]) == (statuses(monitoring, "ann"), statuses(monitoring, "bob"))

        await asyncio.gather(resumed(started, "ann", *anns), resumed(unseen, "bob", *bobs))
        await told(monitoring, "resolved", "ann", "bob")
        assert ["firing", "resolved"] == statuses(monitoring, "ann")
        assert ["firing", "resolved"] == statuses(monitoring, "bob")


async def waited(monitoring: Monitoring, expression: str) -> None:
    """Until the query has a result, while the test's own loop goes on."""
    await asyncio.to_thread(monitoring.wait_for, expression, SECONDS)


# --- a receiver of traces that hangs ----------------------------------------------------------------------------------

USERS: Final = 6
RUNS_EACH: Final = 25
QUEUE_BYTES: Final = 1024 * 1024
LOADED: Final = {
    "TRACEWIRE_TRACE_QUEUE_BYTES_MAX": str(QUEUE_BYTES),
    "TRACEWIRE_RUN_STARTS_PER_MINUTE_MAX": "1000",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
}


@contextlib.contextmanager
def hanging_receiver() -> Iterator[str]:
    """An OTLP endpoint to which one can connect, and which never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel takes connections, and what is sent
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def load(process: ServerProcess) -> list[float]:
    """Users with one run after the other, every event acked; how long each run took, in seconds."""

    async def user(number: int) -> list[float]:
        took: list[float] = []
        async with wire_to(process.ws_url, process.token(f"user-{number}")) as wire:
            for _ in range(RUNS_EACH):
                began = time.monotonic()
                run_id = await wire.start_run("go", agent="five")
                events = await wire.receive_run(run_id)
                took.append(time.monotonic() - began)
                assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
                await wire.ack(run_id, 5)
        return took

    return [took for each in await asyncio.gather(*map(user, range(USERS))) for took in each]


async def metrics_of(process: ServerProcess) -> dict[tuple[str, ...], float]:
    """The series of one scrape: name and the values of the labels, but for what is 0."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{process.ops_url}/metrics")).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value
    }


def total(found: dict[tuple[str, ...], float], name: str) -> int:
    """The sum over the labels of a metric."""
    return int(sum(value for key, value in found.items() if key[0] == name))


def served(folder: Path, endpoint: str) -> ServerProcess:
    """A server that exports its traces there."""
    environ = {**LOADED, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    return ServerProcess(folder, "--agent", "support.agents:five", environ=environ, cwd=TESTS)


@pytest.mark.timeout(300)
async def test_a_trace_receiver_that_hangs_delays_no_event_holds_no_more_than_its_queue_and_is_alerted_on(
    tmp_path: Path,
) -> None:
    """The same load with a receiver that answers and with one that never does: every delivery in time both times; what
    exceeds the queue's bytes, and what the exporter gives up on, is dropped and counted by reason, and alerted on.
    """
    with OtlpReceiver() as receiver, served(tmp_path / "answered", receiver.endpoint) as process:
        answered = await load(process)
        async with asyncio.timeout(SECONDS):
            while (made := total(await metrics_of(process), "tracewire_spans_exported_total")) < spans_least():
                await asyncio.sleep(0)
    with hanging_receiver() as endpoint, served(tmp_path / "hanging", endpoint) as process:
        address = process.ops_url.removeprefix("http://")
        async with monitoring_beside(tmp_path / "m", {"tracewire": address}) as monitoring:
            await waited(monitoring, "tracewire_spans_dropped_total")
            hanging = await load(process)
            async with asyncio.timeout(SECONDS):
                while {"queue_full", "export_failed"} - reasons(found := await metrics_of(process)):
                    await asyncio.sleep(0)
            await asyncio.to_thread(
                monitoring.receiver.wait, lambda: alerted(monitoring) >= reasons(found), SECONDS, "SpansDropped"
            )
        assert process.stop() == 0
    figures(answered, hanging)
    runs = USERS * RUNS_EACH
    in_time = sum(value for key, value in found.items() if key[0] == "tracewire_deliveries_total" and "in_time" in key)
    assert in_time == total(found, "tracewire_deliveries_total") == 5 * runs
    assert total(found, "tracewire_spans_exported_total") == 0
    assert made - total(found, "tracewire_spans_dropped_total") <= QUEUE_BYTES / SPAN_BYTES
    assert statistics.median(hanging) < 5 * statistics.median(answered) + 0.1


def spans_least() -> int:
    """How many spans the load has at least: a run's, its tool's, and those of five events at four links."""
    return USERS * RUNS_EACH * (2 + 5 * 4)


def reasons(found: dict[tuple[str, ...], float]) -> set[str]:
    """Why spans were dropped."""
    return {key[1] for key in found if key[0] == "tracewire_spans_dropped_total"}


def alerted(monitoring: Monitoring) -> set[Any]:
    """The reasons that were told."""
    notifications = monitoring.receiver.told("TracewireSpansDropped", "firing")
    return {alert["labels"]["reason"] for one in notifications for alert in one.alerts}


def figures(answered: list[float], hanging: list[float]) -> None:
    """Print how long runs took."""
    for what, took in (("answers", answered), ("hangs", hanging)):
        cut = statistics.quantiles(took, n=100)
        print(f"receiver {what}: p50 {1e3 * cut[49]:.1f} ms, p99 {1e3 * cut[98]:.1f} ms over {len(took)} runs")
