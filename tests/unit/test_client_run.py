"""A run as the Python client sees it: each event once, in order, gaps noticed, the receipt held against what came."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from tracewire.client import Client, ClientRun, ConnectionFailedError
from tracewire.events import Receipt, ReceivedEnvelope
from tracewire_telemetry.vocabulary import EventType

THINKING, DELTA, COMPLETED = EventType.AGENT_THINKING, EventType.AGENT_DELTA, EventType.AGENT_COMPLETED


def a_run() -> ClientRun:
    """A run of a client that is not connected: what arrives is handed to it by the test."""
    return ClientRun(Client("ws://127.0.0.1:1/ws", "token")._send, "run", "request", "thread")


def envelope(
    seq: int, event_type: EventType = THINKING, *, first_seq: int | None = None, data: dict[str, Any] | None = None
) -> ReceivedEnvelope:
    """An envelope as it is read from the socket."""
    first = UNSET if first_seq is None else first_seq
    return ReceivedEnvelope(event_type, "run", seq, "2026-07-01T12:00:00Z", "five", "", data or {"text": "t"}, first)


def terminal(seq: int, counts: dict[str, int], event_type: EventType = COMPLETED) -> ReceivedEnvelope:
    """The last envelope, with its receipt."""
    return envelope(seq, event_type, data={"output": "a", "receipt": {"last_seq": seq, "counts": counts}})


async def queued(run: ClientRun) -> list[int]:
    """The seqs that the run gives to whoever iterates over it, as far as they have come."""
    return [(await anext(run)).seq for _ in range(run._queue.qsize())]


async def test_events_in_order_are_each_given_once() -> None:
    """Three came, three are given, up to the terminal one."""
    run = a_run()
    taken = [run._take(envelope(1)), run._take(envelope(2)), run._take(terminal(3, {}))]
    assert taken == [True] * 3
    assert [item.seq async for item in run] == [1, 2, 3]
    with pytest.raises(StopAsyncIteration):
        await anext(run)


async def test_an_event_that_came_before_is_dropped_in_silence() -> None:
    """After a resume some may come again: they are no gap, and are neither given nor counted twice."""
    run = a_run()
    for seq in (1, 2, 1, 2, 3, 3):
        assert run._take(envelope(seq))
    assert (await queued(run), dict(run.received), run.last_seq) == ([1, 2, 3], {"agent_thinking": 3}, 3)


async def test_a_gap_is_noticed_and_what_is_behind_it_is_not_taken() -> None:
    """The client acks up to the gap and resumes; then all of it comes, in order."""
    run = a_run()
    assert [run._take(envelope(seq)) for seq in (1, 3, 4)] == [True, False, False]
    assert (run.last_seq, run._ack()) == (1, {"type": "ack", "run_id": "run", "seq": 1, "count": 1})
    assert [run._take(envelope(seq)) for seq in (2, 3, 4)] == [True] * 3
    assert await queued(run) == [1, 2, 3, 4]


async def test_a_terminal_event_behind_a_gap_does_not_end_the_run() -> None:
    """Otherwise what is missing would never be asked for."""
    run = a_run()
    assert not run._take(terminal(2, {"agent_completed": 1}))
    assert (run.terminal, run.receipt, run.receipt_agrees) == (None, None, False)


async def test_joined_deltas_count_as_the_events_that_they_stand_for() -> None:
    """One envelope for seqs 2 to 5 is four deltas received."""
    run = a_run()
    run._take(envelope(1))
    assert run._take(envelope(5, DELTA, first_seq=2))
    assert (dict(run.received), run.last_seq) == ({"agent_thinking": 1, "agent_delta": 4}, 5)
    assert run._ack() == {"type": "ack", "run_id": "run", "seq": 5, "count": 5}


async def test_joined_deltas_behind_a_gap_are_not_taken() -> None:
    """It is their first that must follow."""
    run = a_run()
    run._take(envelope(1))
    assert not run._take(envelope(5, DELTA, first_seq=3))


async def test_joined_deltas_of_which_a_part_came_before_are_asked_for_singly() -> None:
    """The caller would otherwise have the text of 2 and 3 twice: the client resumes after 3, and gets 4 and 5."""
    run = a_run()
    for item in (envelope(1), envelope(2, DELTA), envelope(3, DELTA)):
        run._take(item)
    assert not run._take(envelope(5, DELTA, first_seq=2))
    assert (3, {"agent_thinking": 1, "agent_delta": 2}) == (run.last_seq, dict(run.received))
    assert [run._take(envelope(seq, DELTA)) for seq in (4, 5)] == [True, True]
    assert await queued(run) == [1, 2, 3, 4, 5]


async def test_joined_deltas_that_all_came_before_are_dropped_in_silence() -> None:
    """As any other repeat."""
    run = a_run()
    for seq in (1, 2, 3):
        run._take(envelope(seq, DELTA))
    assert run._take(envelope(3, DELTA, first_seq=2))
    assert await queued(run) == [1, 2, 3]


async def test_an_ack_is_sent_once_for_what_is_new() -> None:
    """Nothing new, no ack."""
    run = a_run()
    assert run._ack() is None
    run._take(envelope(1))
    assert (run._ack() or {})["seq"] == 1
    assert run._ack() is None


@pytest.mark.parametrize(
    ("counts", "agrees"),
    [
        ({"agent_thinking": 2, "agent_completed": 1}, True),
        ({"agent_thinking": 3, "agent_completed": 1}, False),
        ({"agent_thinking": 2}, False),
        ({"agent_thinking": 2, "agent_completed": 1, "agent_delta": 1}, False),
        ({}, False),
    ],
)
async def test_the_receipt_agrees_only_if_exactly_what_it_says_has_come(counts: dict[str, int], agrees: bool) -> None:
    """By type, the terminal event included."""
    run = a_run()
    for item in (envelope(1), envelope(2), terminal(3, counts)):
        run._take(item)
    assert (Receipt(3, counts), agrees) == (run.receipt, run.receipt_agrees)


async def test_a_receipt_of_another_length_disagrees() -> None:
    """`last_seq` must be the newest that came."""
    run = a_run()
    run._take(envelope(1, COMPLETED, data={"receipt": {"last_seq": 2, "counts": {"agent_completed": 1}}}))
    assert not run.receipt_agrees


async def test_a_run_without_its_terminal_event_has_no_receipt_that_agrees() -> None:
    """Silence is not agreement."""
    run = a_run()
    run._take(envelope(1))
    assert (run.receipt, run.receipt_agrees) == (None, False)


async def test_a_lost_connection_is_raised_after_what_had_come() -> None:
    """The events before it are given first; then the iteration fails, once."""
    run = a_run()
    run._take(envelope(1))
    run._fail(ConnectionFailedError("gone", 4501))
    assert (await anext(run)).seq == 1
    with pytest.raises(ConnectionFailedError, match="gone"):
        await anext(run)
    assert [item async for item in run] == []


@given(arrivals=st.lists(st.integers(1, 8), max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_arrives_events_are_given_once_in_order_and_without_gaps(arrivals: list[int]) -> None:
    """Any order, any repeats; a refusal is exactly an event whose predecessor has not come."""
    run = a_run()
    had = 0
    for seq in arrivals:
        assert run._take(envelope(seq)) is (seq <= had + 1)
        had = max(had, seq) if seq <= had + 1 else had
    given_out = [run._queue.get_nowait() for _ in range(run._queue.qsize())]
    assert list(range(1, had + 1)) == [item.seq for item in given_out if isinstance(item, ReceivedEnvelope)]
    assert (had, had) == (run.last_seq, sum(run.received.values()))
