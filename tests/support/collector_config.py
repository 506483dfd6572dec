"""What must hold for `otel-collector.yaml`, whatever program reads it: each rule says what is wrong.

Read as the Collector reads it: `${env:NAME:-default}` is replaced, and what is left is taken for YAML again.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from support.alert_rules import DASHBOARDS, ROOT
from support.otelcol import MANIFEST
from tracewire.settings import Settings
from tracewire_telemetry.catalog import SPANS_PER_RUN_MAX, Attribute
from tracewire_telemetry.export import SPAN_BYTES

CONFIG: Final = ROOT / "otel-collector.yaml"
EXPORT_SECONDS: Final = 10
"""What Tracewire's exporter tries for at most, by default."""
BATCH_DELAY_SECONDS: Final = 5
"""What another service's exporter holds spans back for, by default (`OTEL_BSP_SCHEDULE_DELAY`)."""
SHORT_RUN_SECONDS: Final = 240
"""Runs up to here are decided on once, whatever services their tools call."""
TYPES: Final = {
    "otlpreceiver": "otlp",
    "memorylimiterprocessor": "memory_limiter",
    "resourceprocessor": "resource",
    "tailsamplingprocessor": "tail_sampling",
    "forwardconnector": "forward",
    "spanmetricsconnector": "span_metrics",
    "otlphttpexporter": "otlp_http",
    "prometheusexporter": "prometheus",
    "healthcheckextension": "health_check",
    "filestorage": "file_storage",
}
"""What a component is called in a configuration, by the last part of its module."""
KINDS: Final = ("receivers", "processors", "connectors", "exporters", "extensions")
PER_INSTANCE: Final = ("service.instance.id", "collector.instance.id", "host.name", "process.pid")
PER_USER: Final = tuple(
    attribute.value
    for attribute in (
        Attribute.USER_ID, Attribute.RUN_ID, Attribute.CONVERSATION_ID, Attribute.CONNECTION_ID,
        Attribute.MESSAGING_MESSAGE_ID, Attribute.TOOL_CALL_ID,
    )
)  # fmt: skip
_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|token|authorization|api.?key|headers|bearer|basicauth", re.IGNORECASE
)
_VARIABLE: Final = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}

Config = dict[str, Any]


def loaded(path: Path = CONFIG, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration under this environment; none by default."""
    config: Config = _expanded(_read(path), environ or {})
    return config


@cache
def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, environ) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    text = _VARIABLE.sub(lambda found: environ.get(found[1], found[2] or ""), value)
    return yaml.safe_load(text) if _VARIABLE.fullmatch(value) else text


def seconds(duration: Any) -> float:
    """A duration as Go writes it."""
    found = _DURATION.findall(str(duration))
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in found)


def settling_seconds() -> float:
    """From a run's end to its trace at the Collector, at most: by the deadlines of the server's settings."""
    default = Settings()
    links = default.bridge_deadline_seconds + default.emitter_deadline_seconds + default.socket_deadline_seconds
    client = default.client_deadline_seconds + default.silence_deadline_seconds
    return links + client + default.heal_deadline_seconds + default.commit_retry_seconds + EXPORT_SECONDS


def problems(config: Config, text: str = "", manifest: Path = MANIFEST) -> list[str]:
    """Everything that is wrong with a configuration; `text` is the file as it is written."""
    return [problem for rule in RULES for problem in rule(config, text, _read(manifest))]


def _type(component: str) -> str:
    return component.partition("/")[0]


def _named(config: Config, *types: str) -> Iterator[tuple[str, Config]]:
    """The components of these types, of all kinds."""
    for kind in KINDS:
        for name, options in (config.get(kind) or {}).items():
            if _type(name) in types:
                yield name, options or {}


def _pipelines(config: Config) -> dict[str, dict[str, list[str]]]:
    pipelines: dict[str, dict[str, list[str]]] = config["service"]["pipelines"]
    return pipelines


def _components(config: Config, _text: str, manifest: Config) -> Iterator[str]:
    known = {kind: {TYPES[m["gomod"].split()[0].rpartition("/")[2]] for m in manifest.get(kind, ())} for kind in KINDS}
    for kind in KINDS:
        for name in config.get(kind) or {}:
            if _type(name) not in known[kind]:
                yield f"{kind}: {name} is no component of the manifest"
    used = set(config["service"]["extensions"])
    for pipeline, parts in _pipelines(config).items():
        for kind in ("receivers", "processors", "exporters"):
            defined = {*(config.get(kind) or {}), *(config["connectors"] if kind != "processors" else ())}
            used |= set(parts.get(kind, ()))
            for name in parts.get(kind, ()):
                if name not in defined:
                    yield f"{pipeline}: {name} of its {kind} is not defined"
    for kind in KINDS:
        for name in config.get(kind) or {}:
            if name not in used:
                yield f"{kind}: {name} is defined and not used"


def _versions(_config: Config, text: str, manifest: Config) -> Iterator[str]:
    version = manifest["dist"]["version"]
    modules = [m["gomod"].split() for kind in KINDS for m in manifest.get(kind, ())]
    for module, pinned in modules:
        if pinned != f"v{version}":
            yield f"manifest: {module} is {pinned}, the Collector is {version}"
    if text and f"opentelemetry-collector-contrib:{version}" not in text:
        yield f"the file does not say that it is for opentelemetry-collector-contrib:{version}"


def _order(config: Config, _text: str, _manifest: Config) -> Iterator[str]:
    for name, parts in _pipelines(config).items():
        processors = parts.get("processors", [])
        types = [_type(processor) for processor in processors]
        if any(receiver in config["receivers"] for receiver in parts["receivers"]) and types[:1] != ["memory_limiter"]:
            yield f"{name}: memory_limiter must come first, where data comes in"
        if "tail_sampling" in types and any(_type(exporter) == "span_metrics" for exporter in parts["exporters"]):
            yield f"{name}: span_metrics must come before sampling"
        if any(_type(exporter) == "otlp_http" for exporter in parts["exporters"]) and "tail_sampling" not in types:
            yield f"{name}: spans go to the back end past tail_sampling"
    takers = [n for n, parts in _pipelines(config).items() if set(parts["receivers"]) & set(config["receivers"])]
    if len(takers) != 1:
        yield f"one pipeline must take data in, not {takers}: what one refuses the others would have taken"
    if not any(_type(e) == "span_metrics" for n in takers for e in _pipelines(config)[n]["exporters"]):
        yield "span_metrics must see what comes in"


def _waits(config: Config, _text: str, _manifest: Config) -> Iterator[str]:
    for name, sampling in _named(config, "tail_sampling"):
        least = settling_seconds() + SHORT_RUN_SECONDS
        if seconds(sampling.get("decision_wait", "30s")) < least:
            yield f"{name}: decision_wait must be {least:.0f} s or more: a run, and the time in which it is settled"
        if seconds(sampling.get("decision_wait_after_root_received", "0s")) < 2 * BATCH_DELAY_SECONDS:
            yield f"{name}: decision_wait_after_root_received must leave other exporters their time, twice"
        cache, traces = sampling.get("decision_cache", {}), sampling.get("num_traces", 50_000)
        if cache.get("sampled_cache_size", 0) < 10 * traces:
            yield f"{name}: decision_cache must know ten times as many kept ids as there are traces in memory"
        if cache.get("non_sampled_cache_size", 0):
            yield f"{name}: decision_cache must remember no trace that was not kept"
        if sampling.get("block_on_overflow"):
            yield f"{name}: block_on_overflow would wait for traces that were not kept, which never leave"
        run_bytes, size = SPANS_PER_RUN_MAX * SPAN_BYTES, sampling.get("maximum_trace_size_bytes", 0)
        memory_bytes = max((o["limit_mib"] << 20 for _, o in _named(config, "memory_limiter")), default=0)
        if not 4 * run_bytes <= size <= memory_bytes // 16:
            yield f"{name}: maximum_trace_size_bytes must be well above a run's {run_bytes} and well below the memory"


def _queue(config: Config, _text: str, _manifest: Config) -> Iterator[str]:
    extensions = config["service"]["extensions"]
    for name, exporter in _named(config, "otlp_http"):
        queue, retry = exporter.get("sending_queue", {}), exporter.get("retry_on_failure", {})
        storage = queue.get("storage")
        if storage not in extensions or _type(str(storage)) != "file_storage":
            yield f"{name}: its queue is not in file_storage, and ends with the process"
        if queue.get("sizer") != "bytes" or "batch" not in queue:
            yield f"{name}: its queue must be bounded in bytes, and batch"
        if seconds(retry.get("max_elapsed_time", "300s")):
            yield f"{name}: retry_on_failure gives up before the queue is full"
        files = config["extensions"].get(storage) or {}
        if files.get("max_size", 0) < queue.get("queue_size", 0):
            yield f"{storage}: max_size must hold the queue"
        if files.get("compaction", {}).get("directory") != files.get("directory"):
            yield f"{storage}: compaction must have a folder that is there"
    if any(_type(name) == "batch" for name in config["processors"]):
        yield "the batch processor is on its way out, and loses what it holds"


def _exposure(config: Config, text: str, _manifest: Config) -> Iterator[str]:
    for path, key, value in _leaves({kind: config.get(kind) or {} for kind in KINDS} | {"service": config["service"]}):
        if _SECRET_KEY.search(path):
            yield f"{path}: a secret's place; secrets do not belong into the file"
        if key == "endpoint" and not str(value).startswith("http") and not _loopback(str(value).rpartition(":")[0]):
            yield f"{path}: {value} is not loopback"
        if key == "endpoint" and str(value).startswith("http") and "@" in urlsplit(str(value)).netloc:
            yield f"{path}: holds a password"
        if key == "host" and not _loopback(str(value)):
            yield f"{path}: {value} is not loopback"
    unset = {found[1] for found in _VARIABLE.finditer(text) if found[2] is None}
    for name in sorted(unset):
        yield f"{name} has no default"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, path.rpartition(".")[2], value


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _span_metrics(config: Config, _text: str, _manifest: Config) -> Iterator[str]:
    for name, options in _named(config, "span_metrics"):
        histogram = options.get("histogram", {})
        if histogram.get("unit") != "s":
            yield f"{name}: histogram.unit must be s"
        kept = [o for key in ("dimensions", "calls_dimensions") for o in options.get(key, ())]
        kept += histogram.get("dimensions", [])
        for dimension in kept:
            if "glob" in dimension or dimension.get("name") in (*PER_USER, *PER_INSTANCE):
                yield f"{name}: the dimension {dimension} has no bound"
        if "collector.instance.id" not in options.get("exclude_dimensions", ()):
            yield f"{name}: every restart of the Collector would begin new series"
        key = options.get("resource_metrics_key_attributes", [])
        if not key or set(key) & set(PER_INSTANCE) or options.get("add_resource_attributes"):
            yield f"{name}: every instance of a service would have series of its own"
        if not (seconds(options.get("metrics_expiration", 0)) and seconds(options.get("series_expiration", 0))):
            yield f"{name}: series must expire"
        if not options.get("aggregation_cardinality_limit"):
            yield f"{name}: names of spans need a bound"
        if options.get("exemplars", {}).get("enabled"):
            yield f"{name}: exemplars lead to traces that are not kept"
    for name, parts in _pipelines(config).items():
        removed = {
            action["key"]
            for processor in parts.get("processors", ())
            for action in config["processors"].get(processor, {}).get("attributes", ())
            if _type(processor) == "resource" and action["action"] == "delete"
        }
        if any(_type(receiver) == "span_metrics" for receiver in parts["receivers"]) and not removed & set(
            PER_INSTANCE
        ):
            yield f"{name}: service.instance.id would become the label instance"
    for name, options in _named(config, "prometheus"):
        if options.get("resource_to_telemetry_conversion") or options.get("resource_constant_labels"):
            yield f"{name}: attributes of resources would become labels"


def _own_telemetry(config: Config, _text: str, _manifest: Config) -> Iterator[str]:
    if not any(_type(name) == "health_check" for name in config["service"]["extensions"]):
        yield "service: no health_check"
    readers = config["service"].get("telemetry", {}).get("metrics", {}).get("readers", [])
    ports = {str(reader["pull"]["exporter"]["prometheus"]["port"]) for reader in readers if "pull" in reader}
    prometheus = _read(DASHBOARDS / "prometheus" / "prometheus.yaml")
    job = next(job for job in prometheus["scrape_configs"] if job["job_name"] == "otel-collector")
    scraped = {target.rpartition(":")[2] for static in job["static_configs"] for target in static["targets"]}
    if not scraped <= ports:
        yield f"service.telemetry: Prometheus scrapes port {', '.join(sorted(scraped))}, which shows no metrics"


Rule = Callable[[Config, str, Config], Iterator[str]]
RULES: Final[tuple[Rule, ...]] = (
    _components, _versions, _order, _waits, _queue, _exposure, _span_metrics, _own_telemetry,
)  # fmt: skip
