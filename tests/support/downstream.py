"""A service that a tool calls: it traces itself, reports its span at once, and answers when it is let go."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CALL_SECONDS = 30.0
ANSWER_SECONDS = 600.0
SPAN = "GET /price"


class PriceService:
    """An HTTP service on a free port of loopback. Use it as a context manager.

    A request's path names the caller: its span has left when `reported(caller)` returns, its answer comes after
    `answer(caller)`.
    """

    def __init__(self, collector: str) -> None:
        self._provider = TracerProvider(resource=Resource({"service.name": "prices"}), shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{collector}/v1/traces")))
        self._events: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service._report(dict(self.headers.items()))
                service._event(f"reported{self.path}").set()
                service._event(f"answer{self.path}").wait(ANSWER_SECONDS)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"42")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a caller that was killed does not take its answer

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def url(self, caller: str) -> str:
        """What this caller is to ask for."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{caller}"

    def reported(self, caller: str) -> None:
        """Wait until this caller's request was traced, and its span has left."""
        assert self._event(f"reported/{caller}").wait(CALL_SECONDS), f"{caller} did not call"

    def answer(self, caller: str) -> None:
        """Let this caller have its answer."""
        self._event(f"answer/{caller}").set()

    def _event(self, name: str) -> threading.Event:
        with self._lock:
            return self._events.setdefault(name, threading.Event())

    def _report(self, headers: dict[str, str]) -> None:
        carrier = {name.lower(): value for name, value in headers.items()}
        context = TraceContextTextMapPropagator().extract(carrier)
        with self._provider.get_tracer("prices").start_as_current_span(SPAN, context, SpanKind.SERVER):
            pass

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for event in self._events.values():
            event.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._provider.shutdown()
