"""What prometheus-client tells of the server's own process, under the names that every program has it by."""

from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

PROCESS_METRICS: Final = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""CPU, memory and descriptors: there where there is a /proc, and nowhere else."""


def tell_of_process(registry: CollectorRegistry) -> None:
    """Show them at every scrape of this registry."""
    ProcessCollector(registry=registry)
