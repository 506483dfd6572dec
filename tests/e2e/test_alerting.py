"""From a metric to a notification, by a real Prometheus and a real Alertmanager with our rules and configuration.

That the metric tells of what a real server lost, and of nothing else, is in `test_alerting_served.py`.
"""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest

from support.monitoring import Monitoring, free_port, started_monitoring
from support.servers import ServerProcess
from support.webhook import Exposition

SECONDS = 90.0
"""How long a notification may take: seconds here, a multiple on a machine that is busy."""
QUIET_SECONDS = 10.0

Losses = Mapping[str, tuple[str, str]]
"""The type and the link of what a user misses."""


class LosingServer:
    """A server's metrics while users miss events: healthy otherwise; who misses nothing has no series."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._losses: Losses = {}
        self._unnamed = 0
        self.page = Exposition(self._lines)

    @property
    def address(self) -> str:
        """What Prometheus scrapes."""
        return self.page.address

    def lose(self, losses: Losses, *, unnamed: int = 0) -> None:
        """From now on these users miss one event each, and so many more that have no slot; nobody else does."""
        with self._lock:
            self._losses, self._unnamed = dict(losses), unnamed

    def _lines(self) -> list[str]:
        with self._lock:
            losses, unnamed = self._losses, self._unnamed
        named = [
            f'tracewire_user_events_missing{{user_id="{user}",event_type="{event_type}",link="{link}"}} 1'
            for user, (event_type, link) in losses.items()
        ]
        now = time.time()
        return [
            *named,
            f"tracewire_users_affected {len(losses) + unnamed}",
            f"tracewire_user_slots_overflow {unnamed}",
            f"tracewire_canary_last_success_timestamp_seconds {now}",
            f"tracewire_canary_detection_last_success_timestamp_seconds {now}",
            f"tracewire_watch_last_tick_timestamp_seconds {now}",
            f"tracewire_start_timestamp_seconds {now - 3600}",
            "tracewire_ready 1",
            'tracewire_build_info{version="0",python="3"} 1',
        ]


@pytest.fixture
def losing() -> Iterator[LosingServer]:
    """What users miss, scraped: more of them than a real server is made to lose in a test."""
    server = LosingServer()
    with server.page:
        yield server


def told(monitoring: Monitoring, name: str, status: str, times: int = 1) -> bool:
    """Whether the webhook was told so often that this alert fires, or is over."""
    return len(monitoring.receiver.told(name, status)) >= times


def scraped(monitoring: Monitoring, job: str = "tracewire") -> None:
    """Wait until Prometheus has seen the target up."""
    monitoring.wait_for(f'up{{job="{job}"}} == 1', SECONDS)


@pytest.mark.timeout(300)
def test_500_users_behind_one_link_are_one_notification(losing: LosingServer, tmp_path: Path) -> None:
    """200 of them named and 300 without a slot: one firing, one resolved; the alerts of single users are held back."""
    losses = {f"user-{index}": ("agent_completed", "socket") for index in range(200)}
    with started_monitoring(tmp_path / "m", {"tracewire": losing.address}) as monitoring:
        receiver = monitoring.receiver
        scraped(monitoring)
        losing.lose(losses, unnamed=300)
        monitoring.wait_for(
            'count(ALERTS{alertname="TracewireUserEventsMissing", alertstate="firing"}) == 200', SECONDS
        )
        monitoring.wait_for('ALERTS{alertname="TracewireUserSlotsOverflow", alertstate="firing"}', SECONDS)
        receiver.wait(partial(told, monitoring, "TracewireManyUsersMissingEvents", "firing"), SECONDS, "firing")
        losing.lose({})
        receiver.wait(partial(told, monitoring, "TracewireManyUsersMissingEvents", "resolved"), SECONDS, "resolved")
        # A busy machine misses scrapes.
        came = [(one.alertname, one.status) for one in receiver.told() if one.alertname != "TracewireDown"]
        assert came == [
            ("TracewireManyUsersMissingEvents", "firing"),
            ("TracewireManyUsersMissingEvents", "resolved"),
        ]


@pytest.mark.timeout(300)
def test_prometheus_restarted_in_the_middle_is_still_one_firing_and_one_resolved(
    losing: LosingServer, tmp_path: Path
) -> None:
    """Prometheus stops and comes back while a user misses an event; the alert is neither repeated nor ended early.

    What it links to names the user, whatever characters that takes.
    """
    with started_monitoring(tmp_path / "m", {"tracewire": losing.address}) as monitoring:
        receiver, name = monitoring.receiver, "TracewireUserEventsMissing"
        scraped(monitoring)
        losing.lose({"ann & co": ("tool_completed", "client")})
        receiver.wait(partial(told, monitoring, name, "firing"), SECONDS, "firing")
        monitoring.prometheus.stop()
        monitoring.prometheus.start()
        before = losing.page.scrapes
        receiver.wait(lambda: losing.page.scrapes > before + 2, SECONDS, "scrapes after the restart")
        monitoring.wait_for(f'ALERTS{{alertname="{name}", alertstate="firing"}}', SECONDS)
        losing.lose({})
        receiver.wait(partial(told, monitoring, name, "resolved"), SECONDS, "resolved")
        assert [one.status for one in receiver.told(name)] == ["firing", "resolved"]
        description = receiver.told(name, "firing")[0].alerts[0]["annotations"]["description"]
        assert f"http://{losing.address}/incidents?user=ann+%26+co " in description


@pytest.mark.timeout(300)
def test_the_heartbeat_stops_with_prometheus(losing: LosingServer, tmp_path: Path) -> None:
    """The watchdog's receiver hears of it again and again, and no more once Prometheus is gone."""
    with started_monitoring(tmp_path / "m", {"tracewire": losing.address}, resend_delay="1s") as monitoring:
        receiver = monitoring.receiver
        receiver.wait(lambda: len(receiver.heartbeats()) >= 3, SECONDS, "heartbeats")
        monitoring.prometheus.stop()
        receiver.wait(
            lambda: time.monotonic() - receiver.heartbeats()[-1].at > QUIET_SECONDS, SECONDS, "end of the heartbeat"
        )
        assert {alert["labels"]["alertname"] for one in receiver.heartbeats() for alert in one.alerts} == {
            "TracewireWatchdog"
        }
        monitoring.prometheus.start()
        heard = len(receiver.heartbeats())
        receiver.wait(lambda: len(receiver.heartbeats()) > heard, SECONDS, "heartbeat after the restart")


@pytest.mark.timeout(300)
def test_a_server_that_dies_with_a_run_open_is_alerted_on_and_over_when_it_is_back(tmp_path: Path) -> None:
    """Down and ProcessGoneWithRunsOpen fire once, resolve once; the start after it says how many runs were lost."""
    port = free_port()
    arguments = ("--ops-port", str(port), "--agent", "support.agents:waits")
    tests = Path(__file__).resolve().parents[1]
    both = ("TracewireDown", "TracewireProcessGoneWithRunsOpen")
    with (
        ServerProcess(tmp_path / "data", *arguments, cwd=tests) as server,
        started_monitoring(tmp_path / "m", {"tracewire": f"127.0.0.1:{port}"}) as monitoring,
    ):
        receiver = monitoring.receiver
        headers = {"Authorization": f"Bearer {server.token('ann')}"}
        started = httpx.post(f"{server.url}/runs", json={"agent": "waits", "input": "x"}, headers=headers)
        assert started.is_success, started.text
        monitoring.wait_for("tracewire_runs_open == 1", SECONDS)
        server.stop(signal.SIGKILL)
        for name in both:
            receiver.wait(partial(told, monitoring, name, "firing"), SECONDS, name)
        with ServerProcess(tmp_path / "data", *arguments, cwd=tests):
            for name in both:
                receiver.wait(partial(told, monitoring, name, "resolved"), SECONDS, f"{name} resolved")
            receiver.wait(partial(told, monitoring, "TracewireRunsLostAtStart", "firing"), SECONDS, "runs lost")
        for name in both:
            assert [one.status for one in receiver.told(name)] == ["firing", "resolved"]
            (alert,) = receiver.told(name, "firing")[0].alerts
            assert alert["labels"]["instance"] == f"127.0.0.1:{port}"
        assert monitoring.query("sum(prometheus_rule_evaluation_failures_total) > 0") == []
