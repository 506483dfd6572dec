"""Deltas that wait for a slow socket: joined into one envelope, none lost, each still counted and stamped."""

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tracewire.delivery.deltas import WaitingDeltas
from tracewire.delivery.outbox import JOINING_BYTES, Outbox, Queued
from tracewire.events import (
    EVENT_BYTES_MAX,
    AgentDelta,
    AgentThinking,
    Envelope,
    Event,
    decode_envelope,
    encode_envelope,
)
from unit.sockets import Socket, accepted_run, committed, turns

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def body_of(seq: int, event: Event, *, run_id: str = "run", agent: str = "five") -> bytes:
    """An event as it is in the log."""
    return encode_envelope(Envelope(event.type, run_id, seq, f"time {seq}", agent, f"trace {seq}", event))


def delta(seq: int, text: str, **more: Any) -> Queued:
    """A delta as it is queued."""
    return Queued(body_of(seq, AgentDelta(text), **more), seq, None, 7, seq)


def joined(*deltas: Queued) -> WaitingDeltas:
    """These, in one."""
    waiting = WaitingDeltas.of(deltas[0])
    assert waiting is not None
    for one in deltas[1:]:
        assert waiting.add(one)
    return waiting


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=8),
    agent=st.sampled_from(["five", '"data":{"text":"', '\\"data\\":{\\"text\\":\\"', '"}}', "ä\x01\\"]),
)
@settings(max_examples=200, deadline=None)
def test_joined_deltas_are_the_last_envelope_with_all_of_the_text(texts: list[str], agent: str) -> None:
    """Whatever is in the texts and in the agent's name; its size is known before it is made."""
    waiting = joined(*(delta(seq, text, agent=agent) for seq, text in enumerate(texts, 5)))
    last = 4 + len(texts)
    size = waiting.bytes
    taken = waiting.take()
    assert (5 if len(texts) > 1 else 0, last, size) == (taken.first_seq, taken.seq, len(taken.body))
    expected = {
        "type": "agent_delta",
        "run_id": "run",
        "seq": last,
        "time": f"time {last}",
        "agent": agent,
        "traceparent": f"trace {last}",
        "data": {"text": "".join(texts)},
    }
    assert expected | ({"first_seq": 5} if len(texts) > 1 else {}) == json.loads(taken.body)
    assert "".join(texts) == decode_envelope(taken.body).data["text"]


def test_a_joined_envelope_has_waited_as_long_as_its_first_delta() -> None:
    """The bound on age is kept for the oldest of them."""
    assert joined(delta(3, "a"), delta(4, "b")).take().queued_ns == 3


def test_a_delta_that_does_not_follow_is_not_added() -> None:
    """Not one before, not the same, not one behind a gap."""
    waiting = joined(delta(3, "a"), delta(4, "b"))
    assert [waiting.add(delta(seq, "c")) for seq in (2, 4, 6)] == [False] * 3


def test_what_is_taken_grows_no_more() -> None:
    """It is on its way already."""
    waiting = joined(delta(1, "a"))
    waiting.take()
    assert not waiting.add(delta(2, "b"))


def test_nothing_but_whole_deltas_is_joined() -> None:
    """A thought is not, and a text that was cut is not: it would seem to go on where it does not."""
    thought = Queued(body_of(2, AgentThinking("b", 1)), 0, None, 7, 2)
    cut = delta(2, "x" * (EVENT_BYTES_MAX + 1))
    waiting = joined(delta(1, "a"))
    assert [(WaitingDeltas.of(event), waiting.add(event)) for event in (thought, cut)] == [(None, False)] * 2


def test_a_joined_envelope_is_no_larger_than_an_event_may_be() -> None:
    """To the byte: the delta that would pass 64 KiB begins an envelope of its own."""
    first = delta(1, "a" * 40_000)
    room = EVENT_BYTES_MAX - len(joined(first, delta(2, "")).take().body)
    assert joined(first, delta(2, "b" * room)).bytes == EVENT_BYTES_MAX
    assert not joined(first).add(delta(2, "b" * (room + 1)))


@given(
    steps=st.lists(st.tuples(st.sampled_from(["ada", "bob", "take"]), st.booleans(), TEXTS), max_size=40),
    bytes_max=st.just(1 << 20),
)
@settings(max_examples=200, deadline=None)
def test_each_run_leaves_an_outbox_that_joins_in_order_and_whole(
    steps: list[tuple[str, bool, str]], bytes_max: int
) -> None:
    """Deltas and thoughts of two runs, with takes between; the outbox knows its bytes at every step."""
    outbox = Outbox(bytes_max=bytes_max, age_seconds=5)
    waiting: dict[str, WaitingDeltas | None] = {"ada": None, "bob": None}
    queued: dict[str, list[tuple[int, str]]] = {"ada": [], "bob": []}
    left: list[Queued] = []
    for name, is_delta, text in steps:
        if name == "take":
            left += [outbox.pop()] if len(outbox) else []
            continue
        seq = len(queued[name]) + 1
        event: Event = AgentDelta(text) if is_delta else AgentThinking(text, seq)
        waiting[name] = outbox.join(Queued(body_of(seq, event, run_id=name), 0, None, 7, seq), waiting[name])
        queued[name].append((seq, text))
    rest = outbox.bytes
    drained = [outbox.pop() for _ in range(len(outbox))]
    assert (rest, 0) == (sum(len(one.body) for one in drained), outbox.bytes)
    found: dict[str, list[tuple[int, str]]] = {"ada": [], "bob": []}
    for one in left + drained:
        envelope = decode_envelope(one.body)
        found[envelope.run_id].append((envelope.seq, envelope.data["text"]))
        assert (one.first_seq or one.seq) == (found[envelope.run_id][-2:-1] or [(0, "")])[0][0] + 1
    for name, events in queued.items():
        assert "".join(text for _, text in events) == "".join(text for _, text in found[name])


# --- at a connection ------------------------------------------------------------------------------------------------


def emit(socket: Socket, run: Any, count: int, *, thought: bool = False) -> None:
    """So many deltas of the run become durable, and are offered."""
    for _ in range(count):
        seq = committed(run)
        event: Event = AgentThinking("t", 1) if thought else AgentDelta(f"{seq} ")
        socket.connection.offer("run", seq, body_of(seq, event))


async def test_a_peer_that_reads_gets_each_delta_on_its_own() -> None:
    """However many are queued at once: nothing is joined for it."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    socket.connection.send(b'{"type":"pong"}')  # is written in the loop's next turn, and what comes meanwhile after it
    emit(socket, run, 500)
    assert socket.connection.outbox.bytes > JOINING_BYTES
    await turns(20)
    assert list(range(1, 501)) == [json.loads(frame)["seq"] for frame in socket.transport.frames[1:]]


async def test_a_peer_that_reads_slowly_gets_the_deltas_that_wait_joined_and_each_is_stamped() -> None:
    """In order with the thought between them; every seq has a stamp, and the ledger a line without gaps."""
    socket, run = Socket(), accepted_run()
    followed = socket.connection.follow("run", run)
    socket.transport.writable = False
    emit(socket, run, 1_000)
    emit(socket, run, 1, thought=True)
    emit(socket, run, 999)
    assert socket.connection.outbox.bytes < 2 * JOINING_BYTES
    await turns(5)
    assert (socket.transport.frames, run.ledger.sends) == ([], {})
    socket.resume()
    await turns(20)
    envelopes = [json.loads(frame) for frame in socket.transport.frames]
    text = "".join(envelope["data"]["text"] for envelope in envelopes if envelope["type"] == "agent_delta")
    assert [str(seq) for seq in range(1, 2_001) if seq != 1_001] == text.split()
    spans = [(envelope.get("first_seq", envelope["seq"]), envelope["seq"]) for envelope in envelopes]
    assert list(range(1, 2_001)) == [seq for first, last in spans for seq in range(first, last + 1)]
    assert [(1_002, 2_000)] == spans[-1:]
    send = run.ledger.sends[followed.socket]
    assert (1, 2_000, True) == (send.first_seq, len(send.stamps), all(run.ledger.socket))


async def test_a_reader_of_server_sent_events_gets_no_delta_joined() -> None:
    """It is promised each envelope as the log holds it."""
    socket, run = Socket(), accepted_run()
    socket.connection.reader = True
    socket.connection.follow("run", run)
    socket.transport.writable = False
    emit(socket, run, 200)
    socket.resume()
    await turns(10)
    assert list(range(1, 201)) == [json.loads(frame)["seq"] for frame in socket.transport.frames]


async def test_a_resume_while_joined_deltas_wait_gives_them_anew_behind_what_waited() -> None:
    """What was queued for the run before is one thing, what is followed anew another: nothing is added across."""
    socket, run = Socket(), accepted_run()
    socket.connection.follow("run", run)
    socket.transport.writable = False
    emit(socket, run, 200)
    socket.connection.send(b'{"type":"resumed"}')
    socket.connection.follow("run", run, next_seq=201)
    emit(socket, run, 5)
    socket.resume()
    await asyncio.wait_for(turns(10), 10)
    kinds = [json.loads(frame)["type"] for frame in socket.transport.frames]
    assert [("resumed", 201), ("agent_delta", 201)] == [
        (kinds[-2], json.loads(socket.transport.frames[-1]).get("first_seq", 0)),
        (kinds[-1], 201),
    ]
