"""What real servers emit under a load that has everything in it, held against the catalogue, both ways."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace as with_changes

from support import catalogue_load as load
from support.catalogue_checks import Catalogue, Seen, changed, undeclared, unseen
from support.catalogue_load import AGENTS, ORDINARY, STRAINED
from support.catalogue_users import LOOK_SECONDS, Load
from support.servers import ServerProcess
from tracewire_telemetry.catalog import EVENTS, METRICS, MetricSpec
from tracewire_telemetry.catalog_attributes import ATTRIBUTES, Attribute, ResourceAttribute
from tracewire_telemetry.catalog_labels import REJECT_CODE, VERDICT
from tracewire_telemetry.catalog_spans import CREATE, SEND, SPANS
from tracewire_telemetry.testing.recorder import OtlpReceiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOVED_SECONDS: Final = 45.0
TESTS: Final = Path(__file__).resolve().parents[1]
ELSEWHERE: Final = {
    "runs_total{outcome=log_unavailable}": ("takes a disk that fails", "e2e/test_disk.py"),
    "rejected_total{code=log_unavailable}": ("takes a disk that fails", "e2e/test_disk.py"),
    "closes_total{code=4004}": ("takes a disk that fails", "e2e/test_disk.py"),
    "tracewire.run.outcome=log_unavailable": ("takes a disk that fails", "e2e/test_disk.py"),
    "error.type=log_unavailable": ("takes a disk that fails", "e2e/test_disk.py"),
    "closes_total{code=4000}": ("the ops port goes with the sockets", "e2e/test_drain.py"),
    "spans_dropped_total{reason=shutdown}": ("the ops port goes with the queue", "unit/test_export.py"),
    "eventlog_expired_runs_total{reason=size}": ("16 MiB at least are kept", "unit/test_retention.py"),
}
"""What these servers cannot be made to show: why not, and the file of the test that shows it."""


@contextlib.asynccontextmanager
async def server(folder: Path, *arguments: str, program: str = "tracewire.cli", **environ: str) -> AsyncIterator[Any]:
    """A server process with the load's agents."""
    process = ServerProcess(folder, *AGENTS, *arguments, environ=environ, cwd=TESTS, program=("-m", program))
    await asyncio.to_thread(process.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.__exit__)


@contextlib.contextmanager
def refusing_receiver() -> Iterator[str]:
    """The base URL of a receiver that takes no spans."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(400)

        def log_message(self, *_: Any) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{receiver.server_address[1]}"
    receiver.shutdown()
    thread.join()
    receiver.server_close()


@contextlib.asynccontextmanager
async def probe_of(process: ServerProcess) -> AsyncIterator[str]:
    """The address of the metrics of `tracewire probe`, going on."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    command = [sys.executable, "-m", "tracewire.cli", "probe", "--url", process.ws_url, "--every", "0.5s"]
    probing = await asyncio.create_subprocess_exec(
        *command, "--metrics-port", "0", "--data-dir", str(process.data_dir),
        env=clean | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert probing.stdout is not None
        yield (await probing.stdout.readline()).decode().removeprefix("metrics at ").strip()
    finally:
        probing.send_signal(signal.SIGTERM)
        await probing.communicate()


async def moved(url: str, sample: str) -> str:
    """The metrics at this address, as soon as this sample is above 0."""
    give_up_at = time.monotonic() + MOVED_SECONDS
    async with httpx.AsyncClient() as http:
        while not re.search(rf"^{re.escape(sample)} [1-9]", text := (await http.get(url)).text, re.MULTILINE):
            assert time.monotonic() < give_up_at, f"{sample} does not move:\n{text}"
            await asyncio.to_thread(threading.Event().wait, LOOK_SECONDS)
    return text


async def ordinary(folder: Path, seen: Seen) -> None:
    """A server that is killed, and its successor, which goes on with what was left, and is stopped."""
    async with server(folder / "data") as process:
        await load.crashed(Load(process))
    with OtlpReceiver() as receiver:
        settings = ORDINARY | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        arguments = ("--drills", "--canary", "1s")
        async with contextlib.AsyncExitStack() as stack:
            started = server(folder / "data", *arguments, program="support.catalogue_server", **settings)
            process = await stack.enter_async_context(started)
            probed = await stack.enter_async_context(probe_of(process))
            async with httpx.AsyncClient(base_url=process.url) as http:
                headers = {"Authorization": f"Bearer {process.token('reader')}"}
                seen.agents |= {one["name"] for one in (await http.get("/agents", headers=headers)).json()}
            await load.ordinary(Load(process))
            seen.scrapes += [
                await moved(f"{process.ops_url}/metrics", 'tracewire_spans_dropped_total{reason="late"}'),
                await moved(f"{process.ops_url}/metrics", "tracewire_canary_detection_last_success_timestamp_seconds"),
                await moved(probed, 'tracewire_probes_total{result="ok"}'),
                await load.drains(Load(process)),
                await moved(probed, 'tracewire_probes_total{result="broken"}'),
            ]
            assert await asyncio.to_thread(process.process.wait, load.WITHIN_SECONDS) == 0
        seen.spans += receiver.spans


async def strained(folder: Path, seen: Seen) -> None:
    """A server that keeps little, and whose spans nobody takes."""
    with refusing_receiver() as endpoint:
        async with server(folder / "data", **STRAINED, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process:
            await load.strained(Load(process))
            dropped = 'tracewire_spans_dropped_total{reason="export_failed"}'
            seen.scrapes.append(await moved(f"{process.ops_url}/metrics", dropped))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What three servers emitted."""
    found = Seen()
    folder = tmp_path_factory.mktemp("catalogue")
    for name in ("ordinary", "strained"):
        (folder / name).mkdir()
    await asyncio.gather(ordinary(folder / "ordinary", found), strained(folder / "strained", found))
    return found


async def test_whatever_was_emitted_is_declared(seen: Seen) -> None:
    """Metrics with their labels, values and buckets; spans with their names, kinds, parents, attributes, resource."""
    assert len(seen.spans) > 1_000
    assert undeclared(Catalogue(), seen) == set()


async def test_whatever_is_declared_was_emitted(seen: Seen) -> None:
    """But for a few things, each of which another test shows."""
    missing = unseen(Catalogue(), seen)
    assert missing - set(ELSEWHERE) == set()
    assert [name for name, (_, test) in ELSEWHERE.items() if not (TESTS / test).exists()] == []


async def test_no_exception_outlives_its_reason(seen: Seen) -> None:
    """What is seen after all is taken off the list."""
    assert set(ELSEWHERE) - unseen(Catalogue(), seen) == set()


async def test_each_way_of_being_undeclared_is_noticed(seen: Seen) -> None:
    """A catalogue that lacks a metric, a value, a label, a span, an attribute, or says another kind, link or type."""
    whole = Catalogue()
    short = with_changes(VERDICT, values={"late": "late"})
    labelled = with_changes(EVENTS, label_specs=EVENTS.label_specs[:1])
    attributes = {key: spec for key, spec in ATTRIBUTES.items() if key != Attribute.USER_ID}
    as_text = {**ATTRIBUTES, Attribute.EVENT_SEQ: with_changes(ATTRIBUTES[Attribute.EVENT_SEQ], type="string")}
    closed = {**ATTRIBUTES, Attribute.KEEP_REASON: with_changes(ATTRIBUTES[Attribute.KEEP_REASON], values=("slow",))}
    bare = with_changes(SEND, always=SEND.always[:-1])
    wrong = {
        "metric tracewire_events": replace(whole, metrics=changed(whole.metrics, EVENTS, None)),
        "labels of tracewire_events_total": replace(whole, metrics=changed(whole.metrics, EVENTS, labelled)),
        "value of tracewire_deliveries_total: verdict=in_time": with_label(whole, "deliveries_total", short),
        "span create agent_started": replace(whole, spans=changed(SPANS, CREATE, None)),
        "kind of span send": replace(whole, spans=changed(SPANS, SEND, with_changes(SEND, kind=CREATE.kind))),
        "parent of span send": replace(whole, spans=changed(SPANS, SEND, with_changes(SEND, parent="create"))),
        "link of send": replace(whole, spans=changed(SPANS, SEND, with_changes(SEND, link=CREATE.link))),
        f"attribute of send: {SEND.always[-1]}": replace(whole, spans=changed(SPANS, SEND, bare)),
        "attribute user.id": replace(whole, attributes=attributes),
        f"type of {Attribute.EVENT_SEQ}": replace(whole, attributes=as_text),
        f"value of {Attribute.KEEP_REASON}": replace(whole, attributes=closed),
        f"resource attribute {ResourceAttribute.SERVICE_NAME}": replace(whole, resource=whole.resource[1:]),
    }
    for expected, catalogue in wrong.items():
        assert any(told.startswith(expected) for told in undeclared(catalogue, seen)), expected


async def test_each_thing_that_is_declared_and_not_emitted_is_noticed(seen: Seen) -> None:
    """A catalogue with a metric, a value, a span, an attribute, or a resource attribute that nothing emits."""
    whole = Catalogue()
    more = with_changes(REJECT_CODE, values={**REJECT_CODE.values, "bored": "never"})
    stamped = with_changes(SEND, sometimes={**SEND.sometimes, "tracewire.weather": "it rains"})
    sunny = with_changes(ATTRIBUTES[Attribute.KEEP_REASON], values=("sunny",))
    wrong = {
        "naps_total": replace(whole, metrics=(*whole.metrics, MetricSpec("naps_total", "counter", "Naps.", "naps"))),
        "rejected_total{code=bored}": with_label(whole, "rejected_total", more),
        "dream {event type}": replace(whole, spans=(*SPANS, with_changes(SEND, operation="dream"))),
        "send {event type}: tracewire.weather": replace(whole, spans=changed(SPANS, SEND, stamped)),
        f"{Attribute.KEEP_REASON}=sunny": replace(whole, attributes={**ATTRIBUTES, Attribute.KEEP_REASON: sunny}),
    }
    for expected, catalogue in wrong.items():
        assert expected in unseen(catalogue, seen)
    nowhere = replace(whole, resource=(*whole.resource, with_changes(whole.resource[0], key="service.mood")))
    assert "resource attribute service.mood" in undeclared(nowhere, seen)


def with_label(catalogue: Catalogue, name: str, label: Any) -> Catalogue:
    """The catalogue with this label in the place of the one of its name, on this metric."""
    spec = next(one for one in METRICS if one.name == name)
    labels = tuple(label if one.name == label.name else one for one in spec.label_specs)
    return replace(catalogue, metrics=changed(catalogue.metrics, spec, with_changes(spec, label_specs=labels)))
