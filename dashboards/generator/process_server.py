"""The parts of the board "Process" that tell of a server: its sockets, its event log, its process."""

from typing import Final

from dashboards.generator.frame import Placed, Row
from dashboards.generator.house import BYTES, COUNT, PER_SECOND, SECONDS, Asked, lines
from dashboards.generator.promql import largest, quantile, rate, series, summed
from tracewire_telemetry import catalog, catalog_process

HEIGHT: Final = 7


def sockets() -> Row:
    """Who is connected, and how well they take what is written for them."""
    return Row(
        "Sockets",
        [
            Placed(
                lines(
                    "Sockets",
                    "Sockets that are ready, and those of them that were due an acknowledgement and have never sent "
                    "one: clients that cannot acknowledge.",
                    COUNT,
                    Asked(summed(series(catalog.CONNECTIONS), "instance"), "{{instance}}"),
                    Asked(summed(series(catalog.UNACKNOWLEDGING), "instance"), "{{instance}} never acknowledged"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Outboxes",
                    "Bytes queued to sockets and not yet written. What grows and does not fall is a slow network, or "
                    "clients that stopped reading.",
                    BYTES,
                    Asked(summed(series(catalog.OUTBOX_BYTES), "instance"), "{{instance}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Slow clients, and closes by code",
                    "Sockets a second that were cut because their outbox was full or too old, and those that the "
                    "server closed: 4000 drain, 4001 too slow, 4002 silent, 4003 to heal a missing ack, 4004 "
                    "unavailable.",
                    PER_SECOND,
                    Asked(rate(catalog.SLOW_CLIENTS), "slow clients"),
                    Asked(rate(catalog.CLOSES, by="code"), "{{code}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Resumes by outcome",
                    "Runs a second that clients named when they came back: recovered, expired from the log, or unknown "
                    "to it.",
                    PER_SECOND,
                    Asked(rate(catalog.RESUMES, by="outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                6,
                HEIGHT,
            ),
        ],
    )


def event_log() -> Row:
    """Every event waits for its commit before it is sent."""
    return Row(
        "Event log",
        [
            Placed(
                lines(
                    "Commits: p50, p99",
                    "How long a group commit takes. Every event waits for one; over 50 ms (p99) the disk is slow.",
                    SECONDS,
                    Asked(quantile(0.5, catalog.EVENTLOG_COMMIT_SECONDS, by="instance"), "{{instance}} p50"),
                    Asked(quantile(0.99, catalog.EVENTLOG_COMMIT_SECONDS, by="instance"), "{{instance}} p99"),
                    steps=((None, "green"), (0.05, "red")),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Oldest uncommitted write",
                    "How long the oldest write has waited. Over 2 s the log is stuck, and the server takes no new "
                    "work.",
                    SECONDS,
                    Asked(largest(catalog.EVENTLOG_OLDEST_UNCOMMITTED, by="instance"), "{{instance}}"),
                    steps=((None, "green"), (2, "red")),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Size on disk",
                    "The log's files, and what of them is in use as of the last sweep. Freed room is used again "
                    "before the files grow.",
                    BYTES,
                    Asked(largest(catalog.EVENTLOG_BYTES, by="instance"), "{{instance}} files"),
                    Asked(largest(catalog.EVENTLOG_USED_BYTES, by="instance"), "{{instance}} in use"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Removed by retention",
                    "Runs a second that were removed because of their age or the log's size, and events with them.",
                    PER_SECOND,
                    Asked(rate(catalog.EVENTLOG_EXPIRED_RUNS, by="reason"), "runs: {{reason}}"),
                    Asked(rate(catalog.EVENTLOG_EXPIRED_EVENTS), "events"),
                ),
                6,
                HEIGHT,
            ),
        ],
    )


def machine() -> Row:
    """What the process takes of its machine, and how late its loop is."""
    return Row(
        "The process",
        [
            Placed(
                lines(
                    "Event loop lag",
                    "How late the loop ran its last timer. While it is held up nobody is served; the log's line "
                    "event_loop_blocked names the line of code that does it.",
                    SECONDS,
                    Asked(largest(catalog.EVENT_LOOP_LAG, by="instance"), "{{instance}}"),
                    steps=((None, "green"), (0.1, "orange"), (1, "red")),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "CPU",
                    "Cores in use. One event loop cannot use more than about one.",
                    "none",
                    Asked(rate(catalog_process.CPU_SECONDS, by="instance"), "{{instance}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "Memory",
                    "Resident memory.",
                    BYTES,
                    Asked(largest(catalog_process.RESIDENT_MEMORY, by="instance"), "{{instance}}"),
                ),
                6,
                HEIGHT,
            ),
            Placed(
                lines(
                    "File descriptors",
                    "Descriptors open, a socket each and some, and how many there may be. At the limit nobody can "
                    "connect.",
                    COUNT,
                    Asked(largest(catalog_process.OPEN_FDS, by="instance"), "{{instance}} open"),
                    Asked(largest(catalog_process.MAX_FDS, by="instance"), "{{instance}} limit"),
                ),
                6,
                HEIGHT,
            ),
        ],
    )
