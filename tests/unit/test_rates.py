"""Allowances, and what a frame costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewire.allowances import Allowance, UserAllowances
from tracewire.errors import RejectedError
from tracewire.gateway import frames
from tracewire.gateway.rates import FrameRate, frame_allowances
from tracewire_telemetry.vocabulary import RejectCode
from unit.sockets import Socket, accepted_run

SECOND = 1_000_000_000


def test_an_allowance_is_spent_at_once_and_fills_up_again() -> None:
    """What is over it takes nothing, and says how long to wait: then there is enough, and not before."""
    allowance = Allowance(per_second=2, burst=10, now=0)
    assert [0.0] * 10 == [allowance.take(0) for _ in range(10)]
    assert [0.5, 0.5, 1.5] == [allowance.take(0), allowance.take(0), allowance.take(0, 3)]
    assert 0.25 == allowance.take(SECOND // 4)
    assert [0.0, 0.5] == [allowance.take(SECOND // 2), allowance.take(SECOND // 2)]
    assert [0.0] * 10 == [allowance.take(100 * SECOND) for _ in range(10)]
    assert allowance.take(100 * SECOND) > 0


def test_more_than_the_whole_allowance_is_granted_when_it_is_full() -> None:
    """Otherwise it would never be."""
    allowance = Allowance(per_second=1, burst=10, now=0)
    assert 0.0 == allowance.take(0, 1_000)
    assert 10.0 == allowance.take(0, 1_000)
    assert 0.0 == allowance.take(10 * SECOND, 1_000)


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 5)), min_size=1, max_size=60))
def test_never_more_is_granted_than_the_rate_allows(steps: list[tuple[int, int]]) -> None:
    """In any time: the burst, and what has come in since."""
    allowance, now, granted = Allowance(per_second=3, burst=6, now=0), 0, 0
    for pause, count in steps:
        now += pause
        if not allowance.take(now, count):
            granted += count
        assert granted <= 6 + 3 * now / SECOND + 1e-6


def test_what_was_not_needed_comes_back() -> None:
    """Up to the whole allowance."""
    users = UserAllowances(1, 2)
    assert [0.0, 0.0] == [users.take("ada", 0), users.take("ada", 0)]
    users.give_back("ada")
    assert [0.0, 1.0] == [users.take("ada", 0), users.take("ada", 0)]
    users.give_back("ada", 100)
    assert [0.0, 0.0, 1.0] == [users.take("ada", 0) for _ in range(3)]
    users.give_back("nobody")


def test_users_have_an_allowance_each_and_are_forgotten_when_it_is_full_again() -> None:
    """So that memory holds those who came lately."""
    users = UserAllowances(1, 2)
    for number in range(100):
        assert 0.0 == users.take(f"user {number}", 0)
    assert 0.0 == users.take("user 0", 0)
    assert users.take("user 0", 0) > 0
    assert 100 == len(users)
    assert 0.0 == users.take("another", SECOND)
    assert 2 == len(users), "one of them was spent to its end, and comes last"
    assert 0.0 == users.take("another", 3 * SECOND)
    assert 1 == len(users)


# What a frame costs: ten a second, fifty at once.

RATE = 10
BURST = 50


ACK = frames.Ack("run", 1)
CANCEL = frames.CancelRun("run")
START = frames.StartRunFrame("request", "go")
PONG = frames.Pong(1)


class Sender:
    """A ready socket that follows a run of which it was sent so many events, and its rate."""

    def __init__(self, sent: int = 0, users: UserAllowances | None = None) -> None:
        self.connection = Socket("ada").connection
        followed = self.connection.follow("run", accepted_run())
        followed.next_seq = sent + 1
        self.rate = FrameRate(users if users is not None else frame_allowances(RATE), RATE)

    def send(self, frame: frames.ClientFrame, now: int = 0) -> float | str:
        """How long the frame waits, or the code with which it is refused."""
        try:
            return self.rate.admit(frame, self.connection, now)
        except RejectedError as error:
            return error.code if error.retry_after_seconds else "no time to wait is given"


async def test_an_ack_of_new_events_costs_nothing() -> None:
    """One by one for ten thousand events at once; each frees nothing and holds nothing up."""
    sender = Sender(sent=10_000)
    assert {0.0} == {sender.send(frames.Ack("run", seq)) for seq in range(1, 10_001)}
    assert [0.0] * BURST == [sender.send(CANCEL) for _ in range(BURST)]


@pytest.mark.parametrize("ack", [frames.Ack("run", 3), frames.Ack("run", 0), frames.Ack("run", 11), frames.Ack("x", 1)])
async def test_any_other_ack_waits_and_is_not_refused(ack: frames.Ack) -> None:
    """One that was sent before, one of nothing, one ahead, one of a run that the socket does not follow."""
    sender = Sender(sent=10)
    assert 0.0 == sender.send(frames.Ack("run", 5))
    assert [0.0] * BURST == [sender.send(ack) for _ in range(BURST)]
    assert [0.1] * 100 == [sender.send(ack) for _ in range(100)]
    assert not sender.rate.flooding
    assert 0.0 == sender.send(ack, SECOND // 10)


async def test_a_pong_waits_too() -> None:
    """It answers a ping; there is no need of many."""
    sender = Sender()
    assert [0.0] * BURST == [sender.send(PONG) for _ in range(BURST)]
    assert 0.1 == sender.send(PONG)


async def test_other_frames_are_refused_over_the_rate_and_in_the_end_flood() -> None:
    """With the time to wait, after which one gets through; as many refusals in a minute as go through in a second."""
    sender = Sender()
    assert [0.0] * BURST == [sender.send(frame) for frame in [CANCEL, START] * (BURST // 2)]
    for number in range(RATE):
        assert RejectCode.RATE_LIMITED == sender.send(CANCEL)
        assert not sender.rate.flooding, number
    assert 0.0 == sender.send(START, SECOND // 10)
    assert RejectCode.RATE_LIMITED == sender.send(START, SECOND // 10)
    assert sender.rate.flooding
    patient = Sender()
    now = 0
    for _ in range(20):
        while patient.send(CANCEL, now) == 0.0:
            pass
        now += 10 * SECOND
    assert not patient.rate.flooding, "few refusals a minute are none"


async def test_a_resume_costs_as_much_as_it_names() -> None:
    """Each of its runs may be read back whole."""
    sender = Sender()
    runs = {f"run {number}": 0 for number in range(BURST - 1)}
    assert 0.0 == sender.send(frames.Resume(runs))
    assert 0.0 == sender.send(CANCEL)
    assert RejectCode.RATE_LIMITED == sender.send(frames.Resume({}))
    assert RejectCode.RATE_LIMITED == sender.send(frames.Resume(runs), SECOND)
    assert 0.0 == sender.send(frames.Resume(runs), 6 * SECOND)


async def test_the_sockets_of_a_user_share_one_allowance() -> None:
    """Ten sockets are no ten times as much; before sign-in each has its own."""
    users = frame_allowances(RATE)
    one, other = Sender(users=users), Sender(users=users)
    assert [0.0] * BURST == [one.send(CANCEL) for _ in range(BURST)]
    assert RejectCode.RATE_LIMITED == other.send(CANCEL)
    unknown = FrameRate(users, RATE)
    assert [0.0] * BURST == [unknown.admit(frames.Authenticate("t"), None, 0) for _ in range(BURST)]
    with pytest.raises(RejectedError):
        unknown.admit(frames.Authenticate("t"), None, 0)
