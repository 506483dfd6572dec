"""A server under load and a Prometheus that watches it, for the boards' queries to be asked of."""

import asyncio
import math
import threading
import time
from typing import Any, Final

import httpx

from support.board_load import LATE_RUNS, LOST, MISSED, TESTS, served_badly, served_otherwise, served_well
from support.board_queries import Value, interpolated
from support.monitoring import Monitoring
from support.servers import FIVE, ServerProcess
from tracewire_telemetry.testing.recorder import OtlpReceiver

SECONDS: Final = 90.0
COLLECTORS: Final = sorted((TESTS / "fixtures" / "collector").glob("*.prom"))
"""Pages of metrics of real Collectors: of one that is well, and of two that lose spans."""
ALL: Final[dict[str, Value]] = {
    "job": "tracewire.*",
    "instance": ".+",
    "user": ".+",
    "agent": ".+",
    "beside": ("prometheus", "alertmanager", *(f"otel-collector-{page.stem}" for page in COLLECTORS)),
    "__rate_interval": "15m",
    "__range": "1h",
}
"""What Grafana puts in place when nothing is chosen; its interval for rates is longer than the load and its tests take,
however slow the machine: a quantile of what was before it would be no number."""
UNTIL: Final = (
    f'last_over_time(tracewire_user_events_missing{{user_id="{LOST}"}}[5m])',
    f'absent(tracewire_user_events_missing{{user_id="{LOST}"}})',
    f'count(ALERTS{{alertname="TracewireUserEventsMissing", alertstate="firing"}}) == {len(MISSED)}',
    f"sum(tracewire_events_missing_total) == {len(MISSED) + len(FIVE)}",
    "job:tracewire_deliveries_bad:ratio_rate3d > 0",
    "job:tracewire_deliveries_bad:increase3d > 0",
    "tracewire_canary_last_success_timestamp_seconds",
    "tracewire_canary_detection_last_success_timestamp_seconds",
    f'sum(tracewire_deliveries_total{{verdict="late"}}) >= {LATE_RUNS * len(FIVE)}',
    'sum(tracewire_deliveries_total{verdict="no_socket"}) > 0',
    'sum(tracewire_events_healed_total) >= 0 and on () sum(tracewire_resumes_total{outcome="recovered"}) > 0',
    "sum(tracewire_spans_exported_total) > 0",
    "prometheus_rule_evaluation_failures_total",
    "alertmanager_notifications_total > 0",
)
"""What Prometheus has seen before anything is asked."""


class Watched:
    """A server, what watches it, and its users, who go on in a thread of their own until it is closed."""

    def __init__(self, process: ServerProcess, monitoring: Monitoring, receiver: OtlpReceiver) -> None:
        self.process, self.monitoring, self.receiver = process, monitoring, receiver
        self.began = time.time()
        self.acked = 0
        self.verdicts: dict[str, float] = {}
        self._ready, self._over = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._http = httpx.Client(base_url=monitoring.prometheus.url, timeout=10)
        self._thread = threading.Thread(target=self._run)

    def open(self) -> None:
        """Until the load has been seen."""
        self._thread.start()
        try:
            assert self._ready.wait(3 * SECONDS), "the load did not come to its end"
            if self._failed:
                raise self._failed
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The users go away."""
        self._over.set()
        self._thread.join(SECONDS)
        self._http.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._users())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the thread was started
            self._failed = error
        finally:
            self._ready.set()

    async def _users(self) -> None:
        await asyncio.to_thread(self.monitoring.wait_for, 'up{job="tracewire"} == 1', SECONDS)
        self.acked = await served_well(self.process)
        counted = f'sum(tracewire_deliveries_total{{origin="user"}}) >= {self.acked}'
        await asyncio.to_thread(self.monitoring.wait_for, counted, SECONDS)
        self.verdicts = self.by("verdict", 'sum by (verdict) (tracewire_deliveries_total{origin="user"})')
        async with served_badly(self.process):
            await served_otherwise(self.process)
            for expression in UNTIL:
                await asyncio.to_thread(self.monitoring.wait_for, expression, SECONDS)
            self._ready.set()
            await asyncio.to_thread(self._over.wait)

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values of a query by a label, without the zeros."""
        found = {one["metric"][label]: float(one["value"][1]) for one in self.monitoring.query(expression)}
        return {name: value for name, value in found.items() if value}

    def answer(self, expression: str, values: dict[str, Value] = ALL) -> list[dict[str, Any]]:
        """The series of a board's query that have a number."""
        found = self.asked(interpolated(expression, values))
        return [one for one in found if not math.isnan(float(one["value"][1]))]

    def asked(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """What a query finds now, or at a moment, so that two of them see the same samples."""
        moment = {} if at is None else {"time": str(at)}
        answer = self._http.get("/api/v1/query", params={"query": expression, **moment})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def exemplars(self, expression: str) -> set[str]:
        """The trace ids that a query's exemplars lead to."""
        now = self.now()
        params = {"query": expression, "start": str(now - 3600), "end": str(now)}
        found = self._http.get("/api/v1/query_exemplars", params=params).raise_for_status().json()["data"]
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire, with labels and annotations."""
        found = self._http.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return [one for one in found if one["state"] == "firing"]

    def now(self) -> float:
        """Prometheus's time, Unix seconds."""
        return float(self.asked("vector(time())")[0]["value"][1])
