"""A TCP proxy on loopback that loses its connections, or lets nothing through for a while, when it is told to."""

import asyncio
import contextlib
from collections.abc import Iterable
from random import Random
from typing import Final, Self

CHUNK_BYTES: Final = 16 * 1024


class _Passage:
    """One connection through the proxy. Clearing an event holds that direction."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.to_client, self.to_server = asyncio.Event(), asyncio.Event()
        self.flow()

    def flow(self) -> None:
        """Let both directions through."""
        self.to_client.set()
        self.to_server.set()

    def cut(self) -> None:
        """Lose it, with a reset and no goodbye."""
        for writer in (self.client, self.server):
            writer.transport.abort()
        self.flow()


class CuttingProxy:
    """Listens on a free port for connections to `upstream_port`. Use it as an async context manager."""

    def __init__(self, upstream_port: int) -> None:
        self.cuts = 0
        self.stalls = 0
        self._upstream_port = upstream_port
        self._passages: set[_Passage] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for passage in list(self._passages):
            passage.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def harm(self, random: Random) -> None:
        """Do something to one of the connections, by chance."""
        if not self._passages:
            return
        passage = random.choice(list(self._passages))
        what = random.choices(("cut", "stall", "stall_to_client", "stall_and_cut"), (5, 3, 1, 2))[0]
        if what == "cut":
            self.cuts += 1
            passage.cut()
            return
        self.stalls += 1
        held = [passage.to_client] if what == "stall_to_client" else [passage.to_client, passage.to_server]
        for direction in held:
            direction.clear()
        # Longer than an outbox may be old: a server then cuts such a client as too slow.
        seconds = random.uniform(5, 8) if what == "stall_to_client" else random.uniform(0.3, 3)
        loop = asyncio.get_running_loop()
        if what == "stall_and_cut":
            self.cuts += 1
            loop.call_later(seconds, passage.cut)
        else:
            loop.call_later(seconds, passage.flow)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:  # the server is down
            writer.transport.abort()
            self._tasks.discard(task)
            return
        passage = _Passage(writer, upstream_writer)
        self._passages.add(passage)
        pipes = [
            asyncio.create_task(_pipe(reader, upstream_writer, passage.to_server)),
            asyncio.create_task(_pipe(upstream_reader, writer, passage.to_client)),
        ]
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._passages.discard(passage)
            self._tasks.discard(task)
            await _end(pipes, (writer, upstream_writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            await flowing.wait()
            writer.write(chunk)
            await writer.drain()


async def _end(pipes: Iterable[asyncio.Task[None]], writers: Iterable[asyncio.StreamWriter]) -> None:
    """What one side has sent before its end still reaches the other; then both are closed."""
    for pipe in pipes:
        pipe.cancel()
    await asyncio.gather(*pipes, return_exceptions=True)
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
