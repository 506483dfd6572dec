"""The Python client: starts runs over a socket and gives every event once and in order.

    async with Client("ws://127.0.0.1:8000/ws", token) as client:
        run = await client.start_run("what is missing in the sample recording?")
        async for envelope in run:
            print(envelope.seq, envelope.type, envelope.data)
        assert run.receipt_agrees

It acks from the receive path (after 16 events or 100 ms, and at once at the end), drops what it has had already,
resumes where it sees a gap or loses its connection, renews its token, and holds the receipt of the terminal event
against what came. `client.states()` tells of the connection, `client.runs` and `client.follow()` of earlier runs.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

import uuid_utils
from websockets.exceptions import ConnectionClosed

from tracewire.client_connection import READY_SECONDS, ServerConnection
from tracewire.client_frames import ClientFrames, Start
from tracewire.client_run import (
    ClientError,
    ClientRun,
    ConnectionFailedError,
    EventsMissingError,
    ListedRun,
    RequestRejectedError,
)
from tracewire.client_state import ClientState, Stage, StateIterator
from tracewire.client_token import Token, TokenSource

__all__ = [
    "Client",
    "ClientError",
    "ClientRun",
    "ClientState",
    "ConnectionFailedError",
    "EventsMissingError",
    "ListedRun",
    "RequestRejectedError",
    "Stage",
]


class Client:
    """One user's connection. Use it as an async context manager: it is ready inside.

    Args:
        url: the server's socket, as in `ws://127.0.0.1:8000/ws`.
        token: the user's token, or a function (plain or async) that gives a fresh one: for every connection, and to
            renew it on the open one before it expires. A plain one must not block.
        reconnect: whether a lost connection is made anew, with jittered backoff, and its runs resumed.
        connect_seconds: for so long entering tries again while the server cannot be reached; 0: one attempt.
        attempts_max: after so many connections in a row over which no event came, it is given up; `None`: never.
        on_rejected: called with each refusal that no call waits for, as of a cancel that came too late.
        on_lost: called with the reason each time a connection is lost and will be made anew.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        reconnect: bool = True,
        connect_seconds: float = 0.0,
        attempts_max: int | None = None,
        on_lost: Callable[[ConnectionFailedError], None] | None = None,
        on_rejected: Callable[[RequestRejectedError], None] | None = None,
    ) -> None:
        self.url = url
        self._connect_seconds = connect_seconds
        self._connection = ServerConnection(
            url,
            TokenSource(token),
            reconnect=reconnect,
            attempts_max=attempts_max,
            connect_seconds=connect_seconds,
            on_lost=on_lost,
        )
        self._frames = ClientFrames(self._connection, on_rejected)
        self._runs = self._frames.runs
        self._send = self._frames.send

    async def __aenter__(self) -> Self:
        """Connect, and wait until the server says `ready`.

        Raises:
            ConnectionFailedError: it does not, within `READY_SECONDS` of the last attempt.
        """
        self._connection.open(self._frames.take, self._frames.give_up)
        try:
            async with asyncio.timeout(self._connect_seconds + READY_SECONDS):
                await self._connection.until_ready()
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                waited = self._connect_seconds + READY_SECONDS
                raise ConnectionFailedError(f"{self.url}: not ready within {waited:g} s") from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send the acks that are due, and close the connection."""
        if self._connection.is_ready.is_set():
            with contextlib.suppress(ConnectionClosed):
                await self._frames.send_acks()
        await self._connection.close()

    # The connection.

    @property
    def ready(self) -> dict[str, Any]:
        """The newest `ready` frame; empty before the first."""
        return self._frames.ready

    @property
    def user_id(self) -> str:
        """Whom the token signed in; empty before the first `ready`."""
        return str(self.ready.get("user_id", ""))

    @property
    def state(self) -> ClientState:
        """What the connection is at."""
        return self._connection.states.current

    def states(self) -> StateIterator:
        """An async iterator over the connection's states: the current one, then each change, up to `closed`."""
        return self._connection.states.follow()

    # Runs.

    @property
    def runs(self) -> tuple[ListedRun, ...]:
        """The user's runs as the newest `ready` listed them: those that were open then, and ended ones that no client
        has acked to their end. `follow` catches up with one; `client.ready["runs_more"]`: there are older ones.
        """
        return self._frames.listed

    async def follow(self, run_id: str) -> ClientRun:
        """A run that was started before, or elsewhere, from its first event on. A run that this client has already is
        given as it is.

        Iterating raises `RequestRejectedError` where the server does not have it: `unknown_run`, or `expired`.

        Raises:
            ConnectionFailedError: the connection is gone and is not made anew.
        """
        await self._connection.until_ready()
        known = self._runs.get(run_id)
        if known is not None and not known._watched:
            return known
        request_id = next((listed.request_id for listed in self.runs if listed.run_id == run_id), "")
        run = self._runs[run_id] = ClientRun(self._send, run_id, known.request_id if known else request_id, None)
        with contextlib.suppress(ConnectionClosed):  # the next connection resumes it
            await self._frames.resume([run])
        return run

    async def start_run(
        self,
        input_value: Any,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> ClientRun:
        """Start a run, and return when the server has accepted it, durably.

        The same `request_id` again gives the same run, also over another connection.

        Raises:
            RequestRejectedError: the server refused it.
            ConnectionFailedError: the connection is gone and is not made anew.
        """
        request_id = request_id or str(uuid_utils.uuid7())
        frame = {"type": "start_run", "request_id": request_id, "input": input_value}
        optional = {"agent": agent, "thread_id": thread_id, "traceparent": traceparent}
        frame |= {name: value for name, value in optional.items() if value is not None}
        await self._connection.until_ready()
        start = self._frames.starting.setdefault(request_id, Start(frame))
        start.callers += 1
        try:
            if start.callers == 1:
                with contextlib.suppress(ConnectionClosed):  # the next connection repeats it
                    await self._connection.send(frame)
            return await asyncio.shield(start.accepted)
        finally:
            start.callers -= 1
            if not start.callers and self._frames.starting.get(request_id) is start:
                del self._frames.starting[request_id]
