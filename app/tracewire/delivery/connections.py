"""The sockets that are ready, by user."""

import time
from collections.abc import Iterator

from tracewire.delivery.connection import Connection


class Connections:
    """Every ready socket, by user. The one registry; who needs it is given it."""

    def __init__(self) -> None:
        self._by_user: dict[str, dict[str, Connection]] = {}
        self.count = 0

    def attach(self, connection: Connection) -> None:
        """A socket is ready."""
        self._by_user.setdefault(connection.user_id, {})[connection.id] = connection
        self.count += 1

    def detach(self, connection: Connection) -> None:
        """A socket is gone. Idempotent."""
        sockets = self._by_user.get(connection.user_id, {})
        if sockets.pop(connection.id, None) is not None:
            self.count -= 1
            if not sockets:
                del self._by_user[connection.user_id]
        connection.detach()

    def of(self, user_id: str) -> list[Connection]:
        """The user's ready sockets."""
        return list(self._by_user.get(user_id, {}).values())

    def __iter__(self) -> Iterator[Connection]:
        return (connection for sockets in list(self._by_user.values()) for connection in list(sockets.values()))

    @property
    def outbox_bytes(self) -> int:
        """Bytes queued to all sockets and not yet written."""
        return sum(connection.outbox.bytes for connection in self)

    def unacknowledging(self, deadline_ns: int) -> int:
        """Sockets whose first event was written longer ago than this, and that have never acked anything."""
        now = time.monotonic_ns()
        return sum(
            bool(
                connection.first_event_ns and not connection.has_acked and now - connection.first_event_ns > deadline_ns
            )
            for connection in self
            if not connection.reader
        )
