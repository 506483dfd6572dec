"""S5 to S7: a real server process, a real socket, a real token: no event is missing on the way to its user.

Each scenario is checked by the event payloads and by the traces that the process exports.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import tracewire
import tracewire_telemetry
from support.agents import known_agents
from support.auth import AUDIENCE, ISSUER, E2EAuthHelper
from support.chain_checks import AGENT, USERS, BrokenChainError, contamination, signed_in
from support.delivery_score import WEIGHTS, WHOLE, proven_score, received_score, score
from support.faults import LEAK, withheld_write
from support.served_chain import ServedChain, served_chain, without_gap
from support.served_scenarios import (
    CONNECTED_SECONDS_MAX,
    DONE_SECONDS_MAX,
    FIRST_EVENT_SECONDS_MAX,
    foreign_spans,
    s05_one_run_over_a_real_socket,
    s06_two_users_side_by_side,
    s07_the_delivery_score_is_whole,
    too_late,
)
from support.servers import FIVE, server_under_test
from support.wire import wire_to

ON_ONE_SERVER = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedChain]:
    """One server process, which trusts tokens by a secret."""
    async with served_chain(tmp_path_factory.mktemp("served")) as chain:
        yield chain


# S5: one run.


@ON_ONE_SERVER
async def test_s05_one_run_shows_five_of_five_events_in_time(served: ServedChain) -> None:
    """Started first, completed last; connected, first event and done within their limits, by clock and by trace."""
    run = await s05_one_run_over_a_real_socket(served)
    assert list(FIVE) == [event["type"] for event in run.received]
    assert 2 + 4 * len(FIVE) == len(run.trace)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_s05_holds_with_tokens_of_a_key_pair(tmp_path: Path, algorithm: str) -> None:
    """The server has only the public half, as it would of an identity provider."""
    auth = E2EAuthHelper.by_key_pair(tmp_path, algorithm)
    async with served_chain(tmp_path, auth=auth) as chain:
        await s05_one_run_over_a_real_socket(chain)


@ON_ONE_SERVER
async def test_s05_without_a_token_that_holds_there_is_no_event(served: ServedChain) -> None:
    """A token of another issuer's secret, and one that has expired, are turned away before anything is said."""
    strangers, expired = E2EAuthHelper.by_secret().token("user-s05"), served.auth.token("user-s05", ttl_seconds=-60)
    for token, close_code in ((strangers, 4501), (expired, 4502)):
        async with wire_to(served.process.ws_url, token, ready=False) as wire:
            assert (close_code, []) == ((await wire.closed())[0], wire.frames)
    assert not any(token in served.process.log_text() for token in (strangers, expired))


def test_s05_what_is_late_is_told() -> None:
    """Each of the three times is told when it is over its limit, and none that is just within."""
    limits = (CONNECTED_SECONDS_MAX, FIRST_EVENT_SECONDS_MAX, DONE_SECONDS_MAX)
    assert (limits, []) == ((2, 5, 60), too_late("payload", *limits))
    late = [finding.message for finding in too_late("trace", *(limit + 0.001 for limit in limits))]
    assert ["connected after 2.001 s", "the first event came after 5.001 s", "done after 60.001 s"] == [
        message.partition(",")[0] for message in late
    ]


def test_s05_nothing_in_the_product_knows_of_the_tests() -> None:
    """No source of the product names the helper that signs, its issuer, its audience, or the broken server."""
    marks = (E2EAuthHelper.__name__, ISSUER, AUDIENCE, "faulty", "support.")
    sources = [path for package in (tracewire, tracewire_telemetry) for path in Path(package.__path__[0]).rglob("*.py")]
    assert len(sources) > 50
    assert [] == [(path.name, mark) for path in sources for mark in marks if mark in path.read_text()]


# S6: two users.


@ON_ONE_SERVER
async def test_s06_two_users_side_by_side_each_get_their_own_alone(served: ServedChain) -> None:
    """All events of all of their runs, and in no frame and no span anything of the other's."""
    await s06_two_users_side_by_side(served)


@ON_ONE_SERVER
async def test_s06_the_search_finds_what_it_looks_for(served: ServedChain) -> None:
    """Frames and spans are full of a user's own marks: that the search finds none of another's means something."""
    user_id = "user-s06-own"
    async with served.signed_in(user_id) as wire:
        run = await served.run(wire, user_id, "a mark of its own", agent=AGENT)
    assert [] == run.findings
    for mark in (user_id, "a mark of its own", run.run_id, run.trace.root.trace_id):
        assert contamination(wire, {mark}), mark
    assert len(run.trace) == len(foreign_spans([run], {user_id}))
    assert len(run.trace) == len(foreign_spans([run], {run.run_id}))


async def test_s06_a_frame_that_strays_to_the_other_is_seen(tmp_path: Path) -> None:
    """On a server that writes thoughts to everybody, both users' runs are whole; the scenario is red all the same."""
    async with served_chain(tmp_path, fault=str(LEAK)) as chain:
        with pytest.raises(BrokenChainError) as red:
            await s06_two_users_side_by_side(chain)
    assert ("L4", {"payload"}) == (red.value.check, red.value.seen_in)
    assert {"a frame holds"} == {" ".join(finding.message.split()[:3]) for finding in red.value.findings}


# S7: what a run is worth to its user.


@ON_ONE_SERVER
async def test_s07_every_run_scores_100(served: ServedChain) -> None:
    """By what its client got, and by what its trace proves."""
    assert {(WHOLE, WHOLE)} == set(await s07_the_delivery_score_is_whole(served))


def test_s07_the_weights_are_those_of_the_requirement() -> None:
    """Each critical type has its weight, counts once, and nothing else counts."""
    assert [20, 15, 10, 15, 40] == [WEIGHTS[event_type] for event_type in FIVE]
    assert (WHOLE, 100) == (score([*FIVE, *FIVE]), WHOLE)
    assert 0 == score(["agent_error", "agent_delta", "ready"])
    for withheld in FIVE:
        assert WHOLE - WEIGHTS[withheld] == score(event_type for event_type in FIVE if event_type != withheld)


@pytest.mark.parametrize(
    ("withheld", "left"), [("agent_thinking", 85), ("tool_executing", 75), ("agent_completed", 60)]
)
@ON_ONE_SERVER
async def test_s07_a_run_whose_agent_withholds_an_event_scores_what_it_lacks(
    served: ServedChain, withheld: str, left: int
) -> None:
    """Client and trace agree on the score; the trace names the type that a completed run still owed."""
    user_id = f"user-s07-{withheld}"
    async with served.signed_in(user_id) as wire:
        run = await served.run(wire, user_id, withheld, agent="withholds")
    assert (left, left) == (received_score(run.received), proven_score(run.trace))
    owed = {span.attributes["tracewire.event.type"] for span in run.trace if span.status == "error" and span.parent_id}
    pair = {"tool_executing", "tool_completed"}
    expected = {"agent_thinking": {"agent_thinking"}, "tool_executing": pair, "agent_completed": set()}
    assert expected[withheld] == owed


@pytest.mark.parametrize("withheld", FIVE)
async def test_s07_a_run_with_an_event_withheld_from_the_client_scores_what_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, withheld: str
) -> None:
    """The client's score lacks the event's weight; the trace's has what is proven, which ends at the gap.

    The client acks what it has without a gap, and the server does not take its own writes for a delivery. A client that
    has nothing to ack, because the first event is missing, cannot be told from one that never acks: nothing is claimed.
    """
    before = list(itertools.takewhile(lambda event_type: event_type != withheld, FIVE))
    deadlines = {"client_deadline_seconds": 0.5, "heal_deadline_seconds": 0}
    async with server_under_test(tmp_path / "data", agents=known_agents(), **deadlines) as chain:
        withheld_write(withheld)(monkeypatch, chain.server)
        async with signed_in(chain, USERS[0]) as wire:
            run_id = await wire.start_run("ask", agent=AGENT)
            async with asyncio.timeout(10):
                while len(wire.events(run_id)) < len(FIVE) - 1:
                    await wire.receive()
            received = wire.events(run_id)
            if processed := without_gap(received):
                await wire.ack(run_id, processed)
            trace = await chain.trace(run_id)
    assert (WHOLE - WEIGHTS[withheld], score(before)) == (received_score(received), proven_score(trace))
    lost = [span.attributes["tracewire.event.type"] for span in trace if span.status == "error"]
    assert (list(FIVE[len(before) :]) if before else []) == lost
