"""The metrics: what each verb counts, once, under closed sets of labels."""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tracewire_telemetry.catalog import METRICS, PREFIX, PROCESS_METRICS, RUN_SECONDS_BUCKETS, SECONDS_BUCKETS
from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.metrics import LogHistogram, Metrics
from tracewire_telemetry.user_gauge import SeriesKey
from tracewire_telemetry.vocabulary import (
    EVENT_TYPES,
    LINKS,
    CloseCode,
    EventType,
    Link,
    Outcome,
    RejectCode,
    ResumeOutcome,
    SpanDropReason,
    ToolStatus,
)
from unit.ledgers import LedgerScript, ns

STARTED, THINKING = EventType.AGENT_STARTED, EventType.AGENT_THINKING
DELTA, COMPLETED = EventType.AGENT_DELTA, EventType.AGENT_COMPLETED


def fresh() -> Metrics:
    """Metrics that know two agents and one tool."""
    return Metrics(version="1", agents=["analyst", "five"], tools=["look"])


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample as a scrape gives it."""
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def events(metrics: Metrics, event_type: EventType) -> list[float | None]:
    """What `events_total` says of this type at each link, in order."""
    return [value(metrics, "events_total", link=link.value, event_type=event_type.value) for link in LINKS]


# --- histograms -----------------------------------------------------------------------------------------------------


def bucket_of(duration_ns: int) -> int:
    """The first bucket whose bound is not below the duration, in exact integer arithmetic."""
    for index in range(len(SECONDS_BUCKETS)):
        if duration_ns * 2**16 <= 2**index * 10**9:
            return index
    return len(SECONDS_BUCKETS)


_durations = st.one_of(
    st.integers(0, 10**12),
    st.integers(-16, 7).flatmap(
        lambda exponent: st.integers(-2, 2).map(lambda offset: max(0, round(2.0**exponent * 1e9) + offset))
    ),
)


@given(durations=st.lists(_durations, max_size=50))
@settings(max_examples=200, deadline=None)
def test_a_duration_is_counted_in_the_first_bucket_that_holds_it(durations: list[int]) -> None:
    """Against a direct computation, also at the bounds themselves and next to them."""
    histogram = LogHistogram()
    for duration in durations:
        histogram.observe(duration)
    expected = Counter(bucket_of(duration) for duration in durations)
    assert [expected[index] for index in range(len(SECONDS_BUCKETS) + 1)] == histogram.counts
    assert sum(durations) == histogram.sum_ns
    buckets = histogram.cumulative()
    assert [*SECONDS_BUCKETS, math.inf] == [float(bound) for bound, _ in buckets]
    assert float(len(durations)) == buckets[-1][1]
    assert sorted(count for _, count in buckets) == [count for _, count in buckets]


def test_a_negative_duration_counts_as_none() -> None:
    """Clocks of two threads may differ by nanoseconds; a histogram's sum must not go down."""
    histogram = LogHistogram()
    histogram.observe(-5)
    assert (histogram.counts[0], histogram.sum_ns) == (1, 0)


# --- the events of a run --------------------------------------------------------------------------------------------


def test_an_event_counts_once_a_link_however_often_the_ledger_is_flushed() -> None:
    """A scrape after each stamp, and several after the last."""
    metrics, script = fresh(), LedgerScript()
    ledger, socket = script.ledger, script.attached()
    seen = []
    ordinal = script.emitted(STARTED, 0)
    metrics.flush(ledger)
    seen.append(events(metrics, STARTED))
    ledger.sequenced(ordinal, ns(1))
    metrics.flush(ledger)
    seen.append(events(metrics, STARTED))
    ledger.committed(1, ns(2))
    metrics.flush(ledger)
    seen.append(events(metrics, STARTED))
    ledger.written(socket, 1, ns(3))
    metrics.flush(ledger)
    seen.append(events(metrics, STARTED))
    ledger.acknowledged(socket, 1, ns(4))
    for _ in range(3):
        metrics.flush(ledger)
        seen.append(events(metrics, STARTED))
    assert seen == [[0] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1] * 5, [1] * 5, [1] * 5]


@given(
    types=st.lists(st.sampled_from(EVENT_TYPES), max_size=30),
    acked=st.integers(0, 30),
    flushes=st.sets(st.integers(0, 60)),
)
@settings(max_examples=60, deadline=None)
def test_events_total_equals_the_stamps_whenever_it_is_flushed(
    types: list[EventType], acked: int, flushes: set[int]
) -> None:
    """By link and type, against a count of the stamps themselves."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    for step, event_type in enumerate(types):
        script.sent(event_type, step * 10, socket)
        if step in flushes:
            metrics.flush(script.ledger)
    script.acknowledged(socket, min(acked, len(types)), 1_000)
    metrics.flush(script.ledger)
    columns = (
        script.ledger.engine,
        script.ledger.bridge,
        script.ledger.emitter,
        script.ledger.socket,
        script.ledger.client,
    )
    for link, column in enumerate(columns):
        expected = Counter(types[index] for index, stamp in enumerate(column) if stamp)
        assert [expected[event_type] for event_type in EVENT_TYPES] == metrics.events[link]
        observed = sum(metrics.link_seconds[link].counts)
        assert (min(1, len(types)) if link == 0 else sum(expected.values())) == observed
    assert min(acked, len(types)) == sum(metrics.delivery_seconds.counts)


@pytest.mark.parametrize("looks_before", [0, 1])
def test_a_missing_event_does_not_stop_the_count_of_later_ones(looks_before: int) -> None:
    """Seq 1 was never written; seq 2 is counted at the socket all the same, whether a scrape came between or not."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.durable(STARTED, 0)
    script.sent(THINKING, 10, socket)
    for _ in range(looks_before):
        metrics.flush(script.ledger)
    script.overdue(7_000)
    metrics.flush(script.ledger)
    assert (events(metrics, STARTED), events(metrics, THINKING)) == ([1, 1, 1, 0, 0], [1, 1, 1, 1, 0])


def test_an_event_that_is_still_due_is_counted_when_it_comes() -> None:
    """A scrape passes while seq 1 is unwritten: neither it nor seq 2 is lost to the count."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.durable(STARTED, 0)
    script.durable(THINKING, 10)
    metrics.flush(script.ledger)
    script.ledger.written(socket, 1, ns(20))
    script.ledger.written(socket, 2, ns(21))
    metrics.flush(script.ledger)
    assert (events(metrics, STARTED)[3], events(metrics, THINKING)[3]) == (1, 1)


def test_pending_events_of_a_settled_run_do_not_hide_acked_ones() -> None:
    """At settlement everything that has a stamp is counted."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, 5)
    script.detached(socket)
    script.durable(COMPLETED, 10)
    script.ended(13)
    script.settled_ns = ns(14)
    metrics.flush(script.ledger)
    assert (events(metrics, STARTED), events(metrics, COMPLETED)) == ([1] * 5, [1, 1, 1, 0, 0])


def test_link_seconds_measure_the_time_from_the_previous_link() -> None:
    """At the engine from the run's record to its first event; at the client from the write; in all from the engine."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 40, socket)
    script.sent(THINKING, 60, socket)
    script.acknowledged(socket, 2, 1_063)
    metrics.flush(script.ledger)
    expected = {"engine": 0.040, "bridge": 0.002, "emitter": 0.002, "socket": 0.002, "client": 1.020 + 1.0}
    seconds = {link.value: value(metrics, "link_seconds_sum", link=link.value) for link in LINKS}
    assert expected == pytest.approx(seconds)
    assert pytest.approx(1.023 + 1.003) == value(metrics, "delivery_seconds_sum")


def test_a_settled_run_counts_one_verdict_an_event() -> None:
    """Deltas are left out; the origin is the run's."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    for event_type in (STARTED, DELTA, COMPLETED):
        script.sent(event_type, 0, socket)
    script.acknowledged(socket, 3, 2_500)
    metrics.settled(script.ledger)
    late = {"verdict": "late", "origin": "user"}
    assert value(metrics, "deliveries_total", event_type="agent_started", **late) == 1
    assert value(metrics, "deliveries_total", event_type="agent_completed", **late) == 1
    counted = [sample.value for family in metrics.registry.collect() if family.name == PREFIX + "deliveries"
               for sample in family.samples if sample.name.endswith("_total")]  # fmt: skip
    assert sum(counted) == 2


# --- labels ---------------------------------------------------------------------------------------------------------


def samples(metrics: Metrics) -> dict[str, list[Mapping[str, str]]]:
    """The labels of every sample of a scrape, by the name of its metric."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.exposition()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_every_closed_label_set_is_there_at_zero_before_the_first_run() -> None:
    """For each metric of the catalogue that is not a gauge: each combination of its labels' values."""
    metrics = fresh()
    seen = samples(metrics)
    known = {"agent": {"analyst", "five", "other"}, "tool": {"look", "other"}}
    for spec in METRICS:
        if spec.kind == "gauge":
            continue
        name = spec.full_name + ("_count" if spec.kind == "histogram" else "")
        size = math.prod(len(values or known[label]) for label, values in spec.labels)
        assert size == len(seen[name]), spec.name
        for label, values in spec.labels:
            assert set(values or known[label]) == {labels[label] for labels in seen[name]}, spec.name
    counted = [
        sample
        for family in text_string_to_metric_families(metrics.exposition()[0].decode())
        for sample in family.samples
        if family.name.startswith(PREFIX) and family.name != PREFIX + "build_info"
    ]
    assert {0.0} == {sample.value for sample in counted}


def test_every_verb_stays_within_the_closed_label_sets() -> None:
    """Each value of each enumeration that a verb takes is in the catalogue: no series appears after the start."""
    metrics = fresh()
    before = {name: len(labels) for name, labels in samples(metrics).items()}
    for outcome in Outcome:
        metrics.run_ended("unheard of", outcome, 1.0)
    for status in ToolStatus:
        metrics.tool_ended("unheard of", status, 1.0)
    for link in LINKS:
        for event_type in EVENT_TYPES:
            metrics.event_missing(Missing(link, event_type, None, 0, 0), "ab" * 16)
    for reject in RejectCode:
        metrics.rejected(reject)
    for close in set(CloseCode) - {CloseCode.NORMAL}:
        metrics.closed(close)
    for resume in ResumeOutcome:
        metrics.resumed(resume)
    for reason in SpanDropReason:
        metrics.spans_dropped(reason, 1)
    metrics.run_abandoned("unheard of")
    script = LedgerScript(required=EVENT_TYPES)
    for event_type in EVENT_TYPES[:4]:
        script.durable(event_type, 0)
    script.ended(10)
    metrics.settled(script.ledger)
    assert before == {name: len(labels) for name, labels in samples(metrics).items()}


def test_an_agent_or_tool_that_was_not_known_at_start_counts_as_other() -> None:
    """A user cannot make series by naming things."""
    metrics = fresh()
    metrics.run_ended("five", Outcome.COMPLETED, 1.5)
    metrics.run_ended("surprise", Outcome.TIMEOUT, 2.5)
    metrics.tool_ended("look", ToolStatus.OK, 0.5)
    metrics.tool_ended("surprise", ToolStatus.ERROR, 0.25)
    assert [
        value(metrics, "runs_total", agent="five", outcome="completed"),
        value(metrics, "runs_total", agent="other", outcome="timeout"),
        value(metrics, "tool_calls_total", tool="look", status="ok"),
        value(metrics, "tool_calls_total", tool="other", status="error"),
    ] == [1, 1, 1, 1]
    assert (
        value(metrics, "run_seconds_sum", agent="five"),
        value(metrics, "tool_seconds_sum", tool="other"),
    ) == (1.5, 0.25)


def test_a_missing_event_counts_under_its_type_and_link() -> None:
    """And under nothing else."""
    metrics = fresh()
    metrics.event_missing(Missing(Link.SOCKET, THINKING, 3, 0, 1), "ab" * 16)
    assert value(metrics, "events_missing_total", event_type="agent_thinking", link="socket") == 1
    assert value(metrics, "events_missing_total", event_type="agent_thinking", link="client") == 0


# --- the scrape -----------------------------------------------------------------------------------------------------


def test_a_scrape_brings_the_open_runs_up_to_date_first() -> None:
    """`before_scrape` runs, and what it counts is in this scrape's answer."""
    metrics, script = fresh(), LedgerScript()
    script.durable(STARTED, 0)
    metrics.before_scrape = lambda: metrics.flush(script.ledger)
    body, _ = metrics.exposition()
    assert b'tracewire_events_total{event_type="agent_started",link="emitter"} 1.0' in body


def test_a_gauge_shows_what_it_reads_at_each_scrape() -> None:
    """It is asked anew each time."""
    metrics = fresh()
    spec = next(spec for spec in METRICS if spec.name == "runs_open")
    readings = iter([3.0, 4.0])
    metrics.gauge(spec, lambda: next(readings))
    assert [value(metrics, "runs_open"), value(metrics, "runs_open")] == [3.0, 4.0]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
    ],
)
def test_a_scrape_answers_in_the_format_that_was_asked_for(accept: str, content_type: str) -> None:
    """Both formats parse, hold the same families, and no `_created` series."""
    body, answered = fresh().exposition(accept)
    assert answered.startswith(content_type)
    parse = openmetrics_families if "openmetrics" in content_type else text_string_to_metric_families
    names = [sample.name for family in parse(body.decode()) for sample in family.samples]
    assert {spec.full_name for spec in METRICS if spec.kind == "counter"} <= set(names)
    assert [name for name in names if name.endswith("_created")] == []


def test_the_buckets_are_powers_of_two() -> None:
    """2⁻¹⁶ to 2⁶ seconds, and 2⁻⁴ to 2¹² for whole runs, as scraped."""
    seen: dict[str, set[float]] = {}
    for family in text_string_to_metric_families(fresh().exposition()[0].decode()):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                seen.setdefault(family.name, set()).add(float(sample.labels["le"]))
    short = {2.0**exponent for exponent in range(-16, 7)} | {math.inf}
    whole = {2.0**exponent for exponent in range(-4, 13)} | {math.inf}
    histograms = {spec.full_name for spec in METRICS if spec.kind == "histogram"}
    assert {name: whole if name.endswith("_run_seconds") else short for name in histograms} == seen
    assert (len(SECONDS_BUCKETS), len(RUN_SECONDS_BUCKETS)) == (23, 17)


def test_two_servers_of_a_process_count_apart() -> None:
    """Nothing is registered globally."""
    first, second = fresh(), fresh()
    first.closed(CloseCode.DRAINING)
    assert (value(first, "closes_total", code="4000"), value(second, "closes_total", code="4000")) == (1, 0)


def test_every_declared_metric_has_a_help_text_and_a_name_by_the_rules() -> None:
    """Counters end in `_total`, histograms in `_seconds`; every help is a sentence."""
    for spec in METRICS:
        assert spec.help.endswith("."), spec.name
        assert (spec.kind == "counter") == spec.name.endswith("_total"), spec.name
        assert spec.kind != "histogram" or spec.name.endswith("_seconds"), spec.name
    assert len(METRICS) == len({spec.name for spec in METRICS})


# --- exemplars, and users by name -----------------------------------------------------------------------------------


def exemplars(metrics: Metrics, family: str) -> list[tuple[dict[str, str], float]]:
    """The exemplars of a family as OpenMetrics shows them: labels and value."""
    families = openmetrics_families(metrics.exposition("application/openmetrics-text")[0].decode())
    return [
        (sample.exemplar.labels, sample.exemplar.value)
        for found in families
        if found.name == PREFIX + family
        for sample in found.samples
        if sample.exemplar
    ]


def test_a_missing_event_is_counted_with_its_trace_as_an_example() -> None:
    """Its run is kept for that: the way from the counter to the trace. The text format has none."""
    metrics = fresh()
    metrics.event_missing(Missing(Link.SOCKET, THINKING, 3, 0, 1), "ab" * 16)
    assert exemplars(metrics, "events_missing") == [({"trace_id": "ab" * 16}, 1.0)]
    assert "trace_id" not in metrics.exposition()[0].decode()


def test_the_slowest_delivery_of_a_kept_trace_is_the_example_of_its_bucket() -> None:
    """By its own duration, which lies in the bucket that it is shown in."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.sent(THINKING, 10, socket)
    script.acknowledged(socket, 1, 20)
    script.acknowledged(socket, 2, 3_010)
    metrics.flush(script.ledger)
    assert exemplars(metrics, "delivery_seconds") == []
    metrics.trace_kept(script.ledger)
    [(labels, seconds)] = exemplars(metrics, "delivery_seconds")
    assert (labels, seconds) == ({"trace_id": f"{script.ledger.identity.trace_id:032x}"}, 3.0)


def test_the_slowest_delivery_of_a_kept_trace_is_an_example_at_each_link() -> None:
    """By how long that event took at the link, in the bucket that this lies in; at the engine by the run's first."""
    metrics, script = fresh(), LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.sent(THINKING, 10, socket)
    script.acknowledged(socket, 1, 20)
    script.acknowledged(socket, 2, 3_010)
    ledger = script.ledger
    metrics.flush(ledger)
    metrics.trace_kept(ledger)
    columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
    took_ns = [ledger.engine[0] - ledger.opened_ns, *(after[1] - before[1] for before, after in pairwise(columns))]
    labels = {"trace_id": f"{ledger.identity.trace_id:032x}"}
    assert exemplars(metrics, "link_seconds") == [(labels, nanoseconds / 1e9) for nanoseconds in took_ns]


def test_what_is_told_of_the_process_is_declared() -> None:
    """Its CPU, memory and descriptors, under the names that every program has them by."""
    families = text_string_to_metric_families(fresh().exposition()[0].decode())
    told = {sample.name for family in families for sample in family.samples if not sample.name.startswith(PREFIX)}
    assert told == {spec.full_name for spec in PROCESS_METRICS}


def test_a_user_in_violation_is_named_and_nobody_else() -> None:
    """User, type and link; there is no series before the first and none after the last."""
    metrics = fresh()
    key = SeriesKey("ada", "next", Link.ENGINE)
    labels = {"user_id": "ada", "event_type": "next", "link": "engine"}
    seen = []
    for step in ("none", "add", "end", "expire"):
        if step == "add":
            metrics.users.add(key, 2, 0)
        elif step == "end":
            metrics.users.end(key, 2, 60_000_000_000)
        elif step == "expire":
            metrics.users.expire(60_000_000_000)
        seen.append((value(metrics, "user_events_missing", **labels), value(metrics, "users_affected")))
    assert seen == [(None, 0), (2, 1), (2, 1), (None, 0)]
