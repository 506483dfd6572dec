"""Two small HTTP servers of the test's own process: one takes Alertmanager's notifications, one shows metrics."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

LOOK_SECONDS = 0.2
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Notification:
    """One call of the webhook: a group of alerts, firing or resolved."""

    path: str
    at: float
    body: dict[str, Any]

    @property
    def status(self) -> str:
        """`firing` or `resolved`."""
        return str(self.body["status"])

    @property
    def alertname(self) -> str:
        """The group's alert."""
        return str(self.body["groupLabels"]["alertname"])

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """Its alerts, with labels and annotations."""
        return list(self.body["alerts"])


class _Served:
    """A threaded server on a free loopback port, from entry to exit."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class AlertReceiver(_Served):
    """What a webhook is told, in the order in which it came."""

    def __init__(self) -> None:
        self.notifications: list[Notification] = []
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with receiver._came:
                    receiver.notifications.append(Notification(self.path, time.monotonic(), body))
                    receiver._came.notify_all()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)

    def told(self, alertname: str | None = None, status: str | None = None) -> list[Notification]:
        """The notifications so far, but for the watchdog's; of this alert, of this status."""
        with self._came:
            return [
                one
                for one in self.notifications
                if one.path != "/watchdog" and alertname in (None, one.alertname) and status in (None, one.status)
            ]

    def heartbeats(self) -> list[Notification]:
        """The watchdog's notifications so far."""
        with self._came:
            return [one for one in self.notifications if one.path == "/watchdog"]

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Until this holds, looked at with each notification.

        Raises:
            AssertionError: it does not hold in time; says what came instead.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            with self._came:
                self._came.wait(LOOK_SECONDS)
            if time.monotonic() > deadline:
                came = [(one.path, one.status, one.body["groupLabels"]) for one in self.notifications]
                raise AssertionError(f"no {what} within {seconds} s; came: {came[-50:]}")


class Exposition(_Served):
    """A page of metrics, as `lines` has them at each scrape. `scrapes` counts."""

    def __init__(self, lines: Callable[[], list[str]]) -> None:
        self.scrapes = 0
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = "".join(f"{line}\n" for line in lines()).encode()
                page.scrapes += 1
                self.send_response(200)
                self.send_header("Content-Type", METRICS_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who scrapes has a limit to its patience
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)
