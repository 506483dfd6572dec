"""Receives OTLP over HTTP in the event loop of the load, and counts spans."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class TraceSink:
    """`spans` counts what came, `span_ids` tells repeats from the rest. `endpoint` goes into `OTEL_…_ENDPOINT`."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans = 0
        self.span_ids: set[bytes] = set()
        self._changed = asyncio.Event()

    async def wait_for(self, spans: int) -> None:
        """Wait until this many came."""
        while self.spans < spans:
            self._changed.clear()
            await self._changed.wait()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of an exporter."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                size = int(head.partition("content-length:")[2].partition("\r\n")[0])
                self._count(ExportTraceServiceRequest.FromString(await reader.readexactly(size)))
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _count(self, request: ExportTraceServiceRequest) -> None:
        for resource_spans in request.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                self.spans += len(scope_spans.spans)
                self.span_ids.update(span.span_id for span in scope_spans.spans)
        self._changed.set()


@asynccontextmanager
async def trace_sink() -> AsyncIterator[TraceSink]:
    """A sink on a free port of loopback."""
    sink = TraceSink()
    server = await asyncio.start_server(sink.handle, "127.0.0.1", 0)
    sink.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield sink
    finally:
        server.close()
