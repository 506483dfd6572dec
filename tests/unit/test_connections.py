"""Sockets and what they follow: order, joining, slow clients, ends; and catching up while live events race it."""

import asyncio
import itertools
import time
import tracemalloc
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracewire.delivery import replay
from tracewire.delivery.connection import FRAMES_PER_TURN, LINES_BYTES_MAX
from tracewire.delivery.connections import Connections
from tracewire.delivery.outbox import FRAME_BYTES, Outbox, Queued
from tracewire.delivery.replay import HELD_BYTES_MAX, catch_up
from tracewire.eventlog import EventLog, StoredEvent
from tracewire.events import EVENT_BYTES_MAX, AgentThinking, Envelope, encode_envelope
from tracewire_telemetry.vocabulary import CloseCode
from tracewire_telemetry.watch import OpenRun
from unit.sockets import Socket, accepted_run, committed, turns

WAIT_SECONDS = 10.0
WRITE_BUFFER_BYTES = 64 * 1024
"""Where asyncio's and uvloop's transports say that they take no more."""
MINUTE_NS = 60 * 1_000_000_000


def body_of(seq: int) -> bytes:
    """An event's bytes."""
    return b'{"seq":%d}' % seq


def live(run: OpenRun, *sockets: Socket) -> bool:
    """One more event of the run, made durable and offered; whether each socket took it."""
    seq = committed(run)
    taken = [socket.connection.offer(run.ledger.identity.run_id, seq, body_of(seq)) for socket in sockets]
    return all(taken)


# --- writing --------------------------------------------------------------------------------------------------------


async def test_ready_is_the_first_frame_and_what_was_queued_before_follows_it() -> None:
    """A run that was accepted while the socket became ready is not lost between the two, nor before `ready`."""
    socket = Socket(is_open=False)
    run = accepted_run()
    socket.connection.follow("run", run)
    assert live(run, socket)
    await turns(5)
    assert socket.transport.frames == []
    socket.connection.open(b"ready")
    await turns(5)
    assert [b"ready", body_of(1)] == socket.transport.frames


async def test_events_and_frames_leave_in_the_order_in_which_they_were_queued() -> None:
    """Events of two runs and control frames, one a frame."""
    socket = Socket()
    first, second = accepted_run("first"), accepted_run("second")
    socket.connection.follow("first", first)
    socket.connection.follow("second", second)
    live(first, socket)
    socket.connection.send(b"accepted")
    live(second, socket)
    live(first, socket)
    await turns(5)
    assert [body_of(1), b"accepted", body_of(1), body_of(2)] == socket.transport.frames


async def test_an_event_is_written_without_waiting_for_the_event_loop() -> None:
    """It waits for no turn in which others may come first; behind what is queued already it keeps its place."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    live(run, socket)
    assert [body_of(1)] == socket.transport.frames
    socket.connection.send(b"accepted")
    live(run, socket)
    assert [body_of(1)] == socket.transport.frames
    await turns(5)
    assert [body_of(1), b"accepted", body_of(2)] == socket.transport.frames


async def test_a_write_stamps_the_link_for_the_socket_that_it_went_to() -> None:
    """Not before it is written; control frames stamp nothing."""
    socket, run = Socket(), accepted_run()
    followed = socket.connection.follow("run", run)
    socket.transport.writable = False
    live(run, socket)
    socket.connection.send(b"ping")
    await turns(5)
    assert (run.ledger.sends, run.ledger.socket[0]) == ({}, 0)
    socket.resume()
    await turns(5)
    assert {followed.socket: 1} == {number: len(send.stamps) for number, send in run.ledger.sends.items()}
    assert 0 < run.ledger.socket[0] <= time.monotonic_ns()


async def test_a_busy_socket_of_lines_gets_many_objects_in_one_frame() -> None:
    """`tracewire.v1.lines` joins what waits; each object stays a line of its own, in order, and stamps its own seq."""
    socket, run = Socket(lines=True), accepted_run()
    socket.connection.follow("run", run)
    for _ in range(10):
        live(run, socket)
    await turns(5)
    assert [b"\n".join(body_of(seq) for seq in range(1, 11))] == socket.transport.frames
    assert len(run.ledger.sends[1].stamps) == 10


async def test_a_single_object_is_a_frame_of_its_own_also_in_lines() -> None:
    """No trailing line end."""
    socket = Socket(lines=True)
    socket.connection.send(b"{}")
    await turns(5)
    assert socket.transport.frames == [b"{}"]


async def test_a_plain_socket_never_gets_two_objects_in_a_frame() -> None:
    """`tracewire.v1` is for any client to read."""
    socket = Socket(lines=False)
    for number in range(20):
        socket.connection.send(b"%d" % number)
    await turns(5)
    assert [b"%d" % number for number in range(20)] == socket.transport.frames


async def test_a_frame_of_lines_stops_growing_at_its_limit() -> None:
    """No object joins a frame that has reached 32 KiB, and none is split."""
    socket = Socket(lines=True)
    bodies = [bytes([65 + number]) * 10_000 for number in range(8)]
    for body in bodies:
        socket.connection.send(body)
    await turns(5)
    assert bodies == socket.transport.objects
    assert [frame.count(b"\n") + 1 for frame in socket.transport.frames] == [4, 4]
    assert all(len(frame) < LINES_BYTES_MAX + 10_001 for frame in socket.transport.frames)


async def test_a_flood_leaves_the_event_loop_its_turns() -> None:
    """At most 64 frames are written between two turns."""
    socket = Socket()
    for number in range(200):
        socket.connection.send(b"%d" % number)
    written = [0]
    while len(socket.connection.outbox):
        await asyncio.sleep(0)
        written.append(len(socket.transport.frames))
    assert max(after - before for before, after in itertools.pairwise(written)) == FRAMES_PER_TURN
    assert written[-1] == 200


async def test_a_paused_transport_gets_nothing_until_it_is_writable() -> None:
    """Its write buffer fills after three frames, and drains: the rest follows in order, nothing twice."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    socket.transport.frames_max = 3
    for _ in range(8):
        live(run, socket)
    await turns(5)
    assert len(socket.transport.frames) == 3
    socket.resume()
    await turns(5)
    assert [body_of(seq) for seq in range(1, 9)] == socket.transport.frames


async def test_a_client_that_reads_too_slowly_is_cut_when_its_bytes_are_too_many() -> None:
    """Closed once with 4001 and counted; nothing more is queued, and the socket is aborted if it does not go."""
    socket = Socket(bytes_max=100 + 2 * FRAME_BYTES)
    socket.transport.writable = False
    socket.connection.send(b"x" * 100)
    await turns(3)
    assert socket.transport.closes == []
    socket.connection.send(b"y")
    await turns(3)
    assert (socket.transport.closes, socket.connection.closed) == ([CloseCode.TOO_SLOW], True)
    socket.connection.send(b"z")
    socket.connection.cut_slow()
    socket.connection.close(CloseCode.DRAINING)
    await turns(3)
    assert (
        socket.transport.closes,
        socket.transport.frames,
        socket.connection.outbox.bytes,
    ) == ([CloseCode.TOO_SLOW], [], 101)
    assert (
        socket.value("slow_clients_total"),
        socket.value("closes_total", code="4001"),
        socket.value("closes_total", code="4000"),
    ) == (1, 1, 0)


async def test_a_client_that_reads_too_slowly_is_cut_when_a_frame_is_too_old() -> None:
    """A few bytes that have waited for longer than the limit."""
    socket = Socket(age_seconds=5)
    socket.transport.writable = False
    socket.connection.outbox.push(Queued(b"old", time.monotonic_ns() - 6_000_000_000))
    socket.connection.send(b"new")
    await turns(3)
    assert socket.transport.closes == [CloseCode.TOO_SLOW]


async def test_a_burst_beyond_the_limit_is_no_reason_to_cut_a_client_that_reads() -> None:
    """The bound is on what the peer does not take."""
    socket = Socket(bytes_max=100)
    for _ in range(50):
        socket.connection.send(b"x" * 50)
    await turns(5)
    assert (len(socket.transport.frames), socket.transport.closes) == (50, [])


async def test_a_client_that_takes_nothing_of_what_was_written_is_too_slow() -> None:
    """Although nothing is queued for it, as in a replay: the bound is the outbox's on age."""
    socket = Socket(age_seconds=5)
    socket.transport.stuck_since_ns = 1
    five_seconds_ns = 5_000_000_000
    assert not socket.connection.too_slow(five_seconds_ns + 1)
    assert socket.connection.too_slow(five_seconds_ns + 2)
    socket.transport.stuck_since_ns = 0
    assert not socket.connection.too_slow(1 << 62)


def test_what_waits_for_a_client_that_reads_nothing_takes_little_memory() -> None:
    """An outbox past its bound, of the smallest events, beside what the transport holds: half a MiB at most."""
    thought = AgentThinking("", 1)
    smallest = encode_envelope(Envelope(thought.type, "r" * 36, 1, "t" * 27, "a", "p" * 55, thought))
    outbox = Outbox(bytes_max=256 * 1024, age_seconds=5)
    tracemalloc.start()
    try:
        while not outbox.overfull(0):
            outbox.push(Queued(bytes(bytearray(smallest)), time.monotonic_ns(), None, 1, 300 + len(outbox)))
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes + WRITE_BUFFER_BYTES + LINES_BYTES_MAX + EVENT_BYTES_MAX < 512 * 1024


# --- following ------------------------------------------------------------------------------------------------------


async def test_a_socket_gets_only_the_runs_that_it_follows() -> None:
    """What is not followed is not queued."""
    socket, run = Socket(), accepted_run()
    assert not live(run, socket)
    socket.connection.follow("other", accepted_run("other"))
    assert not live(run, socket)
    await turns(3)
    assert socket.transport.frames == []


async def test_an_event_that_the_socket_has_had_is_not_queued_again() -> None:
    """It follows from seq 3 on."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run, next_seq=3)
    assert [live(run, socket) for _ in range(3)] == [False, False, True]
    assert not socket.connection.offer("run", 3, body_of(3))
    await turns(3)
    assert [body_of(3)] == socket.transport.frames


async def test_a_gap_closes_the_socket_with_resync() -> None:
    """Order comes before delivery: the client resumes from the log."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    assert live(run, socket)
    committed(run)
    assert not live(run, socket)
    await turns(3)
    assert ([CloseCode.RESYNC], [body_of(1)]) == (socket.transport.closes, socket.transport.frames)


async def test_following_anew_replaces_what_was_followed_before() -> None:
    """The ledger knows one follower, by a new number."""
    socket, run = Socket(), accepted_run()
    first = socket.connection.follow("run", run)
    second = socket.connection.follow("run", run, next_seq=5, live=False)
    assert ({second.socket}, True) == (run.ledger.followers, first.socket != second.socket)
    socket.connection.unfollow("run")
    socket.connection.unfollow("run")
    assert (set(), {}) == (run.ledger.followers, socket.connection.follows)


async def test_whether_the_client_acks_is_told_to_the_ledgers_of_later_runs() -> None:
    """A socket that has acked once owes acks from then on."""
    socket = Socket()
    before, after = accepted_run("before"), accepted_run("after")
    socket.connection.follow("before", before)
    socket.connection.has_acked = True
    followed = socket.connection.follow("after", after)
    assert (set(), {followed.socket}) == (before.ledger.acking, after.ledger.acking)


async def test_a_long_lived_socket_forgets_settled_runs() -> None:
    """Open ones, those that it still catches up with and those whose terminal event is still owed stay."""
    socket = Socket()
    runs = {name: accepted_run(name) for name in ("open", "settled", "catching up", "owing its end")}
    for name, run in runs.items():
        socket.connection.follow(name, run, live=name != "catching up")
        run.owes_end = name == "owing its end"
        if name != "open":
            run.ledger.settled_ns = 1
    socket.connection.follow("unwatched", None)
    socket.connection.forget_settled()
    assert {"open", "catching up", "owing its end", "unwatched"} == set(socket.connection.follows)


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_a_close_comes_after_everything_that_waits() -> None:
    """However much: 150 frames, then the code, once; what is sent later is not written."""
    socket = Socket()
    for number in range(150):
        socket.connection.send(b"%d" % number)
    socket.connection.close(CloseCode.DRAINING)
    socket.connection.close(CloseCode.SILENT)
    socket.connection.send(b"late")
    await turns(5)
    assert [b"%d" % number for number in range(150)] == socket.transport.frames
    assert socket.transport.closes == [CloseCode.DRAINING]
    assert (socket.value("closes_total", code="4000"), socket.value("closes_total", code="4002")) == (1, 0)


async def test_a_close_of_a_socket_that_is_overfull_is_one_close() -> None:
    """Its last look finds it too slow: the client gets one code, and one is counted."""
    socket = Socket(bytes_max=100)
    socket.transport.writable = False
    socket.connection.outbox.push(Queued(b"x" * 101, time.monotonic_ns()))
    socket.connection.close(CloseCode.DRAINING)
    assert socket.transport.closes == [CloseCode.TOO_SLOW]
    assert (socket.value("closes_total", code="4001"), socket.value("closes_total", code="4000")) == (1, 0)


async def test_a_socket_that_is_closed_before_it_was_ready_gets_no_event() -> None:
    """Nothing comes before `ready`, not even at the end."""
    socket, run = Socket(is_open=False), accepted_run()
    socket.connection.follow("run", run)
    live(run, socket)
    socket.connection.close(CloseCode.DRAINING)
    socket.connection.open(b"ready")
    await turns(5)
    assert (socket.transport.frames, socket.transport.closes) == ([], [CloseCode.DRAINING])


async def test_a_socket_that_is_gone_follows_nothing_and_holds_nothing() -> None:
    """Its runs are told, its queue is emptied, and what is offered later is not queued."""
    socket, run = Socket(), accepted_run()
    registry = Connections()
    registry.attach(socket.connection)
    socket.connection.follow("run", run)
    socket.transport.writable = False
    live(run, socket)
    registry.detach(socket.connection)
    registry.detach(socket.connection)
    assert (set(), 0, 0) == (run.ledger.followers, socket.connection.outbox.bytes, registry.count)
    assert not live(run, socket)
    assert registry.of("ada") == []


async def test_the_registry_knows_each_users_sockets_and_no_others() -> None:
    """Two of Ada's, one of Bob's; the bytes that wait are summed over all."""
    registry = Connections()
    phone, laptop = Socket("ada", connection_id="phone"), Socket("ada", connection_id="laptop")
    bobs = Socket("bob", connection_id="bobs")
    for socket in (phone, laptop, bobs):
        registry.attach(socket.connection)
        socket.transport.writable = False
        socket.connection.send(b"12345")
    assert [phone.connection, laptop.connection] == registry.of("ada")
    assert [bobs.connection] == registry.of("bob")
    assert (registry.of("eve"), registry.count, len(list(registry)), registry.outbox_bytes) == ([], 3, 3, 15)
    registry.detach(phone.connection)
    assert ([laptop.connection], 2, 10) == (registry.of("ada"), registry.count, registry.outbox_bytes)


async def test_sockets_can_come_and_go_while_the_registry_is_walked() -> None:
    """A close in the middle of a walk must not end it."""
    registry = Connections()
    sockets = [Socket("ada", connection_id=f"socket-{number}") for number in range(5)]
    for socket in sockets:
        registry.attach(socket.connection)
    for connection in registry:
        registry.detach(connection)
    assert registry.count == 0


async def test_sockets_that_were_due_an_ack_and_never_sent_one_are_counted() -> None:
    """Not those without events, not those within the deadline, not those that have acked."""
    registry = Connections()
    now = time.monotonic_ns()
    for number, (first_event_ns, has_acked) in enumerate(
        [(0, False), (now, False), (now - MINUTE_NS, True), (now - MINUTE_NS, False), (now - MINUTE_NS, False)]
    ):
        socket = Socket(connection_id=f"socket-{number}")
        socket.connection.first_event_ns = first_event_ns
        socket.connection.has_acked = has_acked
        registry.attach(socket.connection)
    assert registry.unacknowledging(MINUTE_NS // 2) == 2


# --- catching up ----------------------------------------------------------------------------------------------------


class RacedLog:
    """A log in memory for one run, whose events become durable at the worst moments of a read.

    `schedule` says how many events become durable at each of a read's three moments: before it looks, after it looked,
    and when its answer is about to arrive. Each is offered to the socket at once, or one moment later.
    """

    def __init__(
        self, socket: Socket, run: OpenRun | None, *, before: int, schedule: Sequence[tuple[int, bool]]
    ) -> None:
        self.bodies: list[bytes] = []
        self.reads = 0
        self._socket = socket
        self.run = run
        self._schedule = list(schedule)
        self._unoffered: list[int] = []
        for _ in range(before):
            self._append()

    def _append(self) -> int:
        seq = committed(self.run) if self.run is not None else len(self.bodies) + 1
        self.bodies.append(body_of(seq))
        return seq

    def offer_all(self) -> None:
        """What is durable and not offered yet is offered, in order."""
        while self._unoffered:
            seq = self._unoffered.pop(0)
            self._socket.connection.offer("run", seq, body_of(seq))

    def emit(self, count: int, *, at_once: bool = True) -> None:
        """So many events become durable."""
        self.offer_all()
        for _ in range(count):
            self._unoffered.append(self._append())
            if at_once:
                self.offer_all()

    def _moment(self) -> None:
        if self._schedule:
            count, at_once = self._schedule.pop(0)
            self.emit(count, at_once=at_once)
        else:
            self.offer_all()

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """As the port says."""
        self.reads += 1
        self._moment()
        found = [StoredEvent(seq, self.bodies[seq - 1]) for seq in range(after_seq + 1, len(self.bodies) + 1)][:limit]
        self._moment()
        await asyncio.sleep(0)
        self._moment()
        return found


def as_log(log: RacedLog) -> EventLog:
    """What `catch_up` uses of the port."""
    return cast("EventLog", log)


async def caught_up(log: RacedLog, socket: Socket, *, after_seq: int) -> None:
    """Follow from after this seq, and catch up."""
    followed = socket.connection.follow("run", log.run, next_seq=after_seq + 1, live=False)
    await asyncio.wait_for(catch_up(socket.connection, as_log(log), "run", followed), WAIT_SECONDS)
    assert followed.live


@given(
    before=st.integers(0, 12),
    after_seq=st.integers(0, 12),
    schedule=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=24),
    page_events=st.integers(1, 5),
    lines=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_whatever_races_a_catch_up_each_event_is_written_once_and_in_order(
    before: int, after_seq: int, schedule: list[tuple[int, bool]], page_events: int, lines: bool
) -> None:
    """Events that become durable before, during and after each read of the log, and live ones after the last."""

    async def race() -> None:
        socket, run = Socket(lines=lines), accepted_run()
        log = RacedLog(socket, run, before=before, schedule=schedule)
        start = min(after_seq, before)
        await caught_up(log, socket, after_seq=start)
        log.emit(3)
        await turns(20)
        assert log.bodies[start:] == socket.transport.objects
        assert socket.transport.closes == []
        replayed = {seq for entry in run.ledger.replays for seq in range(entry.first_seq, entry.last_seq + 1)}
        sent = {seq for send in run.ledger.sends.values()
                for seq in range(send.first_seq, send.first_seq + len(send.stamps))}  # fmt: skip
        assert set(range(start + 1, len(log.bodies) + 1)) == replayed | sent
        assert set() == replayed & sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "PAGE_EVENTS", page_events)
        asyncio.run(race())


async def test_live_events_wait_in_the_log_while_a_socket_catches_up() -> None:
    """They are not queued beside the replay: a socket that reads slowly does not pile up what the log holds."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=3, schedule=[])
    socket.transport.writable = False
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
    await turns(5)
    log.emit(200)
    assert (len(socket.connection.outbox), log.reads, task.done()) == (0, 0, False)
    socket.resume()
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert log.bodies == socket.transport.frames


async def test_a_replay_goes_at_the_pace_at_which_the_socket_reads() -> None:
    """A full write buffer holds it up within a page: large events do not pile up behind a peer that reads slowly."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=200, schedule=[])
    socket.transport.frames_max = 3
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
    await turns(20)
    assert len(socket.transport.frames) == 3
    socket.resume()
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert log.bodies == socket.transport.frames


async def test_a_short_replay_is_one_read_of_the_log() -> None:
    """A page that is not full is the last: a thousand clients that come back at once ask no second time."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=5, schedule=[])
    await caught_up(log, socket, after_seq=2)
    assert (log.bodies[2:], 1) == (socket.transport.frames, log.reads)


async def test_a_replay_to_lines_puts_many_events_in_a_frame() -> None:
    """As live ones: a resume of thousands of events is then a tenth of the work. Each is stamped as replayed."""
    socket, run = Socket(lines=True), accepted_run()
    log = RacedLog(socket, run, before=300, schedule=[])
    await caught_up(log, socket, after_seq=0)
    assert log.bodies == socket.transport.objects
    assert len(socket.transport.frames) <= 300 // 16
    (entry,) = run.ledger.replays
    assert (1, 300, True) == (entry.first_seq, entry.last_seq, all(run.ledger.socket))


class CopyingLog(RacedLog):
    """Gives each event as bytes of their own, as one that reads a disk does."""

    async def replay(self, run_id: str, after_seq: int, *, limit: int) -> Sequence[StoredEvent]:
        """As the port says."""
        found = await super().replay(run_id, after_seq, limit=limit)
        return [StoredEvent(event.seq, bytes(bytearray(event.body))) for event in found]


@pytest.mark.parametrize("lines", [False, True])
async def test_a_replay_holds_little_of_large_events_for_a_peer_that_takes_no_more(lines: bool) -> None:
    """It lets go of what it has read, and reads it again when the peer takes more: nothing is lost or repeated."""
    socket, run = Socket(lines=lines), accepted_run()
    log = CopyingLog(socket, run, before=60, schedule=[])
    log.bodies = [body.ljust(60_000) for body in log.bodies]
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    tracemalloc.start()
    try:
        task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
        while not task.done():
            socket.transport.frames_max = len(socket.transport.frames) + 1
            socket.transport.writable = True
            socket.connection.on_writable()
            await turns(10)
            held_bytes = tracemalloc.get_traced_memory()[0] - sum(map(len, socket.transport.frames))
            assert held_bytes < 2 * HELD_BYTES_MAX
    finally:
        tracemalloc.stop()
    assert log.bodies == socket.transport.objects


async def test_a_replay_follows_the_frames_that_announce_it() -> None:
    """`resumed` was queued first, and is written first, however long the socket takes."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=2, schedule=[])
    socket.transport.writable = False
    socket.connection.send(b"resumed")
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
    await turns(5)
    assert socket.transport.frames == []
    socket.resume()
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert [b"resumed", *log.bodies] == socket.transport.frames


@pytest.mark.parametrize("end", ["closed", "unfollowed", "followed anew"])
async def test_a_catch_up_that_is_no_longer_wanted_ends_and_writes_nothing_more(end: str) -> None:
    """The socket closed, or a later `resume` named the run again."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=5, schedule=[])
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
    await turns(1)
    assert log.reads == 1
    match end:
        case "closed":
            socket.connection.close(CloseCode.DRAINING)
        case "unfollowed":
            socket.connection.unfollow("run")
        case _:
            socket.connection.follow("run", run, next_seq=4, live=False)
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert (socket.transport.frames, followed.live) == ([], False)


async def test_a_catch_up_waiting_for_a_slow_socket_ends_when_it_goes() -> None:
    """No task is left waiting for a socket that is no more."""
    socket, run = Socket(), accepted_run()
    log = RacedLog(socket, run, before=5, schedule=[])
    socket.transport.writable = False
    followed = socket.connection.follow("run", run, next_seq=1, live=False)
    task = asyncio.create_task(catch_up(socket.connection, as_log(log), "run", followed))
    await turns(5)
    socket.connection.detach()
    await asyncio.wait_for(task, WAIT_SECONDS)
    assert log.reads == 0


async def test_two_runs_catch_up_side_by_side() -> None:
    """Both wait for the same socket; neither keeps the other from being woken."""
    socket = Socket()
    socket.transport.writable = False
    tasks = []
    for name in ("first", "second"):
        run = accepted_run(name)
        log = RacedLog(socket, run, before=3, schedule=[])
        followed = socket.connection.follow(name, run, next_seq=1, live=False)
        tasks.append(asyncio.create_task(catch_up(socket.connection, as_log(log), name, followed)))
    await turns(5)
    socket.resume()
    await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS)
    assert len(socket.transport.frames) == 6


async def test_a_run_that_is_settled_is_replayed_without_a_ledger() -> None:
    """Its ledger is dropped: the events come from the log, and nothing is stamped."""
    socket = Socket()
    log = RacedLog(socket, None, before=3, schedule=[])
    followed = socket.connection.follow("run", None, next_seq=2, live=False)
    await asyncio.wait_for(catch_up(socket.connection, as_log(log), "run", followed), WAIT_SECONDS)
    assert log.bodies[1:] == socket.transport.frames
    assert socket.connection.first_event_ns > 0
