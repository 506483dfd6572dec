"""A socket at its bounds: how much goes into one frame and one turn, and when an ack is owed."""

from types import SimpleNamespace

import pytest

from tracewire.delivery import connections as connections_module
from tracewire.delivery.connection import FRAMES_PER_TURN
from tracewire.delivery.connections import Connections
from unit.sockets import Socket, turns


async def test_a_frame_of_lines_holds_as_many_objects_as_a_turn_writes() -> None:
    """However small they are: a client need not parse thousands at once."""
    socket = Socket(lines=True)
    for number in range(2 * FRAMES_PER_TURN + 2):
        socket.connection.send(b"%d" % number)
    await turns(5)
    assert [FRAMES_PER_TURN, FRAMES_PER_TURN, 2] == [len(frame.split(b"\n")) for frame in socket.transport.frames]


@pytest.mark.parametrize(("reader", "expected"), [(False, 1), (True, 0)])
async def test_an_ack_is_owed_by_clients_alone_and_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch, reader: bool, expected: int
) -> None:
    """At the deadline itself not yet, and not before an event was written."""
    monkeypatch.setattr(connections_module, "time", SimpleNamespace(monotonic_ns=lambda: 1_000))
    socket, registry = Socket(), Connections()
    socket.connection.reader = reader
    registry.attach(socket.connection)
    assert 0 == registry.unacknowledging(0)
    socket.connection.first_event_ns = 100
    assert (0, expected) == (registry.unacknowledging(900), registry.unacknowledging(899))
