"""What a real server sends is what `/schema/frames.json` says: every frame of real runs, held against the schema."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from support.agents import all_agents
from support.servers import server_under_test
from support.wire import wire_to
from tracewire_telemetry.vocabulary import EVENT_TYPES


@pytest.mark.parametrize("subprotocol", ["tracewire.v1", "tracewire.v1.lines"])
async def test_every_frame_that_comes_of_real_runs_fits_the_schema(tmp_path: Path, subprotocol: str) -> None:
    """Events of every type, and each frame that a client can bring about, the refusals among them."""
    async with server_under_test(tmp_path / "data", agents=all_agents(), heartbeat_seconds=0.5) as server:
        token = server.token("ada")
        async with httpx.AsyncClient(base_url=server.server.url) as http:
            schema = (await http.get("/schema/frames.json")).json()
        async with wire_to(server.server.ws_url, token, subprotocols=(subprotocol,)) as wire:
            for agent, value in (("five", "go"), ("streams", 1), ("raises", "exception")):
                await wire.receive_run(await wire.start_run(value, agent=agent))
            asking = await wire.start_run("go", agent="asks")
            asked = await wire.receive_type("input_required")
            await wire.send("provide_input", run_id=asking, input_id=asked["data"]["input_id"], value=True)
            waiting = await wire.start_run("go", agent="waits")
            await wire.send("cancel_run", run_id=waiting)
            await wire.receive_run(waiting)
            await wire.send_text("{")
            await wire.send("start_run", request_id="q", input=1, agent="nobody")
            await wire.send("ack", run_id=asking, seq=1_000)
            await wire.send("resume", runs={waiting: 0, "none": 0})
            await wire.receive_where(lambda frame: frame["type"] == "resumed" and not frame["recovered"])
            await wire.send("authenticate", token=token)
            await wire.receive_type("authenticated")
            await wire.receive_type("ping")
            frames = list(wire.frames)
        async with wire_to(server.server.ws_url, token, subprotocols=(subprotocol,)) as wire:
            assert wire.frames[0]["runs"]
            await server.server.stop()
            await wire.closed()
            frames += wire.frames
    expected = {"ready", "run_accepted", "rejected", "resumed", "ping", "authenticated", "draining"}
    expected |= {event_type.value for event_type in EVENT_TYPES}
    assert expected - {frame["type"] for frame in frames} == set()
    assert wrong(schema, "Envelope", [frame for frame in frames if "seq" in frame]) == []
    assert wrong(schema, "ServerFrame", [frame for frame in frames if "seq" not in frame]) == []


def wrong(schema: dict[str, Any], definition: str, frames: list[dict[str, Any]]) -> list[str]:
    """What does not fit the definition."""
    validator = Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{definition}"}]})
    return [f"{frame['type']}: {error.message}" for frame in frames for error in validator.iter_errors(frame)]
