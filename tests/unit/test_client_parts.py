"""The pure parts of the Python client: states as they are told, why a connection ended, when a token is due."""

import asyncio
import time

import jwt
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from tracewire.client_loss import RETRY_AFTER_SECONDS_MAX, loss_of, retry_after
from tracewire.client_state import UNREAD_STATES_MAX, ClientState, Stage, States
from tracewire.client_token import expiry_of, seconds_to_renewal

URL = "ws://127.0.0.1:1/ws"


async def test_every_iterator_gets_the_state_of_now_and_each_change_up_to_closed() -> None:
    """Whenever it begins; after `closed` there is nothing."""
    states = States()
    early = states.follow()
    states.change(ClientState(Stage.READY))
    late = states.follow()
    states.change(ClientState(Stage.READY))  # no change
    states.change(ClientState(Stage.CLOSED, "done"))
    states.change(ClientState(Stage.CONNECTING))
    assert [Stage.CONNECTING, Stage.READY, Stage.CLOSED] == [state.stage async for state in early]
    assert [Stage.READY, Stage.CLOSED] == [state.stage async for state in late]
    assert [Stage.CLOSED] == [state.stage async for state in states.follow()]


async def test_who_waits_for_a_state_is_woken_by_it() -> None:
    """It need not come at once."""
    states = States()
    iterator = states.follow()
    assert (await anext(iterator)).stage is Stage.CONNECTING
    waiting = asyncio.ensure_future(anext(iterator))
    await asyncio.sleep(0)
    assert not waiting.done()
    states.change(ClientState(Stage.READY))
    assert (await waiting).stage is Stage.READY


async def test_a_reader_of_states_who_is_slow_misses_the_oldest() -> None:
    """What it keeps is bounded, and the end always comes."""
    states = States()
    iterator = states.follow()
    for number in range(1_000):
        states.change(ClientState(Stage.RECONNECTING, str(number)))
    states.change(ClientState(Stage.CLOSED))
    came = [state async for state in iterator]
    assert (UNREAD_STATES_MAX, Stage.CLOSED) == (len(came), came[-1].stage)


@pytest.mark.parametrize(
    ("code", "final"),
    [(1000, False), (1001, False), (1006, False), (1011, False), (1012, False), (4000, False), (4499, False)]
    + [(code, True) for code in (1002, 1003, 1007, 1008, 1009, 4500, 4501, 4505, 4999)],
)
def test_a_close_is_final_by_its_code(code: int, final: bool) -> None:
    """4000 to 4499 come back, 4500 and above do not, nor does what a repetition would not change."""
    loss = loss_of(URL, ConnectionClosedError(Close(code, "why"), None))
    assert (loss.final, loss.failure.close_code) == (final, code)
    assert f"closed with {code} (why)" in str(loss.failure)


def test_a_connection_that_was_dropped_here_says_why() -> None:
    """There is no close of the server's to tell."""
    loss = loss_of(URL, ConnectionClosedError(None, None), dropped="no frame for 40 s")
    assert (loss.final, loss.failure.close_code) == (False, None)
    assert "closed with 1006 (no frame for 40 s)" in str(loss.failure)


def test_what_is_no_frame_ends_the_client_with_its_error() -> None:
    """Another connection would bring the same."""
    assert loss_of(URL, ValueError("no frame")).final


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("2", 2.0), (0.5, 0.5), ("-1", 0.0), ("", 0.0), ("soon", 0.0), ("nan", 0.0), ("inf", RETRY_AFTER_SECONDS_MAX)],
)
def test_what_a_server_asks_for_is_kept_to_within_reason(said: object, seconds: float) -> None:
    """Never below zero, never for ever."""
    assert seconds == retry_after(said)


@pytest.mark.parametrize(
    ("left", "wait"),
    [(3_600, 3_540), (600, 540), (300, 240), (100, 80), (10, 8), (1, 1), (-5, 1)],
)
def test_a_token_is_renewed_before_it_expires(left: float, wait: float) -> None:
    """A minute before; of one that does not last so long, when a fifth is left."""
    assert wait == pytest.approx(seconds_to_renewal(1_000 + left, 1_000))


def test_a_token_says_when_it_expires_and_what_is_none_says_nothing() -> None:
    """Its expiry is read, and nothing is verified: that is the server's to do."""
    expires_at = time.time() + 60
    token = jwt.encode({"sub": "ada", "exp": expires_at}, "a secret of the test's own, 32 bytes or longer")
    assert expiry_of(token) == pytest.approx(expires_at)
    timeless = jwt.encode({"sub": "ada"}, "a secret of the test's own, 32 bytes or longer")
    assert [None] * 4 == [expiry_of(token) for token in (timeless, "token", "a.b.c", "")]
