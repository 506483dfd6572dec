"""Every metric of the catalogue, and one verb for each thing that is counted.

What is counted per event stands in plain integers here (`flush` reads a run's ledger, once a link and event) and
becomes samples only when somebody scrapes; the rest are prometheus-client's own metrics. All live in a registry of
our own: nothing is registered globally.
"""

import platform
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_CONTENT_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from tracewire_telemetry import catalog
from tracewire_telemetry.catalog import OTHER, SECONDS_BUCKETS, MetricSpec
from tracewire_telemetry.ledger import NS_PER_SECOND, Missing, RunLedger
from tracewire_telemetry.user_gauge import UserGauge
from tracewire_telemetry.verdicts import count_verdicts, slowest_delivery
from tracewire_telemetry.vocabulary import (
    EVENT_TYPES,
    LINKS,
    CloseCode,
    EventType,
    ExpiryReason,
    Link,
    Origin,
    Outcome,
    RejectCode,
    ResumeOutcome,
    SpanDropReason,
    ToolStatus,
    Verdict,
)

TEXT_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = len(SECONDS_BUCKETS) + 1


class LogHistogram:
    """Counts of durations in powers of two seconds, 2⁻¹⁶ to 2⁶ and above: an addition and a bit length each."""

    __slots__ = ("counts", "exemplars", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.sum_ns = 0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, duration_ns: int) -> None:
        """Count one duration, in nanoseconds; a negative one counts as 0."""
        duration_ns = max(duration_ns, 0)
        units = -(-duration_ns * 65_536 // NS_PER_SECOND)
        self.counts[min((units - 1).bit_length() if units else 0, _BUCKETS - 1)] += 1
        self.sum_ns += duration_ns

    def exemplify(self, duration_ns: int, labels: dict[str, str], unix_seconds: float) -> None:
        """Show one of the counted durations as an example of its bucket."""
        units = -(-max(duration_ns, 0) * 65_536 // NS_PER_SECOND)
        bucket = min((units - 1).bit_length() if units else 0, _BUCKETS - 1)
        self.exemplars[bucket] = Exemplar(labels, duration_ns / NS_PER_SECOND, unix_seconds)

    def cumulative(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """The buckets as Prometheus wants them: upper bound and count up to it, an exemplar where there is one."""
        total = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for index, bound in enumerate((*map(str, SECONDS_BUCKETS), "+Inf")):
            total += self.counts[index]
            exemplar = self.exemplars.get(index)
            buckets.append((bound, float(total), exemplar) if exemplar else (bound, float(total)))
        return buckets


class _EventCollector(Collector):
    """What `flush` counted, as metric families."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        self._metrics.before_scrape()
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def _families(self) -> Iterator[Metric]:
        metrics = self._metrics
        events = CounterMetricFamily(catalog.EVENTS.full_name, catalog.EVENTS.help, labels=catalog.EVENTS.label_names)
        for link, counts in zip(LINKS, metrics.events, strict=True):
            for event_type, count in zip(EVENT_TYPES, counts, strict=True):
                events.add_metric((link.value, event_type.value), count)
        yield events
        spec = catalog.LINK_SECONDS
        seconds = HistogramMetricFamily(spec.full_name, spec.help, labels=spec.label_names)
        for link, histogram in zip(LINKS, metrics.link_seconds, strict=True):
            seconds.add_metric((link.value,), histogram.cumulative(), histogram.sum_ns / NS_PER_SECOND)
        yield seconds
        spec = catalog.DELIVERY_SECONDS
        yield HistogramMetricFamily(
            spec.full_name,
            spec.help,
            buckets=metrics.delivery_seconds.cumulative(),
            sum_value=metrics.delivery_seconds.sum_ns / NS_PER_SECOND,
        )
        spec = catalog.USER_EVENTS_MISSING
        missing = GaugeMetricFamily(spec.full_name, spec.help, labels=spec.label_names)
        for values, count in metrics.users.series():
            missing.add_metric(values, count)
        yield missing
        for spec, read in metrics.gauges.items():
            yield GaugeMetricFamily(spec.full_name, spec.help, value=read())


class Metrics:
    """All metrics of one server. `agents` and `tools` are the label values known at start; the rest is `other`.

    `users` names the users in violation; by default 200 of them, by their plain ids.
    """

    def __init__(
        self,
        *,
        version: str,
        agents: Iterable[str] = (),
        tools: Iterable[str] = (),
        users: UserGauge | None = None,
    ) -> None:
        self.users = users or UserGauge(slots=200, least_seconds=37.5, hashed=False)
        self.registry = CollectorRegistry()
        self.events = [[0] * len(EVENT_TYPES) for _ in LINKS]
        self.link_seconds = [LogHistogram() for _ in LINKS]
        self.delivery_seconds = LogHistogram()
        self._passed_over: dict[str, set[tuple[int, int]]] = {}
        self.gauges: dict[MetricSpec, Callable[[], float]] = {}
        self.before_scrape: Callable[[], None] = lambda: None
        self._known = {"agent": {*agents, OTHER}, "tool": {*tools, OTHER}}
        self._deliveries = self._counter(catalog.DELIVERIES)
        self._missing = self._counter(catalog.EVENTS_MISSING)
        self._healed = self._counter(catalog.EVENTS_HEALED)
        self._stamps_lost = self._counter(catalog.STAMPS_LOST)
        self.gauge(catalog.USERS_AFFECTED, lambda: self.users.users_affected)
        self.gauge(catalog.USER_SLOTS_OVERFLOW, lambda: self.users.overflow)
        self._runs = self._counter(catalog.RUNS)
        self._run_seconds = self._histogram(catalog.RUN_SECONDS)
        self._abandoned = self._counter(catalog.RUNS_ABANDONED)
        self._tool_calls = self._counter(catalog.TOOL_CALLS)
        self._tool_seconds = self._histogram(catalog.TOOL_SECONDS)
        self._slow_clients = self._counter(catalog.SLOW_CLIENTS)
        self._resumes = self._counter(catalog.RESUMES)
        self._rejected = self._counter(catalog.REJECTED)
        self._closes = self._counter(catalog.CLOSES)
        self._commit_seconds = self._histogram(catalog.EVENTLOG_COMMIT_SECONDS)
        self._expired_runs = self._counter(catalog.EVENTLOG_EXPIRED_RUNS)
        self._expired_events = self._counter(catalog.EVENTLOG_EXPIRED_EVENTS)
        self._spans_exported = self._counter(catalog.SPANS_EXPORTED)
        self._spans_dropped = self._counter(catalog.SPANS_DROPPED)
        spec = catalog.BUILD_INFO
        info = Gauge(spec.full_name, spec.help, spec.label_names, registry=self.registry)
        info.labels(version, platform.python_version()).set(1)
        self.registry.register(_EventCollector(self))
        ProcessCollector(registry=self.registry)  # what it tells is in catalog_process.py

    # Verbs, each one line at its call site.

    def flush(self, ledger: RunLedger) -> None:
        """Count what the run's events have crossed since the last flush: once a link and event."""
        if min(ledger.flushed) == len(ledger.types) and not ledger.gone:
            return  # nothing is new: most open runs wait, and a scrape comes to each of them
        columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
        gone = {missing.seq for missing in ledger.missing}
        if gone:
            self._count_healed(ledger, columns)
        for link, column in enumerate(columns):
            index = ledger.flushed[link]
            while index < len(column):
                if column[index]:
                    self._crossed(link, ledger, columns, index)
                elif not ledger.settled_ns and index + 1 not in gone and index >= ledger.acked:
                    break  # else it is acked, and its stamp here was lost
                elif not ledger.settled_ns:
                    self._passed_over.setdefault(ledger.identity.run_id, set()).add((link, index))
                index += 1
            ledger.flushed[link] = index
        if ledger.settled_ns:
            self._passed_over.pop(ledger.identity.run_id, None)

    def _count_healed(self, ledger: RunLedger, columns: "tuple[array[int], ...]") -> None:
        """Count what was missing when it was passed over, and has crossed the link since."""
        passed_over = self._passed_over.get(ledger.identity.run_id, set())
        for link, index in [one for one in passed_over if columns[one[0]][one[1]]]:
            self._crossed(link, ledger, columns, index)
            passed_over.discard((link, index))

    def _crossed(self, link: int, ledger: RunLedger, columns: "tuple[array[int], ...]", index: int) -> None:
        moment = columns[link][index]
        self.events[link][ledger.types[index]] += 1
        if link == 0:
            if index == 0:
                self.link_seconds[0].observe(moment - ledger.opened_ns)
            return
        if columns[link - 1][index]:
            self.link_seconds[link].observe(moment - columns[link - 1][index])
        if link == len(columns) - 1:
            self.delivery_seconds.observe(moment - ledger.known_ns(index + 1))

    def settled(self, ledger: RunLedger) -> None:
        """Count the verdicts of a settled run."""
        self.delivered(count_verdicts(ledger), ledger.identity.origin)

    def delivered(self, verdicts: Mapping[tuple[EventType, Verdict], int], origin: Origin) -> None:
        """Count verdicts on events."""
        for (event_type, verdict), count in verdicts.items():
            self._deliveries.labels(event_type.value, verdict.value, origin.value).inc(count)

    def trace_kept(self, ledger: RunLedger) -> None:
        """A settled run's trace was exported: its slowest delivery is an example of how long one takes, by link."""
        index = slowest_delivery(ledger)
        if index is None:
            return
        labels = {"trace_id": f"{ledger.identity.trace_id:032x}"}
        acked_ns = ledger.client[index]
        at = ledger.unix_ns(acked_ns) / NS_PER_SECOND
        self.delivery_seconds.exemplify(acked_ns - ledger.known_ns(index + 1), labels, at)
        if ledger.engine[0]:
            self.link_seconds[0].exemplify(ledger.engine[0] - ledger.opened_ns, labels, at)
        columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
        for link, (before, column) in enumerate(pairwise(columns), start=1):
            if before[index] and column[index]:
                self.link_seconds[link].exemplify(column[index] - before[index], labels, at)

    def event_missing(self, missing: Missing, trace_id: str) -> None:
        """A link did not take an event by its deadline. The trace (32 hex digits) will be kept."""
        counter = self._missing.labels(missing.event_type, missing.link.value)
        counter.inc(exemplar={"trace_id": trace_id})

    def event_healed(self, link: Link) -> None:
        """An event that was missing at this link came after all."""
        self._healed.labels(link.value).inc()

    def stamps_lost(self, link: Link, count: int) -> None:
        """So many events of a settled run crossed this link, as a later one shows, without a stamp."""
        self._stamps_lost.labels(link.value).inc(count)

    def run_ended(self, agent: str, outcome: Outcome, seconds: float) -> None:
        """A run has its terminal event."""
        agent = self._one_of("agent", agent)
        self._runs.labels(agent, outcome.value).inc()
        self._run_seconds.labels(agent).observe(seconds)

    def run_abandoned(self, agent: str) -> None:
        """An agent went on after the end of its run."""
        self._abandoned.labels(self._one_of("agent", agent)).inc()

    def tool_ended(self, tool: str, status: ToolStatus, seconds: float) -> None:
        """A tool call has its `tool_completed`."""
        tool = self._one_of("tool", tool)
        self._tool_calls.labels(tool, status.value).inc()
        self._tool_seconds.labels(tool).observe(seconds)

    def client_too_slow(self) -> None:
        """A socket was cut because its outbox was full or too old."""
        self._slow_clients.inc()

    def resumed(self, outcome: ResumeOutcome) -> None:
        """A run was named in a resume."""
        self._resumes.labels(outcome.value).inc()

    def rejected(self, code: RejectCode) -> None:
        """A frame or a request was refused."""
        self._rejected.labels(code.value).inc()

    def closed(self, code: CloseCode) -> None:
        """The server closed a socket."""
        self._closes.labels(str(code.value)).inc()

    def committed(self, seconds: float) -> None:
        """The event log committed a group."""
        self._commit_seconds.observe(seconds)

    def expired(self, runs_by_age: int, runs_by_size: int, events: int) -> None:
        """Retention removed runs and events from the log."""
        self._expired_runs.labels(ExpiryReason.AGE.value).inc(runs_by_age)
        self._expired_runs.labels(ExpiryReason.SIZE.value).inc(runs_by_size)
        self._expired_events.inc(events)

    def spans_exported(self, count: int) -> None:
        """The trace receiver took spans."""
        self._spans_exported.inc(count)

    def spans_dropped(self, reason: SpanDropReason, count: int) -> None:
        """Spans were not exported."""
        self._spans_dropped.labels(reason.value).inc(count)

    def gauge(self, spec: MetricSpec, read: Callable[[], float]) -> None:
        """Show `read()` as this gauge at every scrape."""
        self.gauges[spec] = read

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What a scrape answers, and its content type: OpenMetrics where `accept` asks for it, otherwise text."""
        view = WithoutCreated(self.registry)
        if "application/openmetrics-text" in accept:
            return generate_openmetrics(view), OPENMETRICS_CONTENT_TYPE  # type: ignore[no-untyped-call] # untyped upstream
        return generate_latest(view), TEXT_CONTENT_TYPE

    # Construction.

    def _one_of(self, label: str, value: str) -> str:
        return value if value in self._known[label] else OTHER

    def _children(self, spec: MetricSpec) -> Iterator[tuple[str, ...]]:
        combinations: list[tuple[str, ...]] = [()]
        for name, values in spec.labels:
            choices = values or tuple(sorted(self._known[name]))
            combinations = [(*head, value) for head in combinations for value in choices]
        return iter(combinations)

    def _counter(self, spec: MetricSpec) -> Counter:
        counter = Counter(spec.full_name, spec.help, spec.label_names, registry=self.registry)
        for values in self._children(spec):
            if values:
                counter.labels(*values)
        return counter

    def _histogram(self, spec: MetricSpec) -> Histogram:
        histogram = Histogram(spec.full_name, spec.help, spec.label_names, registry=self.registry, buckets=spec.buckets)
        for values in self._children(spec):
            if values:
                histogram.labels(*values)
        return histogram


class WithoutCreated(CollectorRegistry):
    """A registry as it is, without the `_created` series (prometheus-client's own switch for them is global)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
