"""The command line as people call it: a process, its exit code, and what it prints."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jwt
import pytest

from fixtures.recordings import builder
from support.servers import FIVE, ServerProcess
from tracewire.events import decode_envelope
from tracewire.gateway.auth import Authenticator
from tracewire.settings import describe_settings, load_settings

TESTS = Path(__file__).parents[1]
QUESTION = "what is missing in the sample recording?"
LINKS_HEADER = ["seq", "type", "engine→bridge", "→", "emitter", "→", "socket", "→", "acked", "in", "all"]


def tracewire(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One call of the command line."""
    return python("-m", "tracewire.cli", *arguments, **environ)


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One call of the interpreter, without settings from outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        env=clean | {"COLUMNS": "110"} | environ,
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal_of(done: subprocess.CompletedProcess[str]) -> str:
    """The sentence with which a call failed: no traceback, nothing on standard output, an exit code that says so."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server to ask, with agents that fail beside the analyst."""
    agents = ("--agent", "support.agents:raises", "--agent", "support.agents:five")
    with ServerProcess(tmp_path_factory.mktemp("command-line") / "data", *agents, cwd=TESTS) as started:
        yield started


def ask(server: ServerProcess, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`tracewire ask` of this server."""
    return tracewire("ask", *arguments, "--url", server.ws_url, "--data-dir", str(server.data_dir), **environ)


# serve


def test_the_help_of_serve_lists_every_setting_with_its_unit_and_default() -> None:
    """By its variable's name; so does it every flag, and the variable that says where traces go."""
    done = tracewire("serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    flat = " ".join(done.stdout.split())
    missing = []
    for setting in describe_settings():
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        shown = f"{default or 'none'} {setting.unit}".strip()
        if f"{setting.variable} {setting.description} [default: {shown}]" not in flat:
            missing.append(setting.variable)
    assert missing == []
    flags = ("--host", "--port", "--ops-host", "--ops-port", "--data-dir", "--agent", "--canary", "--drills")
    for flag in flags:
        assert f" {flag} " in flat
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in flat


def test_every_setting_has_a_unit_where_it_has_a_size_or_a_time() -> None:
    """What is counted or measured says in what."""
    without = [
        setting.name
        for setting in describe_settings()
        if isinstance(setting.default, int | float)
        and not isinstance(setting.default, bool)
        and not setting.unit
        and setting.name not in ("port", "ops_port")
    ]
    assert without == ["trace_share"]


def test_a_server_says_where_it_is_and_gives_a_token_that_works(server: ServerProcess) -> None:
    """What it prints when it is ready: both ports, a token, and commands that can be copied."""
    assert server.ws_url in server.banner
    assert server.ops_url in server.banner
    [token] = [line.strip() for line in server.banner.splitlines() if line.strip().startswith("eyJ")]
    assert ask(server, QUESTION, "--token", token).returncode == 0
    [command] = [line.split() for line in server.banner.splitlines() if "tracewire ask" in line and "missing" in line]
    assert command[-2:] == ["--data-dir", str(server.data_dir)]
    assert server.ws_url in command


# token


def test_token_prints_the_token_alone(tmp_path: Path) -> None:
    """It makes the data folder where there is none, and the server of that folder lets its user in."""
    done = tracewire("token", "--user", "ada", "--ttl", "15m", "--data-dir", str(tmp_path / "new"))
    assert (done.returncode, done.stderr) == (0, "")
    token = done.stdout.removesuffix("\n")
    assert len(token.split()) == 1
    principal = Authenticator(load_settings({}, data_dir=str(tmp_path / "new"))).verify(token)
    assert principal.user_id == "ada"
    assert principal.expires_at == pytest.approx(time.time() + 900, abs=30)


def test_token_signs_by_the_configured_secret(tmp_path: Path) -> None:
    """With issuer and audience, for an hour unless told otherwise; no folder is made for that."""
    secret = "the secret of a real deployment, 32 bytes"
    done = tracewire(
        *("token", "--user", "ada", "--data-dir", str(tmp_path / "none")),
        TRACEWIRE_JWT_SECRET=secret,
        TRACEWIRE_JWT_ISSUER="https://issuer.test",
        TRACEWIRE_JWT_AUDIENCE="tracewire",
    )
    claims = jwt.decode(
        done.stdout.strip(), secret, algorithms=["HS256"], issuer="https://issuer.test", audience="tracewire"
    )
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("ada", 3600)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", ""), "needs a name"),
        (("--user", "ada", "--ttl", "soon"), "'soon' is no duration"),
        (("--user", "ada", "--ttl", "-1h"), "above 0"),
        (("--user", "ada", "--ttl", "0"), "above 0"),
        (("--user", "ada", "--ttl", "nan"), "above 0"),
        (("--user", "ada", "--ttl", "inf"), "ten years"),
        ((), "--user"),
    ],
)
def test_token_refuses_what_it_cannot_sign_for(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """In a sentence, and prints no token."""
    assert said in refusal_of(tracewire("token", *arguments, "--data-dir", str(tmp_path / "data")))


def test_token_says_that_a_folder_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    said = refusal_of(tracewire("token", "--user", "ada", "--data-dir", str(tmp_path / "file")))
    assert f"data folder {tmp_path / 'file'}" in said


# ask


def test_ask_prints_a_timeline_the_answer_and_the_time_at_each_link(server: ServerProcess) -> None:
    """Every event under its wire type's name, one row a link and event, a receipt that agrees; exit code 0."""
    done = ask(server, QUESTION, "--user", "timeline")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"timeline asks analyst: {QUESTION}"
    assert lines[1].startswith("run ")
    timeline = [line.split()[2] for line in lines if line[9:12] == " s "]
    assert set(FIVE) <= set(timeline)
    assert (timeline[0], timeline[-1]) == ("agent_started", "agent_completed")
    header = next(number for number, line in enumerate(lines) if line.split() == LINKS_HEADER)
    rows = [line.split() for line in lines[header + 1 : -2]]
    assert [row[1] for row in rows if row[1] != "agent_delta"] == [name for name in timeline if name != "agent_delta"]
    assert all(float(cell) >= 0 for row in rows for cell in row[2:])
    assert all(len(row) == 7 for row in rows)
    assert lines[-1] == f"receipt: {len(timeline)} events sent, {len(timeline)} received; it agrees"


def test_ask_as_json_prints_each_envelope_on_a_line_and_nothing_else(server: ServerProcess) -> None:
    """As it came over the wire: in order, whole, with the receipt at the end."""
    done = ask(server, QUESTION, "--json", "--user", "json")
    assert (done.returncode, done.stderr) == (0, "")
    envelopes = [decode_envelope(line) for line in done.stdout.splitlines()]
    assert [envelope.seq for envelope in envelopes] == list(range(1, len(envelopes) + 1))
    types = [envelope.type.value for envelope in envelopes]
    assert envelopes[-1].data["receipt"] == {"last_seq": len(types), "counts": dict(Counter(types))}


def script() -> builder.Script:
    """A recording of one run that lost its second event."""
    recorded = builder.Script()
    recorded.ready()
    run = recorded.accept("the-run")
    run.start()
    run.emit("agent_thinking", text="hm", step=1, lost=True)
    run.tool("call-1")
    run.end()
    return recorded


@pytest.mark.parametrize(
    ("name", "write"),
    [("capture.har", builder.chromium_har), ("firefox.har", builder.firefox_har), ("frames.jsonl", builder.jsonl)],
)
def test_ask_about_a_file_finds_what_it_lost(server: ServerProcess, tmp_path: Path, name: str, write: Any) -> None:
    """A browser's HAR or a JSONL of frames, by its own name; the lost event is named by run and seq."""
    recording = tmp_path / name
    recording.write_bytes(write(script()))
    done = ask(server, "what is missing?", "--file", str(recording), "--json", "--user", "files")
    assert (done.returncode, done.stderr) == (0, "")
    output = json.loads(done.stdout.splitlines()[-1])["data"]["output"]
    assert name in output
    assert "the-run" in output
    assert "agent_thinking" in output


def test_ask_exits_with_1_where_the_run_failed(server: ServerProcess) -> None:
    """And prints what went wrong; `--json` does the same."""
    done = ask(server, "exception", "--agent", "raises")
    assert (done.returncode, done.stderr) == (1, "")
    assert "The run failed (agent_exception): ValueError: no good" in done.stdout
    assert "it agrees" in done.stdout
    assert ask(server, "exception", "--agent", "raises", "--json").returncode == 1


def test_ask_takes_its_token_from_the_environment_and_a_user_goes_before_it(server: ServerProcess) -> None:
    """TRACEWIRE_TOKEN signs in; `--user` asks as that user all the same."""
    token = server.token("by token")
    done = ask(server, "go", "--agent", "five", TRACEWIRE_TOKEN=token)
    assert done.stdout.startswith("by token asks five: go\n")
    done = ask(server, "go", "--agent", "five", "--user", "by name", TRACEWIRE_TOKEN=token)
    assert done.stdout.startswith("by name asks five: go\n")


def test_ask_says_in_a_sentence_why_it_cannot(server: ServerProcess, tmp_path: Path) -> None:
    """No server there, not its path, not a socket's address, a bad token, no agent of that name, no file, no secret."""
    data = ("--data-dir", str(server.data_dir))
    nowhere = tracewire("ask", "?", "--url", "ws://127.0.0.1:9/ws", *data)
    assert "is the server running?" in refusal_of(nowhere)
    elsewhere = tracewire("ask", "?", "--url", server.ws_url.replace("/ws", "/nope"), *data)
    assert "HTTP 40" in refusal_of(elsewhere)
    for url in ("nonsense", "http://127.0.0.1:9/ws", "ws://", "ws://127.0.0.1:port/ws"):
        said = refusal_of(tracewire("ask", "?", "--url", url, *data))
        assert url in said
        assert "not ready" not in said
    assert "4501 (unauthenticated)" in refusal_of(ask(server, "?", "--token", "no.such.token"))
    assert "there is no agent 'nobody'" in refusal_of(ask(server, "?", "--agent", "nobody"))
    missing = tmp_path / "missing.har"
    assert f"{missing}: No such file" in refusal_of(ask(server, "?", "--file", str(missing)))
    assert str(tmp_path) in refusal_of(ask(server, "?", "--file", str(tmp_path)))
    empty = tracewire("ask", "?", "--url", server.ws_url, "--data-dir", str(tmp_path / "no-server"))
    assert "holds no development secret" in refusal_of(empty)
    large = tmp_path / "large.jsonl"
    large.write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    assert "at most 16777216 bytes" in refusal_of(ask(server, "?", "--file", str(large)))


# doctor


def test_doctor_checks_six_joints_and_leaves_the_data_folder_alone(tmp_path: Path) -> None:
    """One line each, all of them good, exit code 0; a folder that is not there is not made."""
    folder = tmp_path / "data"
    done = tracewire("doctor", "--data-dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"data folder {folder}: none yet")
    assert [line.split()[:2] for line in lines[1:7]] == [[f"L{number}", "ok"] for number in range(1, 7)]
    assert lines[7:] == ["all six hold"]
    assert not folder.exists()


def test_doctor_inspects_the_folder_of_a_running_server(server: ServerProcess) -> None:
    """Its rights, its secret and its event log, while the server goes on."""
    before = (server.data_dir / "development-secret").stat()
    done = tracewire("doctor", "--data-dir", str(server.data_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert "writable" in done.stdout.splitlines()[0]
    assert "for its owner alone" in done.stdout
    assert "event log" in done.stdout
    assert (server.data_dir / "development-secret").stat().st_mtime_ns == before.st_mtime_ns
    assert ask(server, "go", "--agent", "five").returncode == 0


BREAKS = {
    "L1": "from tracewire.engine.factory import ExecutionFactory as F\n"
    "F.missing = property(lambda self: ('threads',) if self._threads else ())",
    "L3": "from tracewire.engine.factory import ExecutionFactory as F\nF._create_bridge = lambda *_: None",
    "L5": "from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter as E\ndel E.emit_tool_completed",
    "L6": "from tracewire.delivery.connection import Connection as C\n"
    "offer = C.offer\n"
    "C.offer = lambda self, run_id, seq, body: seq == 3 or offer(self, run_id, seq, body)",
}


@pytest.mark.parametrize("joint", BREAKS)
def test_doctor_names_the_joint_that_is_broken(tmp_path: Path, joint: str) -> None:
    """Those before it hold, those behind it are `not reached`, exit code 1."""
    code = (
        f"{BREAKS[joint]}\nfrom tracewire.cli import main\nmain(['doctor', '--data-dir', {str(tmp_path / 'data')!r}])"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stdout.splitlines() if line[:1] == "L"]
    assert [line[:2] for line in lines] == [f"L{number}" for number in range(1, 7)]
    for line in lines:
        if line[:2] < joint:
            assert line.split()[1] == "ok"
        elif line[:2] == joint:
            assert line.split()[1] == "BROKEN"
        else:
            assert f"not reached ({joint})" in line


# tracewire


def test_the_command_says_its_version_and_what_it_can_do() -> None:
    """And refuses what it cannot, with exit code 2."""
    assert version("tracewire") in tracewire("--version").stdout
    described = tracewire("--help").stdout
    for command in ("serve", "ask", "token", "doctor"):
        assert f"  {command} " in described
    assert tracewire("dance").returncode == 2
