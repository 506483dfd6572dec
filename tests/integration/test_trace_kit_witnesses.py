"""Three witnesses of a server that lies, or that loses stamps: who stands alone is named, and about what."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from support.incident_clients import running, without_gap
from support.lies import honest, lie, lose_stamps
from support.losses import loser
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import Wire
from tracewire.engine.agent import spec_of
from tracewire_telemetry.testing import ClientRecord, RecordedTrace, assert_witnesses_agree
from tracewire_telemetry.testing.witnesses import Disagreement, DisagreementError

QUICK = {"client_deadline_seconds": 1, "silence_deadline_seconds": 1, "heal_deadline_seconds": 0}


async def scraped(server: ServerUnderTest) -> str:
    """What `/metrics` answers."""
    async with httpx.AsyncClient(base_url=server.server.ops_url) as ops:
        return (await ops.get("/metrics")).text


async def witnessed(
    server: ServerUnderTest, users: Sequence[str]
) -> tuple[list[ClientRecord], list[RecordedTrace], str, str]:
    """A run of each user, one after the other, up to its settled trace."""
    before = await scraped(server)
    clients: list[ClientRecord] = []
    traces: list[RecordedTrace] = []
    for user_id in users:
        async with running(server, user_id, agent="honest") as (wire, run_id):
            traces.append(await server.trace(run_id))
            clients.append(record(wire, user_id, run_id))
    return clients, traces, before, await scraped(server)


def record(wire: Wire, user_id: str, run_id: str) -> ClientRecord:
    """What this client got, and acked as `running` does."""
    return ClientRecord(user_id, run_id, wire.events(run_id), without_gap(wire, run_id))


def disagreements(evidence: tuple[list[ClientRecord], list[RecordedTrace], str, str]) -> tuple[Disagreement, ...]:
    """On what the three differ."""
    clients, traces, before, after = evidence
    with pytest.raises(DisagreementError) as raised:
        assert_witnesses_agree(clients, traces, metrics_before=before, metrics_after=after)
    return raised.value.disagreements


async def test_a_socket_that_lies_stands_against_the_client_that_got_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stamped the event and wrote nothing: trace and metrics say that it crossed; only this user's run is named."""
    lied_to = loser("socket", "agent_completed")
    async with server_under_test(tmp_path / "data", agents=[spec_of(honest)], **QUICK) as server:
        lie(monkeypatch)
        found = disagreements(await witnessed(server, ["ada", lied_to, "bob"]))
    assert [(lied_to, 5, "agent_completed", "socket", "the client")] == [
        (one.user_id, one.seq, one.event_type, one.link, one.witness) for one in found
    ]


async def test_a_lost_stamp_stands_against_the_client_that_got_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event crossed the link, telemetry says that it did not: user, run, event and link are named."""
    unstamped = loser("emitter", "tool_completed")
    async with server_under_test(tmp_path / "data", agents=[spec_of(honest)]) as server:
        lose_stamps(monkeypatch)
        evidence = await witnessed(server, ["ada", unstamped])
    [one] = disagreements(evidence)
    assert (unstamped, evidence[0][1].run_id, 4, "tool_completed", "emitter", "the client") == (
        one.user_id, one.run_id, one.seq, one.event_type, one.link, one.witness,
    )  # fmt: skip


async def test_an_event_that_all_three_call_lost_is_no_disagreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emitter gave it to no socket: the trace says so, the metrics do not count it there, nobody got it."""
    loses = loser("emitter", "agent_completed")
    deadlines = {**QUICK, "socket_deadline_seconds": 1.5, "outbox_age_seconds": 1}
    async with server_under_test(tmp_path / "data", agents=[spec_of(honest)], **deadlines) as server:
        lie(monkeypatch)
        clients, traces, before, after = await witnessed(server, ["ada", loses])
    agreement = assert_witnesses_agree(clients, traces, metrics_before=before, metrics_after=after)
    assert (2, 2 * len(FIVE), 1) == (agreement.runs, agreement.events, agreement.lost)
