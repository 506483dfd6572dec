"""Every HTTP route on a real server: what it answers, what it refuses, and that it is as `/schema` says."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
import structlog
from jsonschema import Draft202012Validator
from litestar.routes import HTTPRoute

from support.agents import known_agents
from support.event_source import event_source
from support.servers import FIVE, ServerUnderTest, server_under_test
from tracewire.gateway.console import CONTENT_SECURITY_POLICY
from tracewire.gateway.public import public_app
from tracewire.gateway.typescript import TARGET

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNS_MAX = 3
RECORDING_BYTES_MAX = 4096
NEVER = "01890000-0000-7000-8000-000000000000"
PROBLEM = "application/problem+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUnderTest]:
    """One server for the tests, each with a user of its own."""
    async with server_under_test(
        tmp_path_factory.mktemp("routes") / "data",
        agents=known_agents(),
        runs_per_user_max=RUNS_MAX,
        recording_bytes_max=RECORDING_BYTES_MAX,
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
async def http(server: ServerUnderTest, user: str) -> AsyncIterator[httpx.AsyncClient]:
    """The test's user, over HTTP."""
    async with client(server, user) as opened:
        yield opened


def client(server: ServerUnderTest, user: str | None) -> httpx.AsyncClient:
    """A user over HTTP; `None` brings no token."""
    headers = {"Authorization": f"Bearer {server.token(user)}"} if user is not None else {}
    return httpx.AsyncClient(base_url=server.server.url, headers=headers)


async def start(http: httpx.AsyncClient, agent: str = "five", **fields: Any) -> str:
    """Start a run; its id."""
    response = await http.post("/runs", json={"input": "go", "agent": agent, **fields})
    assert response.status_code == 202, response.text
    return str(response.json()["run_id"])


async def to_its_end(server: ServerUnderTest, user: str, run_id: str) -> None:
    """Read a run's stream until it has ended."""
    async with event_source(server.server.url, server.token(user), run_id) as source:
        await source.events()


def rejected(server: ServerUnderTest, code: str) -> float:
    """How many refusals with this code were counted."""
    return server.server.telemetry.metrics.registry.get_sample_value("tracewire_rejected_total", {"code": code}) or 0


# What is there.


def template(path: str) -> str:
    """The path of a route as OpenAPI writes it."""
    return path.rstrip("/") or "/"


async def test_the_document_tells_of_every_route_that_there_is(
    server: ServerUnderTest, http: httpx.AsyncClient
) -> None:
    """And of none that there is not; the page's own parts are nobody's interface."""
    running = server.server
    app = public_app(running.gateway, running._http_runs, running.recordings, running._file_threads, version="1")
    routes = {
        (template(route.path_format), method.lower())
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler, _ in route.route_handler_map.values()
        if handler.resolve_include_in_schema()
        for method in handler.http_methods
    }
    document = (await http.get("/schema/openapi.json")).json()
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


async def test_every_answer_is_as_the_document_says(
    server: ServerUnderTest, user: str, http: httpx.AsyncClient
) -> None:
    """Each operation is called from what the document says of it, and its answer held against its schema."""
    document = (await http.get("/schema/openapi.json")).json()
    run_id = await start(http)
    await to_its_end(server, user, run_id)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for body in bodies_of(operation):
                url = path.format(run_id=run_id)
                response = await http.request(method, url, **body)
                assert response.status_code < 500, response.text
                told = operation["responses"][str(response.status_code)]["content"]
                content_type = response.headers["content-type"].partition(";")[0]
                schema = told.get(content_type, told.get("application/json"))["schema"]
                found = list(Draft202012Validator({**document, **schema}).iter_errors(response.json()))
                assert found == [], (method, path)


def bodies_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Each example of a request's body, as arguments of a request."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        return [{"json": example["value"]} for example in content["application/json"]["examples"].values()]
    return [{"content": b"{}"}] if content else [{}]


# Refusals.


class Refusal(NamedTuple):
    """A request that is refused, and how."""

    name: str
    method: str
    path: str
    status: int
    code: str
    request: dict[str, Any] = {}  # noqa: RUF012 # never changed
    says: str = ""


def body(text: str | bytes, content_type: str = "application/json") -> dict[str, Any]:
    """A request's body as it stands."""
    return {"content": text, "headers": {"Content-Type": content_type}}


REFUSALS = [
    Refusal("no such path", "GET", "/nothing", 404, "unknown_frame", says="/schema"),
    Refusal("no such path below a run", "GET", "/runs/x/nothing", 404, "unknown_frame"),
    Refusal("an encoded slash", "GET", "/runs/a%2Fb", 404, "unknown_frame"),
    Refusal("method", "PUT", "/runs", 405, "unknown_frame", says="Allow"),
    Refusal("method of a run", "PATCH", "/runs/x", 405, "unknown_frame"),
    Refusal("method of health", "POST", "/live", 405, "unknown_frame"),
    Refusal("the socket's path", "GET", "/ws", 405, "unknown_frame"),
    Refusal("empty body", "POST", "/runs", 400, "malformed", body("")),
    Refusal("cut body", "POST", "/runs", 400, "malformed", body('{"input": ')),
    Refusal("array", "POST", "/runs", 400, "malformed", body("[]"), "object"),
    Refusal("no input", "POST", "/runs", 400, "malformed", body("{}"), "input"),
    Refusal("wrong type", "POST", "/runs", 400, "malformed", body('{"input": 1, "agent": 7}'), "agent"),
    Refusal("not UTF-8", "POST", "/runs", 400, "malformed", body(b'{"input": "\xff"}')),
    Refusal("a lone surrogate", "POST", "/runs", 400, "malformed", body('{"input": "\\ud800"}')),
    Refusal("not a number", "POST", "/runs", 400, "malformed", body('{"input": NaN}')),
    Refusal("too large a number", "POST", "/runs", 400, "malformed", body('{"input": 1e999}')),
    Refusal("deep", "POST", "/runs", 400, "malformed", body('{"input": ' + "[" * 9000 + "]" * 9000 + "}"), "nested"),
    Refusal("large", "POST", "/runs", 413, "invalid_input", body('{"input": "' + "x" * 70_000 + '"}'), "larger"),
    Refusal("a form", "POST", "/runs", 415, "malformed", body("input=1", "application/x-www-form-urlencoded"), "JSON"),
    Refusal("text", "POST", "/runs", 415, "malformed", body('{"input": 1}', "text/plain"), "application/json"),
    Refusal("no agent", "POST", "/runs", 404, "unknown_agent", body('{"input": 1, "agent": "no"}'), "five"),
    Refusal("blank thread", "POST", "/runs", 400, "invalid_input", body('{"input": 1, "thread_id": " "}')),
    Refusal("limit of nothing", "GET", "/runs?limit=", 400, "malformed", says="limit"),
    Refusal("limit in words", "GET", "/runs?limit=abc", 400, "malformed", says="from 1 to 100"),
    Refusal("limit 0", "GET", "/runs?limit=0", 400, "malformed"),
    Refusal("limit below 0", "GET", "/runs?limit=-1", 400, "malformed"),
    Refusal("limit too high", "GET", "/runs?limit=101", 400, "malformed"),
    Refusal("limit a fraction", "GET", "/runs?limit=1.5", 400, "malformed"),
    Refusal("limit without end", "GET", f"/runs?limit={'9' * 5000}", 400, "malformed"),
    Refusal("limit in other digits", "GET", "/runs?limit=%D9%A1", 400, "malformed"),
    Refusal("limit of bytes", "GET", "/runs?limit=%ff", 400, "malformed"),
    Refusal("no run", "GET", f"/runs/{NEVER}", 404, "unknown_run", says=NEVER),
    Refusal("a run of bytes", "GET", "/runs/%00%ff", 404, "unknown_run"),
    Refusal("a long run", "GET", f"/runs/{'x' * 5000}", 404, "unknown_run"),
    Refusal("events of no run", "GET", f"/runs/{NEVER}/events", 404, "unknown_run"),
    Refusal("ledger of no run", "GET", f"/runs/{NEVER}/ledger", 404, "unknown_run"),
    Refusal("cancel no run", "DELETE", f"/runs/{NEVER}", 404, "unknown_run"),
    Refusal("large recording", "POST", "/recordings", 413, "invalid_input", {"content": b"x" * 5000}, "4096"),
    Refusal("no token", "GET", "/runs", 401, "unauthenticated", {"headers": {"Authorization": ""}}, "Bearer"),
    Refusal("other scheme", "GET", "/runs", 401, "unauthenticated", {"headers": {"Authorization": "Basic eA=="}}),
    Refusal("odd token", "GET", "/agents", 401, "unauthenticated", {"headers": {"Authorization": b"Bearer \xff"}}),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[refusal.name for refusal in REFUSALS])
async def test_a_refusal_is_a_problem_document_and_is_counted(
    server: ServerUnderTest, http: httpx.AsyncClient, logged: list[Any], refusal: Refusal
) -> None:
    """RFC 9457 with the wire's code, words that help, and a log line; and the server goes on serving."""
    before = rejected(server, refusal.code)
    response = await http.request(refusal.method, refusal.path, **refusal.request)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (refusal.status, refusal.code), problem
    assert response.headers["content-type"] == PROBLEM
    assert set(problem) == {"type", "title", "status", "code", "detail"}
    assert (problem["type"], problem["status"]) == ("about:blank", refusal.status)
    assert refusal.says in problem["detail"]
    assert 0 < len(problem["detail"]) <= 1000
    assert rejected(server, refusal.code) == before + 1
    [line] = [entry for entry in logged if entry["event"] == "request_refused"]
    assert (line["status"], line["code"]) == (refusal.status, refusal.code)
    assert (await http.get("/live")).status_code == 200


async def test_a_405_and_options_say_which_methods_there_are(http: httpx.AsyncClient) -> None:
    """The same ones, HEAD where there is GET."""
    for path, methods in (
        ("/runs", "GET, HEAD, OPTIONS, POST"),
        ("/runs/", "GET, HEAD, OPTIONS, POST"),
        (f"/runs/{NEVER}", "DELETE, GET, HEAD, OPTIONS"),
        (f"/runs/{NEVER}/events", "GET, HEAD, OPTIONS"),
        ("/recordings", "OPTIONS, POST"),
        ("/live", "GET, HEAD, OPTIONS"),
        ("/schema", "GET, HEAD, OPTIONS"),
    ):
        options = await http.options(path)
        assert (options.status_code, options.headers["allow"], options.content) == (204, methods, b"")
        assert (await http.put(path)).headers["allow"] == methods
    assert (await http.options("/nothing")).status_code == 404


@pytest.mark.parametrize("path", ["/runs", "/agents", "/live", "/ready", "/schema", "/schema/openapi.json", "/nothing"])
async def test_head_answers_as_get_does_but_for_the_body(http: httpx.AsyncClient, path: str) -> None:
    """The same status and headers, among them the length that the body would have."""
    head, got = await http.head(path), await http.get(path)
    assert head.content == b""
    assert head.status_code == got.status_code
    for name in ("content-type", "content-length", "etag"):
        assert head.headers.get(name) == got.headers.get(name)


# Runs.


async def test_a_run_is_started_found_read_and_listed(
    server: ServerUnderTest, user: str, http: httpx.AsyncClient
) -> None:
    """202 with where to find it; then its view, its events and its ledger."""
    response = await http.post("/runs", json={"input": "go", "agent": "five", "thread_id": "thread"})
    started = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/runs/{started['run_id']}"
    assert started["thread_id"] == "thread"
    await to_its_end(server, user, started["run_id"])
    view = (await http.get(response.headers["location"])).json()
    assert {name: view[name] for name in started} == started
    assert (view["state"], view["outcome"], view["last_seq"]) == ("completed", "completed", 5)
    page = (await http.get(f"/runs/{started['run_id']}/events")).json()
    assert tuple(event["type"] for event in page["events"]) == FIVE
    assert (page["run_id"], page["last_seq"]) == (started["run_id"], 5)
    ledger = (await http.get(f"/runs/{started['run_id']}/ledger")).json()
    assert (ledger["user_id"], tuple(row["type"] for row in ledger["events"])) == (user, FIVE)
    assert (await http.get("/runs")).json() == {"runs": [view], "next": None}


async def test_the_same_idempotency_key_finds_the_same_run(http: httpx.AsyncClient) -> None:
    """200 and the run; with another input 409; for another user it is another key; without one each is new."""
    key = {"Idempotency-Key": "the key"}
    first = await http.post("/runs", json={"input": 1, "agent": "five"}, headers=key)
    again = await http.post("/runs", json={"input": 1, "agent": "five"}, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    other = await http.post("/runs", json={"input": 2, "agent": "five"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "request_id_reused")
    assert await start(http) != await start(http)


@pytest.mark.parametrize("key", ["x" * 129, b"\xa0"], ids=["long", "blank"])
async def test_a_key_that_is_none_is_refused(http: httpx.AsyncClient, key: str | bytes) -> None:
    """Rather than taken for no key: the retry that it was meant for would start a second run."""
    response = await http.post("/runs", json={"input": 1, "agent": "five"}, headers={b"Idempotency-Key": key})  # type: ignore[dict-item] # bytes are taken
    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")


async def test_one_run_too_many_is_refused_until_there_is_room(
    server: ServerUnderTest, user: str, http: httpx.AsyncClient
) -> None:
    """429 with when to try again."""
    open_runs = [await start(http, "waits") for _ in range(RUNS_MAX)]
    refused = await http.post("/runs", json={"input": 1, "agent": "waits"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs")
    assert (await http.delete(f"/runs/{open_runs[0]}")).status_code == 202
    await to_its_end(server, user, open_runs[0])
    await start(http, "waits")


async def test_cancelling_twice_is_cancelling_once(server: ServerUnderTest, user: str, http: httpx.AsyncClient) -> None:
    """202 while it ends, 200 when it has; a run that ended otherwise is 409."""
    run_id = await start(http, "waits")
    first, second = await http.delete(f"/runs/{run_id}"), await http.delete(f"/runs/{run_id}")
    assert {first.status_code, second.status_code} <= {200, 202}
    await to_its_end(server, user, run_id)
    third = await http.delete(f"/runs/{run_id}")
    assert (third.status_code, third.json()["state"]) == (200, "cancelled")
    events = (await http.get(f"/runs/{run_id}/events")).json()["events"]
    assert [event["type"] for event in events].count("agent_cancelled") == 1
    completed = await start(http)
    await to_its_end(server, user, completed)
    refused = await http.delete(f"/runs/{completed}")
    assert (refused.status_code, refused.json()["code"]) == (409, "run_ended")


async def test_runs_come_by_the_page_newest_first(server: ServerUnderTest, user: str, http: httpx.AsyncClient) -> None:
    """`next` leads from page to page to the end; each run is on one of them."""
    run_ids = []
    for _ in range(5):
        run_ids.append(await start(http))
        await to_its_end(server, user, run_ids[-1])
    found: list[str] = []
    following: str | None = None
    sizes = []
    while True:
        params = {"limit": 2} | ({"before": following} if following else {})
        page = (await http.get("/runs", params=params)).json()
        found += [run["run_id"] for run in page["runs"]]
        sizes.append(len(page["runs"]))
        following = page["next"]
        if following is None:
            break
    assert found == run_ids[::-1]
    assert sizes == [2, 2, 1]
    assert (await http.get("/runs", params={"before": "0"})).json() == {"runs": [], "next": None}


async def test_events_come_by_the_page_in_order(server: ServerUnderTest, user: str, http: httpx.AsyncClient) -> None:
    """`after` the last seq of the page before; past the end there are none."""
    run_id = await start(http)
    await to_its_end(server, user, run_id)
    seqs: list[int] = []
    while events := (
        await http.get(f"/runs/{run_id}/events", params={"after": seqs[-1] if seqs else 0, "limit": 2})
    ).json()["events"]:
        seqs += [event["seq"] for event in events]
    assert seqs == [1, 2, 3, 4, 5]
    for after in (5, 6, 2**53):
        page = (await http.get(f"/runs/{run_id}/events", params={"after": after})).json()
        assert page == {"run_id": run_id, "last_seq": 5, "events": []}


@pytest.mark.parametrize("after", ["abc", "-1", "", "1.5", str(2**53 + 1), "9" * 400])
async def test_a_seq_that_is_none_is_refused(
    server: ServerUnderTest, user: str, http: httpx.AsyncClient, after: str
) -> None:
    """As a page and as a stream alike."""
    run_id = await start(http)
    for accept in ("application/json", "text/event-stream"):
        response = await http.get(f"/runs/{run_id}/events", params={"after": after}, headers={"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (400, "malformed")
        assert "after" in response.json()["detail"]


async def test_on_no_route_does_another_users_run_exist(
    server: ServerUnderTest, user: str, http: httpx.AsyncClient
) -> None:
    """To them it is word for word a run that never was, and it goes on untouched; nor do they find its request."""
    run_id = (
        await http.post("/runs", json={"input": 1, "agent": "waits"}, headers={"Idempotency-Key": "mine"})
    ).json()["run_id"]
    document = (await http.get("/schema/openapi.json")).json()
    tried = 0
    async with client(server, f"not {user}") as stranger:
        for path, methods in document["paths"].items():
            for method in methods if "{run_id}" in path else ():
                told = [await stranger.request(method, path.format(run_id=wanted)) for wanted in (run_id, NEVER)]
                assert [response.status_code for response in told] == [404, 404], (method, path)
                assert told[0].text.replace(run_id, "*") == told[1].text.replace(NEVER, "*")
                tried += 1
        assert (await stranger.get("/runs", params={"before": "f"})).json()["runs"] == []
        own = await stranger.post("/runs", json={"input": 1, "agent": "five"}, headers={"Idempotency-Key": "mine"})
        assert (own.status_code, own.json()["run_id"] == run_id) == (202, False)
    assert tried == 4
    assert (await http.get(f"/runs/{run_id}")).json()["state"] == "running"


# The rest.


async def test_the_agents_are_listed_the_default_first(http: httpx.AsyncClient) -> None:
    """With what their completed runs owe."""
    agents = (await http.get("/agents")).json()
    assert [(agent["name"], agent["default"]) for agent in agents] == [
        ("analyst", True),
        ("five", False),
        ("waits", False),
    ]
    assert tuple(sorted(agents[1]["requires"])) == tuple(sorted(FIVE))


async def test_a_recording_is_kept_for_its_user(server: ServerUnderTest, user: str, http: httpx.AsyncClient) -> None:
    """Up to the limit, of whatever type; its id is what the analyst takes."""
    response = await http.post(
        "/recordings", params={"name": "mine"}, content=b'{"a":1}\n' * (RECORDING_BYTES_MAX // 8)
    )
    assert (response.status_code, response.json()["bytes"]) == (201, RECORDING_BYTES_MAX)
    asked = {"question": "what failed?", "recording_id": response.json()["recording_id"]}
    run_id = (await http.post("/runs", json={"input": asked})).json()["run_id"]
    await to_its_end(server, user, run_id)
    assert "None of the 512 lines" in (await http.get(f"/runs/{run_id}/events")).text


async def test_health_needs_no_token(server: ServerUnderTest) -> None:
    """`/ready` names what does not hold."""
    async with client(server, None) as nobody:
        assert (await nobody.get("/live")).json() == {"live": True}
        assert (await nobody.get("/ready")).json() == {"ready": True, "reasons": {}}
        server.server.readiness.failed("event log", "the disk is full")
        try:
            unready = await nobody.get("/ready")
            alive = await nobody.get("/live")
        finally:
            server.server.readiness.passed("event log")
    assert (unready.status_code, unready.json()["reasons"]) == (503, {"event log": "the disk is full"})
    assert alive.status_code == 200


async def test_the_schemas_and_their_page_are_public_and_need_no_other_host(server: ServerUnderTest) -> None:
    """The page and each part that it names come from here, under a policy that allows nothing else."""
    async with client(server, None) as nobody:
        page = await nobody.get("/schema")
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert "//" not in page.text.replace("<!doctype html>", "")
        script = (await nobody.get("/console/schema.js")).text
        parts = {part for part in (page.text + script).split('"') if part.startswith(("/console/", "/client/"))}
        assert len(parts) >= 6
        for part in parts:
            assert (await nobody.get(part)).status_code == 200, part
        frames = await nobody.get("/schema/frames.json")
        assert frames.headers["content-type"] == "application/schema+json"
        assert frames.headers["access-control-allow-origin"] == "*"
        assert frames.json()["$schema"].endswith("2020-12/schema")
        types = await nobody.get("/client/frames.d.ts")
        assert types.text == TARGET.read_text(encoding="utf-8")
        tagged = await nobody.get("/schema/openapi.json", headers={"If-None-Match": frames.headers["etag"]})
        assert tagged.status_code == 200
        known = await nobody.get("/schema/frames.json", headers={"If-None-Match": frames.headers["etag"]})
        assert known.status_code == 304
        assert json.loads(tagged.text)["openapi"].startswith("3.1")
