"""What sign-in needs, brought up together: keys or secret, and what is revoked."""

import structlog

from tracewire.gateway.auth import Authenticator
from tracewire.gateway.keys import KeyRing, KeysUnavailableError, key_ring
from tracewire.gateway.revocation import Revocations
from tracewire.settings import Settings

_log = structlog.get_logger("tracewire.gateway")


class SignIn:
    """The sign-in of one server. `open` it, then use `authenticator` and `revocations`; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.authenticator: Authenticator
        self.revocations = Revocations(settings.data_path, count_max=settings.revocations_max)
        self._settings = settings
        self._keys: KeyRing | None = None

    async def open(self, *, folder_usable: bool) -> list[str]:
        """Read keys and revocations; what failed, by name.

        A server that cannot tell who comes does not start: it would turn everybody away, and look as if it were up.
        """
        failures: list[str] = []
        keys = key_ring(self._settings)
        if keys is not None:
            try:
                await keys.open()
                self._keys = keys
            except KeysUnavailableError as error:
                failures.append(str(error))
            if not self._settings.jwt_audience:
                _log.warning("audience_unchecked", why="tokens of this issuer for other services hold here too")
        if not folder_usable:
            return failures
        folder = self._settings.data_path
        try:
            self.revocations.load()
        except (OSError, ValueError) as error:
            failures.append(f"revocations in {folder}: {error}")
        try:
            self.authenticator = Authenticator(self._settings, keys, self.revocations)
        except OSError as error:
            failures.append(f"development secret in {folder}: {error}")
        return failures

    async def close(self) -> None:
        """Read no more keys."""
        if self._keys is not None:
            await self._keys.close()
