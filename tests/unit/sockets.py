"""The outer edge of delivery, under the test's control: a transport that notes what is written, and an accepted run."""

import asyncio
from typing import Any

from opentelemetry.sdk.resources import Resource

from tracewire.delivery.connection import Connection
from tracewire.delivery.outbox import Outbox
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.spans import RunTracing
from tracewire_telemetry.vocabulary import CloseCode, EventType
from tracewire_telemetry.watch import OpenRun, Watch
from unit.ledgers import OPENED_UNIX_NS, identity_of

TURNS_MAX = 1_000


class NotingTransport:
    """Takes what is written while `writable` is set; `resume` makes it so again, as a drained write buffer does."""

    def __init__(self) -> None:
        self.writable = True
        self.frames: list[bytes] = []
        self.closes: list[CloseCode] = []
        self.aborts = 0
        self.frames_max: int | None = None
        self.stuck_since_ns = 0
        self.last_life_ns = 0
        self.pings = 0

    def stuck_ns(self, now: int) -> int:
        """As the test says."""
        return now - self.stuck_since_ns if self.stuck_since_ns else 0

    def write_text(self, body: bytes) -> None:
        """Note one frame; past `frames_max` the write buffer is full."""
        self.frames.append(body)
        if self.frames_max is not None and len(self.frames) >= self.frames_max:
            self.writable = False

    def ping(self) -> None:
        """Note a ping."""
        self.pings += 1

    def close(self, code: CloseCode) -> None:
        """Note a close."""
        self.closes.append(code)

    def abort(self) -> None:
        """Note an abort."""
        self.aborts += 1

    @property
    def objects(self) -> list[bytes]:
        """What was written, object by object, however many a frame held."""
        return [line for frame in self.frames for line in frame.split(b"\n")]


class Socket:
    """A connection over a noting transport."""

    def __init__(
        self,
        user_id: str = "ada",
        *,
        lines: bool = False,
        bytes_max: int = 1_000_000,
        age_seconds: float = 1_000_000_000,
        is_open: bool = True,
        connection_id: str = "socket",
    ) -> None:
        self.metrics = Metrics(version="1")
        self.transport = NotingTransport()
        self.connection = Connection(
            connection_id,
            user_id,
            self.transport,
            Outbox(bytes_max=bytes_max, age_seconds=age_seconds),
            lines=lines,
            metrics=self.metrics,
        )
        if is_open:
            self.connection.open(b"ready")
            self.transport.frames.clear()

    def resume(self) -> None:
        """The write buffer has drained."""
        self.transport.writable = True
        self.transport.frames_max = None
        self.connection.on_writable()

    def value(self, name: str, **labels: str) -> float | None:
        """One metric of this connection."""
        return self.metrics.registry.get_sample_value(f"tracewire_{name}", labels)


async def turns(count: int = TURNS_MAX) -> None:
    """Let the event loop take so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def accepted_run(run_id: str = "run", **identity: Any) -> OpenRun:
    """A run that a watch holds; nothing of it is exported."""
    metrics = Metrics(version="1")
    tracing = RunTracing(Resource({}), version="1", share=1.0, recording=False, dropped=metrics.spans_dropped)
    watch = Watch(metrics, tracing, None, deadlines=LinkDeadlines())
    return watch.open(identity_of(run_id, **identity), (), now=1, unix_ns=OPENED_UNIX_NS)


def committed(run: OpenRun, now: int = 2) -> int:
    """One more durable event of the run; gives its seq."""
    seq = run.ledger.sequenced(run.ledger.emitted(EventType.AGENT_THINKING, now), now)
    run.ledger.committed(seq, now)
    return seq
