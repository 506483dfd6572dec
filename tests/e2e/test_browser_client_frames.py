"""The browser client in a real Chromium, against sockets that misbehave as the test says: a healthy server's do not."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute

from support.browser import WAIT_MS, Watched, chromium
from support.servers import ServerProcess

READY = {
    "type": "ready",
    "connection_id": "c",
    "user_id": "u",
    "heartbeat_seconds": 20,
    "limits": {},
    "agents": ["analyst"],
    "runs": [],
    "runs_more": False,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this module."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in development mode: where the module is fetched from."""
    with ServerProcess(tmp_path_factory.mktemp("browser-client") / "data") as started:
        yield started


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A browser context of its own."""
    context = browser.new_context()
    yield Watched(context)
    context.close()


class Sockets:
    """Every socket that the page opens, and what it sent, while the test plays the server."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.opened: list[WebSocketRoute] = []
        self.sent: list[list[dict[str, Any]]] = []
        self.on_frame: Callable[[int, dict[str, Any]], None] = lambda _, __: None
        page.route_web_socket("**/scripted", self._open)

    def _open(self, route: WebSocketRoute) -> None:
        number = len(self.opened)
        self.opened.append(route)
        self.sent.append([])

        def take(message: str | bytes) -> None:
            frame = json.loads(message)
            self.sent[number].append(frame)
            self.on_frame(number, frame)

        route.on_message(take)
        self.send(number, READY)

    def send(self, number: int, *frames: dict[str, Any]) -> None:
        """Send these as one frame of lines."""
        self.opened[number].send("\n".join(json.dumps(frame) for frame in frames))

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Let the page go on until this holds."""
        waited_ms = 0
        while not holds():
            assert waited_ms < WAIT_MS, (len(self.opened), self.sent)
            self.page.evaluate("() => new Promise(done => MessageChannel && setTimeout(done, 10))")
            waited_ms += 10

    def of_type(self, number: int, frame_type: str) -> list[dict[str, Any]]:
        """What the page sent of this type over this socket."""
        return [frame for frame in self.sent[number] if frame["type"] == frame_type]


@pytest.fixture
def sockets(watched: Watched, process: ServerProcess) -> Sockets:
    """A page with the client imported and, as `client`, connected to a socket that the test plays."""
    page = watched.context.new_page()
    sockets = Sockets(page)
    page.goto(process.url)
    page.evaluate(
        """async () => {
          const { Tracewire } = await import("/client/tracewire.js");
          window.states = [];
          window.tokens = 0;
          window.client = new Tracewire("/scripted", { token: () => `token-${++window.tokens}` });
          client.addEventListener("state", ({ detail }) => states.push(detail.state));
          await client.connect();
        }"""
    )
    return sockets


def event(seq: int, kind: str = "agent_thinking", **more: Any) -> dict[str, Any]:
    """An envelope of the run `r`."""
    return {"type": kind, "run_id": "r", "seq": seq, "agent": "a", "time": "", "traceparent": "", "data": {}} | more


def last(seq: int, **counts: int) -> dict[str, Any]:
    """The terminal envelope with its receipt."""
    receipt = {"last_seq": seq, "counts": counts | {"agent_completed": 1}}
    return event(seq, "agent_completed", data={"output": "x", "receipt": receipt})


def start(sockets: Sockets) -> None:
    """Start the run `r`, which the first socket accepts."""

    def accept(number: int, frame: dict[str, Any]) -> None:
        if frame["type"] == "start_run":
            accepted = {"type": "run_accepted", "request_id": frame["request_id"], "run_id": "r", "thread_id": "t"}
            sockets.send(number, accepted)

    sockets.on_frame = accept
    sockets.page.evaluate("async () => { window.run = await client.start('q', { requestId: 'q-1' }); }")


def test_a_gap_is_acked_up_to_and_resumed_once(sockets: Sockets) -> None:
    """Events behind a gap are not taken; what came before is acked; one `resume` asks for the rest, and repeats are
    dropped.
    """
    start(sockets)
    sockets.send(0, event(1), event(2), event(5), event(6))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "resume")))
    assert [frame for frame in sockets.sent[0] if frame["type"] in ("ack", "resume")] == [
        {"type": "ack", "run_id": "r", "seq": 2, "count": 2},
        {"type": "resume", "runs": {"r": 2}},
    ]
    resumed = {"type": "resumed", "run_id": "r", "recovered": True, "state": "running", "from_seq": 3, "last_seq": 6}
    sockets.send(0, event(7), resumed, event(2), event(3), event(4), event(5), event(6), last(7, agent_thinking=6))
    sockets.wait_for(lambda: len(sockets.of_type(0, "ack")) == 2)
    assert sockets.page.evaluate("run.events.map(event => event.seq)") == [1, 2, 3, 4, 5, 6, 7]
    assert sockets.page.evaluate("run.receiptAgrees") is True
    assert sockets.of_type(0, "ack")[-1] == {"type": "ack", "run_id": "r", "seq": 7, "count": 7}
    assert len(sockets.of_type(0, "resume")) == 1


@pytest.mark.parametrize("reason", ["expired", "unknown_run"])
def test_a_run_that_cannot_be_resumed_fails_with_the_reason(sockets: Sockets, reason: str) -> None:
    """Whoever iterates over its events, or waits for its end, is told, and waits no longer."""
    start(sockets)
    sockets.send(0, event(1))
    told = {"type": "resumed", "run_id": "r", "recovered": False, "state": "completed", "from_seq": 9, "last_seq": 20}
    sockets.send(0, event(3), told | {"reason": reason})
    read_all = (
        "async () => { try { for await (const _ of run); } catch (error) { return error.code; } return 'ended'; }"
    )
    assert reason == sockets.page.evaluate(read_all)
    assert [1] == sockets.page.evaluate("run.events.map(event => event.seq)")


def test_a_receipt_that_counts_otherwise_does_not_agree(sockets: Sockets) -> None:
    """A run whose events were renumbered on the way has no gap, and its receipt tells."""
    start(sockets)
    sockets.send(0, event(1), last(2, agent_thinking=1, tool_completed=1))
    sockets.wait_for(lambda: sockets.page.evaluate("run.terminal !== null"))
    assert sockets.page.evaluate("run.receiptAgrees") is False


def test_joined_deltas_of_which_a_part_came_before_are_asked_for_singly(sockets: Sockets) -> None:
    """The page would otherwise have the text of 2 and 3 twice: the client resumes after 3, and gets 4 and 5."""
    start(sockets)
    sockets.send(0, event(1), event(2, "agent_delta"), event(3, "agent_delta"), event(5, "agent_delta", first_seq=2))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "resume")))
    assert [{"type": "resume", "runs": {"r": 3}}] == sockets.of_type(0, "resume")
    resumed = {"type": "resumed", "run_id": "r", "recovered": True, "state": "running", "from_seq": 4, "last_seq": 5}
    rest = (event(4, "agent_delta"), event(5, "agent_delta"), last(6, agent_thinking=1, agent_delta=4))
    sockets.send(0, resumed, *rest)
    sockets.wait_for(lambda: any(ack["seq"] == 6 for ack in sockets.of_type(0, "ack")))
    assert sockets.of_type(0, "ack")[-1] == {"type": "ack", "run_id": "r", "seq": 6, "count": 6}


def test_joined_deltas_count_singly(sockets: Sockets) -> None:
    """An envelope with `first_seq` stands for all of its deltas, in the ack's count and against the receipt."""
    start(sockets)
    sockets.send(0, event(1), event(5, "agent_delta", first_seq=2), last(6, agent_thinking=1, agent_delta=4))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "ack")))
    assert sockets.of_type(0, "ack") == [{"type": "ack", "run_id": "r", "seq": 6, "count": 6}]
    assert sockets.page.evaluate("run.receiptAgrees") is True


def test_acks_come_at_the_latest_every_sixteen_events_and_at_once_at_the_end(sockets: Sockets) -> None:
    """With a stopped clock, so that no timer acks: 40 events give acks at 16 and 32, and the terminal one at once."""
    sockets.page.clock.install()
    sockets.page.clock.pause_at("2030-01-01")
    start(sockets)
    sockets.send(0, *(event(seq) for seq in range(1, 41)))
    sockets.page.evaluate("() => run.events.length")
    assert [frame["seq"] for frame in sockets.of_type(0, "ack")] == [16, 32]
    sockets.page.clock.run_for(100)
    assert [frame["seq"] for frame in sockets.of_type(0, "ack")] == [16, 32, 40]
    sockets.send(0, last(41, agent_thinking=40))
    sockets.page.evaluate("() => run.events.length")
    assert [frame["seq"] for frame in sockets.of_type(0, "ack")] == [16, 32, 40, 41]


def test_a_hidden_page_acks_at_once(sockets: Sockets) -> None:
    """Timers of a hidden page are throttled: what is pending is acked when it is hidden, later events as they come."""
    sockets.page.clock.install()
    sockets.page.clock.pause_at("2030-01-01")
    start(sockets)
    sockets.send(0, event(1))
    sockets.page.evaluate("() => run.events.length")
    assert sockets.of_type(0, "ack") == []
    sockets.page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { value: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    assert [frame["seq"] for frame in sockets.of_type(0, "ack")] == [1]
    sockets.send(0, event(2), event(3))
    sockets.page.evaluate("() => run.events.length")
    assert [frame["seq"] for frame in sockets.of_type(0, "ack")] == [1, 3]


@pytest.mark.parametrize("code", [4000, 4001, 4002, 4003, 4004, 4499, 1001, 1011, 1012])
def test_a_lost_connection_is_made_anew_and_its_runs_resumed(sockets: Sockets, code: int) -> None:
    """With a fresh token, after a pause; the open run goes on after the last event that came."""
    start(sockets)
    sockets.send(0, event(1), event(2))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "ack")))
    sockets.opened[0].close(code=code)
    sockets.wait_for(lambda: len(sockets.opened) == 2 and bool(sockets.sent[1]))
    assert sockets.sent[1] == [{"type": "resume", "runs": {"r": 2}}]
    assert sockets.page.evaluate("states")[:3] == ["connecting", "ready", "reconnecting"]
    assert sockets.page.evaluate("tokens") == 2


@pytest.mark.parametrize("code", [4501, 4502, 4503, 4504, 4505, 4999, 1002, 1003, 1007, 1008, 1009])
def test_a_close_that_says_so_is_the_end(sockets: Sockets, code: int) -> None:
    """No reconnect, not in an hour; what was open fails with the code; `connect` may be called again."""
    start(sockets)
    sockets.page.clock.install()
    told = sockets.page.evaluate_handle("() => ({ error: run.ended().catch(error => error) })")
    sockets.opened[0].close(code=code)
    assert told.evaluate("async ({ error }) => [(await error).code, (await error).closeCode]") == ["closed", code]
    sockets.page.clock.run_for(3_600_000)
    assert len(sockets.opened) == 1
    assert sockets.page.evaluate("client.state") == "closed"
    sockets.page.evaluate("() => client.connect()")
    assert len(sockets.opened) == 2


def test_an_unanswered_start_is_repeated_by_the_next_connection(sockets: Sockets) -> None:
    """The same request id, so that the server starts one run and not two."""
    sockets.on_frame = lambda _, frame: (
        sockets.opened[0].close(code=1012) if frame["type"] == "start_run" and len(sockets.opened) == 1 else None
    )
    sockets.page.evaluate("() => void client.start('q', { requestId: 'q-1' })")
    sockets.wait_for(lambda: len(sockets.opened) == 2 and bool(sockets.sent[1]))
    assert sockets.sent[0] == sockets.sent[1] == [{"type": "start_run", "request_id": "q-1", "input": "q"}]


def test_the_last_ack_that_was_lost_is_sent_again(sockets: Sockets) -> None:
    """A run that was acked to its end, and that the next `ready` lists as not acked, is acked again."""
    start(sockets)
    sockets.send(0, event(1), last(2, agent_thinking=1))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "ack")))
    listing = {"run_id": "r", "request_id": "q-1", "agent": "a", "state": "completed", "last_seq": 2, "acked_seq": 0}
    sockets.opened[0].close(code=1012)
    sockets.wait_for(lambda: len(sockets.opened) == 2)
    sockets.send(1, READY | {"runs": [listing]})
    sockets.wait_for(lambda: bool(sockets.sent[1]))
    assert sockets.sent[1] == [{"type": "ack", "run_id": "r", "seq": 2, "count": 2}]


def test_pings_are_answered_and_their_absence_is_noticed(sockets: Sockets) -> None:
    """A `pong` for each `ping`; after two heartbeats without any frame the connection is made anew."""
    sockets.page.clock.install()
    sockets.opened[0].close(code=1012)
    sockets.page.clock.run_for(1_000)
    sockets.wait_for(lambda: len(sockets.opened) == 2)
    sockets.send(1, {"type": "ping", "id": 7})
    sockets.wait_for(lambda: bool(sockets.sent[1]))
    assert sockets.sent[1] == [{"type": "pong", "id": 7}]
    sockets.page.clock.run_for(39_000)
    assert len(sockets.opened) == 2
    sockets.page.clock.run_for(15_000)
    sockets.wait_for(lambda: len(sockets.opened) == 3)


def test_a_token_is_renewed_before_it_expires(sockets: Sockets) -> None:
    """A minute-long token of a function is renewed on the open socket after four fifths of its time; then by what the
    server says of the new one.
    """
    sockets.page.clock.install()
    sockets.page.evaluate(
        """async () => {
          const { Tracewire } = await import("/client/tracewire.js");
          const tokenFor = seconds => "h." + btoa(JSON.stringify({ exp: Date.now() / 1000 + seconds })) + ".s";
          window.renewing = new Tracewire("/scripted", { token: () => tokenFor(60).replaceAll("=", "") });
          await renewing.connect();
        }"""
    )
    for _ in range(4):  # pings, as a server sends them, keep the connection from being thought dead
        sockets.page.clock.run_for(11_000)
        sockets.send(1, {"type": "ping", "id": 1})
    assert sockets.of_type(1, "authenticate") == []
    sockets.page.clock.run_for(5_000)
    sockets.wait_for(lambda: len(sockets.of_type(1, "authenticate")) == 1)
    expires_at = sockets.page.evaluate("Date.now() / 1000") + 10
    sockets.send(1, {"type": "authenticated", "expires_at": expires_at})
    sockets.page.evaluate("() => renewing.state")
    sockets.page.clock.run_for(9_000)
    sockets.wait_for(lambda: len(sockets.of_type(1, "authenticate")) == 2)


def test_attempts_become_rarer_while_the_server_is_away(watched: Watched, process: ServerProcess) -> None:
    """Jittered and doubling, at most ten seconds apart: a storm of reconnects is none."""
    page = watched.context.new_page()
    attempts: list[str] = []

    def refuse(route: WebSocketRoute) -> None:
        attempts.append(route.url)
        route.close(code=1012)

    page.route_web_socket("**/scripted", refuse)
    page.clock.install()
    page.goto(process.url)
    page.evaluate(
        """async () => {
          const { Tracewire } = await import("/client/tracewire.js");
          window.client = new Tracewire("/scripted", { token: "t" });
          client.connect().catch(() => {});
        }"""
    )
    for _ in range(60):
        page.clock.run_for(1_000)
        page.evaluate("() => client.state")
    assert 9 <= len(attempts) <= 16


def test_the_page_says_that_the_network_is_down_and_comes_back_with_it(
    watched: Watched, process: ServerProcess
) -> None:
    """Of a server on another machine: `offline` and no attempt while the browser is offline, then at once."""
    page = watched.context.new_page()
    attempts: list[WebSocketRoute] = []

    def welcome(route: WebSocketRoute) -> None:
        attempts.append(route)
        route.send(json.dumps(READY))

    page.route_web_socket("**/elsewhere", welcome)
    page.goto(process.url)
    page.evaluate(
        """async () => {
          const { Tracewire } = await import("/client/tracewire.js");
          window.states = [];
          window.client = new Tracewire("wss://agents.example/elsewhere", { token: "t" });
          client.addEventListener("state", ({ detail }) => states.push(detail.state));
          await client.connect();
        }"""
    )
    watched.context.set_offline(True)
    page.evaluate("() => navigator.onLine")
    assert page.evaluate("states") == ["connecting", "ready", "offline"]
    watched.context.set_offline(False)
    page.evaluate("async () => { await client.connect(); }")
    assert page.evaluate("states") == ["connecting", "ready", "offline", "reconnecting", "ready"]
    assert len(attempts) == 2


ACCEPTED = {"type": "run_accepted", "request_id": "q-1", "run_id": "r", "thread_id": "t"}
START_AND_LISTEN = """() => {
  window.heard = [];
  window.starting = client.start("q", { requestId: "q-1", onEvent: ({ seq }) => heard.push(seq) });
}"""


def test_a_start_of_a_run_that_is_watched_already_hears_its_events_from_the_first_on(sockets: Sockets) -> None:
    """Another device started it: whoever starts it here by the same request is told what came, and what comes."""
    sockets.send(0, ACCEPTED, event(1), event(2))
    sockets.page.evaluate(START_AND_LISTEN)
    sockets.wait_for(lambda: bool(sockets.of_type(0, "start_run")))
    sockets.send(0, ACCEPTED, event(3), last(4, agent_thinking=3))
    run = sockets.page.evaluate("async () => { const run = await starting; await run.ended(); return run.runId; }")
    assert run == "r"
    assert sockets.page.evaluate("heard") == [1, 2, 3, 4]
    assert sockets.page.evaluate("async () => (await starting).receiptAgrees") is True


def test_a_start_of_a_run_that_ended_here_meanwhile_is_given_the_whole_run(sockets: Sockets) -> None:
    """Its end came while the start was under way, and the server took it for followed: it is asked for again."""
    sockets.send(0, ACCEPTED, event(1))
    sockets.page.evaluate(START_AND_LISTEN)
    sockets.wait_for(lambda: bool(sockets.of_type(0, "start_run")))
    sockets.send(0, last(2, agent_thinking=1))
    sockets.wait_for(lambda: bool([ack for ack in sockets.of_type(0, "ack") if ack["seq"] == 2]))
    sockets.send(0, ACCEPTED)
    sockets.wait_for(lambda: bool(sockets.of_type(0, "resume")))
    assert [{"type": "resume", "runs": {"r": 0}}] == sockets.of_type(0, "resume")
    resumed = {"type": "resumed", "run_id": "r", "recovered": True, "state": "completed", "from_seq": 1, "last_seq": 2}
    sockets.send(0, resumed, event(1), last(2, agent_thinking=1))
    sockets.page.evaluate("async () => { await (await starting).ended(); }")
    assert sockets.page.evaluate("heard") == [1, 2]
    assert sockets.page.evaluate("async () => (await starting).receiptAgrees") is True


def test_a_run_that_is_followed_already_tells_a_second_follower_all_of_it(sockets: Sockets) -> None:
    """`resume` of a run that this client has gives the same run, and calls the new `onEvent` from the first on."""
    sockets.send(0, ACCEPTED, event(1))
    sockets.wait_for(lambda: bool(sockets.of_type(0, "ack")))
    sockets.page.evaluate(
        """() => {
          window.heard = [];
          window.run = client.resume("r", { onEvent: ({ seq }) => heard.push(seq) });
        }"""
    )
    sockets.send(0, last(2, agent_thinking=1))
    sockets.page.evaluate("async () => { await run.ended(); }")
    assert sockets.page.evaluate("heard") == [1, 2]


def test_two_starts_by_one_request_id_are_one_start_and_both_get_its_run(sockets: Sockets) -> None:
    """The second does not put the first out of mind: both promises hold, and both callers hear every event."""
    sockets.page.evaluate(
        """() => {
          window.heard = [[], []];
          window.starting = heard.map((seqs) =>
            client.start("q", { requestId: "q-1", onEvent: ({ seq }) => seqs.push(seq) }));
        }"""
    )
    sockets.wait_for(lambda: bool(sockets.of_type(0, "start_run")))
    sockets.send(0, ACCEPTED, event(1), last(2, agent_thinking=1))
    assert sockets.page.evaluate("async () => { const [a, b] = await Promise.all(starting); return a === b; }") is True
    assert sockets.page.evaluate("heard") == [[1, 2], [1, 2]]
    assert len(sockets.of_type(0, "start_run")) == 1
