"""Builds the emitter of a run for its user: the one way to get one."""

from typing import TypeVar

from tracewire.delivery.connections import Connections
from tracewire.delivery.user_websocket_emitter import UserWebSocketEmitter
from tracewire.errors import NotConfiguredError, WiringError
from tracewire.eventlog import EventLog
from tracewire.readiness import Readiness
from tracewire_telemetry.watch import Watch

_T = TypeVar("_T")


class UserEmitterFactory:
    """Makes emitters from what it was configured with; several factories are independent of each other."""

    def __init__(self) -> None:
        self._log: EventLog | None = None
        self._connections: Connections | None = None
        self._watch: Watch | None = None
        self._health: Readiness | None = None

    def configure(
        self,
        *,
        log: EventLog | None = None,
        connections: Connections | None = None,
        watch: Watch | None = None,
        health: Readiness | None = None,
    ) -> None:
        """Give the factory what its emitters need. Idempotent; what was given before stays given.

        Raises:
            NotConfiguredError: names every dependency that is still missing. The factory stays unusable.
            WiringError: a dependency was given before, and another one now.
        """
        self._log = only("event log", self._log, log)
        self._connections = only("connections", self._connections, connections)
        self._watch = only("watch", self._watch, watch)
        self._health = only("health", self._health, health)
        self.require_configured()

    @property
    def missing(self) -> tuple[str, ...]:
        """The dependencies that were not given."""
        given = {
            "event log": self._log,
            "connections": self._connections,
            "watch": self._watch,
            "health": self._health,
        }
        return tuple(name for name, dependency in given.items() if dependency is None)

    @property
    def configured(self) -> bool:
        """Whether every dependency was given."""
        return not self.missing

    def require_configured(self) -> None:
        """Raise `NotConfiguredError` with every missing dependency, if there is one."""
        if self.missing:
            raise NotConfiguredError("UserEmitterFactory", self.missing)

    def create_user_emitter(self, user_id: str, run_id: str) -> UserWebSocketEmitter:
        """The emitter of this user's accepted run, bound to both.

        Raises:
            NotConfiguredError: the factory is not configured.
            WiringError: the run was not accepted, or is another user's.
        """
        if self._log is None or self._connections is None or self._watch is None or self._health is None:
            raise NotConfiguredError("UserEmitterFactory", self.missing)
        run = self._watch.runs.get(run_id)
        if run is None or run.ledger.identity.user_id != user_id:
            raise WiringError("L4", f"{user_id!r} has no accepted run {run_id!r} to emit to")
        return UserWebSocketEmitter(user_id, run_id, self._log, self._connections, run.ledger)


def only(name: str, before: _T | None, now: _T | None) -> _T | None:
    """The dependency that was given, now or before.

    Raises:
        WiringError: two different ones were given.
    """
    if before is not None and now is not None and before is not now:
        raise WiringError("L1", f"{name} was configured before with another object; use a new factory")
    return now if before is None else before
