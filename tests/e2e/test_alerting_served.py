"""From an event that is lost on a real server to a notification: a real Prometheus, Alertmanager and webhook."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.incident_clients import AT_THE_ENGINE, incidents, running, until
from support.losses import Losses, loser, loses
from support.monitoring import Monitoring, monitoring_beside
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import Wire
from tracewire.engine.agent import spec_of
from tracewire_telemetry.vocabulary import LINKS

SECONDS: Final = 90.0
"""How long a notification may take: seconds here, a multiple on a machine that is busy."""
SCRAPES: Final = 2
LOOK_SECONDS: Final = 0.02
BUSY_SECONDS: Final = 15.0
"""What a notification may take past two scrapes, an evaluation and `group_wait`, on a machine that is busy."""
INTERVAL_SECONDS: Final = 1.0
GROUP_WAIT_SECONDS: Final = 1.0
NAME: Final = "TracewireUserEventsMissing"
DEADLINES: Final = {
    "start_deadline_seconds": 3,
    "tool_deadline_seconds": 1,
    "idle_deadline_seconds": 3,
    "bridge_deadline_seconds": 2,
    "emitter_deadline_seconds": 3,
    "outbox_age_seconds": 2,
    "socket_deadline_seconds": 4,
    "client_deadline_seconds": 3,
    "silence_deadline_seconds": 1.5,
    "heal_deadline_seconds": 1,
    "missing_shown_seconds": 2.5 * INTERVAL_SECONDS,
}
MANY: Final = {"sum by (job) (tracewire_users_affected) > 10": "sum by (job) (tracewire_users_affected) > 50"}
"""So many at once would be held back for one notification; that has a test of its own, and here its bound is higher."""
OF_THE_INSTALLATION: Final = frozenset(
    {"TracewireDeliveryBurnFast", "TracewireDeliveryBurnSlow", "TracewireCanaryAbsent", "TracewireCanaryFailing"}
)
"""What may be told beside, and of no user: a tenth of all deliveries is missing, and no canary runs here."""


@pytest.mark.timeout(300)
async def test_each_of_25_users_who_lose_an_event_is_one_notification_and_the_20_others_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five types at five links, each of that user's first run: firing in time with user, type and link, then resolved;
    while it fires the event has not arrived, or is not acked.
    """
    cases = {loser(link.value, event_type): (link.value, event_type) for link in LINKS for event_type in FIVE}
    assert len(cases) == 25
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            server_under_test(tmp_path / "data", agents=[spec_of(loses)], **DEADLINES)
        )
        losses = Losses(monkeypatch)
        stack.callback(losses.held.set)
        monitoring = await stack.enter_async_context(
            monitoring_beside(tmp_path / "m", {"tracewire": address_of(server)}, replace=MANY)
        )
        await asyncio.to_thread(monitoring.wait_for, 'up{job="tracewire"} == 1', SECONDS)
        wires = {
            user_id: await stack.enter_async_context(
                running(server, user_id, but=event_type if link == "client" else "")
            )
            for user_id, (link, event_type) in cases.items()
        }
        clean = [await stack.enter_async_context(running(server, f"clean-{number}")) for number in range(20)]
        for wire, run_id in clean:
            await ended(wire, run_id)
        await told(monitoring, "firing", 25)
        for user_id, (wire, run_id) in wires.items():
            await assert_lost(server, wire, run_id, user_id, *cases[user_id])
        opened = {one["user_id"]: one for one in await until(server, 25)}
        losses.held.set()
        wire, run_id = wires[loser("engine", "agent_completed")]
        await wire.send("cancel_run", run_id=run_id)
        await told(monitoring, "resolved", 25)
        assert {one["state"] for one in await incidents(server)} <= {"healed", "lost", "user_gone"}
        for wire, run_id in clean:
            assert len(wire.events(run_id)) == 5

        named = {user_id: (link, named_type(link, event_type)) for user_id, (link, event_type) in cases.items()}
        assert named == {user_id: (one["link"], one["type"]) for user_id, one in opened.items()}
        for status in ("firing", "resolved"):
            notifications = monitoring.receiver.told(NAME, status)
            labels = [alert["labels"] for one in notifications for alert in one.alerts]
            assert len(notifications) == len(labels) == 25
            assert named == {one["user_id"]: (one["link"], one["event_type"]) for one in labels}
        for notification in monitoring.receiver.told(NAME, "firing"):
            [alert] = notification.alerts
            live = f"http://{address_of(server)}/incidents?user={alert['labels']['user_id']} "
            assert live in alert["annotations"]["description"]
        assert {one.alertname for one in monitoring.receiver.told()} - {NAME} <= OF_THE_INSTALLATION
        rows = [Row(user_id, *pair, losses, opened, monitoring) for user_id, pair in named.items()]
        await asyncio.to_thread(assert_in_time, monitoring, rows)


class Row:
    """What happened to one user, and when, Unix time."""

    def __init__(
        self,
        user_id: str,
        link: str,
        event_type: str,
        losses: Losses,
        opened: Mapping[str, Mapping[str, Any]],
        monitoring: Monitoring,
    ) -> None:
        self.user_id, self.link, self.event_type = user_id, link, event_type
        self.opened = datetime.fromisoformat(opened[user_id]["since"]).timestamp()
        self.lost = losses.lost_at.get(user_id, self.opened - float(DEADLINES["client_deadline_seconds"]))
        self.alert, self.resolved = (moment(monitoring, user_id, status) for status in ("firing", "resolved"))

    def __str__(self) -> str:
        after = (f"{at - self.lost:+8.2f}" for at in (self.opened, self.alert, self.resolved))
        lost = datetime.fromtimestamp(self.lost, UTC).strftime("%H:%M:%S.%f")[:-3]
        waited = f"{self.alert - self.opened:8.2f}"
        return f"{self.user_id:25} {self.event_type:16} {self.link:8} {lost} {' '.join(after)} {waited}"


def moment(monitoring: Monitoring, user_id: str, status: str) -> float:
    """When the webhook was told of this user."""
    shift = time.time() - time.monotonic()
    [at] = [one.at for one in monitoring.receiver.told(NAME, status) if one.alerts[0]["labels"]["user_id"] == user_id]
    return at + shift


def assert_in_time(monitoring: Monitoring, rows: Sequence[Row]) -> None:
    """Each is seen by the second scrape after its deadline at the latest, and told an evaluation and a wait later."""
    print(
        f"{'user':25} {'type':16} {'link':8} {'lost at':12}  opened    alert resolved alert-opened (s)", *rows, sep="\n"
    )
    scrapes = [at for one in samples(monitoring, 'up{job="tracewire"}') for at, _ in one["values"]]
    for row in rows:
        [shown] = samples(monitoring, f'tracewire_user_events_missing{{user_id="{row.user_id}"}}')
        waited = [at for at in scrapes if row.opened < at <= shown["values"][0][0]]
        assert len(waited) <= SCRAPES, str(row)
        least = (SCRAPES + 1) * INTERVAL_SECONDS + GROUP_WAIT_SECONDS
        assert row.alert - row.opened < least + BUSY_SECONDS, str(row)


def samples(monitoring: Monitoring, selector: str) -> list[dict[str, Any]]:
    """The samples of these series, as they were scraped: pairs of Unix time and value."""
    return monitoring.query(f"{selector}[10m]")


def address_of(server: ServerUnderTest) -> str:
    """What Prometheus scrapes."""
    return server.server.ops_url.removeprefix("http://")


def named_type(link: str, event_type: str) -> str:
    """What the incident says is missing."""
    return AT_THE_ENGINE[event_type] if link == "engine" else event_type


async def ended(wire: Wire, run_id: str) -> None:
    """Until the client has had, and acked, the run's end; who receives is the client itself."""
    async with asyncio.timeout(SECONDS):
        while len(wire.events(run_id)) < len(FIVE):
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=LOOK_SECONDS)


async def told(monitoring: Monitoring, status: str, users: int) -> None:
    """Until the webhook was told of so many users, each in a notification of its own."""
    receiver = monitoring.receiver
    await asyncio.to_thread(
        receiver.wait, lambda: len(receiver.told(NAME, status)) >= users, SECONDS, f"{users} {status}"
    )


async def assert_lost(
    server: ServerUnderTest, wire: Wire, run_id: str, user_id: str, link: str, event_type: str
) -> None:
    """The client has not got the event; at the link `client` it has, and the server knows of no ack for it."""
    seqs = [event["seq"] for event in wire.events(run_id) if event["type"] == event_type]
    if link != "client":
        assert seqs == [], user_id
        return
    headers = {"Authorization": f"Bearer {server.token(user_id)}"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        run = (await http.get(f"/runs/{run_id}")).raise_for_status().json()
    assert run["acked_seq"] < seqs[0], user_id
