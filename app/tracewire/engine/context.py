"""Whose run it is: the one context type, from the gateway to the emitter."""

from msgspec import Struct

from tracewire.errors import WiringError


class UserExecutionContext(Struct, frozen=True):
    """The ids of one run of one user. An empty one is refused: it would lead events to a key that no socket has."""

    user_id: str
    run_id: str
    thread_id: str
    request_id: str

    def __post_init__(self) -> None:
        empty = [name for name in self.__struct_fields__ if not str(getattr(self, name) or "").strip()]
        if empty:
            raise WiringError("L2", f"the user's context lacks {', '.join(empty)}; every id must be given")
        ids = (self.user_id, self.run_id, self.thread_id)
        if len(set(ids)) < len(ids):
            raise WiringError("L2", "user id, run id and thread id must differ: two of them are the same")
