"""Metrics of the programs beside Tracewire, which the catalogue does not declare. No board queries any other."""

from typing import Final, NamedTuple


class Outside(NamedTuple):
    """A metric of another program. `kind` is as in the catalogue."""

    full_name: str
    kind: str
    program: str


UP: Final = Outside("up", "gauge", "prometheus")
ALERTS: Final = Outside("ALERTS", "gauge", "prometheus")
ALERTS_FOR_STATE: Final = Outside("ALERTS_FOR_STATE", "gauge", "prometheus")
SCRAPE_SECONDS: Final = Outside("scrape_duration_seconds", "gauge", "prometheus")
SCRAPE_SAMPLES: Final = Outside("scrape_samples_scraped", "gauge", "prometheus")
HEAD_SERIES: Final = Outside("prometheus_tsdb_head_series", "gauge", "prometheus")
RULE_FAILURES: Final = Outside("prometheus_rule_evaluation_failures_total", "counter", "prometheus")
RULE_MISSES: Final = Outside("prometheus_rule_group_iterations_missed_total", "counter", "prometheus")
NOTIFY_ERRORS: Final = Outside("prometheus_notifications_errors_total", "counter", "prometheus")
NOTIFY_DROPPED: Final = Outside("prometheus_notifications_dropped_total", "counter", "prometheus")
ALERTMANAGER_SENT: Final = Outside("alertmanager_notifications_total", "counter", "alertmanager")
ALERTMANAGER_FAILED: Final = Outside("alertmanager_notifications_failed_total", "counter", "alertmanager")

# Of the Collector. Newer versions end counters in `_total`; both are asked for.
RECEIVED: Final = Outside("otelcol_receiver_accepted_spans", "counter", "collector")
REFUSED: Final = Outside("otelcol_receiver_refused_spans", "counter", "collector")
SENT: Final = Outside("otelcol_exporter_sent_spans", "counter", "collector")
SEND_FAILED: Final = Outside("otelcol_exporter_send_failed_spans", "counter", "collector")
SAMPLED: Final = Outside("otelcol_processor_tail_sampling_global_count_traces_sampled", "counter", "collector")
TOO_EARLY: Final = Outside("otelcol_processor_tail_sampling_sampling_trace_dropped_too_early", "counter", "collector")
ENQUEUE_FAILED: Final = Outside("otelcol_exporter_enqueue_failed_spans", "counter", "collector")
QUEUE_SIZE: Final = Outside("otelcol_exporter_queue_size", "gauge", "collector")
QUEUE_CAPACITY: Final = Outside("otelcol_exporter_queue_capacity", "gauge", "collector")

OUTSIDE: Final = tuple(value for value in list(globals().values()) if isinstance(value, Outside))
