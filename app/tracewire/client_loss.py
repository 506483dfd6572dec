"""Why the Python client lost a connection, or did not get one: what to say, whether to come back, and when."""

import math
from typing import Final, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from tracewire.client_run import ConnectionFailedError
from tracewire.client_token import TokenProviderError

RETRY_AFTER_SECONDS_MAX: Final = 60.0
"""A server's wish to be left alone for longer is not followed."""
FINAL_CLOSES: Final = frozenset({1002, 1003, 1007, 1008, 1009})
"""Closes below 4500 after which coming back would end the same way."""
_WHAT_TO_DO: Final = {
    4501: "the token is missing or does not hold; get one that this server accepts",
    4502: "the token has expired; get a new one",
    4503: "the server refuses pages of this origin",
    4504: "the server got too many frames that it cannot take; is this client as new as the server?",
    4505: "this user has as many sockets open as a user may have; close one",
    1011: "the server failed on this; its log says why",
}


class Loss(NamedTuple):
    """The end of a connection. `final`: another attempt would end the same way."""

    failure: ConnectionFailedError
    final: bool
    retry_after_seconds: float = 0.0


def loss_of(url: str, error: Exception, *, dropped: str = "") -> Loss:
    """What the end of a connection by this error means; `dropped` says why this client cut it, where it did."""
    if isinstance(error, ConnectionClosed):
        return _of_close(url, error, dropped)
    if isinstance(error, InvalidURI):
        return Loss(ConnectionFailedError(f"{error}; a socket's URL is as ws://127.0.0.1:8000/ws"), final=True)
    if isinstance(error, InvalidStatus):
        response = error.response
        final = response.status_code < 500
        after = "" if final else response.headers.get("Retry-After", "")
        return Loss(ConnectionFailedError(f"{url}: {_why(error)}"), final, retry_after(after))
    if isinstance(error, TokenProviderError):
        return Loss(ConnectionFailedError(f"{url}: the token provider failed: {error}"), final=False)
    if isinstance(error, OSError | InvalidHandshake | TimeoutError):
        return Loss(ConnectionFailedError(f"{url}: {_why(error)}"), final=False)
    # What came is no frame: whoever waits for one must be told.
    return Loss(ConnectionFailedError(f"{url}: {type(error).__name__}: {error}"), final=True)


def retry_after(text: object) -> float:
    """Seconds that a server asks for, at most `RETRY_AFTER_SECONDS_MAX`; 0 where it says none that can be read."""
    try:
        seconds = float(str(text))
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(seconds) else min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX)


def _of_close(url: str, error: ConnectionClosed, dropped: str) -> Loss:
    code = error.rcvd.code if error.rcvd else None
    reason = (error.rcvd.reason if error.rcvd else "") or dropped or "connection lost"
    advice = f": {_WHAT_TO_DO[code]}" if code in _WHAT_TO_DO else ""
    failure = ConnectionFailedError(f"{url}: closed with {code or 1006} ({reason}){advice}", code)
    return Loss(failure, final=code is not None and (code >= 4500 or code in FINAL_CLOSES))


def _why(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode(errors="replace").strip()
        return f"HTTP {error.response.status_code}{': ' + body if body else ''}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the server running?"
    return str(error) or type(error).__name__
