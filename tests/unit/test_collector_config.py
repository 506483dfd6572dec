"""`otel-collector.yaml` by its own rules: parts, order, waits, queue, exposure, metrics, and what its policies keep."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from support.collector_config import CONFIG, RULES, Config, loaded, problems, seconds, settling_seconds
from support.collector_policies import deciding
from support.otelcol import MANIFEST
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.vocabulary import EventType, Outcome
from unit.test_spans import Traced

STARTED, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_COMPLETED
SAMPLING = ("processors", "tail_sampling")
CACHE = (*SAMPLING, "decision_cache")
METRICS_OF_SPANS = ("connectors", "span_metrics")
EXPORTER = ("exporters", "otlp_http")
QUEUE = (*EXPORTER, "sending_queue")
STORAGE = ("extensions", "file_storage")
PIPELINES = ("service", "pipelines")
INTAKE, KEPT = (*PIPELINES, "traces/intake"), (*PIPELINES, "traces/kept")
GONE = object()
Path = tuple[str, ...]


def changed(*changes: tuple[Path, Any]) -> Config:
    """The shipped configuration with these values in these places; `GONE` takes one out."""
    config = loaded()
    for path, value in changes:
        *above, last = path
        place = config
        for name in above:
            place = place[name]
        if value is GONE:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return config


def test_the_shipped_file_breaks_no_rule() -> None:
    """Read without any variable set."""
    assert problems(loaded(), CONFIG.read_text()) == []


MUTANTS: dict[str, tuple[Iterable[tuple[Path, Any]], str]] = {
    "an exporter that the manifest lacks": ([(("exporters", "kafka"), {})], "kafka is no component"),
    "a processor that nobody defined": ([((*INTAKE, "processors"), ["memory_limiter", "batch"])], "batch of its"),
    "a processor that nobody uses": ([((*KEPT, "processors"), [])], "tail_sampling is defined and not used"),
    "no limit of memory": ([((*INTAKE, "processors"), ["tail_sampling"])], "memory_limiter must come first"),
    "sampling before the limit": (
        [((*INTAKE, "processors"), ["tail_sampling", "memory_limiter"])], "memory_limiter must come first",
    ),
    "metrics of what is kept": (
        [((*INTAKE, "exporters"), ["forward/sampling"]), ((*KEPT, "exporters"), ["otlp_http", "span_metrics"])],
        "span_metrics must come before sampling",
    ),
    "a way past sampling": ([((*INTAKE, "exporters"), ["span_metrics", "otlp_http"])], "past tail_sampling"),
    "two intakes": (
        [((*PIPELINES, "traces/too"), {"receivers": ["otlp"], "processors": ["memory_limiter"], "exporters": []})],
        "one pipeline must take data in",
    ),
    "a batch processor": ([(("processors", "batch"), {})], "the batch processor is on its way out"),
    "a wait below settling and a run": ([((*SAMPLING, "decision_wait"), "300s")], "decision_wait must be"),
    "the default wait": ([((*SAMPLING, "decision_wait"), GONE)], "decision_wait must be"),
    "no wait after the root": ([((*SAMPLING, "decision_wait_after_root_received"), GONE)], "leave other exporters"),
    "a small cache": ([((*CACHE, "sampled_cache_size"), 100_000)], "ten times as many kept ids"),
    "a cache of what was not kept": ([((*CACHE, "non_sampled_cache_size"), 1)], "remember no trace"),
    "traces that wait for room": ([((*SAMPLING, "block_on_overflow"), True)], "block_on_overflow"),
    "traces of any size": ([((*SAMPLING, "maximum_trace_size_bytes"), GONE)], "maximum_trace_size_bytes"),
    "a size that runs reach": ([((*SAMPLING, "maximum_trace_size_bytes"), 2_000_000)], "maximum_trace_size_bytes"),
    "a queue in memory": ([((*QUEUE, "storage"), GONE)], "ends with the process"),
    "a folder that nobody starts": ([(("service", "extensions"), ["health_check"])], "ends with the process"),
    "a queue by requests": ([((*QUEUE, "sizer"), "requests")], "bounded in bytes"),
    "a queue that does not batch": ([((*QUEUE, "batch"), GONE)], "bounded in bytes, and batch"),
    "retries that end": ([((*EXPORTER, "retry_on_failure"), {})], "gives up before the queue is full"),
    "a file below its queue": ([((*STORAGE, "max_size"), 1 << 20)], "max_size must hold the queue"),
    "no folder to compact in": ([((*STORAGE, "compaction"), {"on_start": True})], "compaction must have a folder"),
    "a receiver for everybody": (
        [(("receivers", "otlp", "protocols", "grpc", "endpoint"), "0.0.0.0:4317")], "0.0.0.0:4317 is not loopback",
    ),
    "metrics for everybody": (
        [(("exporters", "prometheus/spans", "endpoint"), ":8889")], ":8889 is not loopback",
    ),
    "a token": ([((*EXPORTER, "headers"), {"Authorization": "Bearer x"})], "a secret's place"),
    "a password": ([((*EXPORTER, "endpoint"), "https://me:pass@tempo:4318")], "holds a password"),
    "milliseconds": ([((*METRICS_OF_SPANS, "histogram", "unit"), "ms")], "unit must be s"),
    "no unit": ([((*METRICS_OF_SPANS, "histogram"), {})], "unit must be s"),
    "a user": ([((*METRICS_OF_SPANS, "dimensions"), [{"name": "user.id"}])], "has no bound"),
    "an instance": ([((*METRICS_OF_SPANS, "calls_dimensions"), [{"name": "service.instance.id"}])], "has no bound"),
    "whatever comes": ([((*METRICS_OF_SPANS, "dimensions"), [{"glob": "tracewire.**"}])], "has no bound"),
    "the Collector's instance": ([((*METRICS_OF_SPANS, "exclude_dimensions"), [])], "every restart of the Collector"),
    "the server's instance": ([((*METRICS_OF_SPANS, "resource_metrics_key_attributes"), GONE)], "every instance"),
    "the resource's instance": ([((*PIPELINES, "metrics/spans", "processors"), [])], "would become the label instance"),
    "everything of the resource": (
        [(("exporters", "prometheus/spans", "resource_constant_labels"), {"included": ["*"]})], "would become labels",
    ),
    "series for good": ([((*METRICS_OF_SPANS, "series_expiration"), GONE)], "series must expire"),
    "any number of names": ([((*METRICS_OF_SPANS, "aggregation_cardinality_limit"), GONE)], "names of spans"),
    "exemplars": ([((*METRICS_OF_SPANS, "exemplars"), {"enabled": True})], "exemplars lead"),
    "no health check": ([(("service", "extensions"), ["file_storage"])], "no health_check"),
    "no metrics of its own": ([(("service", "telemetry", "metrics"), {"level": "none"})], "Prometheus scrapes port"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_wrong_is_named(name: str) -> None:
    """Each rule notices what it is there for."""
    changes, said = MUTANTS[name]
    found = problems(changed(*changes), CONFIG.read_text())
    assert [True] == [True for problem in found if said in problem][:1], found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "opentelemetry-collector-contrib:0.161.0",
            "opentelemetry-collector-contrib:latest",
            "does not say that it is",
        ),
        ("${env:OTELCOL_HOST:-127.0.0.1}:${env:OTELCOL_GRPC_PORT:-4317}", "${env:HOST}:4317", "HOST has no default"),
    ],
)
def test_what_is_wrong_with_its_text_is_named(old: str, new: str, said: str) -> None:
    """What is not to be seen in what it says when it is read."""
    text = CONFIG.read_text()
    assert old in text
    found = problems(loaded(), text.replace(old, new))
    assert [said in problem for problem in found] == [True], found


def test_every_rule_has_a_mutant() -> None:
    """No rule that nothing has been seen to break."""
    manifest = yaml.safe_load(MANIFEST.read_text())
    mutants = [changed(*changes) for changes, _ in MUTANTS.values()]
    broken = {rule.__name__ for rule in RULES if any([*rule(mutant, "", manifest)] for mutant in mutants)}
    assert {rule.__name__ for rule in RULES} == broken | {"_versions"}  # which looks at the text, above


def test_a_wait_covers_settling_by_the_servers_own_deadlines() -> None:
    """From the deadlines' defaults; raised, they need a longer wait."""
    wait = seconds(loaded()["processors"]["tail_sampling"]["decision_wait"])
    assert 66 == settling_seconds()
    assert 330 == wait


# What the policies keep, of traces that Tracewire's own code made.


def run(*, acked_ms: float = 7, outcome: Outcome = Outcome.COMPLETED, owes: bool = False) -> RecordedTrace:
    """The trace of a run of one event, acked at this moment; it may owe its `agent_started`."""
    traced = Traced(**({"required": (STARTED,)} if owes else {}))
    socket = traced.script.attached()
    traced.script.sent(COMPLETED, 0, socket)
    traced.script.acknowledged(socket, 1, acked_ms)
    return traced.finished(outcome)


def of_service(trace: RecordedTrace, status: str = "unset") -> RecordedSpan:
    """The span of a service that a tool of this run called."""
    ids = (trace.root.trace_id, "a" * 16, trace.root.span_id)
    return RecordedSpan("GET /price", "server", *ids, 1, 2, status, {}, (), "prices", {}, sampled=True)


GOOD = run()
TRACES: dict[str, tuple[list[RecordedSpan], list[str]]] = {
    "good": ([*GOOD], []),
    "good, and cancelled": ([*run(outcome=Outcome.CANCELLED)], []),
    "good, with a service's span": ([of_service(GOOD), *GOOD], []),
    "good, with a service's failure": ([of_service(GOOD, "error"), *GOOD], ["error"]),
    "nearly slow": ([*run(acked_ms=1_999)], []),
    "slow": ([*run(acked_ms=2_000)], ["slow"]),
    "failed": ([*run(outcome=Outcome.AGENT_EXCEPTION)], ["error"]),
    "missing": ([*run(owes=True)], ["error", "missing"]),
    "truncated": ([span for span in GOOD if span.parent_id], ["truncated"]),
    "a service's span, and nothing yet": ([of_service(GOOD)], ["truncated"]),
}


@pytest.mark.parametrize("name", TRACES)
def test_bad_and_truncated_traces_are_kept_and_good_ones_left_to_the_share(name: str) -> None:
    """Which policies keep it; none: the share decides."""
    spans, by = TRACES[name]
    assert by == deciding(loaded()["processors"]["tail_sampling"]["policies"], spans)


POLICIES: dict[str, Any] = {
    "error": {"name": "error", "type": "status_code", "status_code": {"status_codes": ["OK"]}},
    "missing": {
        "name": "missing", "type": "boolean_attribute",
        "boolean_attribute": {"key": "tracewire.chain.whole", "value": False},
    },
    "slow": {
        "name": "slow", "type": "numeric_attribute",
        "numeric_attribute": {"key": "tracewire.delivery.max_ms", "min_value": 2000},
    },
    "truncated": {
        "name": "truncated", "type": "not", "not": {"not_sub_policy": {"name": "root", "type": "always_sample"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_a_wrong_policy_is_noticed(name: str) -> None:
    """Among them the one that takes a double for 0, as `numeric_attribute` does."""
    policies = [
        POLICIES[name] if policy["name"] == name else policy
        for policy in loaded()["processors"]["tail_sampling"]["policies"]
    ]
    assert [True] == [True for spans, by in TRACES.values() if deciding(policies, spans) != by][:1]


def test_the_share_is_last_and_the_environments() -> None:
    """100 by default: sampling is what somebody asked for."""
    for environ, share in (({}, 100), ({"OTELCOL_SHARE_PERCENT": "2.5"}, 2.5)):
        policies = loaded(environ=environ)["processors"]["tail_sampling"]["policies"]
        assert (policies[-1]["type"], policies[-1]["probabilistic"]) == (
            "probabilistic",
            {"sampling_percentage": share},
        )
