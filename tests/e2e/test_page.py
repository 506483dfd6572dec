"""The page at `/` in a real Chromium, against a real `tracewire serve`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from fixtures.recordings import builder
from support.browser import Watched, chromium, npm_package
from support.page_agents import HOSTILE, Gate
from support.servers import FIVE, ServerProcess

TESTS = Path(__file__).parents[1]
LINKS = ("engine", "bridge", "emitter", "socket", "client")
EVENTS_AT_FIRST_GATE = 4
EVENTS_AT_SECOND_GATE = 8
EVENTS_OF_GATED = 13


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in development mode, with agents that wait for the test."""
    folder = tmp_path_factory.mktemp("page")
    agents = [part for name in ("gated", "hostile", "asks") for part in ("--agent", f"support.page_agents:{name}")]
    with ServerProcess(folder / "data", *agents, cwd=TESTS) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this module."""
    with chromium() as started:
        yield started


@pytest.fixture
def watched(browser: Browser, process: ServerProcess) -> Iterator[Watched]:
    """A context of its own, which must not have complained, nor asked another host, when the test is over."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    watched = Watched(context)
    yield watched
    context.close()
    assert watched.problems(urlsplit(process.url).netloc) == []


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What lets a run of the agent `gated` go on."""
    with Gate() as made:
        yield made


def sign_in(watched: Watched, process: ServerProcess, user: str) -> Page:
    """A tab that is signed in as this user, and connected."""
    page = watched.open(process.url)
    page.get_by_label("Sign in as").fill(user)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#connection")).to_have_text("connected")
    return page


def ask(page: Page, question: str, agent: str | None = None) -> None:
    """Ask, as a person does."""
    if agent is not None:
        page.get_by_label("Agent").select_option(agent)
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def receipt_agrees(page: Page) -> None:
    """Wait until the receipt is green."""
    expect(page.locator("#receipt")).to_have_attribute("data-verdict", "agrees")
    expect(page.locator("#receipt-title")).to_have_text("The receipt agrees")


def lanes(page: Page) -> list[tuple[str, str, str]]:
    """The lanes as they are drawn: seqs, type, and the station at which the dot is."""
    drawn = "all => all.map(lane => [lane.querySelector('.lane-seq').textContent, lane.dataset.type, lane.dataset.at])"
    return [(seq, kind, at) for seq, kind, at in page.locator(".lane").evaluate_all(drawn)]


def stored(process: ServerProcess, user: str) -> list[dict[str, Any]]:
    """The events of the user's newest run, from the log."""
    headers = {"Authorization": f"Bearer {process.token(user)}"}
    with httpx.Client(base_url=process.url, headers=headers) as http:
        run_id = http.get("/runs").json()["runs"][0]["run_id"]
        events: list[dict[str, Any]] = http.get(f"/runs/{run_id}/events").json()["events"]
    return events


def drawn_from(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The lanes of a run without deltas that has come whole."""
    return [(str(event["seq"]), event["type"], "4") for event in events]


def test_a_question_is_answered_and_its_events_cross_five_stations(watched: Watched, process: ServerProcess) -> None:
    """One click signs in, one asks: all five types are drawn, each with its milliseconds at each of five stations, and
    acknowledged; the receipt turns green, and what it counts is what the log holds.
    """
    page = sign_in(watched, process, "asker")
    page.get_by_role("button", name="Ask", exact=True).click()
    receipt_agrees(page)
    events = stored(process, "asker")
    assert set(FIVE) <= {kind for _, kind, _ in lanes(page)}
    assert {at for _, _, at in lanes(page)} == {"4"}
    expect(page.locator(".lane:not([data-acked])")).to_have_count(0)
    times = page.locator(".lane").evaluate_all(
        "all => all.map(lane => [...lane.querySelectorAll('.stop-ms')].map(ms => ms.textContent))"
    )
    assert {len(row) for row in times} == {len(LINKS)}
    assert all(float(ms.removeprefix("+")) >= 0 for row in times for ms in row)
    assert page.locator(".station-name").all_text_contents() == list(LINKS)
    assert page.locator(".station-count").all_text_contents() == [str(len(events))] * len(LINKS)
    expect(page.locator("#receipt-detail")).to_contain_text(
        f"The server sent {len(events)} events; {len(events)} came to this page"
    )
    expect(page.locator("#answer")).to_contain_text("2 events are missing (in 1 of 4 runs)")
    expect(page.locator("#answer table")).to_have_count(1)
    expect(page.locator("#runs .run")).to_have_count(1)


def test_a_recording_that_is_dropped_is_investigated(watched: Watched, process: ServerProcess) -> None:
    """A HAR that is dropped on the page is uploaded, and the next question is about it; a JSONL file that is chosen
    takes its place.
    """
    script = builder.Script()
    script.ready()
    run = script.accept("run-a")
    run.emit("agent_started")
    run.emit("agent_thinking", lost=True)
    run.emit("agent_completed", output="done")
    page = sign_in(watched, process, "dropper")
    transfer = page.evaluate_handle(
        "text => { const data = new DataTransfer(); data.items.add(new File([text], 'mine.har')); return data; }",
        builder.chromium_har(script).decode(),
    )
    page.dispatch_event("#chain", "drop", {"dataTransfer": transfer})
    expect(page.locator("#file-text")).to_contain_text("About mine.har")
    page.get_by_role("button", name="Ask", exact=True).click()
    receipt_agrees(page)
    expect(page.locator("#answer")).to_contain_text("mine.har (HAR")
    expect(page.locator("#answer")).to_contain_text("1 event is missing")
    page.locator("#file").set_input_files(
        {"name": "other.jsonl", "mimeType": "application/jsonl", "buffer": builder.jsonl(script)}
    )
    expect(page.locator("#file-text")).to_contain_text("About other.jsonl")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("other.jsonl (JSONL")
    page.get_by_role("button", name="Remove the file").click()
    expect(page.get_by_label("Your question")).to_have_value("what is missing in the sample recording?")


def test_who_goes_offline_in_the_middle_of_a_run_misses_nothing(
    watched: Watched, process: ServerProcess, gate: Gate
) -> None:
    """While the socket is closed, events are drawn as far as they came: durable, not written. Back again, they cross;
    each came exactly once, and all equals the log.
    """
    page = sign_in(watched, process, "commuter")
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    ask(page, gate.question, "gated")
    expect(page.locator(".lane")).to_have_count(EVENTS_AT_FIRST_GATE)
    expect(page.locator(".lane:not([data-acked])")).to_have_count(0)
    page.get_by_role("button", name="Go offline").click()
    expect(page.locator("#connection")).to_have_text("offline")
    gate.open()
    expect(page.locator(".lane[data-at='2']")).to_have_count(EVENTS_AT_SECOND_GATE - EVENTS_AT_FIRST_GATE)
    assert page.locator(".station-count").all_text_contents() == ["8", "8", "8", "4", "4"]
    page.get_by_role("button", name="Come back").click()
    expect(page.locator("#connection")).to_have_text("connected")
    expect(page.locator(".lane[data-acked]")).to_have_count(EVENTS_AT_SECOND_GATE)
    gate.open()
    receipt_agrees(page)
    events = stored(process, "commuter")
    assert len(events) == EVENTS_OF_GATED
    assert lanes(page) == drawn_from(events)
    # The second socket brought what the first had not, and nothing of what it had.
    text = "\n".join(frames)
    assert [text.count(f'"seq":{event["seq"]},') for event in events] == [0] * 4 + [1] * 9


def test_a_reload_in_the_middle_of_a_run_shows_it_whole(watched: Watched, process: ServerProcess, gate: Gate) -> None:
    """The reloaded page is signed in, finds the run, and draws it from its first event to its last."""
    page = sign_in(watched, process, "reloader")
    ask(page, gate.question, "gated")
    expect(page.locator(".lane")).to_have_count(EVENTS_AT_FIRST_GATE)
    page.reload()
    expect(page.locator("#connection")).to_have_text("connected")
    expect(page.locator(".lane")).to_have_count(EVENTS_AT_FIRST_GATE)
    gate.open()
    gate.open()
    receipt_agrees(page)
    assert lanes(page) == drawn_from(stored(process, "reloader"))
    expect(page.locator("#answer strong")).to_have_text("both")


def test_two_tabs_show_the_same_run_and_either_can_cancel_it(
    watched: Watched, process: ServerProcess, gate: Gate
) -> None:
    """A run that is started in one tab appears in the other, live; cancelled there, it ends in both, and both receipts
    agree.
    """
    first = sign_in(watched, process, "twice")
    second = sign_in(watched, process, "twice")
    ask(first, gate.question, "gated")
    expect(second.locator(".lane")).to_have_count(EVENTS_AT_FIRST_GATE)
    second.get_by_role("button", name="Cancel the run").click()
    for page in (first, second):
        receipt_agrees(page)
        expect(page.locator(".lane[data-type='agent_cancelled']")).to_have_count(1)
        expect(page.locator("#answer")).to_contain_text("The run was cancelled")
        expect(page.get_by_role("button", name="Cancel the run")).to_be_hidden()
        assert lanes(page) == drawn_from(stored(process, "twice"))


def test_a_run_can_be_cancelled_while_offline(watched: Watched, process: ServerProcess, gate: Gate) -> None:
    """Offline the socket is closed and HTTP is not: the end that the cancel made is there when one is back."""
    page = sign_in(watched, process, "canceller")
    ask(page, gate.question, "gated")
    expect(page.locator(".lane")).to_have_count(EVENTS_AT_FIRST_GATE)
    page.get_by_role("button", name="Go offline").click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".lane[data-type='agent_cancelled']")).to_have_attribute("data-at", "2")
    page.get_by_role("button", name="Come back").click()
    receipt_agrees(page)


def test_past_runs_are_there_with_their_ledgers(watched: Watched, process: ServerProcess) -> None:
    """A run of before the page was opened is drawn from the log and its stored ledger, and its receipt agrees too."""
    page = sign_in(watched, process, "historian")
    page.get_by_role("button", name="Ask", exact=True).click()
    receipt_agrees(page)
    expect(page.locator(".lane:not([data-acked])")).to_have_count(0)
    before = lanes(page)
    page.close()
    page = sign_in(watched, process, "historian")
    page.locator("#runs .run").click()
    receipt_agrees(page)
    expect(page.locator("#receipt-detail")).to_contain_text("are in the log")
    expect(page.locator("#runs .run")).to_have_attribute("aria-current", "true")
    assert lanes(page) == before


def test_what_an_agent_asks_back_can_be_answered(watched: Watched, process: ServerProcess) -> None:
    """The prompt is shown as text, and a click answers it."""
    page = sign_in(watched, process, "approver")
    ask(page, "go", "asks")
    expect(page.locator("#input-prompt")).to_have_text("Send <b>it</b>?")
    page.get_by_role("button", name="Approve").click()
    receipt_agrees(page)
    expect(page.locator("#answer")).to_have_text("approved: True")


def test_what_an_agent_says_never_becomes_markup(watched: Watched, process: ServerProcess) -> None:
    """Tags, links and handlers in an answer or a thought are text; the Markdown around them is rendered."""
    page = sign_in(watched, process, "victim")
    ask(page, "attack", "hostile")
    receipt_agrees(page)
    expect(page.locator("#desk :is(img, script, a, iframe, b, i)")).to_have_count(0)
    expect(page.locator("#answer h3")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#answer p")).to_have_text("<script>alert(2)</script> and [a link](javascript:alert(3))")
    expect(page.locator("#answer th").first).to_have_text("<b>cell</b>")
    expect(page.locator("#answer td strong")).to_have_text("bold")
    expect(page.locator("#answer pre code")).to_have_text("<iframe src=//example.com>")
    assert stored(process, "victim")[-1]["data"]["output"] == HOSTILE


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, process: ServerProcess, scheme: Any, width: int) -> None:
    """Signed out, signed in with a finished run, and offline; and nothing is wider than the window."""
    axe = (npm_package("axe-core") / "axe.min.js").read_text()
    context = browser.new_context(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 812}
    )
    watched = Watched(context)
    page = watched.open(process.url)

    def violations() -> list[str]:
        found = page.evaluate("async () => (await axe.run()).violations")
        return [f"{rule['id']}: {node['html']} {node['any']}" for rule in found for node in rule["nodes"]]

    expect(page.get_by_label("Sign in as")).to_be_visible()
    page.evaluate(f"() => {{ {axe} }}")
    assert violations() == []
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#connection")).to_have_text("connected")
    assert violations() == []
    ask(page, "what is missing in the sample recording?")
    receipt_agrees(page)
    expect(page.locator(".lane:not([data-acked])")).to_have_count(0)
    assert violations() == []
    page.get_by_role("button", name="Go offline").click()
    assert violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    context.close()
    assert watched.problems(urlsplit(process.url).netloc) == []


def test_the_page_can_be_used_by_keyboard_alone(watched: Watched, process: ServerProcess) -> None:
    """Enter signs in; control and Enter ask; a past run is chosen with Tab and Enter, and the focus is seen."""
    page = watched.open(process.url)
    expect(page.get_by_label("Sign in as")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("typist")
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("connected")
    page.get_by_label("Your question").focus()
    page.keyboard.press("Control+Enter")
    receipt_agrees(page)
    page.locator("#lanes-window").focus()
    while page.evaluate("document.activeElement.className") != "run":
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    page.keyboard.press("Enter")
    receipt_agrees(page)


def test_motion_is_left_out_for_who_asks_for_less(watched: Watched, process: ServerProcess) -> None:
    """With reduced motion a dot does not travel: it is where it is."""
    page = sign_in(watched, process, "calm")
    page.get_by_role("button", name="Ask", exact=True).click()
    receipt_agrees(page)
    assert page.locator(".dot").first.evaluate("dot => getComputedStyle(dot).transitionDuration") == "0s"
