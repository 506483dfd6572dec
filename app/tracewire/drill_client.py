"""The client of a drill's run: as an official one, but for what the drill is to show: it may withhold one ack.

Enters: frames of the server's socket. Leaves: the start of the run, acks, resumes.
"""

from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from tracewire.errors import TracewireError
from tracewire_telemetry.vocabulary import TERMINAL_TYPES

REQUEST_SECONDS: Final = 10.0
CONNECTS_MAX: Final = 5
RESYNC: Final = 4003
_encode = msgspec.json.Encoder().encode


class DrillError(TracewireError):
    """The drill did not go as it should, or could not begin. The message says why, and what to do where it can."""

    code = "drill_failed"


class DrillClient:
    """The client of a drill's run: acks each event as it comes, comes back when it is told to, and resumes.

    Before it was told to come back it withholds its ack from the event `withheld` on, if there is such a one.
    """

    def __init__(self, url: str, token: str, *, withheld: str = "") -> None:
        self.last_seq = 0
        self.run_id = ""
        self.resyncs = 0
        self._url = url
        self._token = token
        self._withheld = withheld
        self._withholding = False
        self._ended = False

    async def run(self, request_id: str, user_id: str, agent: str) -> None:
        """Start the run and follow it to its terminal event, acked.

        Raises:
            DrillError: the server is not there, does not let this user in, refuses the run, or lets go of it.
        """
        for _ in range(CONNECTS_MAX):
            try:
                async with connect(
                    self._url,
                    additional_headers={"Authorization": f"Bearer {self._token}"},
                    subprotocols=[Subprotocol("tracewire.v1")],
                    compression=None,
                    open_timeout=REQUEST_SECONDS,
                ) as socket:
                    await self._begin(socket, request_id, user_id, agent)
                    while not self._ended:
                        await self._take(socket, msgspec.json.decode(await socket.recv()))
                return
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                if code >= 4500:
                    raise DrillError(f"the server closed the drill's socket with {code} ({error.reason})") from error
                self.resyncs += code == RESYNC
                self._withholding, self._withheld = False, ""
            except (OSError, WebSocketException, msgspec.DecodeError) as error:
                raise DrillError(f"{self._url}: {str(error) or type(error).__name__}") from error
        raise DrillError(f"the server closed the drill's socket {CONNECTS_MAX} times before the run ended")

    async def _begin(self, socket: ClientConnection, request_id: str, user_id: str, agent: str) -> None:
        frame = msgspec.json.decode(await socket.recv())
        if frame["type"] != "ready":
            raise DrillError(f"the server did not say ready but {frame['type']} ({frame.get('code', '')})")
        if frame["user_id"] != user_id:
            raise DrillError(f"the token signs in {frame['user_id']!r}; a drill needs one of the user {user_id!r}")
        if self.run_id:
            await self._send(socket, type="resume", runs={self.run_id: self.last_seq})
        else:
            await self._send(socket, type="start_run", request_id=request_id, input="drill", agent=agent)

    async def _take(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "run_accepted":
                self.run_id = frame["run_id"]
                # A client that has never acked is taken for one that cannot, and is not waited for.
                await self._send(socket, type="ack", run_id=self.run_id, seq=0, count=0)
            case "rejected":
                raise DrillError(f"the server refused {frame['frame']}: {frame['message']}")
            case "ping":
                await self._send(socket, type="pong", id=frame["id"])
            case _ if frame.get("run_id") == self.run_id and frame.get("seq") == self.last_seq + 1:
                self.last_seq += 1
                self._withholding |= frame["type"] == self._withheld
                if not self._withholding:
                    await self._ack(socket, frame["type"])
            case "resumed" if frame["recovered"] and frame["state"] in ("completed", "failed", "cancelled"):
                # Nothing follows where everything had come, and the resume was the ack of it.
                self._ended = self.last_seq == frame["last_seq"]

    async def _ack(self, socket: ClientConnection, event_type: str) -> None:
        await self._send(socket, type="ack", run_id=self.run_id, seq=self.last_seq, count=self.last_seq)
        self._ended = event_type in TERMINAL_TYPES

    async def _send(self, socket: ClientConnection, **frame: Any) -> None:
        await socket.send(_encode(frame), text=True)
