"""A client that withholds an ack on purpose: its server must find that out, close it with 4003, and heal by its resume.

Enters: a server's URL and a token. Leaves: what a run of it showed, as `DetectionError` where the server noticed
nothing. It acks the first event of its run, so that the server knows a client that acks; then nothing more until it is
told to come back.
"""

import asyncio
import contextlib
from typing import Any, Final

import httpx
import msgspec
import uuid_utils
from websockets.exceptions import ConnectionClosed

from tracewire.client_connection import ServerConnection
from tracewire.client_run import ConnectionFailedError
from tracewire.client_token import TokenSource
from tracewire.errors import TracewireError
from tracewire.probing import AGENT, INPUT, http_client
from tracewire_telemetry.vocabulary import EVENT_TYPES, CloseCode, IncidentState, Link

LOOK_SECONDS: Final = 0.2
"""How often the incidents are asked for: it is the server's user who asks, who may ask for little."""
_EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)


class DetectionError(TracewireError):
    """A withheld ack was not found missing at the client, or did not heal. `run_id` is empty where no run was begun."""

    code = "not_detected"

    def __init__(self, message: str, run_id: str = "") -> None:
        self.run_id = run_id
        super().__init__(message)


class WithholdingClient:
    """One run of one user. `start` it, `detect` it, and `close` it in any case."""

    def __init__(self, url: str, token: str) -> None:
        self.run_id = ""
        self._url = url
        self._token = token
        self._connection = ServerConnection(
            url,
            TokenSource(token),
            reconnect=True,
            attempts_max=None,
            connect_seconds=0,
            on_lost=self._lost,
        )
        self._accepted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._request_id = str(uuid_utils.uuid7())
        self._last_seq = 0
        self._told_to_resync = False
        self._end_seq = 0

    async def start(self, *, within_seconds: float) -> None:
        """Connect, and start the run; it is accepted when this returns.

        Raises:
            DetectionError: it is not.
        """
        self._connection.open(self._take, self._give_up)
        try:
            async with asyncio.timeout(within_seconds):
                await self._connection.until_ready()
                await self._connection.send(
                    {"type": "start_run", "request_id": self._request_id, "agent": AGENT, "input": INPUT}
                )
                self.run_id = await asyncio.shield(self._accepted)
        except ConnectionFailedError as error:
            raise DetectionError(str(error)) from error
        except TimeoutError as error:
            raise DetectionError(f"no run was accepted within {within_seconds:g} s") from error

    async def detect(self, *, within_seconds: float) -> None:
        """Wait until the incident of the withheld ack has opened, at the link `client`, and has healed.

        Raises:
            DetectionError: it did not, within so long; it says how far it came.
        """
        found: dict[str, Any] | None = None
        try:
            async with (
                asyncio.timeout(within_seconds),
                http_client(self._url, self._token, timeout_seconds=within_seconds) as http,
            ):
                while found is None or found["state"] == IncidentState.OPEN.value:
                    await asyncio.sleep(LOOK_SECONDS)
                    answer = await http.get("/incidents", params={"run": self.run_id})
                    incidents = answer.raise_for_status().json()["incidents"]
                    found = incidents[0] if incidents else None
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise DetectionError(f"its incidents could not be read: {error}", self.run_id) from error
        except TimeoutError as error:
            raise DetectionError(self._missed(found, within_seconds), self.run_id) from error
        if found["link"] != Link.CLIENT.value:
            raise DetectionError(f"the incident is at the link {found['link']}, not at the client", self.run_id)
        if found["state"] != IncidentState.HEALED.value or not self._told_to_resync:
            ended = f"the incident ended as {found['state']}"
            told = "" if self._told_to_resync else ", and the client was not told to come back (4003)"
            raise DetectionError(ended + told, self.run_id)

    def _missed(self, found: dict[str, Any] | None, within_seconds: float) -> str:
        if found is not None:
            return f"the incident of the withheld ack is open, and did not heal within {within_seconds:g} s"
        return f"no incident was opened within {within_seconds:g} s of the withheld ack"

    async def close(self) -> None:
        """Ack what came, so that nothing stays open, and go."""
        if self._connection.is_ready.is_set() and self.run_id and self._last_seq:
            with contextlib.suppress(ConnectionClosed):
                await self._ack(self._last_seq)
        await self._connection.close()

    # Frames.

    async def _take(self, line: bytes) -> None:
        frame: dict[str, Any] = msgspec.json.decode(line)
        match frame["type"]:
            case "ready":
                if self.run_id:
                    await self._connection.send({"type": "resume", "runs": {self.run_id: min(self._last_seq, 1)}})
                self._connection.became_ready(frame["heartbeat_seconds"])
            case "run_accepted" if frame["request_id"] == self._request_id:
                if not self._accepted.done():
                    self.run_id = frame["run_id"]
                    self._accepted.set_result(frame["run_id"])
            case "rejected" if frame.get("request_id") == self._request_id:
                if not self._accepted.done():
                    self._accepted.set_exception(DetectionError(f"the run was refused: {frame['message']}"))
            case "ping":
                await self._connection.send({"type": "pong", "id": frame["id"]})
            case name if name in _EVENT_NAMES and frame["run_id"] == self.run_id:
                await self._take_event(frame)
            case _:
                pass

    async def _take_event(self, frame: dict[str, Any]) -> None:
        """Ack the first event; then nothing before the resync, and all there is after it."""
        first_seq, seq = frame.get("first_seq", frame["seq"]), frame["seq"]
        if first_seq <= self._last_seq + 1:
            self._last_seq = max(self._last_seq, seq)
        if "receipt" in frame["data"]:
            self._end_seq = frame["data"]["receipt"]["last_seq"]
        if seq == 1 or (self._told_to_resync and self._last_seq == self._end_seq == seq):
            await self._ack(self._last_seq)

    async def _ack(self, seq: int) -> None:
        await self._connection.send({"type": "ack", "run_id": self.run_id, "seq": seq, "count": seq})

    def _lost(self, failure: ConnectionFailedError) -> None:
        self._told_to_resync |= failure.close_code == CloseCode.RESYNC

    def _give_up(self, failure: ConnectionFailedError) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(failure)
            self._accepted.exception()  # whoever waits for it is told; nobody may be left to
