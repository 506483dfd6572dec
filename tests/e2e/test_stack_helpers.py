"""What compose.yaml runs beside the server, each beside a real one: secrets, gate, receiver."""

import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest

from dashboards.stack.gate import Gate
from dashboards.stack.programs import free_ports
from support.alert_rules import ROOT
from support.servers import ServerProcess

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 60.0
DRILL_SECONDS: Final = 100.0


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}


def fetched(url: str) -> Any:
    """The JSON at this address."""
    with urlopen(url, timeout=10) as answer:  # noqa: S310 # of a server of this test
        return json.loads(answer.read())


def prepared(folder: Path) -> subprocess.CompletedProcess[str]:
    """The first container's command, for this user."""
    command = [sys.executable, "-m", "dashboards.stack.prepare", "--secret", str(folder / "data" / "jwt-secret")]
    more = ["--token", str(folder / "run" / "ops-token"), "--owner", str(os.getuid())]
    give = ["--give", f"{folder / 'otelcol'}={os.getuid()}"]
    return subprocess.run([*command, *more, *give], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)


def test_secrets_are_made_once_for_those_who_need_them(tmp_path: Path) -> None:
    """The sign-in secret for its owner alone, the token for who mounts it; neither is printed, nor made anew."""
    first = prepared(tmp_path)
    secret, token = tmp_path / "data" / "jwt-secret", tmp_path / "run" / "ops-token"
    made = secret.read_text(), token.read_text()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (secret, token)] == [0o400, 0o444]
    assert len({*made}) == 2
    assert all(len(one) >= 32 for one in made)
    assert all(one not in first.stdout for one in made)
    assert (tmp_path / "otelcol").is_dir()
    assert "there already" in prepared(tmp_path).stdout
    assert (secret.read_text(), token.read_text()) == made


@contextlib.contextmanager
def gate_to(url: str, token_file: Path) -> Iterator[str]:
    """A gate on a free port, and its address."""
    gate = Gate("127.0.0.1", 0, url, token_file)
    thread = threading.Thread(target=gate.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{gate.server_address[1]}"
    finally:
        gate.shutdown()
        thread.join()
        gate.server_close()


def test_the_gate_brings_the_token_and_a_server_of_others_is_drilled_through_it(tmp_path: Path) -> None:
    """As in the containers: secrets in files, everything beyond loopback. Without the gate the ops port asks for its
    token; through it a browser sees the incidents, and a drill is ordered, run and healed. Pages of other origins get
    nothing. In the container itself the command line reads the token from its file.
    """
    prepared(tmp_path)
    token = tmp_path / "run" / "ops-token"
    environ = {
        "TRACEWIRE_HOST": "0.0.0.0",  # noqa: S104 # as in a container
        "TRACEWIRE_OPS_HOST": "0.0.0.0",  # noqa: S104 # as above
        "TRACEWIRE_OPS_TOKEN_FILE": str(token),
        "TRACEWIRE_JWT_SECRET_FILE": str(tmp_path / "data" / "jwt-secret"),
        "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1",
        "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1",
    }
    with ServerProcess(tmp_path / "server", "--drills", environ=environ) as server:
        ops = server.ops_url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 # as above
        with pytest.raises(OSError, match="401"):
            fetched(f"{ops}/incidents")
        with gate_to(ops, token) as gate:
            assert fetched(f"{gate}/incidents")["incidents"] == []
            ran = subprocess.run(
                [sys.executable, "-m", "tracewire.cli", "drill", "--event", "agent_thinking", "--link", "client",
                 "--url", gate], env=clean_environment(), capture_output=True, text=True, check=False,
                timeout=DRILL_SECONDS,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout + ran.stderr
            (incident,) = fetched(f"{gate}/incidents?state=healed")["incidents"]
            assert incident["user_id"] == "drill"
            for foreign in ({"Origin": "https://evil.test"}, {"Host": "evil.test:9464"}):
                with pytest.raises(OSError, match="403"):
                    urlopen(Request(f"{gate}/incidents", headers=foreign), timeout=10)  # noqa: S310 # as above
            inside = clean_environment() | {"TRACEWIRE_OPS_TOKEN_FILE": str(token)}
            ran = subprocess.run(
                [sys.executable, "-m", "tracewire.cli", "drill", "--event", "agent_thinking", "--link", "bridge",
                 "--url", ops], env=inside, capture_output=True, text=True, check=False, timeout=DRILL_SECONDS,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout + ran.stderr
            server.stop()
            request = Request(f"{gate}/incidents")  # noqa: S310 # as above
            with pytest.raises(OSError, match="502"):
                urlopen(request, timeout=10)  # noqa: S310 # as above


def test_the_receiver_says_what_is_no_notification(tmp_path: Path) -> None:
    """And goes on: 400 for it, 404 for another path, 200 for what Alertmanager and a Collector send."""
    port = free_ports([0])[0]
    command = [sys.executable, "-m", "dashboards.stack.receiver", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as receiving:
        assert receiving.stdout is not None
        try:
            give_up_at = time.monotonic() + START_SECONDS
            while posted(port, "/nowhere", b"") is None:
                assert time.monotonic() < give_up_at
            assert posted(port, "/alerts", b"no") == 400
            assert "no notification" in receiving.stdout.readline()
            assert posted(port, "/watchdog", b"{}") == 200
            assert "watchdog" in receiving.stdout.readline()
            assert posted(port, "/v1/traces", b"spans") == 200
            assert posted(port, "/nowhere", b"") == 404
            labels, said = {"alertname": "A", "job": "j"}, {"summary": "S", "runbook_url": "R"}
            alert: dict[str, Any] = {"status": "resolved", "labels": labels, "annotations": said}
            assert posted(port, "/alerts", json.dumps({"alerts": [alert]}).encode()) == 200
            assert "resolved A: S  [R]" in receiving.stdout.readline()
            alert |= {"status": "firing", "annotations": said | {"description": "Live: http://a:1/incidents"}}
            assert posted(port, "/alerts", json.dumps({"alerts": [alert]}).encode()) == 200
            assert "firing   A: S  [R]" in receiving.stdout.readline()
            assert receiving.stdout.readline() == "    Live: http://a:1/incidents\n"
        finally:
            receiving.send_signal(signal.SIGINT)
            assert receiving.wait(STOP_SECONDS) == 0


def posted(port: int, path: str, body: bytes) -> int | None:
    """The status of a POST; `None` where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().status
    except ConnectionError:
        return None
    finally:
        connection.close()
