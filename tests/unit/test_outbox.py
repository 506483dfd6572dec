"""What waits to be written to one socket: in order, bounded by bytes and age, nothing dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewire.delivery.outbox import FRAME_BYTES, Outbox, Queued

SECOND_NS = 1_000_000_000


def filled(*bodies: bytes, bytes_max: int = 1000, age_seconds: float = 5) -> Outbox:
    """An outbox in which these wait since moments 0, 1, 2 … seconds."""
    outbox = Outbox(bytes_max=bytes_max, age_seconds=age_seconds)
    for second, body in enumerate(bodies):
        outbox.push(Queued(body, second * SECOND_NS))
    return outbox


@given(st.lists(st.binary(max_size=20) | st.none()))
def test_frames_leave_in_order_and_the_bytes_are_those_that_wait(steps: list[bytes | None]) -> None:
    """Random pushes and (`None`) pops against a plain list."""
    outbox, expected = filled(), list[bytes]()
    for step in steps:
        if step is not None:
            outbox.push(Queued(step, 0))
            expected.append(step)
        elif expected:
            assert expected.pop(0) == outbox.pop().body
        assert (len(expected), sum(map(len, expected))) == (len(outbox), outbox.bytes)


def test_ready_goes_before_all_that_waits() -> None:
    """And counts in bytes as any other."""
    outbox = filled(b"one", b"two")
    outbox.push_front(Queued(b"ready", 0))
    assert outbox.bytes == 11
    assert [outbox.pop().body for _ in range(3)] == [b"ready", b"one", b"two"]
    assert outbox.bytes == 0


def test_it_is_overfull_above_its_bytes() -> None:
    """The bound itself fits, and each frame counts for what it takes beside its bytes."""
    assert not filled(b"x" * 100, bytes_max=100 + FRAME_BYTES).overfull(0)
    assert filled(b"x" * 101, bytes_max=100 + FRAME_BYTES).overfull(0)
    assert filled(b"x" * 99, b"y", bytes_max=100 + FRAME_BYTES).overfull(0)


def test_it_is_overfull_when_its_oldest_frame_is_too_old() -> None:
    """Age is that of the frame that has waited longest, not of the newest."""
    outbox = filled(b"a", b"b")
    assert not outbox.overfull(5 * SECOND_NS)
    assert outbox.overfull(5 * SECOND_NS + 1)
    outbox.pop()
    assert not outbox.overfull(5 * SECOND_NS + 1)


def test_an_empty_outbox_is_never_overfull() -> None:
    """However late it is."""
    assert not filled().overfull(1 << 62)


def test_clearing_forgets_everything() -> None:
    """The socket is gone, and the log has it all."""
    outbox = filled(b"a", b"b")
    outbox.clear()
    assert (len(outbox), outbox.bytes, outbox.overfull(1 << 62)) == (0, 0, False)


def test_taking_from_an_empty_outbox_is_an_error() -> None:
    """Nothing is made up."""
    with pytest.raises(IndexError):
        filled().pop()
