"""The metrics of the process, as prometheus-client tells of any: there where there is a /proc, and nowhere else."""

from typing import Final

from tracewire_telemetry.catalog_specs import MetricSpec

_PROCESS: Final = "process_"
PROCESS_METRICS: Final = (
    MetricSpec(
        "cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", "s", prefix=_PROCESS
    ),
    MetricSpec("resident_memory_bytes", "gauge", "Resident memory size in bytes.", "By", prefix=_PROCESS),
    MetricSpec("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", "By", prefix=_PROCESS),
    MetricSpec("open_fds", "gauge", "Number of open file descriptors.", "descriptors", prefix=_PROCESS),
    MetricSpec("max_fds", "gauge", "Maximum number of open file descriptors.", "descriptors", prefix=_PROCESS),
    MetricSpec(
        "start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        "s",
        prefix=_PROCESS,
    ),
)
