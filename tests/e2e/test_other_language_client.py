"""A client in another language, which knows nothing but `wire.md`: Node's `ws` against a real `tracewire serve`."""

import asyncio
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.real_programs import missing
from support.servers import FIVE, ServerProcess
from tracewire.timeline import settled_ledger

HERE = Path(__file__).parent / "node"
QUESTION = "what is missing in the sample recording?"


@pytest.fixture(scope="module")
def node() -> str:
    """The `node` to run, with the client's package installed."""
    found = shutil.which("node")
    advice = None
    if found is None:
        advice = "node is missing: install Node.js 18 or newer"
    elif not (HERE / "node_modules" / "ws").is_dir():
        advice = "Node's package ws is missing: run `npm ci` in tests/e2e/node"
    if advice is not None:
        missing(advice)
    return str(found)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as a process of its own."""
    with ServerProcess(tmp_path_factory.mktemp("other-language") / "data") as started:
        yield started


def run_client(node: str, process: ServerProcess, way: str, user: str) -> dict[str, Any]:
    """What the client reports."""
    command = [node, str(HERE / "client.mjs"), process.ws_url, process.token(user), way, QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("way", ["subprotocol", "frame"])
async def test_a_node_client_gets_every_event_once_and_in_order(node: str, process: ServerProcess, way: str) -> None:
    """`ready`, `run_accepted`, then all five types, started first and completed last, no gap; the receipt equals what
    came, and the server knows it acked. The token is never echoed.
    """
    user = f"node by {way}"
    report = await asyncio.to_thread(run_client, node, process, way, user)
    assert report["subprotocol"] == "tracewire.v1"
    assert report["order"][:2] == ["ready", "run_accepted"]
    assert report["ready"]["user_id"] == user
    assert report["accepted"]["request_id"] == "a question from Node"
    assert report["others"] == []
    events = report["events"]
    run_id = report["accepted"]["run_id"]
    assert {event["run_id"] for event in events} == {run_id}
    types = [event["type"] for event in events]
    assert set(FIVE) <= set(types)
    assert (types[0], types[-1]) == ("agent_started", "agent_completed")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["receipt"] == {"last_seq": len(events), "counts": dict(Counter(types))}
    assert report["acks"][-1] == {"type": "ack", "run_id": run_id, "seq": len(events), "count": len(events)}
    assert report["close"]["code"] == 1000
    async with httpx.AsyncClient(
        base_url=process.url, headers={"Authorization": f"Bearer {process.token(user)}"}
    ) as http:
        assert await settled_ledger(http, run_id) is not None
        view = (await http.get(f"/runs/{run_id}")).json()
        stored = (await http.get(f"/runs/{run_id}/events")).json()["events"]
    assert (view["state"], view["last_seq"], view["acked_seq"]) == ("completed", len(events), len(events))
    assert stored == events
    assert "missing" in events[-1]["data"]["output"]


async def test_what_a_node_client_got_was_acked_in_time(node: str, process: ServerProcess) -> None:
    """The run's ledger, asked for after the client has gone, shows each event at each link, none missing or pending."""
    report = await asyncio.to_thread(run_client, node, process, "frame", "node in time")
    async with httpx.AsyncClient(base_url=process.ops_url) as http:
        found = await settled_ledger(http, report["accepted"]["run_id"])
    assert found is not None
    assert (found["settled"], found["chain_complete"], found["pending"], found["missing"]) == (True, True, 0, [])
    assert [row["verdict"] for row in found["events"]] == ["in_time"] * len(report["events"])
    for row in found["events"]:
        stamps = [row[link] for link in ("engine", "bridge", "emitter", "socket", "client")]
        assert stamps == sorted(stamps)
