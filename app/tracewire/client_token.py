"""Where the Python client's token comes from, and when a fresh one is due."""

import asyncio
import base64
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Final

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that gives a fresh one: a plain one must not block, an async one may take its time."""

PROVIDER_SECONDS_MAX: Final = 15.0
"""After so long an async provider has failed."""
RENEWAL_MARGIN_SECONDS: Final = 60.0
"""How long before its expiry a token is renewed; of a short-lived one a fifth of what is left."""
RENEWAL_SECONDS_MIN: Final = 1.0
RENEWAL_AGAIN_SECONDS: Final = 5.0
"""After so long a renewal that was refused, failed or was not answered is tried again: the old token still stands."""


class TokenProviderError(Exception):
    """The provider gave no token. The message says why, and holds no token."""


class TokenSource:
    """Gives the token for each connection, and for each renewal on an open one."""

    def __init__(self, token: Token) -> None:
        self._token = token

    @property
    def renewable(self) -> bool:
        """Whether it can give another token than the last."""
        return not isinstance(self._token, str)

    async def fresh(self) -> str:
        """A token to sign in with.

        Raises:
            TokenProviderError: the provider failed, took longer than `PROVIDER_SECONDS_MAX`, or gave no text.
        """
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token()
            if inspect.isawaitable(token):
                async with asyncio.timeout(PROVIDER_SECONDS_MAX):
                    token = await token
        except TimeoutError as error:
            raise TokenProviderError(str(error) or f"it took longer than {PROVIDER_SECONDS_MAX:g} s") from error
        except Exception as error:
            raise TokenProviderError(f"{type(error).__name__}: {error}") from error
        given: object = token
        if not isinstance(given, str) or not given:
            raise TokenProviderError(f"it gave {type(given).__name__}, not a token's text")
        return given


def expiry_of(token: str) -> float | None:
    """When a JWT says that it expires, in Unix seconds; `None` where it is none, or does not say."""
    try:
        payload = token.split(".")[1]
        expires_at = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(expires_at) if isinstance(expires_at, int | float) else None


def seconds_to_renewal(expires_at: float, unix_now: float) -> float:
    """How long to wait before a token that expires at that moment is renewed."""
    left = expires_at - unix_now
    return max(RENEWAL_SECONDS_MIN, left - min(RENEWAL_MARGIN_SECONDS, left / 5))
