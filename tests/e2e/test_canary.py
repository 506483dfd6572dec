"""`serve --canary`: the server's own clients over its own socket, what they show, and that they page nobody."""

import asyncio
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.auth import E2EAuthHelper
from support.served_chain import TESTS
from support.servers import ServerProcess
from support.wire import wire_to

WITHIN_SECONDS: Final = 60
STAMP: Final = "canary_last_success_timestamp_seconds"
DETECTION_STAMP: Final = "canary_detection_last_success_timestamp_seconds"
QUICK: Final = {
    "TRACEWIRE_CANARY_DETECTION_SECONDS": "3",
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1",
    "TRACEWIRE_SILENCE_DEADLINE_SECONDS": "1",
}
PAGING: Final = ("events_missing_total", "events_healed_total", "user_events_missing", "users_affected")


async def scraped(ops_url: str) -> list[tuple[str, dict[str, str], float]]:
    """The series of one scrape that are not 0."""
    async with httpx.AsyncClient(base_url=ops_url) as http:
        text = (await http.get("/metrics")).text
    return [
        (sample.name.removeprefix("tracewire_"), sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value
    ]


async def until_stamped(ops_url: str, *names: str) -> list[tuple[str, dict[str, str], float]]:
    """The first scrape that shows these stamps."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            series = await scraped(ops_url)
            if set(names) <= {name for name, _, _ in series}:
                return series


async def until_logged(server: ServerProcess, canary_name: str, event: str = "canary_failed") -> dict[str, Any]:
    """The first such line of this canary in the server's log."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while not (found := [one for one in server.log_records(event) if one["canary"] == canary_name]):
            await asyncio.sleep(0)
    return found[0]


async def incidents(ops_url: str, **filters: str) -> list[dict[str, Any]]:
    """What the ops port tells."""
    async with httpx.AsyncClient(base_url=ops_url) as http:
        found: list[dict[str, Any]] = (await http.get("/incidents", params=filters)).json()["incidents"]
    return found


async def test_both_canaries_succeed_and_are_nobodys_loss(tmp_path: Path) -> None:
    """Their stamps appear, their deliveries are a canary's, the withheld ack is an incident at the client that healed;
    and no metric that pages for users has heard of it. A user beside them counts as ever.
    """
    with ServerProcess(tmp_path / "data", "--canary", "1s", environ=QUICK) as server:
        began = time.time()
        series = await until_stamped(server.ops_url, STAMP, DETECTION_STAMP)
        stamps = {name: value for name, _, value in series if name in (STAMP, DETECTION_STAMP)}
        assert all(value >= began - 5 for value in stamps.values())
        assert {"canary"} == {labels["origin"] for name, labels, _ in series if name == "deliveries_total"}
        [found, *_] = await incidents(server.ops_url, state="healed")
        assert (found["user_id"], found["link"], found["type"], found["first_seq"]) == (
            "canary-detection", "client", "agent_thinking", 2,
        )  # fmt: skip
        assert {"canary"} == {line["origin"] for line in server.log_records("incident_opened")}
        assert [] == [name for name, _, _ in series if name in PAGING]
        async with wire_to(server.ws_url, server.token("ada")) as wire:
            run_id = await wire.start_run("go")
            await wire.ack(run_id, len(await wire.receive_run(run_id)))
        await until_origin(server.ops_url, "user")
        assert [] == [name for name, _, _ in await scraped(server.ops_url) if name in PAGING]
        assert (server.log_records("canary_failed"), server.stop()) == ([], 0)


async def until_origin(ops_url: str, origin: str) -> None:
    """Wait until deliveries of this origin were counted."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while origin not in {labels.get("origin") for _, labels, _ in await scraped(ops_url)}:
            await asyncio.sleep(0)


async def test_a_server_without_canaries_has_no_stamps(tmp_path: Path) -> None:
    """And opens no socket to itself."""
    with ServerProcess(tmp_path / "data") as server:
        names = {name for name, _, _ in await scraped(server.ops_url)}
        assert names.isdisjoint({STAMP, DETECTION_STAMP})
        assert [] == server.log_records("socket_ready")


def faulty(folder: Path, *program: str, **environ: str) -> ServerProcess:
    """A server with canaries in which something is broken from its first moment on."""
    return ServerProcess(
        folder / "data", "--canary", "1s", environ=QUICK | environ, cwd=TESTS, program=("-m", *program)
    )


async def test_a_canary_that_fails_names_the_link_and_leaves_its_stamp_absent(tmp_path: Path) -> None:
    """Its log line says link, wiring check, run and why; the detection canary, which gets no events either, says so."""
    with faulty(tmp_path, "support.faulty_server", "--fault", "L4-no_emitter") as server:
        said = await until_logged(server, "probe")
        assert (said["link"], said["check"], said["level"]) == ("emitter", "L4", "error")
        assert "was given no emitter" in said["why"]
        assert said["run_id"] in {line["run_id"] for line in server.log_records("run_settled")}
        names = {name for name, _, _ in await scraped(server.ops_url)}
        assert STAMP not in names
        assert [] == server.log_records("canary_succeeded")


async def test_a_server_that_notices_nothing_is_found_out_by_the_detection_canary(tmp_path: Path) -> None:
    """Its watch does not look: the probe succeeds and is stamped, the detection canary is not, and says what lacks."""
    with faulty(tmp_path, "support.blind_server") as server:
        said = await until_logged(server, "detection")
        assert (said["link"], said["level"]) == ("client", "error")
        assert "no incident was opened" in said["why"]
        names = {name for name, _, _ in await until_stamped(server.ops_url, STAMP)}
        assert DETECTION_STAMP not in names
        assert [] == await incidents(server.ops_url)


@pytest.mark.parametrize("mode", ["probing", "withholding"])
async def test_a_drain_does_not_wait_for_canaries_and_they_end_in_silence(tmp_path: Path, mode: str) -> None:
    """With runs every tenth of a second, or in the middle of a withheld ack: nothing failed, nothing is lost, nothing
    is open, and the grace period is not used up.
    """
    environ = {
        "TRACEWIRE_CANARY_DETECTION_SECONDS": "600",
        "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1" if mode == "probing" else "60",
        "TRACEWIRE_RUN_STARTS_PER_MINUTE_MAX": "100000",
        "TRACEWIRE_DRAIN_GRACE_SECONDS": "60",
        "TRACEWIRE_DRAIN_SECONDS_MAX": "90",
    }
    every = "0.1s" if mode == "probing" else "600s"
    with ServerProcess(tmp_path / "data", "--canary", every, environ=environ) as server:
        await until_stamped(server.ops_url, STAMP, *([DETECTION_STAMP] if mode == "probing" else []))
        if mode == "withholding":
            await until_acked_once(server)
        assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
        [draining], [stopped] = server.log_records("draining"), server.log_records("stopped")
        assert seconds(stopped) - seconds(draining) < 20
        assert [] == server.log_records("canary_failed")
        outcomes = {line["outcome"] for line in server.log_records("run_settled")}
        assert outcomes <= {"completed", "cancelled"}
    with ServerProcess(tmp_path / "data") as server:
        assert [] == server.log_records("run_lost_at_start")
        assert [] == await incidents(server.ops_url, state="open")


async def until_acked_once(server: ServerProcess) -> None:
    """Wait until the detection canary has acked its one event, and owes the rest."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while not any(name == "ledger_events_open" and value > 1 for name, _, value in await scraped(server.ops_url)):
            await asyncio.sleep(0)


def seconds(line: dict[str, Any]) -> float:
    """When it was logged."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def test_where_an_issuer_signs_the_canary_takes_its_token_from_a_file(tmp_path: Path) -> None:
    """One token for both, of whichever user; before there is one, the log says which file lacks it."""
    issuer, path = E2EAuthHelper.by_key_pair(tmp_path), tmp_path / "token"
    environ = QUICK | issuer.environ | {"TRACEWIRE_CANARY_TOKEN_FILE": str(path)}
    with ServerProcess(tmp_path / "data", "--canary", "1s", environ=environ) as server:
        for name in ("probe", "detection"):
            said = await until_logged(server, name)
            assert (said["link"], "TRACEWIRE_CANARY_TOKEN_FILE" in said["why"]) == (None, True)
        path.write_text(issuer.token("service-account-7"))
        series = await until_stamped(server.ops_url, STAMP, DETECTION_STAMP)
        assert {"service-account-7"} == {line["user_id"] for line in server.log_records("run_settled")}
        assert {"canary"} == {labels["origin"] for name, labels, _ in series if name == "deliveries_total"}
        assert [] == [name for name, _, _ in series if name in PAGING]


async def test_a_token_that_is_refused_is_said(tmp_path: Path) -> None:
    """It has expired: the line holds the close and what to do, and nothing of the token."""
    issuer, path = E2EAuthHelper.by_key_pair(tmp_path), tmp_path / "token"
    path.write_text(token := issuer.token("service-account-7", ttl_seconds=-60))
    environ = QUICK | issuer.environ | {"TRACEWIRE_CANARY_TOKEN_FILE": str(path)}
    with ServerProcess(tmp_path / "data", "--canary", "1s", environ=environ) as server:
        for name in ("probe", "detection"):
            assert "4502 (token_expired)" in (await until_logged(server, name))["why"]
        assert token not in server.log_text()
