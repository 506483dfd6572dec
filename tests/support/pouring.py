"""For slow clients: agents that emit as fast as they are let, and a socket whose reader can stop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from tracewire.engine.agent import agent

from .raw_socket import RawSocket, handshake

AGENTS: Final = ("--agent", "support.pouring:pours", "--agent", "support.pouring:streams")
RECEIVE_BUFFER_BYTES: Final = 4096
READ_AHEAD_BYTES: Final = 64 * 1024
READING_BUFFER_BYTES: Final = 256 * 1024


@agent(name="pours")
async def pours(ctx: Any) -> str:
    """So many thoughts as `input.events` says, of `input.bytes` each."""
    for _ in range(ctx.input["events"]):
        await ctx.thinking("x" * ctx.input["bytes"])
    return "poured"


@agent(name="streams")
async def streams(ctx: Any) -> str:
    """So many deltas as its input says, each its number."""
    for number in range(ctx.input):
        await ctx.delta(f"{number} ")
    return "streamed"


class StallingSocket(RawSocket):
    """A WebSocket that takes next to nothing but what its reader asks for."""

    def stall(self) -> None:
        """Read nothing more."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it

    async def sip(self) -> None:
        """Take a few KiB, as a client does that is slow and not gone: the kernel lets go of one that takes nothing."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
        for _ in range(5):
            await asyncio.sleep(0)
        self.stall()

    def read_on(self) -> None:
        """Read again, and fast."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READING_BUFFER_BYTES)
        self.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above


@asynccontextmanager
async def stalling_socket(url: str, token: str) -> AsyncIterator[StallingSocket]:
    """A ready socket with small buffers of its own; cut at the end if it is still there."""
    parts = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=READ_AHEAD_BYTES)
    stalling = StallingSocket(reader, writer)
    try:
        stalling.send(handshake(parts.netloc, authorization=f"Bearer {token}"))
        status, _ = await stalling.read_head()
        assert status == 101
        ready = await stalling.read_frame()
        assert ready is not None
        assert b'"type":"ready"' in ready.payload
        yield stalling
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
