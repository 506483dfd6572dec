"""The metrics of `tracewire probe`, on a port of its own: the canary's stamp, and at which link it last broke."""

import threading
import time
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from tracewire_telemetry.catalog import CANARY_LAST_SUCCESS, PROBE_LINK_BROKEN, PROBES
from tracewire_telemetry.catalog_labels import PROBE_RESULT
from tracewire_telemetry.metrics import WithoutCreated
from tracewire_telemetry.vocabulary import LINKS, Link

OK, BROKEN = PROBE_RESULT.values


class ProbeMetrics:
    """What one probing process tells. `open` it for somebody to scrape; `close` it at the end."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._probes = Counter(PROBES.full_name, PROBES.help, PROBES.label_names, registry=self._registry)
        for result in PROBE_RESULT.values:
            self._probes.labels(result)
        self._broken = Gauge(
            PROBE_LINK_BROKEN.full_name, PROBE_LINK_BROKEN.help, PROBE_LINK_BROKEN.label_names, registry=self._registry
        )
        for link in LINKS:
            self._broken.labels(link.value)
        self._last_success: Gauge | None = None
        self._serving: tuple[WSGIServer, threading.Thread] | None = None

    def open(self, host: str, port: int) -> int:
        """Serve them; the port, which 0 leaves to the system.

        Raises:
            OSError: the address cannot be had.
        """
        self._serving = start_http_server(port, host, WithoutCreated(self._registry))
        return self._serving[0].server_port

    def close(self) -> None:
        """Serve no more, if they were served."""
        if self._serving is not None:
            server, thread = self._serving
            server.shutdown()
            server.server_close()
            thread.join()

    def probed(self, *, succeeded: bool, broken: Link | None) -> None:
        """A probe ended; `broken` is the link that it broke at, where it was one."""
        self._probes.labels(OK if succeeded else BROKEN).inc()
        for link in LINKS:
            self._broken.labels(link.value).set(link is broken)
        if succeeded:
            if self._last_success is None:
                spec = CANARY_LAST_SUCCESS
                self._last_success = Gauge(spec.full_name, spec.help, registry=self._registry)
            self._last_success.set(time.time())
