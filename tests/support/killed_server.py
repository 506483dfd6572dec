"""The `tracewire` command, killed by SIGKILL at a chosen moment of its own, for tests of what a crash leaves.

    python -m support.killed_server --at after:agent_thinking serve --port 0

A moment is `before:` or `after:` the event log takes an event of this type (after: it is durable, and nobody was told),
`stamped`: a run's stamps are durable, and its trace has not left, or `exported`: a batch of spans has reached the
receiver. The product knows of none of this.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tracewire import cli
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire_telemetry.export import OTLPSpanExporter


def kill_self(*_: object) -> None:
    """End this process at once, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(patch: pytest.MonkeyPatch, moment: str) -> None:
    """Have this process killed at that moment."""
    when, _, event_type = moment.partition(":")
    wanted = b'{"type":"%s"' % event_type.encode()
    append, store, export = SqliteEventLog.append, SqliteEventLog.store_stamps, OTLPSpanExporter.export

    def append_or_die(self: SqliteEventLog, run_id: str, seq: int, body: bytes, **options: Any) -> Any:
        if when == "before" and body.startswith(wanted):
            kill_self()
        if when == "after" and body.startswith(wanted):
            options["on_durable"] = kill_self  # in delivery's place
        return append(self, run_id, seq, body, **options)

    async def store_and_die(self: SqliteEventLog, run_id: str, stamps: bytes) -> None:
        await store(self, run_id, stamps)
        kill_self()

    def export_and_die(self: OTLPSpanExporter, spans: Any) -> Any:
        result = export(self, spans)
        if any(span.name.startswith("invoke_agent") for span in spans):
            kill_self()
        return result

    moments: dict[str, tuple[type, str, Callable[..., Any]]] = {
        "before": (SqliteEventLog, "append", append_or_die),
        "after": (SqliteEventLog, "append", append_or_die),
        "stamped": (SqliteEventLog, "store_stamps", store_and_die),
        "exported": (OTLPSpanExporter, "export", export_and_die),
    }
    if when not in moments:
        raise SystemExit(f"there is no moment {moment!r}; there are {', '.join(moments)}")
    patch.setattr(*moments[when])


def main(arguments: Sequence[str]) -> None:
    """Run the command line, to be killed at the moment that `--at` names; everything after it is the command's own."""
    if len(arguments) < 3 or arguments[0] != "--at":
        raise SystemExit("usage: python -m support.killed_server --at MOMENT COMMAND ...")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, arguments[1])
        cli.main(arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
