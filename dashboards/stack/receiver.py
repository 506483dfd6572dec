"""What Alertmanager's two placeholder receivers lead to until you put your own in their place: prints notifications.

    python -m dashboards.stack.receiver --port 9095

`POST /alerts` prints a line for each alert, `POST /watchdog` one for the first heartbeat. `POST /v1/traces` takes
traces and keeps none, for a Collector with no store behind it.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

HOST: Final = "127.0.0.1"
PORT: Final = 9095
BODY_BYTES_MAX: Final = 64 * 1024 * 1024


def alert_lines(body: dict[str, Any], now: datetime) -> list[str]:
    """A notification as lines: when it came, firing or resolved, which alert, what it says, and where to look; of what
    fires its description too, with the address of the live server.
    """
    lines = []
    for alert in body["alerts"]:
        labels, annotations = alert["labels"], alert["annotations"]
        head = f"{now.isoformat(timespec='milliseconds')} {alert['status']:8} {labels['alertname']}"
        where = "  ".join(annotations[name] for name in ("runbook_url", "dashboard_url") if name in annotations)
        lines.append(f"{head}: {annotations.get('summary', '')}  [{where}]")
        if alert["status"] == "firing" and "description" in annotations:
            lines.append(f"    {annotations['description']}")
    return lines


class Receiver(ThreadingHTTPServer):
    """Serves until it is shut down."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.heard_watchdog = False

    def say(self, lines: list[str]) -> None:
        """Print these lines, at once."""
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/-/ready" else 404)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self._answer(413)
            return
        body = self.rfile.read(length)
        now = datetime.now(UTC)
        match self.path:
            case "/alerts":
                self._notified(body, now)
            case "/watchdog":
                if not self.server.heard_watchdog:
                    said = (
                        f"{now.isoformat(timespec='milliseconds')} watchdog: Prometheus evaluates, Alertmanager sends"
                    )
                    self.server.say([said])
                self.server.heard_watchdog = True
                self._answer(200)
            case "/v1/traces":
                self._answer(200, "application/x-protobuf")
            case _:
                self._answer(404)

    def _notified(self, body: bytes, now: datetime) -> None:
        try:
            lines = alert_lines(json.loads(body), now)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.server.say([f"what came to /alerts is no notification of Alertmanager: {error!r}"])
            self._answer(400)
            return
        self.server.say(lines)
        self._answer(200)

    def _answer(self, status: int, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def main() -> None:
    """Serve, until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.stack.receiver", description="Print notifications.")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args()
    try:
        Receiver(options.host, options.port).serve_forever()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
