"""Keeps the sockets honest: one task that looks at all of them, and closes what is slow, silent or expired."""

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Final

import structlog

from tracewire.gateway.session import Session
from tracewire.gateway.socket_gateway import SocketGateway
from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.vocabulary import CloseCode

LOOK_SECONDS: Final = 0.5
SILENT_HEARTBEATS: Final = 3
DRAIN_BATCH: Final = 100
"""Sockets closed at once when the server drains, at least, so that their clients do not all come back in one moment."""
DRAIN_BATCHES_MAX: Final = 20
DRAIN_PAUSE_SECONDS: Final = 0.05
_log = structlog.get_logger("tracewire.gateway")


class SocketKeeper:
    """Looks at every socket each `LOOK_SECONDS`."""

    def __init__(self, gateway: SocketGateway) -> None:
        self._gateway = gateway
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_forever())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, unix_now = time.monotonic_ns(), time.time()
            for session in list(self._gateway.sessions):
                self.look(session, now, unix_now)

    def look(self, session: Session, now: int, unix_now: float) -> None:
        """Do what is due for one socket at `now` (monotonic nanoseconds) and `unix_now` (seconds)."""
        settings = self._gateway.settings
        connection = session.connection
        if connection is None or connection.closed or session.principal is None:
            return
        connection.forget_settled()
        heartbeat_ns = int(settings.heartbeat_seconds * NS_PER_SECOND)
        if connection.too_slow(now):
            connection.cut_slow()
        elif now - session.transport.last_life_ns > SILENT_HEARTBEATS * heartbeat_ns:
            connection.cut_silent()
        elif unix_now > session.principal.expires_at + settings.jwt_leeway_seconds:
            session.close(CloseCode.TOKEN_EXPIRED)
        elif now - session.last_ping_ns > heartbeat_ns:
            session.ping(now)


async def drain_sockets(sessions: Iterable[Session], *, retry_after_seconds: float) -> None:
    """Close every socket with 4000, in jittered batches."""
    waiting = list(sessions)
    random.shuffle(waiting)
    size = max(DRAIN_BATCH, len(waiting) // DRAIN_BATCHES_MAX)
    while waiting:
        batch, waiting = waiting[:size], waiting[size:]
        for session in batch:
            session.drain(retry_after_seconds)
            session.close(CloseCode.DRAINING)
        if waiting:
            await asyncio.sleep(DRAIN_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 # jitter
