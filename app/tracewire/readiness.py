"""The readiness gate: what stands between a socket and the one `ready` signal. Pure."""

from collections.abc import Iterable


class Readiness:
    """Named steps, each with the reason why it does not hold, or none. Ready means that every one holds."""

    def __init__(self, steps: Iterable[str] = ()) -> None:
        self._failing: dict[str, str] = dict.fromkeys(steps, "not started yet")
        self.draining = False

    def passed(self, step: str) -> None:
        """The step holds."""
        self._failing.pop(step, None)

    def failed(self, step: str, why: str) -> None:
        """The step does not hold, or holds no more."""
        self._failing[step] = why

    def drain(self) -> None:
        """No new work from now on, for good."""
        self.draining = True

    @property
    def ready(self) -> bool:
        """Whether the whole chain takes new work."""
        return not self._failing and not self.draining

    @property
    def reasons(self) -> dict[str, str]:
        """Every step that does not hold, and why."""
        return {**self._failing, **({"drain": "the server is stopping"} if self.draining else {})}
