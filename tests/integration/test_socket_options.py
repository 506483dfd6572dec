"""How the operating system is told to treat a client's socket."""

import socket

from support.servers import ServerUnderTest
from tracewire.gateway.transport import SEND_BUFFER_BYTES


async def test_an_event_does_not_wait_for_the_acknowledgement_of_the_one_before(chain: ServerUnderTest) -> None:
    """Nagle's algorithm is off on every accepted socket: it held each event back for 40 ms."""
    async with chain.client("alice"):
        (session,) = chain.server.gateway.sessions
        raw = session.transport._protocol.transport.get_extra_info("socket")
        assert 1 == raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_kernel_holds_little_for_a_client_that_reads_nothing(chain: ServerUnderTest) -> None:
    """Its send buffer is bounded; left alone it grows to megabytes. Linux says twice what it was asked for."""
    async with chain.client("alice"):
        (session,) = chain.server.gateway.sessions
        raw = session.transport._protocol.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES
