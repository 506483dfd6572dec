"""Users of one server, for the load that the catalogue is held against."""

import asyncio
import contextlib
import subprocess
from typing import Any, Final

import httpx

from support.servers import ServerProcess
from support.wire import Frame, Wire, wire_to

LIMITS: Final = {
    "TRACEWIRE_RUNS_PER_USER_MAX": "2",
    "TRACEWIRE_SOCKETS_PER_USER_MAX": "2",
    "TRACEWIRE_BAD_FRAMES_PER_MINUTE_MAX": "5",
    "TRACEWIRE_FRAMES_PER_SECOND_MAX": "20",
    "TRACEWIRE_JWT_LEEWAY_SECONDS": "0",
}
"""Small, so that they are soon reached."""
LOOK_SECONDS: Final = 0.1


class Load:
    """Users of one server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def socket(self, user: str, **options: Any) -> Any:
        """A ready socket of this user."""
        return wire_to(self.server.ws_url, self.server.token(user), **options)

    def http(self, user: str | None = None) -> httpx.AsyncClient:
        """The public port, signed in as this user."""
        headers = {"Authorization": f"Bearer {self.server.token(user)}"} if user is not None else {}
        return httpx.AsyncClient(base_url=self.server.url, headers=headers, timeout=30)

    async def run(self, user: str, agent: str, input_value: Any = "go") -> list[Frame]:
        """A whole run of an acking client."""
        async with self.socket(user) as wire:
            run_id = await wire.start_run(input_value, agent=agent)
            return await ack_all(wire, run_id)

    async def cancelled(self, user: str, agent: str, at: str) -> None:
        """A run that its user cancels."""
        async with self.socket(user) as wire:
            run_id = await wire.start_run("go", agent=agent)
            await wire.receive_type(at)
            await wire.send("cancel_run", run_id=run_id)
            await ack_all(wire, run_id)

    async def rejected(self, wire: Wire, frame_type: str, **fields: Any) -> str:
        """The code with which a frame is refused."""
        await wire.send(frame_type, **fields)
        return str((await wire.receive_type("rejected"))["code"])


async def ack_all(wire: Wire, run_id: str) -> list[Frame]:
    """The run's events to the last, acked at once."""
    events = await wire.receive_run(run_id)
    await wire.ack(run_id, len(events))
    return events


async def look_again(server: ServerProcess) -> None:
    """A moment later, and while the server is there; one that has ended fails at once."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = await asyncio.to_thread(server.process.wait, LOOK_SECONDS)
        raise AssertionError(f"the server has ended with {code}: {server.log_text()[-2_000:]}")
