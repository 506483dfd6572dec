"""The Python client's connection: made, watched, its token renewed, lost, and made anew.

Enters: lines from the server's socket, handed on as they come. Leaves: frames, and the connection's states. Next:
`Client`, which knows what the lines mean.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tracewire.client_loss import Loss, loss_of, retry_after
from tracewire.client_run import ConnectionFailedError
from tracewire.client_state import ClientState, Stage, States
from tracewire.client_token import RENEWAL_AGAIN_SECONDS, TokenProviderError, TokenSource, expiry_of, seconds_to_renewal

SUBPROTOCOLS: Final = (Subprotocol("tracewire.v1.lines"), Subprotocol("tracewire.v1"))
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 10.0
READY_SECONDS: Final = 15.0
"""Time from the beginning of a handshake to `ready`; past it the connection is dropped."""
SILENT_HEARTBEATS: Final = 2
"""After so many of the server's heartbeats without a frame it is taken for dead."""
CLOSE_SECONDS_MAX: Final = 2.0
_encode = msgspec.json.Encoder().encode


class ServerConnection:
    """Keeps one user connected.

    Args:
        url: the server's socket.
        tokens: where each connection's token comes from.
        reconnect: whether a lost connection is made anew.
        attempts_max: after so many connections in a row over which no event came, it is given up; `None`: never.
        connect_seconds: for so long a connection that was never ready is tried again; 0: one attempt.
        on_lost: is told each time that a connection is lost and will be made anew.
    """

    def __init__(
        self,
        url: str,
        tokens: TokenSource,
        *,
        reconnect: bool,
        attempts_max: int | None,
        connect_seconds: float,
        on_lost: Callable[[ConnectionFailedError], None] | None,
    ) -> None:
        self.states = States()
        self.is_ready = asyncio.Event()
        self.socket: ClientConnection | None = None
        self.reconnect = reconnect
        self._url = url
        self._tokens = tokens
        self._take: Callable[[bytes], Awaitable[None]]
        self._give_up: Callable[[ConnectionFailedError], None]
        self._attempts_max = attempts_max
        self._attempts = 0
        self._connect_seconds = connect_seconds
        self._on_lost = on_lost
        self._failure: ConnectionFailedError | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped = ""
        self._retry_after_seconds = 0.0
        self._last_frame_at = 0.0
        self._silent_seconds = READY_SECONDS
        self._watch_timer: asyncio.TimerHandle | None = None
        self._expires_at: float | None = None
        self._renewal_timer: asyncio.TimerHandle | None = None
        self._renewals: set[asyncio.Task[None]] = set()

    # For the client.

    def open(self, take: Callable[[bytes], Awaitable[None]], give_up: Callable[[ConnectionFailedError], None]) -> None:
        """Begin to connect, and stay connected: `take` is given each line that comes, in order; `give_up` is told that
        there will be no more connections.
        """
        self._take, self._give_up = take, give_up
        self._task = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        """Close the connection, and make none again."""
        self.is_ready.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._renewals, return_exceptions=True)
            self._give_up(self._closed_error())
        self.states.change(ClientState(Stage.CLOSED, "the client is closed"))

    async def until_ready(self) -> None:
        """Wait until there is a ready connection.

        Raises:
            ConnectionFailedError: there will be none: it is gone, and not made anew.
        """
        while not self.is_ready.is_set():  # which may be over again when it is this one's turn
            if self._task is None or self._task.done():
                raise self._failure or self._closed_error()
            ready = asyncio.create_task(self.is_ready.wait())
            try:
                await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()

    async def send(self, frame: dict[str, Any]) -> None:
        """Send one frame, if there is a socket.

        Raises:
            ConnectionClosed: it is closed.
        """
        if self.socket is not None:
            await self.socket.send(_encode(frame), text=True)

    def became_ready(self, heartbeat_seconds: float) -> None:
        """The server has said `ready`, and what was missed is asked for."""
        self._silent_seconds = SILENT_HEARTBEATS * heartbeat_seconds
        self.is_ready.set()
        self._renew_before(self._expires_at)
        self.states.change(ClientState(Stage.READY))

    def made_progress(self) -> None:
        """An event came: the attempts are counted anew."""
        self._attempts = 0

    def draining(self, retry_after_seconds: float) -> None:
        """The server is about to stop, and asks its clients to come back after so long."""
        self._retry_after_seconds = retry_after(retry_after_seconds)
        self.states.change(ClientState(Stage.DRAINING, "the server is stopping", self._retry_after_seconds))

    def token_renewed(self, expires_at: float) -> None:
        """The server has taken the fresh token."""
        self._expires_at = expires_at
        self._renew_before(expires_at)

    def drop(self, why: str, retry_after_seconds: float = 0.0) -> None:
        """Let go of the socket without waiting for its end, which a dead network would not bring."""
        self._dropped = why
        self._retry_after_seconds = retry_after(retry_after_seconds)
        if self.socket is not None:
            self.socket.transport.abort()

    # Connections, one after the other.

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        backoff, was_ever_ready, give_up_at = BACKOFF_SECONDS_MIN, False, loop.time() + self._connect_seconds
        while True:
            self.states.change(ClientState(Stage.CONNECTING))
            loss = await self._connect_once()
            if self.is_ready.is_set():
                was_ever_ready, backoff = True, BACKOFF_SECONDS_MIN
            self.is_ready.clear()
            self._failure = loss.failure
            self._attempts += 1
            given_up = self._attempts_max is not None and self._attempts >= self._attempts_max
            too_late = not was_ever_ready and loop.time() >= give_up_at
            if loss.final or given_up or too_late or not self.reconnect:
                break
            # Jitter, so that the clients of a server that went do not all come back in one moment.
            wait_seconds = loss.retry_after_seconds + backoff * random.uniform(0.5, 1.0)  # noqa: S311 # jitter
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
            code, why = loss.failure.close_code, str(loss.failure)
            self.states.change(ClientState(Stage.RECONNECTING, why, wait_seconds, code))
            if self._on_lost is not None:
                self._on_lost(loss.failure)
            await asyncio.sleep(wait_seconds)
        self.states.change(ClientState(Stage.CLOSED, str(loss.failure), close_code=loss.failure.close_code))
        self._give_up(loss.failure)

    async def _connect_once(self) -> Loss:
        self._dropped, self._retry_after_seconds = "", 0.0
        try:
            token = await self._tokens.fresh()
            self._expires_at = expiry_of(token)
            await self._read_to_the_end(token)
        except Exception as error:  # noqa: BLE001 # every end of a connection is judged in one place
            loss = loss_of(self._url, error, dropped=self._dropped)
        finally:
            self.socket = None
            self._stop_timers()
        return loss._replace(retry_after_seconds=max(loss.retry_after_seconds, self._retry_after_seconds))

    async def _read_to_the_end(self, token: str) -> None:
        async with connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            subprotocols=SUBPROTOCOLS,
            compression=None,
            max_size=None,
            open_timeout=READY_SECONDS,
            close_timeout=CLOSE_SECONDS_MAX,
        ) as socket:
            self.socket = socket
            self._silent_seconds, self._last_frame_at = READY_SECONDS, asyncio.get_running_loop().time()
            self._watch(socket)
            while True:
                message = await socket.recv(decode=False)
                self._last_frame_at = asyncio.get_running_loop().time()
                for line in message.split(b"\n"):
                    await self._take(line)

    # What is looked at meanwhile.

    def _watch(self, socket: ClientConnection) -> None:
        """A server that says nothing, not even its heartbeat, is gone, whatever TCP believes."""
        loop = asyncio.get_running_loop()
        left = self._last_frame_at + self._silent_seconds - loop.time()
        if left <= 0:
            self.drop(f"no frame for {self._silent_seconds:g} s")
        else:
            # A limit that has become shorter meanwhile, as by `ready`, is noticed in time.
            self._watch_timer = loop.call_later(min(left, 1.0), self._watch, socket)

    def _renew_before(self, expires_at: float | None) -> None:
        if expires_at is None or not self._tokens.renewable:
            return
        self._renew_in(seconds_to_renewal(expires_at, time.time()))

    def _renew_in(self, seconds: float) -> None:
        if self._renewal_timer is not None:
            self._renewal_timer.cancel()
        self._renewal_timer = asyncio.get_running_loop().call_later(seconds, self._begin_renewal)

    def _begin_renewal(self) -> None:
        renewal = asyncio.create_task(self._renew(self.socket))
        self._renewals.add(renewal)
        renewal.add_done_callback(self._renewals.discard)

    async def _renew(self, socket: ClientConnection | None) -> None:
        self._renew_in(RENEWAL_AGAIN_SECONDS)
        try:
            token = await self._tokens.fresh()
        except TokenProviderError:
            return  # it is asked again, and at the latest for the next connection, which says why there is none
        if socket is self.socket and socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self.send({"type": "authenticate", "token": token})

    def _stop_timers(self) -> None:
        for timer in (self._watch_timer, self._renewal_timer):
            if timer is not None:
                timer.cancel()
        for renewal in self._renewals:
            renewal.cancel()

    def _closed_error(self) -> ConnectionFailedError:
        return ConnectionFailedError(f"{self._url}: the client is closed")
