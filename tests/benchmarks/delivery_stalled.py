"""A client that stops reading among healthy ones: when it is let go of, what it took, and what the others felt."""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import agents
from tests.benchmarks.delivery_load import PacedClient, connect_paced, peak_bytes, start_frame
from tests.benchmarks.measuring import CONNECTING_MAX, LIMIT_SECONDS, ROOT
from tests.support.pouring import stalling_socket
from tests.support.servers import ServerProcess

SECONDS = 8
"""How long the healthy users' runs last: longer than a client that stops reading may take to be let go of."""
EVENTS_PER_SECOND = 10
POURED = 5_000
"""Events that each of those that stall would get: three times what it can be held."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Found:
    """One measurement. `p99_ms` is of the healthy users: from an event's own time to its arrival."""

    freed_seconds: float
    peak_bytes: int
    p99_ms: float


async def measure_stalled(users: int, readers: int, *, stalling: bool) -> Found:
    """Measure with a server of its own; the poured runs are there in either case, and without a follower in one.

    Raises:
        WrongDeliveryError: a healthy user did not get every event, once and in order.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", *agents.REFERENCES, cwd=ROOT)
        await asyncio.to_thread(server.__enter__)
        try:
            turn = asyncio.Semaphore(CONNECTING_MAX)

            async def connected(number: int) -> PacedClient:
                async with turn:
                    return await connect_paced(server.ws_url, server.token(f"user-{number}"))

            clients = await asyncio.gather(*(connected(number) for number in range(users)))
            for client in clients:
                client.start(SECONDS * EVENTS_PER_SECOND, 1 / EVENTS_PER_SECOND)
            async with asyncio.timeout(LIMIT_SECONDS):
                pouring = (_pour(server, f"slow-{number}", stalling=stalling) for number in range(readers))
                freed, _ = await asyncio.gather(
                    asyncio.gather(*pouring), asyncio.gather(*(client.done for client in clients))
                )
            delays = sorted(delay for client in clients for delay in client.delays_ms)
            for client in clients:
                client.close()
            return Found(max(freed), peak_bytes(server), delays[len(delays) * 99 // 100])
        finally:
            await asyncio.to_thread(server.__exit__)


async def _pour(server: ServerProcess, user_id: str, *, stalling: bool) -> float:
    """Start a poured run, and read nothing of it or leave at once; how long it took to be let go of."""
    async with stalling_socket(server.ws_url, server.token(user_id)) as socket:
        socket.send(start_frame("steady", {"events": POURED}))
        await socket.read_frame()
        if not stalling:
            return 0.0
        socket.stall()
        began = time.perf_counter()
        while not any(record["user_id"] == user_id for record in server.log_records("socket_gone")):
            await asyncio.sleep(LOOK_SECONDS)  # another process writes it
        return time.perf_counter() - began
