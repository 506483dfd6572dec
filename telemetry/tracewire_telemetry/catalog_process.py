"""What prometheus-client tells of the server's own process, under the names that every program has it by: there where
there is a /proc, and nowhere else.
"""

from typing import Final

from tracewire_telemetry.catalog_specs import MetricSpec


def _of_process(name: str, kind: str, said: str, unit: str) -> MetricSpec:
    return MetricSpec(name, kind, said, unit, prefix="process_")


CPU_SECONDS: Final = _of_process(
    "cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", "s"
)
RESIDENT_MEMORY: Final = _of_process("resident_memory_bytes", "gauge", "Resident memory size in bytes.", "By")
VIRTUAL_MEMORY: Final = _of_process("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", "By")
OPEN_FDS: Final = _of_process("open_fds", "gauge", "Number of open file descriptors.", "descriptors")
MAX_FDS: Final = _of_process("max_fds", "gauge", "Maximum number of open file descriptors.", "descriptors")
START_TIME: Final = _of_process(
    "start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", "s"
)

PROCESS_METRICS: Final = (CPU_SECONDS, RESIDENT_MEMORY, VIRTUAL_MEMORY, OPEN_FDS, MAX_FDS, START_TIME)
