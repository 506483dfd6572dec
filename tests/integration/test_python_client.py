"""The Python client against scripted servers: losses, refusals, gaps, renewals, and what its callers hear of them."""

import asyncio
import http
import time
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosedError

from support.scripted_server import WAIT_SECONDS, Peer, ScriptedServer
from tracewire.client import (
    Client,
    ClientRun,
    ClientState,
    ConnectionFailedError,
    EventsMissingError,
    RequestRejectedError,
    Stage,
)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoffs of a moment: what is looked at is their order."""
    monkeypatch.setattr("tracewire.client_connection.BACKOFF_SECONDS_MIN", 0.01)
    monkeypatch.setattr("tracewire.client_connection.BACKOFF_SECONDS_MAX", 0.05)


def token_until(expires_at: float) -> str:
    """A token that says when it expires."""
    return jwt.encode({"sub": "ada", "exp": expires_at}, "a secret of the test's own, 32 bytes or longer")


async def ready_and_stay(peer: Peer) -> None:
    """Nothing but `ready`."""
    await peer.ready()
    await peer.stay()


async def seqs_of(run: ClientRun) -> list[int]:
    """Every seq that comes, to the end."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [envelope.seq async for envelope in run]


async def states_until(client: Client, *stages: Stage) -> list[ClientState]:
    """The states from now on, until these stages have come in this order."""
    came, waiting = [], list(stages)
    async with asyncio.timeout(WAIT_SECONDS):
        async for state in client.states():
            came.append(state)
            if state.stage is waiting[0]:
                waiting.pop(0)
            if not waiting:
                break
    return came


# Losing the connection.


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000, 4001, 4002, 4003, 4004, 4499])
async def test_a_close_that_asks_for_it_is_followed_by_another_connection(code: int) -> None:
    """Its state says why, by which code, and when the next attempt begins."""

    async def close(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("start_run")
        await peer.close(code)

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async with ScriptedServer(close, accept) as server, Client(server.url, "token") as client:
        states = asyncio.create_task(
            states_until(client, Stage.READY, Stage.RECONNECTING, Stage.CONNECTING, Stage.READY)
        )
        run = await client.start_run("hello")
        assert run.run_id == "run"
        ready, lost, *_ = await states
    assert ready == ClientState(Stage.READY)
    assert (lost.close_code, "scripted" in lost.why) == (code, True)
    assert lost.retry_in_seconds is not None
    assert 0 < lost.retry_in_seconds <= 0.05


async def test_a_lost_connection_and_a_refused_handshake_are_tried_again() -> None:
    """Cut without a goodbye, then 503, then there."""

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("start_run")
        peer.cut()

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    unavailable = http.HTTPStatus.SERVICE_UNAVAILABLE
    async with ScriptedServer(cut, unavailable, unavailable, accept) as server:
        async with Client(server.url, "token") as client:
            assert (await client.start_run("hello", request_id="one")).run_id == "run"
        assert len(server.tokens) == 4


async def test_entering_tries_for_as_long_as_it_is_told() -> None:
    """A server that comes up is waited for, and its `Retry-After` kept to; otherwise the first refusal raises."""
    unavailable = http.HTTPStatus.SERVICE_UNAVAILABLE
    async with ScriptedServer(unavailable, unavailable, ready_and_stay, retry_after="0.2") as server:
        with pytest.raises(ConnectionFailedError, match="HTTP 503"):
            async with Client(server.url, "token"):
                pass
        async with Client(server.url, "token", connect_seconds=WAIT_SECONDS) as client:
            assert client.user_id == "ada"
        assert len(server.tokens) == 3
    async with ScriptedServer(unavailable, ready_and_stay, retry_after="0.2") as server:
        client = Client(server.url, "token", connect_seconds=WAIT_SECONDS)
        watching = asyncio.create_task(states_until(client, Stage.RECONNECTING))
        await asyncio.sleep(0)
        async with client:
            states = await watching
    assert (states[-1].retry_in_seconds or 0) >= 0.2


@pytest.mark.parametrize("code", [4501, 4502, 4503, 4504, 4505, 4999, 1002, 1008, 1009])
async def test_a_final_close_ends_runs_starts_and_states_with_its_reason(code: int) -> None:
    """Whoever iterates, starts or looks at the states is told, and no other connection is tried."""

    async def close(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.receive("start_run")
        await peer.close(code)

    async with ScriptedServer(close) as server, Client(server.url, "token") as client:
        run = await client.start_run("hello")
        with pytest.raises(ConnectionFailedError) as started:
            await client.start_run("again")
        with pytest.raises(ConnectionFailedError) as iterated:
            await seqs_of(run)
        with pytest.raises(ConnectionFailedError) as later:
            await client.start_run("later")
        last = [state async for state in client.states()][-1]
        assert len(server.tokens) == 1
    assert [code] * 3 == [raised.value.close_code for raised in (started, iterated, later)]
    assert (Stage.CLOSED, code) == (last.stage, last.close_code)
    assert str(code) in last.why


async def test_a_server_that_falls_silent_is_taken_for_dead() -> None:
    """Two of its heartbeats without a frame: the connection is dropped, whatever TCP believes."""

    async def silent(peer: Peer) -> None:
        await peer.ready(heartbeat_seconds=0.05)
        await peer.stay()

    async with ScriptedServer(silent, ready_and_stay) as server, Client(server.url, "token") as client:
        states = await states_until(client, Stage.RECONNECTING, Stage.READY)
    assert "no frame for 0.1 s" in next(state.why for state in states if state.stage is Stage.RECONNECTING)


async def test_a_server_that_accepts_and_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted socket is no sign of anything."""
    monkeypatch.setattr("tracewire.client_connection.READY_SECONDS", 0.2)

    async def never(peer: Peer) -> None:
        await peer.stay()

    async with ScriptedServer(never) as server:
        with pytest.raises(ConnectionFailedError, match=r"no frame for 0\.2 s"):
            async with Client(server.url, "token"):
                pass


async def test_a_connection_that_was_ready_for_a_moment_alone_is_no_failure() -> None:
    """Whoever waits for it waits for the next one: it was lost before their turn came."""

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async with ScriptedServer(accept) as server, Client(server.url, "token") as client:
        client._connection.is_ready.clear()
        starting = asyncio.create_task(client.start_run("hello"))
        for _ in range(3):  # it waits, and its wait for `ready` does
            await asyncio.sleep(0)
        client._connection.is_ready.set()
        client._connection.is_ready.clear()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not starting.done()
        client._connection.is_ready.set()
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await starting).run_id == "run"


async def test_a_cancel_into_a_closed_connection_goes_over_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller hears of no lost connection."""
    cancelled = asyncio.Event()

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async def take(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("resume")
        await peer.receive("cancel_run")
        cancelled.set()
        await peer.stay()

    async with ScriptedServer(cut, take) as server, Client(server.url, "token") as client:
        run = await client.start_run("hello")
        socket = client._connection.socket
        assert socket is not None

        async def closed(*_: Any, **__: Any) -> None:
            socket.transport.abort()
            raise ConnectionClosedError(None, None)

        monkeypatch.setattr(socket, "send", closed)
        async with asyncio.timeout(WAIT_SECONDS):
            await run.cancel()
            await cancelled.wait()


async def test_a_draining_server_is_told_of_and_left_in_peace() -> None:
    """A start that it refuses is repeated by the next connection, which comes no sooner than the server asks for."""

    async def drain(peer: Peer) -> None:
        await peer.ready()
        start = await peer.receive("start_run")
        await peer.send("draining", retry_after_seconds=0.3)
        await peer.send(
            "rejected", frame="start_run", request_id=start["request_id"], code="draining", message="stopping"
        )
        await peer.close(4000)

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async with ScriptedServer(drain, accept) as server, Client(server.url, "token") as client:
        states = asyncio.create_task(states_until(client, Stage.READY, Stage.DRAINING, Stage.RECONNECTING))
        assert (await client.start_run("hello")).run_id == "run"
        _, draining, lost = await states
    assert (draining.retry_in_seconds, lost.close_code) == (0.3, 4000)
    assert (lost.retry_in_seconds or 0) > 0.3


# Starting and catching up.


async def test_a_start_whose_answer_was_lost_is_sent_again_as_it_was() -> None:
    """The same request id, until it is accepted: it is one run, however often the connection goes."""
    starts = []

    async def cut(peer: Peer) -> None:
        await peer.ready()
        starts.append(await peer.receive("start_run"))
        peer.cut()

    async def accept(peer: Peer) -> None:
        await peer.ready()
        starts.append(await peer.receive("start_run"))
        await peer.accept(starts[-1])
        await peer.complete(1)
        await peer.stay()

    async with ScriptedServer(cut, cut, accept) as server, Client(server.url, "token") as client:
        run = await client.start_run({"q": 1}, agent="five", thread_id="t")
        assert [1] == await seqs_of(run)
    assert len(starts) == 3
    assert starts[0] == starts[1] == starts[2]


async def test_a_run_that_this_client_does_not_remember_is_followed_from_its_first_event() -> None:
    """`ready` lists it, `follow` gives all of it."""
    listing = {"run_id": "old", "request_id": "r", "agent": "five", "state": "running", "last_seq": 2, "acked_seq": 1}

    async def replay(peer: Peer) -> None:
        await peer.ready(listing)
        assert {"old": 0} == (await peer.receive("resume"))["runs"]
        await peer.send("resumed", run_id="old", recovered=True, state="running", from_seq=1, last_seq=2)
        await peer.event(1, run_id="old", text="one")
        await peer.complete(2, run_id="old")
        await peer.stay()

    async with ScriptedServer(replay) as server, Client(server.url, "token") as client:
        (listed,) = client.runs
        assert (listed.run_id, listed.state, listed.acked_seq) == ("old", "running", 1)
        run = await client.follow(listed.run_id)
        assert [1, 2] == await seqs_of(run)
        assert (run.request_id, run.receipt_agrees) == ("r", True)


async def test_a_start_that_was_given_up_and_is_asked_for_again_gives_all_of_its_run() -> None:
    """What came meanwhile went to nobody; the second caller gets it, from the first event on."""
    came = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.ready()
        start = await peer.receive("start_run")
        given_up.cancel()
        await peer.accept(start)
        await peer.event(1, text="one")
        await peer.receive("ack")
        came.set()
        await peer.accept(await peer.receive("start_run"))
        assert {"run": 0} == (await peer.receive("resume"))["runs"]
        await peer.complete(2)  # live, and behind what is still to be replayed
        await peer.send("resumed", run_id="run", recovered=True, state="running", from_seq=1, last_seq=2)
        await peer.event(1, text="one")
        await peer.complete(2)
        await peer.stay()

    async with ScriptedServer(play) as server, Client(server.url, "token") as client:
        given_up = asyncio.create_task(client.start_run("hello", request_id="mine"))
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await came.wait()
        run = await client.start_run("hello", request_id="mine")
        assert [1, 2] == await seqs_of(run)
        assert run.receipt_agrees


async def test_one_of_two_callers_of_a_start_may_give_it_up() -> None:
    """The other one's start goes on, over the next connection too."""

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("start_run")
        first.cancel()
        await asyncio.wait({first})
        peer.cut()

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async with ScriptedServer(cut, accept) as server, Client(server.url, "token") as client:
        first, second = (asyncio.create_task(client.start_run("hello", request_id="mine")) for _ in range(2))
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await second).run_id == "run"
        assert first.cancelled()


@pytest.mark.parametrize(("reason", "told"), [("expired", "only from 7 on"), ("unknown_run", "no such run")])
async def test_a_run_that_cannot_be_resumed_is_an_error_to_whoever_iterates(reason: str, told: str) -> None:
    """After what had come; it does not hang."""

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.event(1, text="one")
        await peer.receive("ack")
        peer.cut()

    async def gone(peer: Peer) -> None:
        await peer.ready()
        assert {"run": 1} == (await peer.receive("resume"))["runs"]
        await peer.send("resumed", run_id="run", recovered=False, reason=reason, state=None, from_seq=7, last_seq=9)
        await peer.stay()

    async with ScriptedServer(cut, gone) as server, Client(server.url, "token") as client:
        run = await client.start_run("hello")
        assert (await anext(run)).seq == 1
        with pytest.raises(RequestRejectedError, match=told) as raised:
            await seqs_of(run)
    assert raised.value.code == reason


# Gaps and acks.


async def test_a_gap_is_asked_for_once_and_filled() -> None:
    """However many events come behind it before the answer."""

    async def play(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        for seq in (1, 3, 4, 5):
            await peer.event(seq, text="t")
        ack = await peer.receive("ack")
        assert (1, 1) == (ack["seq"], ack["count"])
        assert {"run": 1} == (await peer.receive("resume"))["runs"]
        await peer.send("resumed", run_id="run", recovered=True, state="running", from_seq=2, last_seq=5)
        for seq in (2, 3, 4, 5):
            await peer.event(seq, text="t")
        await peer.complete(6)
        last = await peer.receive("ack")
        while last["seq"] < 6:
            last = await peer.receive("ack")
        assert last["count"] == 6
        await peer.stay()

    async with ScriptedServer(play) as server, Client(server.url, "token") as client:
        run = await client.start_run("hello")
        assert [1, 2, 3, 4, 5, 6] == await seqs_of(run)
        assert run.receipt_agrees


async def test_an_event_that_never_comes_is_an_error_that_names_it() -> None:
    """Asked for three times, it is not waited for any longer."""
    resumes = []

    async def play(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.event(1, text="t")
        while True:
            await peer.event(3, text="t")
            frame = await peer.receive("ack", "resume")
            if frame["type"] == "resume":
                resumes.append(frame["runs"])
                await peer.send("resumed", run_id="run", recovered=True, state="running", from_seq=2, last_seq=3)

    async with ScriptedServer(play) as server, Client(server.url, "token") as client:
        run = await client.start_run("hello")
        assert (await anext(run)).seq == 1
        with pytest.raises(EventsMissingError, match="event 2 of run run does not come") as raised:
            await seqs_of(run)
    assert (raised.value.seq, resumes) == (2, [{"run": 1}] * 3)


async def test_the_last_ack_that_a_connection_took_with_it_is_sent_again() -> None:
    """The next `ready` says that the server never had it."""
    again: list[Any] = []
    listing = {"run_id": "run", "request_id": "r", "agent": "five", "state": "completed", "last_seq": 2}

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.event(1, text="t")
        await peer.complete(2)
        while (await peer.receive("ack"))["seq"] < 2:
            pass
        peer.cut()

    async def listed(peer: Peer) -> None:
        await peer.ready(listing | {"acked_seq": 1})
        again.append(await peer.receive("ack"))
        await peer.stay()

    async with ScriptedServer(cut, listed) as server, Client(server.url, "token") as client:
        assert [1, 2] == await seqs_of(await client.start_run("hello"))
        async with asyncio.timeout(WAIT_SECONDS):
            while not again:
                await asyncio.sleep(0)
    assert again == [{"type": "ack", "run_id": "run", "seq": 2, "count": 2}]


# The token.


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_token_is_renewed_on_the_open_socket_before_it_expires(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a fresh one of the provider, plain or async; and once more before that one does."""
    monkeypatch.setattr("tracewire.client_token.RENEWAL_SECONDS_MIN", 0.01)
    given: list[str] = []

    def provide() -> str:
        given.append(token_until(time.time() + 0.3))
        return given[-1]

    async def provide_later() -> str:
        await asyncio.sleep(0)
        return provide()

    renewed = []

    async def play(peer: Peer) -> None:
        await peer.ready()
        for _ in range(2):
            renewed.append((await peer.receive("authenticate"))["token"])
            await peer.send("authenticated", expires_at=time.time() + 0.3)
        await peer.stay()

    async with ScriptedServer(play) as server:
        async with Client(server.url, provide_later if is_async else provide) as client:
            async with asyncio.timeout(WAIT_SECONDS):
                while len(renewed) < 2:
                    await asyncio.sleep(0)
            assert client.state.stage is Stage.READY
        assert [given[0]] == server.tokens
        assert given[1:3] == renewed


async def test_a_renewal_that_is_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old token still stands; the client's owner is told."""
    monkeypatch.setattr("tracewire.client_token.RENEWAL_SECONDS_MIN", 0.01)
    monkeypatch.setattr("tracewire.client_connection.RENEWAL_AGAIN_SECONDS", 0.01)
    refused: list[str] = []
    answered = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("authenticate")
        await peer.send("rejected", frame="authenticate", code="unauthenticated", message="not this one")
        await peer.receive("authenticate")
        answered.set()
        await peer.stay()

    async with (
        ScriptedServer(play) as server,
        Client(
            server.url, lambda: token_until(time.time() + 0.1), on_rejected=lambda error: refused.append(error.code)
        ),
        asyncio.timeout(WAIT_SECONDS),
    ):
        await answered.wait()
    assert refused == ["unauthenticated"]


async def test_a_provider_that_fails_is_asked_again_and_its_reason_told() -> None:
    """Each connection asks for a token of its own; a failure is a reason to wait, not to give up."""
    answers = iter(["first", OSError("the sign-in service is away"), "third"])

    def provide() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def cut(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("start_run")
        peer.cut()

    async def accept(peer: Peer) -> None:
        await peer.ready()
        await peer.accept(await peer.receive("start_run"))
        await peer.stay()

    async with ScriptedServer(cut, accept) as server:
        async with Client(server.url, provide) as client:
            states = asyncio.create_task(states_until(client, Stage.RECONNECTING, Stage.RECONNECTING, Stage.READY))
            await client.start_run("hello")
            whys = [state.why for state in await states if state.stage is Stage.RECONNECTING]
        assert ["first", "third"] == server.tokens
    assert "the token provider failed: OSError: the sign-in service is away" in whys[1]


async def test_a_provider_that_gives_no_token_at_first_is_an_error_to_whoever_enters() -> None:
    """With what it gave, and no attempt to connect."""
    async with ScriptedServer(ready_and_stay) as server:
        with pytest.raises(ConnectionFailedError, match="gave NoneType, not a token's text"):
            async with Client(server.url, lambda: None):  # type: ignore[arg-type,return-value] # that is the point
                pass
        assert server.tokens == []
