"""Fire drills on a real server process: one event of one run is lost, noticed where it was, and told; no other is."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.issuers import jwk_of, jwks_of, rsa_key, signed
from support.monitoring import started_monitoring
from support.servers import FIVE, ServerProcess, server_under_test
from support.wire import Wire, wire_to
from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.bridge.drilled_bridge import DrilledBridge
from tracewire.delivery.drilled_emitter import DrilledEmitter
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.drilling import DrillError, Drilling, DrillOrder
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.drilled_engine import DrilledEngine
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import UserExecutionEngine
from tracewire_telemetry.vocabulary import LINKS

TESTS: Final = Path(__file__).resolve().parents[1]
WITHIN_SECONDS: Final = 90.0
DEADLINES: Final = {
    "TRACEWIRE_START_DEADLINE_SECONDS": "2",
    "TRACEWIRE_IDLE_DEADLINE_SECONDS": "6",
    "TRACEWIRE_BRIDGE_DEADLINE_SECONDS": "1",
    "TRACEWIRE_EMITTER_DEADLINE_SECONDS": "1.5",
    "TRACEWIRE_OUTBOX_AGE_SECONDS": "1",
    "TRACEWIRE_SOCKET_DEADLINE_SECONDS": "2",
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "2",
    "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1.5",
}
NEVER_EMITTED: Final = ("agent_thinking", "tool_executing", "tool_completed")


def drill(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`tracewire drill` as a process, in an environment without settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEWIRE_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "tracewire.cli", "drill", *arguments],
        env=clean,
        capture_output=True,
        text=True,
        timeout=WITHIN_SECONDS,
        check=False,
    )


async def incidents(server: ServerProcess) -> list[dict[str, Any]]:
    """Every incident of the server, oldest first."""
    async with httpx.AsyncClient(base_url=server.ops_url) as http:
        page = (await http.get("/incidents", params={"limit": "1000"})).json()
    return list(reversed(page["incidents"]))


async def whole_run(wire: Wire, agent: str) -> None:
    """A run of a healthy client, which must get all five events, in order, once."""
    run_id = await wire.start_run("go", agent=agent)
    events = await wire.receive_run(run_id)
    await wire.ack(run_id, len(events))
    assert list(FIVE) == [event["type"] for event in events]
    assert list(range(1, len(FIVE) + 1)) == [event["seq"] for event in events]


@contextlib.asynccontextmanager
async def others_at_work(server: ServerProcess) -> AsyncIterator[None]:
    """Two other users who go on starting runs of the drill's own agent, each of which must be whole."""
    over = asyncio.Event()

    async def work(user_id: str) -> None:
        async with wire_to(server.ws_url, server.token(user_id)) as wire:
            while not over.is_set():
                await whole_run(wire, "drill")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 1)

    async with asyncio.TaskGroup() as group:
        for user_id in ("ada", "drill2"):
            group.create_task(work(user_id))
        try:
            yield
        finally:
            over.set()


async def drill_all_types(server: ServerProcess, link: str) -> list[tuple[str, list[str]]]:
    """A drill of each type at this link, one after the other: what each has told."""
    told = []
    for event in FIVE:
        lines: list[str] = []
        order = DrillOrder(event=event, link=link, ops_url=server.ops_url, within_seconds=WITHIN_SECONDS)
        await Drilling(order, lines.append).drill()
        told.append((event, lines))
    return told


@pytest.mark.timeout(300)
async def test_each_type_is_lost_at_each_link_of_one_run_and_noticed_there_and_nobody_else_misses_anything(
    tmp_path: Path,
) -> None:
    """25 drills, five servers for the five links: one incident each, at that link, of that type, ended as it can end.
    Other users run the same agent meanwhile: their runs are whole and have no incident.
    """
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            link: stack.enter_context(ServerProcess(tmp_path / link, "--drills", environ=DEADLINES)) for link in LINKS
        }
        for server in servers.values():
            await stack.enter_async_context(others_at_work(server))
        told = await asyncio.gather(*(drill_all_types(server, link) for link, server in servers.items()))
        for (link, server), drills in zip(servers.items(), told, strict=True):
            found = await incidents(server)
            expected = [
                ("drill", link, "next" if (link, event) == ("engine", "agent_completed") else event)
                for event, _ in drills
            ]
            assert expected == [(one["user_id"], one["link"], one["type"]) for one in found]
            states = ["lost" if link == "engine" and event in NEVER_EMITTED else "healed" for event in FIVE]
            assert states == [one["state"] for one in found]
            for (event, lines), one in zip(drills, found, strict=True):
                steps = [line.split()[0] for line in lines]
                assert steps == ["armed", "run", "lost", "incident", one["state"], "over"], (link, event)
                assert one["run_id"] == lines[1].split()[1]
                assert one["since"] in lines[3]
                assert one["ended"] in lines[4]
                assert (link in ("socket", "client")) == ("by 4003 and resume" in lines[4]), (link, event)


async def test_a_drill_is_taken_by_one_run_of_its_user_its_agent_and_its_request_alone(tmp_path: Path) -> None:
    """With a drill armed, another user by the same request id, the drill's user by another one or with another agent,
    and, after the drill's run, the same request again: none of them loses anything.
    """
    arguments = ("--drills", "--agent", "support.agents:five")
    with ServerProcess(tmp_path / "data", *arguments, environ=DEADLINES, cwd=TESTS) as server:
        async with httpx.AsyncClient(base_url=server.ops_url) as http:
            armed = (await http.post("/drills", json={"event": "agent_thinking", "link": "engine"})).json()
            drill_id = armed["drill_id"]

            async def whole(user_id: str, agent: str, request_id: str) -> str:
                async with wire_to(server.ws_url, server.token(user_id)) as wire:
                    run_id = await wire.start_run("go", agent=agent, request_id=request_id)
                    events = await wire.receive_run(run_id)
                    await wire.ack(run_id, len(events))
                return " ".join(event["type"] for event in events)

            assert await whole("ada", "drill", drill_id) == " ".join(FIVE)
            assert await whole("drill", "drill", "another") == " ".join(FIVE)
            assert (await http.get(f"/drills/{drill_id}")).json()["state"] == "armed"
            refused = await http.post("/drills", json={"event": "agent_thinking", "link": "engine"})
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            lossy = "agent_started tool_executing tool_completed agent_completed"
            assert await whole("drill", "drill", drill_id) == lossy
            assert await whole("drill", "drill", drill_id) == lossy  # the same run, as it is in the log
            assert await whole("drill", "drill", "a third") == " ".join(FIVE)
            shown = (await http.get(f"/drills/{drill_id}")).json()
            assert (shown["state"], shown["lost_at"] is not None) == ("over", True)

            armed = (await http.post("/drills", json={"event": "agent_thinking", "link": "engine"})).json()
            assert await whole("drill", "five", armed["drill_id"]) == " ".join(FIVE)
        [only] = await incidents(server)
        assert (only["user_id"], only["run_id"], only["link"], only["type"]) == (
            "drill", shown["run_id"], "engine", "agent_thinking",
        )  # fmt: skip


def test_the_command_drills_tells_each_step_and_says_why_where_it_cannot(tmp_path: Path) -> None:
    """Exit code 0 with a line for each step; 1 and the reason where no server is, or no Alertmanager, or no token; 2
    where there is no such event or link.
    """
    with ServerProcess(tmp_path / "data", "--drills", environ=DEADLINES) as server:
        done = drill("--event", "tool_completed", "--link", "socket", "--url", server.ops_url)
        assert (done.returncode, done.stderr) == (0, "")
        steps = [line.split()[0] for line in done.stdout.splitlines()]
        assert steps == ["armed", "run", "lost", "incident", "healed", "over"]
        asked = ("--event", "tool_completed", "--link", "socket", "--url", server.ops_url)
        done = drill("--event", "tool_completed", "--link", "socket", "--url", server.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "name the ops port with --url" in done.stderr
        dead = "http://127.0.0.1:9"
        done = drill(*asked, "--alertmanager", dead)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no Alertmanager answers at {dead}" in done.stderr
        (tmp_path / "token").write_text(server.token("ada"))
        done = drill(*asked, "--token-file", str(tmp_path / "token"))
        assert done.returncode == 1
        assert "the token signs in 'ada'; a drill needs one of the user 'drill'" in done.stderr
        assert done.stdout.count("\n") == 1
        secrets = [line for line in server.log_text().splitlines() if "eyJ" in line]
        assert secrets == []
    for url, said in ((server.ops_url, "is the server running?"), ("http://127.0.0.1:ops", "is no URL of an ops port")):
        done = drill("--event", "tool_completed", "--link", "socket", "--url", url)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
    for wrong in (("--event", "agent_delta", "--link", "socket"), ("--event", "agent_started", "--link", "wire")):
        done = drill(*wrong)
        assert done.returncode == 2
        assert "is not one of" in done.stderr


def test_a_server_that_was_not_told_to_allow_drills_refuses_them_and_has_nothing_of_them(tmp_path: Path) -> None:
    """403 with the hint, as a problem document; the agent is not there either."""
    with ServerProcess(tmp_path / "data") as server:
        refused = httpx.post(f"{server.ops_url}/drills", json={"event": "agent_started", "link": "socket"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "tracewire serve --drills" in refused.json()["detail"]
        assert httpx.get(f"{server.ops_url}/drills/any").status_code == 403
        done = drill("--event", "agent_started", "--link", "socket", "--url", server.ops_url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "tracewire serve --drills" in done.stderr
        headers = {"Authorization": f"Bearer {server.token('drill')}"}
        assert "drill" not in httpx.get(f"{server.url}/agents", headers=headers).text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"event": "agent_delta", "link": "socket"}, "event must be one of agent_started"),
        ({"event": "agent_started", "link": "wire"}, "link must be one of engine"),
        ({"event": "agent_started", "link": "socket", "user_id": "ada"}, "user_id"),
    ],
)
def test_the_ops_port_refuses_what_is_no_drill_and_who_is_no_operator(
    tmp_path: Path, body: dict[str, str], said: str
) -> None:
    """Another event, another link, another user; and no token, where the port needs one."""
    with ServerProcess(
        tmp_path / "data", environ={"TRACEWIRE_DRILLS": "true", "TRACEWIRE_OPS_TOKEN": "opener"}
    ) as server:
        operator = {"Authorization": "Bearer opener"}
        refused = httpx.post(f"{server.ops_url}/drills", json=body, headers=operator)
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed")
        assert said in refused.json()["detail"]
        good = {"event": "agent_started", "link": "socket"}
        assert httpx.post(f"{server.ops_url}/drills", json=good).status_code == 401
        form = {"Content-Type": "text/plain", **operator}
        assert httpx.post(f"{server.ops_url}/drills", content="{}", headers=form).status_code == 415
        assert httpx.post(f"{server.ops_url}/drills", json=good, headers=operator).status_code == 201


async def test_with_drills_allowed_only_the_drills_run_has_other_stations_and_its_trace_is_whole(
    tmp_path: Path,
) -> None:
    """Every other engine, bridge and emitter is of the plain class; without drills the factory is too. The run's trace
    names the link, and has no gap.
    """
    async with server_under_test(tmp_path / "none") as server:
        assert ExecutionFactory is type(server.server.factory)
    short = {name.removeprefix("TRACEWIRE_").lower(): value for name, value in DEADLINES.items()}
    async with server_under_test(tmp_path / "data", drills="true", **short) as server:
        built: list[tuple[str, type]] = []
        create = server.server.factory.create_user_engine

        def create_and_note(context: UserExecutionContext) -> UserExecutionEngine:
            engine = create(context)
            stations = (engine, engine.bridge, engine.bridge.emitter)
            built.extend((context.user_id, type(station)) for station in stations)
            return engine

        server.server.factory.create_user_engine = create_and_note  # type: ignore[method-assign] # only looks
        async with wire_to(server.server.ws_url, server.token("ada")) as wire:
            await whole_run(wire, "drill")
        async with wire_to(server.server.ws_url, server.token("drill")) as wire:
            await whole_run(wire, "drill")
        plain = (UserExecutionEngine, AgentWebSocketBridge, UserWebSocketEmitter)
        assert [(user, station) for user in ("ada", "drill") for station in plain] == built
        lines: list[str] = []
        order = DrillOrder(event="tool_executing", link="socket", ops_url=server.server.ops_url)
        await Drilling(order, lines.append).drill()
        drilled = (DrilledEngine, DrilledBridge, DrilledEmitter)
        assert [("drill", station) for station in drilled] == built[6:]
        trace = await server.trace(lines[1].split()[1])
        assert trace.problems() == []
        missing = [span for span in trace if span.attributes.get("error.type") == "event_missing"]
        assert [("send tool_executing", "socket")] == [
            (span.name, span.attributes["tracewire.link"]) for span in missing
        ]


async def test_a_drill_whose_incident_does_not_come_fails_and_says_so(tmp_path: Path) -> None:
    """A deadline beyond the operator's patience: nothing was noticed, and that is the drill's result. The server lets
    the run go on all the same when it is stopped.
    """
    async with server_under_test(tmp_path / "data", drills="true", emitter_deadline_seconds=600) as server:
        lines: list[str] = []
        order = DrillOrder(event="agent_thinking", link="emitter", ops_url=server.server.ops_url, within_seconds=2)
        with pytest.raises(DrillError, match="no incident was opened within 2 s"):
            await Drilling(order, lines.append).drill()
        assert ["armed", "run", "lost"] == [line.split()[0] for line in lines]


async def test_where_tokens_are_signed_elsewhere_a_file_brings_the_drills(tmp_path: Path) -> None:
    """Without it the drill says what is needed; with it, it goes as it should."""
    key = rsa_key("drill")
    (tmp_path / "keys.json").write_bytes(jwks_of(jwk_of(key, "r")))
    environ = DEADLINES | {"TRACEWIRE_JWKS_FILE": str(tmp_path / "keys.json")}
    with ServerProcess(tmp_path / "data", "--drills", environ=environ) as server:
        asked = ("--event", "agent_started", "--link", "bridge", "--url", server.ops_url)
        (tmp_path / "token").write_text(signed(key, "r", sub="drill") + "\n")
        done = drill(*asked, "--token-file", str(tmp_path / "token"))
        assert (done.returncode, done.stderr) == (0, "")
        done = drill(*asked)
        assert done.returncode == 1
        assert "--token-file" in done.stderr


@pytest.mark.timeout(300)
def test_the_alert_of_a_drill_is_told_with_its_time_and_a_drill_that_could_not_tell_it_apart_is_refused(
    tmp_path: Path,
) -> None:
    """A real Prometheus and Alertmanager with our rules: one alert, of the user `drill`, at that link."""
    with (
        ServerProcess(tmp_path / "data", "--drills", environ=DEADLINES) as server,
        started_monitoring(tmp_path / "m", {"tracewire": server.ops_url.removeprefix("http://")}) as monitoring,
    ):
        monitoring.wait_for('up{job="tracewire"} == 1', WITHIN_SECONDS)
        asked = ("--event", "agent_completed", "--link", "client", "--url", server.ops_url)
        done = drill(*asked, "--alertmanager", monitoring.alertmanager.url)
        assert (done.returncode, done.stderr) == (0, "")
        told = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
        assert list(told) == ["armed", "run", "lost", "incident", "alert", "healed", "over"]
        since, fired = (datetime.fromisoformat(told[step].rstrip(",")) for step in ("incident", "alert"))
        assert since <= fired
        again = drill(*asked, "--alertmanager", monitoring.alertmanager.url)
        assert (again.returncode, again.stdout) == (1, "")
        assert f"has fired since {told['alert']} already" in again.stderr
        name = "TracewireUserEventsMissing"
        monitoring.receiver.wait(lambda: bool(monitoring.receiver.told(name)), WITHIN_SECONDS, name)
        [alert] = [alert for one in monitoring.receiver.told(name, "firing") for alert in one.alerts]
        labels = {label: alert["labels"][label] for label in ("user_id", "event_type", "link")}
        assert labels == {"user_id": "drill", "event_type": "agent_completed", "link": "client"}
