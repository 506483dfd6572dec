"""The wire as `wire.md` lays it down, by a client that speaks raw frames to a real server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
from websockets.exceptions import InvalidStatus

from support.agents import all_agents
from support.servers import FIVE, ServerUnderTest, server_under_test
from support.wire import Wire, contract_problems, wire_to
from tracewire.engine.agent import agent, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNS_MAX = 3
SOCKETS_MAX = 3
BAD_FRAMES_MAX = 10


class Gate:
    """Lets the agents of one user go on, a step at a time."""

    def __init__(self) -> None:
        self._steps = asyncio.Semaphore(0)

    async def step(self) -> None:
        await self._steps.acquire()

    def open(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._steps.release()


GATES: dict[str, Gate] = {}


def gate_of(user_id: str) -> Gate:
    """The gate of a user's agents."""
    return GATES.setdefault(user_id, Gate())


@agent(name="steps")
async def steps(ctx: Any) -> str:
    """One thought a step, as many as its input says, and a last step to the end."""
    for number in range(ctx.input):
        await gate_of(ctx.user_id).step()
        await ctx.thinking(f"step {number + 1}")
    await gate_of(ctx.user_id).step()
    return "done"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """One server for the tests, each with a user of its own."""
    async with server_under_test(
        tmp_path_factory.mktemp("protocol") / "data",
        agents=[*all_agents(), spec_of(steps)],
        runs_per_user_max=RUNS_MAX,
        sockets_per_user_max=SOCKETS_MAX,
        bad_frames_per_minute_max=BAD_FRAMES_MAX,
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


@pytest_asyncio.fixture(loop_scope="module")
async def wire(server: ServerUnderTest, user: str) -> AsyncIterator[Wire]:
    """A ready socket of the test's user."""
    async with wire_to(server.server.ws_url, server.token(user)) as opened:
        yield opened


def another(server: ServerUnderTest, user: str, **options: Any) -> Any:
    """A further socket of the user."""
    return wire_to(server.server.ws_url, server.token(user), **options)


# The handshake.


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ((), None),
        (("tracewire.v1",), "tracewire.v1"),
        (("tracewire.v1.lines",), "tracewire.v1.lines"),
        (("tracewire.v1", "tracewire.v1.lines"), "tracewire.v1"),
        (("tracewire.v1.lines", "tracewire.v1"), "tracewire.v1.lines"),
        (("graphql-ws", "tracewire.v1"), "tracewire.v1"),
        (("graphql-ws",), None),
    ],
)
async def test_the_first_subprotocol_of_ours_is_echoed(
    server: ServerUnderTest, user: str, offered: tuple[str, ...], echoed: str | None
) -> None:
    """Or none, where the client offers none of ours."""
    async with another(server, user, subprotocols=offered) as wire:
        assert wire.subprotocol == echoed


async def test_ready_says_what_a_client_needs_to_know(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """The user, the limits, the agents with the default first, and that nothing is left over."""
    ready = wire.frames[0]
    assert ready == {
        "type": "ready",
        "connection_id": ready["connection_id"],
        "user_id": user,
        "heartbeat_seconds": 20.0,
        "limits": {
            "frame_bytes": 65536,
            "event_bytes": 65536,
            "runs_per_user": RUNS_MAX,
            "sockets_per_user": SOCKETS_MAX,
        },
        "agents": list(server.server.agents.names),
        "runs": [],
        "runs_more": False,
    }
    assert ready["agents"][0] == "analyst"


async def test_a_server_that_is_not_ready_answers_the_handshake_with_503(server: ServerUnderTest, user: str) -> None:
    """With the reason, and when to come back; once it is ready again it lets in."""
    readiness = server.server.readiness
    readiness.failed("test", "a part of it is being repaired")
    try:
        with pytest.raises(InvalidStatus) as refused:
            async with another(server, user):
                pass
    finally:
        readiness.passed("test")
    response = refused.value.response
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert b"a part of it is being repaired" in (response.body or b"")
    async with another(server, user) as wire:
        assert wire.frames[0]["type"] == "ready"


async def test_one_socket_more_than_a_user_may_have_is_closed(server: ServerUnderTest, user: str) -> None:
    """With 4505; when one of the others has gone there is room again, and other users have theirs."""
    async with another(server, user), another(server, user):
        async with another(server, user), another(server, user, ready=False) as fourth:
            assert await fourth.closed() == (4505, "too_many_sockets")
            async with another(server, "somebody else") as theirs:
                assert theirs.frames[0]["type"] == "ready"
        async with another(server, user) as again:
            assert again.frames[0]["type"] == "ready"


# Frames that are none.


async def test_bad_frames_are_rejected_with_what_is_wrong_and_the_socket_goes_on(wire: Wire) -> None:
    """Each by its code, naming the frame where it has a name; nothing else comes of them."""
    bad: list[tuple[str, str, str | None]] = [
        ("", "malformed", None),
        ("{", "malformed", None),
        ("[]", "malformed", None),
        ('"start_run"', "malformed", None),
        ("{}", "unknown_frame", None),
        ('{"type": "subscribe"}', "unknown_frame", "subscribe"),
        ('{"type": 7}', "unknown_frame", None),
        ('{"type": "start_run", "input": "no request id"}', "malformed", "start_run"),
        ('{"type": "ack", "run_id": "r", "seq": -1}', "malformed", "ack"),
        ('{"type": "resume", "runs": ["r"]}', "malformed", "resume"),
    ]
    assert len(bad) == BAD_FRAMES_MAX
    for text, code, name in bad:
        await wire.send_text(text)
        rejected = await wire.receive()
        assert (rejected["type"], rejected["code"], rejected["frame"]) == ("rejected", code, name), text
        assert rejected["message"]
    assert contract_problems(await wire.receive_run(await wire.start_run("go", agent="five"))) == []


async def test_a_rejection_says_which_request_it_answers(wire: Wire) -> None:
    """`request_id` and `run_id` come back where the frame had them, malformed ones included."""
    await wire.send("start_run", request_id="mine", input="go", agent=7)
    assert (await wire.receive())["request_id"] == "mine"
    await wire.send("ack", run_id="the run", seq="first")
    assert (await wire.receive())["run_id"] == "the run"
    await wire.send("start_run", request_id="mine too", input="go", agent="nobody")
    rejected = await wire.receive()
    assert (rejected["request_id"], rejected["code"]) == ("mine too", "unknown_agent")
    assert "nobody" in rejected["message"]
    assert "analyst" in rejected["message"]


async def test_binary_frames_are_malformed(wire: Wire) -> None:
    """Even where they hold a good frame."""
    await wire.socket.send(b'{"type": "pong", "id": 1}')
    rejected = await wire.receive()
    assert (rejected["type"], rejected["code"]) == ("rejected", "malformed")


async def test_text_that_is_no_utf8_is_closed_with_1007(wire: Wire) -> None:
    """As RFC 6455 asks."""
    await wire.socket.send(b'{"type": "\xff\xfe"}', text=True)
    assert (await wire.closed())[0] == 1007


@pytest.mark.parametrize(
    "text", ["[" * 60_000, '{"a":' * 12_000, '{"type":"pong","id":' + "[" * 30_000 + "]" * 30_000 + "}"]
)
async def test_deep_nesting_is_malformed_and_harms_nobody(wire: Wire, text: str) -> None:
    """However deep, closed or not: one rejection, and the socket goes on."""
    await wire.send_text(text)
    rejected = await wire.receive()
    assert (rejected["type"], rejected["code"]) == ("rejected", "malformed")
    assert contract_problems(await wire.receive_run(await wire.start_run("go", agent="five"))) == []


async def test_an_input_of_any_depth_is_run_or_rejected_and_never_lost(server: ServerUnderTest, user: str) -> None:
    """Around the depth at which it becomes too much for the interpreter, every request gets its answer."""
    answers: dict[int, str] = {}
    for depth in (100, 500, *range(940, 1010)):
        async with another(server, user) as wire:
            nested = "[" * depth + "]" * depth
            frame = f'{{"type":"start_run","request_id":"deep {depth}","agent":"five","input":{nested}}}'
            await wire.send_text(frame)
            answer = await wire.receive_type("run_accepted", "rejected")
            answers[depth] = answer.get("code", "run_accepted")
            if answer["type"] == "run_accepted":
                assert contract_problems(await wire.receive_run(answer["run_id"])) == []
    assert (answers[100], answers[500], answers[1009]) == ("run_accepted", "run_accepted", "malformed")
    assert set(answers.values()) <= {"run_accepted", "invalid_input", "malformed"}


async def test_a_frame_over_the_limit_is_closed_with_1009(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """64 KiB are taken, a byte more is not."""
    head, tail = '{"type":"start_run","request_id":"large","agent":"five","input":"', '"}'
    await wire.send_text(head + "x" * (65536 - len(head) - len(tail)) + tail)
    accepted = await wire.receive_type("run_accepted", "rejected")
    assert accepted["type"] == "run_accepted"
    await wire.receive_run(accepted["run_id"])
    await wire.send_text(head + "x" * (65537 - len(head) - len(tail)) + tail)
    assert (await wire.closed())[0] == 1009


async def test_one_bad_frame_too_many_in_a_minute_closes_with_4504(wire: Wire) -> None:
    """Ten are rejected, and so is the eleventh, with which the socket closes. Refused requests do not count."""
    for number in range(BAD_FRAMES_MAX + 1):
        await wire.send("cancel_run", run_id=f"none {number}")
        await wire.send("nonsense")
    assert await wire.closed() == (4504, "protocol")
    codes = [frame["code"] for frame in wire.frames if frame["type"] == "rejected"]
    assert codes.count("unknown_frame") == BAD_FRAMES_MAX + 1
    assert codes.count("unknown_run") == BAD_FRAMES_MAX + 1


# Runs.


async def test_a_run_is_accepted_before_its_first_event_on_every_socket(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """On the one that asked and on the user's others, which all get all of it; no other user gets anything."""
    async with another(server, user) as second, another(server, "a stranger") as stranger:
        run_id = await wire.start_run("go", agent="five", request_id="shared")
        events = await wire.receive_run(run_id)
        assert await second.receive_run(run_id) == events
        assert [event["type"] for event in events] == list(FIVE)
        for socket in (wire, second):
            of_run = [frame["type"] for frame in socket.frames if frame.get("run_id") == run_id]
            assert of_run[0] == "run_accepted"
            assert of_run.count("run_accepted") == 1
        await stranger.send("ack", run_id=run_id, seq=1)
        assert [frame["type"] for frame in (*stranger.frames, await stranger.receive())] == ["ready", "rejected"]


async def test_a_socket_does_not_follow_runs_from_before_its_ready_until_it_resumes_them(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """`ready` lists an open run; its events come after `resume` alone."""
    run_id = await wire.start_run(1, agent="steps")
    await wire.receive_type("agent_started")
    async with another(server, user) as later:
        assert [run["run_id"] for run in later.frames[0]["runs"]] == [run_id]
        gate_of(user).open()
        await wire.receive_type("agent_thinking")
        await later.send("ack", run_id="none", seq=1)
        assert (await later.receive())["type"] == "rejected"
        await later.send("resume", runs={run_id: 0})
        assert (await later.receive())["type"] == "resumed"
        gate_of(user).open()
        assert await later.receive_run(run_id) == await wire.receive_run(run_id)


async def test_the_same_request_id_gives_the_same_run(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """While it runs and when it has ended, here and on another socket, which then follows it from its first event."""
    run_id = await wire.start_run(1, agent="steps", request_id="once", thread_id="a thread")
    await wire.receive_type("agent_started")
    assert await wire.start_run(1, agent="steps", request_id="once") == run_id
    async with another(server, user) as second:
        assert await second.start_run(1, agent="steps", request_id="once") == run_id
        assert second.frames[-1]["thread_id"] == "a thread"
        gate_of(user).open(2)
        events = await second.receive_run(run_id)
        assert contract_problems(events) == []
        assert await wire.receive_run(run_id) == events
    async with another(server, user) as third:
        assert await third.start_run(1, agent="steps", request_id="once") == run_id
        assert await third.receive_run(run_id) == events
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        headers = {"Idempotency-Key": "once"}
        again = await http.post("/runs", json={"input": 1, "agent": "steps"}, headers=headers)
        assert (again.status_code, again.json()["run_id"]) == (200, run_id)
        assert len((await http.get("/runs")).json()["runs"]) == 1


async def test_a_request_id_with_another_agent_or_input_is_rejected(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """`request_id_reused`, over HTTP too; another user's request of the same id is a run of its own."""
    run_id = await wire.start_run("go", agent="five", request_id="taken")
    await wire.receive_run(run_id)
    for changed in ({"input": "stop", "agent": "five"}, {"input": "go", "agent": "streams"}):
        await wire.send("start_run", request_id="taken", **changed)
        rejected = await wire.receive()
        assert (rejected["code"], rejected["request_id"]) == ("request_id_reused", "taken")
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
            refused = await http.post("/runs", json=changed, headers={"Idempotency-Key": "taken"})
            assert (refused.status_code, refused.json()["code"]) == (409, "request_id_reused")
    async with another(server, f"not {user}") as theirs:
        assert await theirs.start_run("go", agent="five", request_id="taken") != run_id


@pytest.mark.parametrize("kept", ["", "x" * 129, "line\nbreak", "nul\x00", " ", "\x85", "\u3000"])
@pytest.mark.parametrize("name", ["request_id", "thread_id"])
async def test_an_id_that_cannot_be_kept_is_rejected(wire: Wire, name: str, kept: str) -> None:
    """Empty, blank, longer than 128 characters, or with control characters: `invalid_input`."""
    await wire.send("start_run", **{"request_id": "good", "input": "go", "agent": "five", name: kept})
    assert (await wire.receive())["code"] == "invalid_input"


async def test_a_thread_that_is_called_as_its_user_is_rejected(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """Before anything is kept of it: a user's id must lead to that user alone."""
    await wire.send("start_run", request_id="mine", input="go", agent="five", thread_id=user)
    rejected = await wire.receive()
    assert (rejected["code"], rejected["request_id"]) == ("invalid_input", "mine")
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        assert (await http.get("/runs")).json()["runs"] == []


async def test_one_run_more_than_a_user_may_have_is_rejected(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """With the time to wait; a repeated request is no new run, and an end makes room."""
    run_ids = [await wire.start_run(0, agent="steps", request_id=f"run {number}") for number in range(RUNS_MAX)]
    await wire.send("start_run", request_id="one more", input="go", agent="five")
    rejected = await wire.receive_type("rejected")
    assert (rejected["code"], rejected["request_id"]) == ("too_many_runs", "one more")
    assert rejected["retry_after_seconds"] > 0
    assert await wire.start_run(0, agent="steps", request_id="run 0") == run_ids[0]
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        refused = await http.post("/runs", json={"input": "go", "agent": "five"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs")
        assert int(refused.headers["retry-after"]) >= 1
    async with another(server, f"not {user}") as theirs:
        await theirs.receive_run(await theirs.start_run("go", agent="five"))
    await wire.send("cancel_run", run_id=run_ids[0])
    await wire.receive_run(run_ids[0])
    await wire.receive_run(await wire.start_run("go", agent="five", request_id="one more"))
    gate_of(user).open(RUNS_MAX - 1)
    for run_id in run_ids[1:]:
        await wire.receive_run(run_id)


async def test_a_thread_gives_an_agent_its_earlier_runs(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """`thread_id` comes back in `run_accepted`; a run without one gets a thread of its own."""
    await wire.start_run("first", agent="five", thread_id="our thread")
    assert wire.frames[-1]["thread_id"] == "our thread"
    first = await wire.start_run("second", agent="five", request_id="alone")
    assert wire.frames[-1]["thread_id"] not in ("our thread", first, user)


# Acks.


async def test_an_ack_ahead_of_the_run_is_rejected_and_settles_nothing(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """Live and ended, by `ack` and by `resume`."""
    run_id = await wire.start_run(0, agent="steps")
    await wire.receive_type("agent_started")
    for name, fields in (("ack", {"run_id": run_id, "seq": 2}), ("resume", {"runs": {run_id: 2}})):
        await wire.send(name, **fields)
        rejected = await wire.receive()
        assert (rejected["frame"], rejected["code"], rejected["run_id"]) == (name, "ack_ahead", run_id)
    gate_of(user).open()
    assert len(await wire.receive_run(run_id)) == 2
    await wire.send("ack", run_id=run_id, seq=3)
    assert (await wire.receive())["code"] == "ack_ahead"
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        assert (await http.get(f"/runs/{run_id}")).json()["acked_seq"] == 0
        await wire.ack(run_id, 2)
        await server.trace(run_id)
        assert (await http.get(f"/runs/{run_id}")).json()["acked_seq"] == 2


async def test_a_count_that_differs_from_its_ack_is_logged(wire: Wire, user: str, logged: list[Any]) -> None:
    """A client that processed fewer events than it promises is named with both figures."""
    run_id = await wire.start_run("go", agent="five")
    await wire.receive_run(run_id)
    await wire.send("ack", run_id=run_id, seq=5, count=4)
    await wire.start_run("after it", agent="five")
    differing = [entry for entry in logged if entry["event"] == "ack_count_differs"]
    assert [(entry["user_id"], entry["run_id"], entry["seq"], entry["count"]) for entry in differing] == [
        (user, run_id, 5, 4)
    ]


# HTTP.


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("", 400, "malformed"),
        ("{", 400, "malformed"),
        ("[]", 400, "malformed"),
        ("{}", 400, "malformed"),
        ('{"input": 1e999}', 400, "malformed"),
        ('{"input": "\\ud800"}', 400, "malformed"),
        ('{"input": 1, "agent": 7}', 400, "malformed"),
        ('{"input": ' + "[" * 20_000 + "]" * 20_000 + "}", 400, "malformed"),
        ('{"input": 1, "agent": "nobody"}', 404, "unknown_agent"),
        ('{"input": 1, "thread_id": " "}', 400, "invalid_input"),
    ],
    ids=lambda value: str(value)[:32],
)
async def test_what_http_refuses_is_a_problem_document_with_a_code_of_the_wire(
    server: ServerUnderTest, user: str, body: str, status: int, code: str
) -> None:
    """RFC 9457, and never a 500, whatever the body is."""
    headers = {**bearer(server, user), "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=headers) as http:
        response = await http.post("/runs", content=body)
    assert (response.status_code, response.json()["code"], response.json()["status"]) == (status, code, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


# Runs of others.


async def test_a_run_of_another_user_does_not_exist(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """In no frame and on no route; the answers are those for a run that never was, and the run goes on untouched."""
    run_id = await wire.start_run("go", agent="asks")
    await wire.receive_type("input_required")
    never = "01890000-0000-7000-8000-000000000000"
    async with (
        another(server, f"not {user}") as stranger,
        httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, f"not {user}")) as http,
    ):
        for name, fields in (
            ("cancel_run", {}),
            ("ack", {"seq": 1}),
            ("provide_input", {"input_id": "input_1", "value": True}),
        ):
            answers = []
            for target in (run_id, never):
                await stranger.send(name, run_id=target, **fields)
                answer = await stranger.receive()
                assert (answer["type"], answer["code"]) == ("rejected", "unknown_run")
                answers.append(json.dumps(answer).replace(target, "*"))
            assert answers[0] == answers[1]
        for target in (run_id, never):
            await stranger.send("resume", runs={target: 0})
            assert await stranger.receive() == {
                "type": "resumed",
                "run_id": target,
                "recovered": False,
                "reason": "unknown_run",
                "state": None,
                "from_seq": 0,
                "last_seq": 0,
            }
        for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/ledger"), ("DELETE", "")):
            responses = [await http.request(method, f"/runs/{target}{path}") for target in (run_id, never)]
            assert [response.status_code for response in responses] == [404, 404]
            bodies = [response.text.replace(run_id, "*").replace(never, "*") for response in responses]
            assert bodies[0] == bodies[1]
            assert json.loads(bodies[0])["code"] == "unknown_run"
        assert (await http.get("/runs")).json()["runs"] == []
        assert {frame["type"] for frame in stranger.frames} == {"ready", "rejected", "resumed"}
    await wire.send("cancel_run", run_id=run_id)
    events = await wire.receive_run(run_id)
    assert [event["type"] for event in events] == ["agent_started", "input_required", "agent_cancelled"]


# Resume.


async def test_a_cut_socket_gets_exactly_what_it_missed_and_then_what_is_live(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """No event is lost and none comes twice, whatever happened while nobody listened."""
    run_id = await wire.start_run(4, agent="steps")
    gate_of(user).open()
    await wire.receive_type("agent_thinking")
    wire.cut()
    gate_of(user).open(2)
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        await until(lambda: last_seq(http, run_id), 4)
    async with another(server, user) as again:
        [listed] = again.frames[0]["runs"]
        assert (listed["run_id"], listed["agent"], listed["state"]) == (run_id, "steps", "running")
        assert (listed["last_seq"], listed["acked_seq"]) == (4, 0)
        await again.send("resume", runs={run_id: 2})
        assert await again.receive() == {
            "type": "resumed",
            "run_id": run_id,
            "recovered": True,
            "state": "running",
            "from_seq": 3,
            "last_seq": 4,
        }
        assert [(await again.receive())["seq"] for _ in range(2)] == [3, 4]
        gate_of(user).open(2)
        later = await again.receive_run(run_id)
        assert [event["seq"] for event in later] == [3, 4, 5, 6]
        assert contract_problems([*wire.events(run_id), *later]) == []
        await again.ack(run_id, 6)
        trace = await server.trace(run_id)
    assert trace.root.attributes["tracewire.chain.complete"] is True
    async with another(server, user) as once_more:
        assert once_more.frames[0]["runs"] == []


async def last_seq(http: httpx.AsyncClient, run_id: str) -> int:
    """The run's newest durable seq."""
    return int((await http.get(f"/runs/{run_id}")).json()["last_seq"])


async def until(look: Callable[[], Any], wanted: Any) -> None:
    """Look until what is wanted is there; each look is a request, which takes its time."""
    give_up = time.monotonic() + 10
    while (found := await look()) != wanted:
        assert time.monotonic() < give_up, f"{found}, not {wanted}"


async def test_an_ended_run_is_resumed_from_the_log(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """From anywhere in it; resumed after its end nothing follows."""
    run_id = await wire.start_run("go", agent="streams")
    events = await wire.receive_run(run_id)
    async with another(server, user) as later:
        for after in (0, 3, len(events)):
            before = len(later.frames)
            await later.send("resume", runs={run_id: after})
            resumed = await later.receive()
            assert (resumed["recovered"], resumed["state"], resumed["from_seq"]) == (True, "completed", after + 1)
            for _ in events[after:]:
                await later.receive()
            assert later.frames[before + 1 :] == events[after:]
        await later.send("ack", run_id="none", seq=1)
        assert (await later.receive())["type"] == "rejected"


async def test_ready_lists_open_runs_and_ended_ones_that_were_not_acked_to_their_end(
    server: ServerUnderTest, user: str, wire: Wire
) -> None:
    """With how far each is and how far it was acked; a run acked to its end is listed no more."""
    acked = await wire.start_run("go", agent="five", request_id="acked")
    await wire.ack(acked, len(await wire.receive_run(acked)))
    half = await wire.start_run("go", agent="five", request_id="half")
    await wire.receive_run(half)
    await wire.ack(half, 3)
    failed = await wire.start_run("exception", agent="raises", request_id="failed")
    await wire.receive_run(failed)
    still_open = await wire.start_run(0, agent="steps", request_id="open")
    await wire.receive_type("agent_started")
    asking = await wire.start_run("go", agent="asks", request_id="asking")
    await wire.receive_type("input_required")
    async with another(server, user) as later:
        listed = {
            run["run_id"]: (run["request_id"], run["agent"], run["state"], run["last_seq"], run["acked_seq"])
            for run in later.frames[0]["runs"]
        }
    assert listed == {
        asking: ("asking", "asks", "awaiting_input", 2, 0),
        still_open: ("open", "steps", "running", 1, 0),
        failed: ("failed", "raises", "failed", 3, 0),
        half: ("half", "five", "completed", 5, 3),
    }
    gate_of(user).open()
    await wire.receive_run(still_open)
    await wire.send("cancel_run", run_id=asking)
    await wire.receive_run(asking)


# Questions to the user.


async def test_an_agent_is_answered_by_provide_input(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """The question comes as an event, the run awaits its answer, a wrong id changes nothing, and the agent goes on."""
    run_id = await wire.start_run("go", agent="asks")
    question = await wire.receive_type("input_required")
    assert question["data"] == {"input_id": "input_1", "kind": "approval", "prompt": "Send it?"}
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        assert (await http.get(f"/runs/{run_id}")).json()["state"] == "awaiting_input"
    await wire.send("provide_input", run_id=run_id, input_id="input_9", value=True)
    assert (await wire.receive())["code"] == "invalid_input"
    async with another(server, user) as second:
        await second.send("provide_input", run_id=run_id, input_id="input_1", value=True)
        question = await wire.receive_type("input_required")
    assert question["data"]["schema"] == {"type": "string"}
    await wire.send("provide_input", run_id=run_id, input_id="input_1", value=False)
    assert (await wire.receive())["code"] == "invalid_input"
    await wire.send("provide_input", run_id=run_id, input_id="input_2", value="Ada")
    events = await wire.receive_run(run_id)
    assert events[-1]["data"]["output"] == "True Ada"
    await wire.send("provide_input", run_id=run_id, input_id="input_2", value="Ada")
    assert (await wire.receive())["code"] == "run_ended"


async def test_a_run_is_cancelled_once(server: ServerUnderTest, user: str, wire: Wire) -> None:
    """Over the socket or over HTTP; afterwards it is `run_ended`, and one that never was is `unknown_run`."""
    for number in range(2):
        run_id = await wire.start_run(0, agent="steps", request_id=f"cancelled {number}")
        await wire.receive_type("agent_started")
        async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
            if number:
                assert (await http.delete(f"/runs/{run_id}")).status_code == 202
            else:
                await wire.send("cancel_run", run_id=run_id)
            events = await wire.receive_run(run_id)
            assert [event["type"] for event in events] == ["agent_started", "agent_cancelled"]
        await wire.send("cancel_run", run_id=run_id)
        assert (await wire.receive())["code"] == "run_ended"
    completed = await wire.start_run("go", agent="five")
    await wire.receive_run(completed)
    await wire.send("cancel_run", run_id=completed)
    assert (await wire.receive())["code"] == "run_ended"
    async with httpx.AsyncClient(base_url=server.server.url, headers=bearer(server, user)) as http:
        refused = await http.delete(f"/runs/{completed}")
        assert (refused.status_code, refused.json()["code"]) == (409, "run_ended")
    await wire.send("cancel_run", run_id="never was")
    assert (await wire.receive())["code"] == "unknown_run"


# Lines.


async def test_frames_of_several_lines_hold_what_single_frames_hold(server: ServerUnderTest, user: str) -> None:
    """On `tracewire.v1.lines` a busy socket joins objects, one a line; each run is whole, and equal on both sockets."""
    lines = ("tracewire.v1.lines",)
    async with another(server, user, subprotocols=lines) as joined, another(server, user) as single:
        for number in range(RUNS_MAX):
            await joined.send("start_run", request_id=f"joined {number}", input=200, agent="verbose")
        run_ids = [(await joined.receive_type("run_accepted"))["run_id"] for _ in range(RUNS_MAX)]
        for run_id in run_ids:
            events = await joined.receive_run(run_id)
            assert contract_problems(events) == []
            assert await single.receive_run(run_id) == events
        assert max(raw.count("\n") for raw in joined.raw) > 0
        assert max(raw.count("\n") for raw in single.raw) == 0
        assert len(joined.raw) < len(joined.frames)


def bearer(server: ServerUnderTest, user: str) -> dict[str, str]:
    """The header that signs a request in as the user."""
    return {"Authorization": f"Bearer {server.token(user)}"}
