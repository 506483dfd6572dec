"""What the watch asks of a socket: each is done once, told to operators, and not to one that is closed."""

import asyncio
import time

import pytest
import structlog
from structlog.testing import CapturedCall, CapturingLogger

from tracewire.delivery import connection as connection_module
from tracewire.delivery.connection import LINES_BYTES_MAX, Connection
from tracewire_telemetry.carried import Replay
from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.vocabulary import CloseCode
from unit.sockets import Socket, accepted_run

WAIT_SECONDS = 10.0


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[CapturedCall]:
    """What is logged, with the level."""
    capturing = CapturingLogger()
    logger = structlog.wrap_logger(capturing, processors=[lambda _logger, _name, event: ((), event)])
    monkeypatch.setattr(connection_module, "_log", logger)
    return capturing.calls


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes no close is let go of without a wait."""
    monkeypatch.setattr(connection_module, "CUT_SECONDS", 0.0)


async def turn() -> None:
    """Let what was put off until later be done."""
    for _ in range(5):
        await asyncio.sleep(0)
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, done.set_result, None)
    await asyncio.wait_for(done, WAIT_SECONDS)


async def test_a_socket_is_asked_for_life_as_long_as_it_is_open() -> None:
    """One that is closed answers nothing."""
    socket = Socket()
    socket.connection.probe()
    assert 1 == socket.transport.pings
    socket.connection.closed = True
    socket.connection.probe()
    assert 1 == socket.transport.pings


@pytest.mark.parametrize(
    ("name", "code", "event", "aborts"),
    [
        ("resync", CloseCode.RESYNC, "socket_resynced", 0),
        ("cut_silent", CloseCode.SILENT, "socket_silent", 1),
        ("cut_slow", CloseCode.TOO_SLOW, "socket_too_slow", 1),
    ],
)
async def test_a_socket_that_is_let_go_is_closed_once_with_the_reason_and_that_is_said(
    said: list[CapturedCall], at_once: None, name: str, code: CloseCode, event: str, aborts: int
) -> None:
    """With connection and user; who takes no close is aborted a little later, who is to come back is not."""
    socket = Socket(user_id="ada", connection_id="c-1")
    socket.transport.writable = False
    socket.connection.send(b"waits")
    for _ in range(2):
        getattr(socket.connection, name)()
    await turn()
    assert [code] == socket.transport.closes
    assert aborts == socket.transport.aborts
    about = {"connection_id": "c-1", "user_id": "ada"} | ({"unwritten_bytes": 5} if name == "cut_slow" else {})
    assert [("info", {"event": event, **about})] == [(call.method_name, call.kwargs) for call in said]


async def test_a_client_that_never_acks_is_told_of_once(said: list[CapturedCall]) -> None:
    """However many runs it owes acks of."""
    socket = Socket(user_id="ada", connection_id="c-1")
    for _ in range(3):
        socket.connection.note_unacknowledging()
    expected = {"event": "client_unacknowledging", "connection_id": "c-1", "user_id": "ada"}
    assert [("warning", expected)] == [(call.method_name, call.kwargs) for call in said]


async def test_a_replay_of_a_settled_run_is_noted_as_one_range() -> None:
    """From where it began to where it is, unacked; its ledger takes nothing more."""
    run = accepted_run()
    socket = Socket()
    followed = socket.connection.follow("run", run, live=False)
    run.ledger.settled_ns = 1
    assert 2 == socket.connection.write_replayed(followed, [b"1", b"2"], 100)
    first = followed.replay
    assert first is not None
    assert Replay(followed.socket, 1, 2, 100, first.ended_ns) == first
    assert first.ended_ns > 100
    first.acked_ns = 7
    assert 1 == socket.connection.write_replayed(followed, [b"3"], 200)
    assert (1, 3, 100, 0) == (first.first_seq, first.last_seq, first.started_ns, first.acked_ns)
    assert [] == run.ledger.replays


async def test_a_replay_of_an_open_run_is_in_its_ledger() -> None:
    """By socket and range, since it was asked for."""
    run = accepted_run()
    socket = Socket()
    other = Socket(connection_id="other")
    other.connection.follow("run", run)
    followed = socket.connection.follow("run", run, live=False)
    assert 2 == socket.connection.write_replayed(followed, [b"1", b"2"], 100)
    [replay] = run.ledger.replays
    assert (2, 1, 2, 100) == (replay.socket, replay.first_seq, replay.last_seq, replay.started_ns)
    assert followed.replay is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([LINES_BYTES_MAX - 2, 10, 10], 2),
        ([LINES_BYTES_MAX - 1, 10, 10], 1),
        ([LINES_BYTES_MAX // 2 - 2, LINES_BYTES_MAX // 2 - 2, 10, 10], 3),
        ([LINES_BYTES_MAX // 2 - 1, LINES_BYTES_MAX // 2 - 1, 10, 10], 2),
        ([10, 10, 10], 3),
    ],
)
async def test_a_frame_of_lines_takes_no_further_object_past_its_limit(sizes: list[int], expected: int) -> None:
    """With a byte for the line's end each: live, and in a replay."""
    bodies = [b"x" * size for size in sizes]
    assert bodies[:expected] == Connection._frame_of(bodies, 0)
    assert bodies[1 : 1 + len(Connection._frame_of(bodies, 1))] == Connection._frame_of(bodies, 1)
    socket = Socket(lines=True, bytes_max=10 * LINES_BYTES_MAX)
    for body in bodies:
        socket.connection.send(body)
    await turn()
    assert expected == len(socket.transport.frames[-2 if expected < len(bodies) else -1].split(b"\n"))


async def test_a_socket_is_too_slow_when_a_frame_has_waited_too_long_at_that_moment() -> None:
    """Not a moment before."""
    socket = Socket(age_seconds=1)
    socket.transport.writable = False
    before = time.monotonic_ns()
    socket.connection.send(b"waits")
    after = time.monotonic_ns()
    assert not socket.connection.too_slow(before + NS_PER_SECOND)
    assert socket.connection.too_slow(after + NS_PER_SECOND + 1)
