"""A real Collector with the file that operators get, between a real server and a receiver of OTLP.

With the shipped file only ports, folder and back end differ, and the share. Where a wait of the file has no part in
what is shown, it is shortened (`SHORT_WAITS`): `python -m tests.soak.collector` waits them out.
"""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.alert_rules import alerts
from support.collector import SHORT_WAITS, Collector, collector_program, free_ports
from support.collector_config import CONFIG, PER_INSTANCE, PER_USER
from support.collector_runs import DEADLINES, Traffic, refusing_backend, send_spans, traffic
from support.monitoring import started_monitoring
from tracewire_telemetry.testing.recorder import OtlpReceiver

SECONDS = 60
KEPT = ("slow", "failed", "missing", "failed, the service's span early")
DROPPED = ("good", "good, the service's span early")
RULE = alerts()["TracewireCollectorLosing"]["expr"]
ALERT = 'ALERTS{alertname="TracewireCollectorLosing",alertstate="firing"}'


class Shipped(NamedTuple):
    """The shipped file at work, with a share of 0."""

    collector: Collector
    traffic: Traffic


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shipped]:
    """One such Collector; some runs have gone through it, and everything is decided."""
    folder = tmp_path_factory.mktemp("shipped")
    with (
        OtlpReceiver() as backend,
        Collector(folder / "collector", backend.endpoint, share=0) as collector,
        traffic(folder, collector, backend, **DEADLINES) as runs,
    ):
        asyncio.run(every_kind(runs))
        collector.wait_for(lambda: collector.undecided == 0, "decision on everything")
        runs.wait_whole(*KEPT)
        yield Shipped(collector, runs)


async def every_kind(runs: Traffic) -> None:
    """One run of each kind, side by side."""
    await asyncio.gather(
        runs.good("good"),
        runs.slow("slow"),
        runs.failed("failed"),
        runs.missing("missing"),
        runs.calls("good, the service's span early"),
        runs.calls("failed, the service's span early", fails=True),
    )


def short(folder: Path, backend: str, *overrides: str, share: float = 100, **environ: str) -> Collector:
    """A Collector with the shipped file and short waits."""
    return Collector(folder, backend, share=share, overrides=(*SHORT_WAITS, *overrides), environ=environ)


def queue_of(size_bytes: int) -> tuple[str, ...]:
    """Overrides for a queue that is soon full."""
    queue = "exporters::otlp_http::sending_queue"
    sizes = {"queue_size": size_bytes, "batch::min_size": size_bytes // 3, "batch::max_size": size_bytes // 3 * 2}
    return tuple(f"{queue}::{name}: {size}" for name, size in sizes.items())


def test_bad_traces_come_out_whole_and_good_ones_are_left_to_the_share(shipped: Shipped) -> None:
    """With what a service reported before the run's own spans left; nothing comes of those that are not kept."""
    passed = {name: shipped.traffic.passed(name) for name in (*KEPT, *DROPPED)}
    assert dict.fromkeys(KEPT, True) == {name: passed[name].whole for name in KEPT}
    # A machine that stood still for two seconds made a good run slow: its root says so.
    kept = {name: passed[name].keep_reason for name in DROPPED if passed[name].received}
    assert {"slow"} >= set(kept.values())
    assert len(kept) < len(DROPPED)


def test_the_metrics_of_spans_are_in_seconds_and_name_nobody(shipped: Shipped) -> None:
    """They count every span, of kept traces and of others; by service, name, kind and status alone."""

    def calls(span_name: str) -> float:
        return sum(
            value
            for name, labels, value in shipped.collector.series("SPANMETRICS")
            if name == "traces_span_metrics_calls_total" and labels["span_name"] == span_name
        )

    expected = {"GET /price": 2, "invoke_agent five": 3, "invoke_agent raises": 1, "invoke_agent prices": 2}
    # They are flushed every 15 s.
    shipped.collector.wait_for(lambda: {name: calls(name) for name in expected} == expected, f"count of {expected}")
    series = list(shipped.collector.series("SPANMETRICS"))
    assert {
        "traces_span_metrics_calls_total",
        *(f"traces_span_metrics_duration_seconds_{part}" for part in ("bucket", "sum", "count")),
    } == {name for name, _, _ in series} - {"target_info"}
    names = {label for name, labels, _ in series if name != "target_info" for label in labels}
    assert {"service_name", "span_name", "span_kind", "status_code", "job", "le"} == names
    names |= {label for _, labels, _ in series for label in labels}
    forbidden = {name.replace(".", "_") for name in (*PER_USER, *PER_INSTANCE)} | {"instance"}
    assert set() == names & forbidden


def test_its_health_check_answers_and_its_own_metrics_are_scraped(shipped: Shipped) -> None:
    """Nothing was lost, and nothing waits."""
    assert shipped.collector.healthy()
    lost = (
        "receiver_refused_spans",
        "exporter_send_failed_spans",
        "exporter_enqueue_failed_spans",
        "processor_tail_sampling_sampling_trace_dropped_too_early",
    )
    assert dict.fromkeys(lost, 0) == {name: shipped.collector.count(name) for name in lost}
    assert shipped.collector.count("exporter_queue_capacity") == 512 << 20
    sent = len(shipped.traffic.spans)
    shipped.collector.wait_for(lambda: shipped.collector.count("exporter_sent_spans") == sent, f"count of {sent}")


async def test_what_comes_long_before_the_root_keeps_its_trace_and_is_no_cut(tmp_path: Path) -> None:
    """Decided on without the root, it is kept at once; the run's spans follow, however long it goes on."""
    with (
        OtlpReceiver() as backend,
        short(tmp_path / "collector", backend.endpoint, share=0) as collector,
        traffic(tmp_path, collector, backend) as runs,
    ):

        def left_early() -> bool:
            return runs.passed("long").received == runs.passed("killed").received == 1

        async def long_run() -> None:
            decided = asyncio.to_thread(collector.wait_for, left_early, "decision on the service's spans")
            await runs.calls("long", then=decided)
            await asyncio.to_thread(runs.wait_whole, "long")

        await runs.calls_until_killed("killed", after=long_run())
        # A trace whose root never comes is not lost: what is there of it is what is known.
        assert runs.passed("killed").promised is None


async def test_a_restart_and_a_back_end_that_is_away_lose_nothing(tmp_path: Path) -> None:
    """What it took is decided on when it stops, and waits in its folder; what comes meanwhile, Tracewire holds."""
    port = free_ports(["backend"])["backend"]
    names = [f"run {number}" for number in range(5)]
    with (
        short(tmp_path / "collector", f"http://127.0.0.1:{port}") as collector,
        traffic(tmp_path, collector) as runs,
    ):
        await asyncio.gather(*(runs.good(name) for name in names[:2]))
        await asyncio.to_thread(
            collector.wait_for, lambda: collector.count("exporter_queue_size") > 0, "trace in the queue"
        )
        await runs.good(names[2])
        collector.stop()
        await runs.good(names[3])
        collector.start()
        await runs.good(names[4])
        with OtlpReceiver(port=port) as backend:
            runs.backends.append(backend)
            await asyncio.to_thread(runs.wait_whole, *names)
            wait = "end of the queue"
            await asyncio.to_thread(collector.wait_for, lambda: collector.count("exporter_queue_size") == 0, wait)


async def test_what_the_queue_cannot_hold_is_counted_logged_and_alerted_on(tmp_path: Path) -> None:
    """By the shipped rule, from the real counters; all the rest arrives."""
    port = free_ports(["backend"])["backend"]
    with (
        short(tmp_path / "collector", f"http://127.0.0.1:{port}", *queue_of(30_000)) as collector,
        traffic(tmp_path, collector) as runs,
        started_monitoring(tmp_path / "monitoring", {"otel-collector": collector.metrics_address}) as monitoring,
    ):

        def refused() -> int:
            return int(collector.count("exporter_enqueue_failed_spans"))

        for number in range(10):
            await runs.good(f"run {number}")
        await asyncio.to_thread(collector.wait_for, lambda: collector.undecided == 0, "decision on everything")
        assert refused() > 0
        assert collector.log_records("Rejecting data") != []
        await asyncio.to_thread(monitoring.wait_for, ALERT)
        with OtlpReceiver(port=port) as backend:
            accepted = int(collector.count("receiver_accepted_spans"))

            def came() -> bool:
                return len(backend.spans) + refused() == accepted

            await asyncio.to_thread(collector.wait_for, came, "rest of the spans")


def test_every_counter_that_the_rule_asks_for_is_the_collectors(tmp_path: Path) -> None:
    """Spans are lost in each of the ways that the rule knows: none of its names is one of yesterday's."""
    asked = {name.removesuffix("_total") for name in re.findall(r"otelcol_[a-z_]+(?=\[5m\])", RULE)}
    overrides = (
        "processors::tail_sampling::num_traces: 5",
        "processors::tail_sampling::maximum_trace_size_bytes: 2000",
        *queue_of(1_000),
    )
    with (
        refusing_backend() as backend,
        short(tmp_path / "collector", backend, *overrides) as collector,
        short(tmp_path / "limited", backend, OTELCOL_MEMORY_MIB="2") as limited,
    ):
        send_spans(collector, traces=1, spans_each=100)  # too many for a trace
        send_spans(collector, traces=10, spans_each=1)  # too many traces
        send_spans(collector, traces=2, spans_each=20)  # each too much for the queue
        limited.wait_for(lambda: send_spans(limited, traces=1, spans_each=1) == 503, "refusal")

        def counted() -> set[str]:
            series = [*collector.series(), *limited.series()]
            return {name for name, _, value in series if name in asked and value > 0}

        collector.wait_for(lambda: counted() == asked, f"count of each of {asked}")


@pytest.mark.parametrize(
    ("override", "accepted"),
    [
        ("processors::tail_sampling::num_traces: 100000", True),
        ("processors::tail_sampling::decision_wait: long", False),
    ],
)
def test_the_collector_accepts_the_file(tmp_path: Path, override: str, accepted: bool) -> None:
    """By its own check, which refuses what is no duration."""
    ran = subprocess.run(
        [collector_program(), "validate", f"--config={CONFIG}", f"--config=yaml:{override}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={"OTELCOL_STORAGE": str(tmp_path / "queue")},
    )
    assert accepted is (ran.returncode == 0), ran.stderr
