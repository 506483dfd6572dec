"""Runs whose traces go through a Collector: good, slow, failed and missing ones, and such that call a traced service.

Each is done on a real server by a client over a real socket; what of its trace came out of the Collector is counted.
"""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Awaitable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.collector import WAIT_SECONDS, Collector
from support.downstream import PriceService
from support.incident_clients import follow
from support.servers import ServerProcess
from support.wire import Wire, wire_to
from tracewire_telemetry.catalog import Attribute
from tracewire_telemetry.testing.recorder import OtlpReceiver, Recording
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

TESTS: Final = Path(__file__).parents[1]
SLOW_SECONDS: Final = 2.3
"""After which the slow run's client acks: the objective is 2 s, the client's deadline above."""
AGENTS: Final = ("support.agents:five", "support.agents:raises", "support.collector_agents:prices")
DEADLINES: Final = {"TRACEWIRE_CLIENT_DEADLINE_SECONDS": "5", "TRACEWIRE_HEAL_DEADLINE_SECONDS": "0.2"}
"""Of the server: so that an event that is not acked is missing after 5 s, and given up a moment later."""


class Passed(Struct, frozen=True):
    """What of one run's trace came out. `promised` is what its root says, and the spans of the service that it called.

    Without a root nothing is promised, and no reason given.
    """

    name: str
    received: int
    promised: int | None
    keep_reason: str | None

    @property
    def whole(self) -> bool:
        """Whether everything came."""
        return self.received == self.promised

    def line(self) -> str:
        """As it stands in a table."""
        said = "whole" if self.whole else "nothing" if not self.received else "cut, without its root"
        return f"{self.name:<52} {self.received:>4} of {self.promised or '?':<4} {said}"


class Traffic:
    """A server that exports to a Collector, the service that its agent calls, and what stands behind the Collector."""

    def __init__(self, server: ServerProcess, collector: Collector, service: PriceService) -> None:
        self.server = server
        self.collector = collector
        self.service = service
        self.backends: list[Recording] = []
        self.traces: dict[str, tuple[str, int]] = {}
        """Trace id, and spans of the service, by the name of the run."""

    async def good(self, name: str) -> None:
        """A run of five types, acked at once."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run("go", agent="five")
            await self._finish(name, wire, run_id)

    async def slow(self, name: str) -> None:
        """The same, acked late."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run("go", agent="five")
            await wire.receive_run(run_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_SECONDS):
                    await wire.closed()
            await self._finish(name, wire, run_id)

    async def failed(self, name: str) -> None:
        """A run whose agent raises."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run("exception", agent="raises")
            await self._finish(name, wire, run_id)

    async def missing(self, name: str) -> None:
        """A run whose client does not ack the last event, and goes when the server cuts it off for that."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run("go", agent="five")
            await follow(wire, run_id, but="agent_completed")
            self._note(name, wire, run_id)

    async def calls(self, name: str, *, fails: bool = False, then: Awaitable[Any] | None = None) -> None:
        """A run whose tool calls the service, which has reported before `then` is awaited, and answers after that."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run({"url": self.service.url(_word(name)), "fails": fails}, agent="prices")
            await wire.receive_type("tool_executing")
            await wire.ack(run_id, len(wire.events(run_id)))
            self._note(name, wire, run_id, spans=1)
            await asyncio.to_thread(self.service.reported, _word(name))
            if then is not None:
                await then
            self.service.answer(_word(name))
            await self._finish(name, wire, run_id, spans=1)

    async def calls_until_killed(self, name: str, *, after: Awaitable[Any] | None = None) -> None:
        """A run whose tool calls the service, and whose server is killed, after this, while it waits for the answer."""
        async with self._wire(name) as wire:
            run_id = await wire.start_run({"url": self.service.url(_word(name))}, agent="prices")
            await wire.receive_type("tool_executing")
            self._note(name, wire, run_id, spans=1)
            await asyncio.to_thread(self.service.reported, _word(name))
            if after is not None:
                await after
            self.server.process.kill()
            await wire.closed()

    def passed(self, name: str) -> Passed:
        """What has come out of this run's trace so far."""
        trace_id, extra = self.traces[name]
        trace = RecordedTrace(span for span in self.spans if span.trace_id == trace_id)
        roots = [span for span in trace if not span.parent_id]
        promised = roots[0].attributes[Attribute.SPAN_COUNT] + extra if roots else None
        reason = roots[0].attributes.get(Attribute.KEEP_REASON) if roots else None
        return Passed(name, len({span.span_id for span in trace}), promised, reason)

    @property
    def spans(self) -> list[RecordedSpan]:
        """Everything that came out."""
        return [span for backend in self.backends for span in backend.spans]

    def wait_whole(self, *names: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until these are whole. Blocks the calling thread.

        Raises:
            AssertionError: one is not in time; says what came of each.
        """
        try:
            self.collector.wait_for(lambda: all(self.passed(name).whole for name in names), "whole traces", seconds)
        except AssertionError as error:
            raise AssertionError("\n".join([*(self.passed(name).line() for name in names), str(error)])) from None

    def _wire(self, name: str) -> Any:
        return wire_to(self.server.ws_url, self.server.token(f"user-{_word(name)}"))

    async def _finish(self, name: str, wire: Wire, run_id: str, spans: int = 0) -> None:
        events = await wire.receive_run(run_id)
        await wire.ack(run_id, len(events))
        self._note(name, wire, run_id, spans)

    def _note(self, name: str, wire: Wire, run_id: str, spans: int = 0) -> None:
        self.traces[name] = (wire.events(run_id)[0]["traceparent"].split("-")[1], spans)


def _word(name: str) -> str:
    """A run's name as it goes into a URL and a user's name."""
    return re.sub(r"\W+", "-", name)


@contextlib.contextmanager
def traffic(folder: Path, collector: Collector, *backends: Recording, **environ: str) -> Iterator[Traffic]:
    """A server and a service that report to this Collector, which sends to these back ends, one after the other."""
    agents = [part for name in AGENTS for part in ("--agent", name)]
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "TRACEWIRE_DRAIN_GRACE_SECONDS": "0", **environ}
    with (
        PriceService(collector.endpoint) as service,
        ServerProcess(folder / "data", *agents, environ=variables, cwd=TESTS) as server,
    ):
        runs = Traffic(server, collector, service)
        runs.backends.extend(backends)
        yield runs


class Backend(OtlpReceiver):
    """A receiver that is away when it is left: also for who still holds a connection to it."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self._away = False

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        if self._away:
            raise ConnectionResetError
        super().add(spans)

    def __exit__(self, *details: object) -> None:
        self._away = True
        super().__exit__(*details)


@contextlib.contextmanager
def refusing_backend() -> Iterator[str]:
    """The URL of a back end that takes nothing, and wants nothing again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def send_spans(collector: Collector, *, traces: int, spans_each: int) -> int:
    """Send so many whole traces, each a root and its children; the status of the answer."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for _ in range(traces):
        trace_id, root_id = os.urandom(16), os.urandom(8)
        for number in range(spans_each):
            span = spans.add(name="sent", trace_id=trace_id, start_time_unix_nano=1, end_time_unix_nano=2)
            span.span_id = os.urandom(8) if number else root_id
            span.parent_span_id = root_id if number else b""
    answer = httpx.post(
        f"{collector.endpoint}/v1/traces",
        content=request.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf"},
        timeout=30,
    )
    return answer.status_code
