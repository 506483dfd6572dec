"""The ops port of a container for a browser on the same machine: passes requests on, with the token.

    python -m dashboards.stack.gate --to http://tracewire:9464 --token-file /run/tracewire/ops-token --host 0.0.0.0

In a container Tracewire listens beyond loopback, where its ops port asks for a token, and a link in an alert or on a
board cannot bring one. Publish this on loopback alone: who reaches it is an operator, as on a machine without
containers. Web pages are not: what a page of another origin sends, or one that took a name of its own for this machine,
is refused.
"""

import argparse
import http.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

PORT: Final = 9464
WAIT_SECONDS: Final = 30.0
BODY_BYTES_MAX: Final = 1024 * 1024
_OWN_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSED_ON: Final = ("Accept", "Content-Type")
_PASSED_BACK: Final = ("Content-Type", "Retry-After")


class Gate(ThreadingHTTPServer):
    """Passes on to the ops port at `to`; the token is read from its file for each request, so that it may change."""

    daemon_threads = True

    def __init__(self, host: str, port: int, to: str, token_file: Path) -> None:
        parts = urlsplit(to)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{to!r} is no address of an ops port; it looks like http://tracewire:9464")
        self.target = (parts.hostname, parts.port or PORT)
        self.token_file = token_file
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Gate

    def _pass_on(self) -> None:
        if "Origin" in self.headers or urlsplit(f"//{self.headers.get('Host', '')}").hostname not in _OWN_NAMES:
            self._answer(403, [], b"only for this machine's own browser and command line, by 127.0.0.1 or localhost\n")
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self._answer(413, [], b"no request of the ops port is so large\n")
            return
        body = self.rfile.read(length)
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        connection = http.client.HTTPConnection(*self.server.target, timeout=WAIT_SECONDS)
        try:
            headers["Authorization"] = f"Bearer {self.server.token_file.read_text().strip()}"
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            back = [(name, value) for name in _PASSED_BACK if (value := answer.getheader(name))]
            self._answer(answer.status, back, answer.read())
        except (OSError, http.client.HTTPException) as error:
            host, port = self.server.target
            self._answer(502, [], f"no ops port answers at {host}:{port}: {error}\n".encode())
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 # the names that the library calls

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def main() -> None:
    """Serve, until a signal ends the process."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.stack.gate", description="The ops port, with its token."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--to", required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    options = parser.parse_args()
    try:
        Gate(options.host, options.port, options.to, options.token_file).serve_forever()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
