"""Who started a run: a user, or a client that only checks the service. Decided by the user's name.

What goes wrong for such a client is kept and shown as for anybody, but is nobody's loss: it counts in no metric that
pages for users. So these names are no people's.
"""

from typing import Final

from tracewire_telemetry.vocabulary import Origin

CANARY_USER: Final = "canary"
DETECTION_USER: Final = "canary-detection"
PROBE_USER: Final = "tracewire-probe"
OWN_USERS: Final = frozenset({CANARY_USER, DETECTION_USER})
"""Names that only the server itself signs in with."""


class Origins:
    """The names whose runs are a canary's: those above, and those that the canary's token is for."""

    def __init__(self) -> None:
        self._canaries = {*OWN_USERS, PROBE_USER}

    def add(self, user_id: str) -> None:
        """The canary signs in as this user."""
        self._canaries.add(user_id)

    def of(self, user_id: str) -> Origin:
        """Whose runs this user's are."""
        return Origin.CANARY if user_id in self._canaries else Origin.USER
