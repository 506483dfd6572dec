"""A run's events over plain HTTP: server-sent events from a real server, as an `EventSource` reads them."""

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
import structlog

from support.agents import all_agents
from support.event_source import ACCEPT, event_source
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import wire_to
from tracewire.engine.agent import agent, spec_of
from tracewire_telemetry.stamps import LedgerReport, decode_stamps, report_of
from tracewire_telemetry.vocabulary import Verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS_MAX = 3
HEARTBEAT_SECONDS = 0.5
GATES: dict[str, asyncio.Semaphore] = {}


def gate_of(user_id: str) -> asyncio.Semaphore:
    """Lets the agents of one user go on, a step at a time."""
    return GATES.setdefault(user_id, asyncio.Semaphore(0))


@agent(name="steps")
async def steps(ctx: Any) -> str:
    """One thought a step, as many as its input says, and a last step to the end."""
    for number in range(ctx.input):
        await gate_of(ctx.user_id).acquire()
        await ctx.thinking(f"step {number + 1}")
    await gate_of(ctx.user_id).acquire()
    return "done"


@agent(name="floods")
async def floods(ctx: Any) -> str:
    """A first thought; then, when it may, large thoughts, as many as its input says."""
    await gate_of(ctx.user_id).acquire()
    for _ in range(ctx.input):
        await ctx.thinking("x" * 60_000)
    return "done"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """One server for the tests, each with a user of its own."""
    async with server_under_test(
        tmp_path_factory.mktemp("streams") / "data",
        agents=[*all_agents(), spec_of(steps), spec_of(floods)],
        sockets_per_user_max=CONNECTIONS_MAX,
        heartbeat_seconds=HEARTBEAT_SECONDS,
        outbox_age_seconds=0.5,
        client_deadline_seconds=1,
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return f"user of {request.node.name}"[:128]


async def start(server: ServerUnderTest, user: str, name: str, value: Any = 1) -> str:
    """Start a run over HTTP; its id."""
    headers = {"Authorization": f"Bearer {server.token(user)}"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        response = await http.post("/runs", json={"input": value, "agent": name})
    assert response.status_code == 202, response.text
    return str(response.json()["run_id"])


def stream(server: ServerUnderTest, user: str, run_id: str, **options: Any) -> Any:
    """An open stream of the user's."""
    return event_source(server.server.url, server.token(user), run_id, **options)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    async with asyncio.timeout(20):
        while not holds():  # what is waited for has no event of its own
            await asyncio.sleep(0)


async def settled_ledger(server: ServerUnderTest, run_id: str) -> LedgerReport:
    """The ledger of a run, once it is settled and its stamps are kept."""
    async with asyncio.timeout(20):
        while (stamps := await server.server.log.stamps(run_id)) is None:  # as above
            await asyncio.sleep(0)
    return report_of(decode_stamps(stamps))


async def stored(server: ServerUnderTest, run_id: str) -> list[str]:
    """The run's envelopes as the log holds them."""
    return [event.body.decode() for event in await server.server.log.replay(run_id, 0, limit=1000)]


# What is sent.


async def test_a_run_is_streamed_from_its_first_event_to_its_last(server: ServerUnderTest, user: str) -> None:
    """Each event with its seq as id and its type as event, its data the envelope byte for byte; then the end."""
    run_id = await start(server, user, "steps", 3)
    async with stream(server, user, run_id) as source:
        assert source.response.status_code == 200
        assert source.response.headers["content-type"] == "text/event-stream"
        assert source.response.headers["cache-control"] == "no-store"
        gate_of(user).release()
        first = [await source.event(), await source.event()]
        for _ in range(3):
            gate_of(user).release()
        events = [event for event in first if event] + await source.events()
    bodies = await stored(server, run_id)
    assert [event.data for event in events] == bodies
    assert [(event.id, event.type) for event in events] == [
        (str(envelope["seq"]), envelope["type"]) for envelope in map(json.loads, bodies)
    ]
    assert events[-1].type == "agent_completed"
    assert source.retry_ms == 2000
    assert "\r" not in source.raw


async def test_a_run_that_has_ended_is_replayed_and_the_stream_ends(server: ServerUnderTest, user: str) -> None:
    """Also long after, when nothing but the log knows of it."""
    run_id = await start(server, user, "five")
    await until(lambda: run_id not in server.server.telemetry.watch.runs)
    for after, expected in ((0, FIVE), (2, FIVE[2:]), (4, FIVE[4:])):
        async with stream(server, user, run_id, after=after) as source:
            assert tuple(event.type for event in await source.events()) == expected


@pytest.mark.parametrize("name", ["raises", "cancelled"])
async def test_every_end_of_a_run_ends_its_stream(server: ServerUnderTest, user: str, name: str) -> None:
    """A failure and a cancellation too."""
    run_id = await start(server, user, "waits" if name == "cancelled" else name, "exception")
    async with stream(server, user, run_id) as source:
        assert (await source.event()) is not None
        if name == "cancelled":
            headers = {"Authorization": f"Bearer {server.token(user)}"}
            async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
                assert (await http.delete(f"/runs/{run_id}")).status_code == 202
        events = await source.events()
    assert events[-1].type == ("agent_cancelled" if name == "cancelled" else "agent_error")


async def test_a_long_run_comes_whole_whenever_its_reader_joins(server: ServerUnderTest, user: str) -> None:
    """Replay and live events race; each comes once, in order."""
    run_id = await start(server, user, "verbose", 700)
    async with stream(server, user, run_id) as first:
        begun = [await first.event() for _ in range(100)]
        async with stream(server, user, run_id, after=50) as second:
            rest, joined = await asyncio.gather(first.events(), second.events())
    assert [int(event.id) for event in [*begun, *rest] if event] == list(range(1, 703))
    assert [int(event.id) for event in joined] == list(range(51, 703))


# Resuming.


async def test_a_cut_stream_resumes_by_last_event_id(server: ServerUnderTest, user: str) -> None:
    """As a browser does it: nothing is missing and nothing comes twice, whatever happened meanwhile."""
    run_id = await start(server, user, "steps", 4)
    gate_of(user).release()
    async with stream(server, user, run_id) as source:
        first = [await source.event(), await source.event()]
    await until(lambda: not server.server.connections.of(user))
    for _ in range(2):
        gate_of(user).release()
    async with stream(server, user, run_id, last_id=first[-1].id) as source:  # type: ignore[union-attr]
        missed = [await source.event(), await source.event()]
        for _ in range(2):
            gate_of(user).release()
        rest = await source.events()
    assert [event.data for event in [*first, *missed, *rest] if event] == await stored(server, run_id)


async def test_last_event_id_counts_before_after(server: ServerUnderTest, user: str) -> None:
    """The address that a browser reconnects to is the one that it was given at first."""
    run_id = await start(server, user, "five")
    async with stream(server, user, run_id, after=1) as source:
        await source.events()
    async with stream(server, user, run_id, last_id=3, after=1) as source:
        assert tuple(event.type for event in await source.events()) == FIVE[3:]
    async with stream(server, user, run_id, last_id="", after=4) as source:
        assert tuple(event.type for event in await source.events()) == FIVE[4:]


async def test_who_has_everything_is_told_not_to_come_back(server: ServerUnderTest, user: str) -> None:
    """204: to an `EventSource` anything else would mean to reconnect for ever."""
    run_id = await start(server, user, "five")
    async with stream(server, user, run_id) as source:
        await source.events()
    async with stream(server, user, run_id, last_id=5) as source:
        assert source.response.status_code == 204
        assert await source.events() == []


@pytest.mark.parametrize(
    ("last_id", "status", "code"),
    [
        ("6", 409, "ack_ahead"),
        ("9007199254740992", 409, "ack_ahead"),
        ("9007199254740993", 400, "malformed"),
        ("-1", 400, "malformed"),
        ("one", 400, "malformed"),
        ("1.0", 400, "malformed"),
        ("9" * 400, 400, "malformed"),
    ],
)
async def test_a_place_that_the_run_does_not_have_is_refused(
    server: ServerUnderTest, user: str, last_id: str, status: int, code: str
) -> None:
    """By a problem document: a stream that began there would look whole."""
    run_id = await start(server, user, "five")
    async with stream(server, user, run_id) as source:
        await source.events()
    async with stream(server, user, run_id, last_id=last_id) as source:
        await source.response.aread()
        assert (source.response.status_code, source.response.json()["code"]) == (status, code)


async def test_another_users_run_and_none_at_all_are_the_same_to_a_stream(server: ServerUnderTest, user: str) -> None:
    """404, word for word the same but for the id."""
    run_id = await start(server, user, "waits")
    never = "01890000-0000-7000-8000-000000000000"
    told = []
    for wanted in (run_id, never):
        async with stream(server, f"not {user}", wanted) as source:
            body = (await source.response.aread()).decode()
            told.append((source.response.status_code, body.replace(wanted, "*")))
    assert told[0] == told[1]
    assert told[0][0] == 404
    assert '"unknown_run"' in told[0][1]
    assert server.server.connections.of(f"not {user}") == []


# Telemetry.


async def test_the_chain_of_a_stream_ends_at_the_socket(server: ServerUnderTest, user: str, logged: list[Any]) -> None:
    """Payloads and traces: every event was sent, none was acked, none is missing, and the run settles at once."""
    run_id = await start(server, user, "steps", 1)
    async with stream(server, user, run_id) as source:
        for _ in range(2):
            gate_of(user).release()
        events = await source.events()
    assert [event.type for event in events] == ["agent_started", "agent_thinking", "agent_completed"]
    report = await settled_ledger(server, run_id)
    trace = await server.trace(run_id)
    kinds = [span.name.partition(" ")[0] for span in trace]
    assert kinds.count("send") >= 1
    assert "settle" not in kinds
    assert trace.root.attributes["tracewire.chain.complete"] is True
    assert "tracewire.events.pending" not in trace.root.attributes
    assert report.missing == []
    assert all(row.socket is not None and row.client is None for row in report.events)
    assert {row.verdict for row in report.events} == {Verdict.NO_SOCKET}
    assert [entry for entry in logged if entry["event"] == "event_missing"] == []


async def test_a_stream_raises_no_alarm_for_acks_that_it_cannot_send(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """Past the client's deadline nothing is missing, and the reader does not count as unacknowledging."""
    run_id = await start(server, user, "steps", 1)
    async with stream(server, user, run_id) as source:
        await source.event()
        for _ in range(4):  # two seconds of heartbeats; the client's deadline is one
            await source.comment("ping")
        assert server.server.connections.unacknowledging(0) == 0
        assert server.server.telemetry.watch.runs[run_id].ledger.missing == []
        for _ in range(2):
            gate_of(user).release()
        await source.events()
    assert [entry for entry in logged if entry["event"] == "event_missing"] == []


async def test_a_client_beside_a_stream_settles_the_run(server: ServerUnderTest, user: str) -> None:
    """Both get all of it; the acks are the socket's."""
    async with wire_to(server.server.ws_url, server.token(user)) as wire:
        run_id = await wire.start_run(1, agent="steps")
        async with stream(server, user, run_id) as source:
            for _ in range(2):
                gate_of(user).release()
            events, frames = await asyncio.gather(source.events(), wire.receive_run(run_id))
        assert [json.loads(event.data) for event in events] == frames
        await wire.ack(run_id, len(frames))
        report = await settled_ledger(server, run_id)
    assert {row.verdict for row in report.events} == {Verdict.IN_TIME}


async def test_a_stream_makes_no_span_of_its_own(server: ServerUnderTest, user: str) -> None:
    """It would last as long as the stream; the same path read as JSON has one."""
    run_id = await start(server, user, "five")
    async with stream(server, user, run_id) as source:
        await source.events()
    headers = {"Authorization": f"Bearer {server.token(user)}"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        await http.get(f"/runs/{run_id}/events")
    named = "GET /runs/{id}/events"
    await until(lambda: any(span.name == named for span in server.recorder.spans))
    assert len([span for span in server.recorder.spans if span.name == named and user_path(span, run_id)]) == 1


def user_path(span: Any, run_id: str) -> bool:
    """Whether the span is of a request for this run."""
    return any(run_id in str(value) for value in span.attributes.values())


# Limits and ends.


async def test_streams_count_with_the_sockets_of_their_user(server: ServerUnderTest, user: str) -> None:
    """One too many is refused, whichever it is; one that goes makes room at once."""
    run_id = await start(server, user, "waits")
    async with contextlib.AsyncExitStack() as held:
        for _ in range(CONNECTIONS_MAX):
            await held.enter_async_context(stream(server, user, run_id))
        async with stream(server, user, run_id) as refused:
            await refused.response.aread()
            assert (refused.response.status_code, refused.response.json()["code"]) == (429, "rate_limited")
            assert int(refused.response.headers["retry-after"]) >= 1
        async with wire_to(server.server.ws_url, server.token(user), ready=False) as wire:
            assert await wire.closed() == (4505, "too_many_sockets")
    await until(lambda: not server.server.connections.of(user))
    async with stream(server, user, run_id) as again:
        assert again.response.status_code == 200


async def test_a_stream_hears_of_no_run_that_it_did_not_ask_for(server: ServerUnderTest, user: str) -> None:
    """A socket follows every new run of its user; a stream follows one."""
    run_id = await start(server, user, "steps", 0)
    async with stream(server, user, run_id) as source:
        await source.event()
        other = await start(server, user, "five")
        await until(lambda: other not in server.server.telemetry.watch.runs)
        gate_of(user).release()
        await source.events()
    assert other not in source.raw
    assert "run_accepted" not in source.raw


async def test_a_reader_that_goes_is_let_go_of_at_once(server: ServerUnderTest, user: str, logged: list[Any]) -> None:
    """Its run follows nobody, and nothing more is queued for it."""
    run_id = await start(server, user, "waits")
    async with stream(server, user, run_id) as source:
        await source.event()
        [connection] = server.server.connections.of(user)
    async with asyncio.timeout(1):
        await until(lambda: not server.server.connections.of(user))
    assert connection.closed
    assert server.server.telemetry.watch.runs[run_id].ledger.followers == set()
    await until(lambda: "stream_gone" in [entry["event"] for entry in logged])


async def test_a_heartbeat_comes_as_a_comment(server: ServerUnderTest, user: str) -> None:
    """Every `heartbeat_seconds`, between the events, where no reader takes it for one."""
    run_id = await start(server, user, "waits")
    async with stream(server, user, run_id) as source:
        assert [event.id for event in await source.comment("ping")] == ["1", "2"]
        assert await source.comment("ping") == []


async def test_a_stream_does_not_outlive_its_token(server: ServerUnderTest, user: str) -> None:
    """It ends when the token has expired, and says so; a fresh one resumes."""
    run_id = await start(server, user, "waits")
    async with stream(server, user, run_id) as source:
        await source.event()
        [session] = [one for one in server.server.gateway.sessions if one.principal and one.principal.user_id == user]
        assert session.principal is not None
        server.server._keeper.look(session, session.last_ping_ns, session.principal.expires_at + 60.0)
        await source.events()
    assert "closed token_expired" in source.comments
    async with stream(server, user, run_id, last_id=1) as source:
        assert (await source.event()).id == "2"  # type: ignore[union-attr]


async def test_a_reader_that_does_not_read_is_cut_and_holds_no_memory(
    server: ServerUnderTest, user: str, logged: list[Any]
) -> None:
    """Neither live nor while it is replayed to; the run goes on, and another reader gets all of it."""
    run_id = await start(server, user, "floods", 100)
    parts = urlsplit(server.server.url)
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stalled, (parts.hostname, parts.port))
        request = (
            f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {server.token(user)}\r\n\r\n"
        )
        await loop.sock_sendall(stalled, request.encode())
        await until(lambda: bool(server.server.connections.of(user)))
        [connection] = server.server.connections.of(user)
        gate_of(user).release()
        largest, closed_at = 0, 0.0
        async with asyncio.timeout(20):
            while server.server.connections.of(user):
                largest = max(largest, connection.outbox.bytes)
                closed_at = closed_at or (loop.time() if connection.closed else 0.0)
                await asyncio.sleep(0)
        assert largest < 2 * server.server.settings.outbox_bytes_max
        assert loop.time() - closed_at < 3  # the kernel alone would take five seconds
        assert connection.closed
    assert "stream_gone" in [entry["event"] for entry in logged]
    async with stream(server, user, run_id) as source:
        assert len(await source.events()) == 102


async def test_a_server_that_stops_tells_its_readers_when_to_come_back_and_how_the_run_ended(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It cuts nobody off: the run's terminal event is the last that its reader gets."""
    async with server_under_test(tmp_path_factory.mktemp("stops") / "data", agents=all_agents()) as stopping:
        run_id = await start(stopping, "ada", "waits")
        async with stream(stopping, "ada", run_id) as source:
            await source.event()
            reading = asyncio.create_task(source.events())
            await stopping.server.stop()
            events = await reading
    assert source.raw.count("retry: 2000\n\n") == 2
    assert json.loads(events[-1].data)["data"]["code"] == "worker_lost"


# From outside.


async def test_curl_reads_and_resumes_a_stream(server: ServerUnderTest, user: str) -> None:
    """The reader that everybody has; `Last-Event-ID` is a header like any other."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.fail("curl is not there: install it")
    run_id = await start(server, user, "five")
    address = f"{server.server.url}/runs/{run_id}/events"
    headers = [f"Authorization: Bearer {server.token(user)}", "Accept: text/event-stream"]

    async def read(*more: str) -> str:
        arguments = [part for header in (*headers, *more) for part in ("-H", header)]
        process = await asyncio.create_subprocess_exec(
            curl, "-sN", "--max-time", "20", *arguments, address, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    whole, rest = await read(), await read("Last-Event-ID: 3")
    assert [line for line in whole.split("\n") if line.startswith("id: ")] == [f"id: {seq}" for seq in range(1, 6)]
    assert [line for line in rest.split("\n") if line.startswith("id: ")] == ["id: 4", "id: 5"]
    assert whole.endswith(rest.partition("\n\n")[2])


async def test_who_does_not_ask_for_a_stream_gets_a_page(server: ServerUnderTest, user: str) -> None:
    """JSON as before, and both say that the answer depends on `Accept`."""
    run_id = await start(server, user, "five")
    async with stream(server, user, run_id) as source:
        await source.events()
    headers = {"Authorization": f"Bearer {server.token(user)}"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        page = await http.get(f"/runs/{run_id}/events", params={"after": 3})
        head = await http.head(f"/runs/{run_id}/events", headers=ACCEPT)
    assert [event["seq"] for event in page.json()["events"]] == [4, 5]
    assert page.headers["vary"] == source.response.headers["vary"] == "Accept"
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert server.server.connections.of(user) == []
