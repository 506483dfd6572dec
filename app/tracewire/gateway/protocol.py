"""The handshake and the states of a connection, as pure code: told the time, it says what to do."""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from tracewire.settings import is_loopback
from tracewire_telemetry.ledger import NS_PER_SECOND

SUBPROTOCOL: Final = "tracewire.v1"
SUBPROTOCOL_LINES: Final = "tracewire.v1.lines"
BEARER_PREFIX: Final = "bearer."


class ConnectionState(Enum):
    """`connecting → authenticated → ready → draining → closed`; a state is never gone back to."""

    CONNECTING = "connecting"
    AUTHENTICATED = "authenticated"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


def choose_subprotocol(offered: Iterable[str]) -> str | None:
    """The first of ours that the client offers; `None` where it offers none. A token is never echoed."""
    return next((name for name in offered if name in (SUBPROTOCOL, SUBPROTOCOL_LINES)), None)


def find_token(authorization: str | None, offered: Iterable[str]) -> str | None:
    """The token of the handshake: from the `Authorization` header, else from a subprotocol `bearer.<token>`."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return next((name[len(BEARER_PREFIX) :] for name in offered if name.startswith(BEARER_PREFIX)), None)


def origin_allowed(origin: str | None, host: str | None, allowed: Sequence[str], *, development: bool) -> bool:
    """Whether a page of this origin may connect: none given, on the list, of the same host, or (in development) of
    this machine.
    """
    if origin is None or origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:  # brackets that hold no address
        return False
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return False
    if host is not None and parts.netloc.lower() == host.lower():
        return True
    return development and parts.hostname is not None and is_loopback(parts.hostname)


class BadFrames:
    """Counts malformed and unknown frames over the last minute."""

    __slots__ = ("_at_ns", "_per_minute_max")

    def __init__(self, per_minute_max: int) -> None:
        self._per_minute_max = per_minute_max
        self._at_ns: deque[int] = deque()

    def count(self, now: int) -> bool:
        """Count one at `now`, monotonic nanoseconds; whether that is one too many."""
        self._at_ns.append(now)
        while now - self._at_ns[0] > 60 * NS_PER_SECOND:
            self._at_ns.popleft()
        return len(self._at_ns) > self._per_minute_max
