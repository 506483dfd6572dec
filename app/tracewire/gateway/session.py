"""What the server keeps of each of its connections, WebSocket or SSE: whose it is, and what can be asked of it."""

from typing import Protocol

from tracewire.delivery.connection import Connection
from tracewire.gateway.auth import Principal
from tracewire_telemetry.vocabulary import CloseCode


class KeptTransport(Protocol):
    """The peer's side of a connection."""

    @property
    def last_life_ns(self) -> int:
        """When the peer last gave a sign of life, monotonic nanoseconds."""

    def abort(self) -> None:
        """Let go of the connection at once."""


class Session(Protocol):
    """One connection that is accepted and not yet gone. `connection` is `None` until it is ready."""

    id: str
    last_ping_ns: int

    @property
    def principal(self) -> Principal | None:
        """Who signed in."""

    @property
    def connection(self) -> Connection | None:
        """What is written through."""

    @property
    def transport(self) -> KeptTransport:
        """What it is written to."""

    def ping(self, now: int) -> None:
        """Send a heartbeat."""

    def drain(self, retry_after_seconds: float) -> None:
        """Tell the peer that the server is about to stop."""

    def close(self, code: CloseCode) -> None:
        """Close the connection, saying why."""

    def unavailable(self) -> None:
        """Tell the peer that the log takes nothing, and close: it comes back when it does."""
