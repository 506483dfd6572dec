"""What the Python client says about its connection: a state, and an iterator over its changes for whoever asks."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Final
from weakref import WeakSet

from msgspec import Struct

UNREAD_STATES_MAX: Final = 64
"""Changes that an iterator keeps for a reader who is slow; the oldest go first, so that the newest always comes."""


class Stage(StrEnum):
    """What a connection is at."""

    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    CLOSED = "closed"


class ClientState(Struct, frozen=True):
    """The state of the client's connection.

    `why` says what led to `reconnecting` and `closed`, with the socket's `close_code` where there was one.
    `retry_in_seconds` comes with `reconnecting`, until the next attempt, and with `draining`, as the server asks for.
    """

    stage: Stage
    why: str = ""
    retry_in_seconds: float | None = None
    close_code: int | None = None


class States:
    """The current state, told to every iterator over it."""

    def __init__(self) -> None:
        self.current = ClientState(Stage.CONNECTING)
        self._iterators: WeakSet[StateIterator] = WeakSet()

    def change(self, state: ClientState) -> None:
        """Make this the current state. After `closed` nothing changes any more."""
        if self.current.stage is Stage.CLOSED or state == self.current:
            return
        self.current = state
        for iterator in self._iterators:
            iterator._take(state)

    def follow(self) -> "StateIterator":
        """The current state and every later one, up to `closed`."""
        iterator = StateIterator(self.current)
        self._iterators.add(iterator)
        return iterator


class StateIterator:
    """An async iterator over the states of a connection; it ends after `closed`."""

    def __init__(self, current: ClientState) -> None:
        self._unread = deque([current], UNREAD_STATES_MAX)
        self._changed = asyncio.Event()
        self._over = False

    def __aiter__(self) -> AsyncIterator[ClientState]:
        return self

    async def __anext__(self) -> ClientState:
        if self._over:
            raise StopAsyncIteration
        while not self._unread:
            self._changed.clear()
            await self._changed.wait()
        state = self._unread.popleft()
        self._over = state.stage is Stage.CLOSED
        return state

    def _take(self, state: ClientState) -> None:
        self._unread.append(state)
        self._changed.set()
