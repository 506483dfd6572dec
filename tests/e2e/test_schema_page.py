"""The page at `/schema` in a real Chromium, and the TypeScript types in a real compiler."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import Watched, chromium, npm_package
from support.servers import ServerProcess
from tracewire.gateway.typescript import TARGET


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this module."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in development mode."""
    with ServerProcess(tmp_path_factory.mktemp("schema") / "data") as started:
        yield started


def opened(watched: Watched, server: ServerProcess) -> Page:
    """The page, when it has made its forms."""
    page = watched.open(f"{server.url}/schema")
    expect(page.locator("#operations details").first).to_be_visible()
    return page


def sent(page: Page, operation: str) -> Any:
    """Send an operation's form; where its answer appears."""
    page.locator(f"#{operation}").get_by_role("button", name="Send").click()
    return page.locator(f"#{operation} .sent")


def test_a_run_is_started_streamed_and_read_from_the_page(browser: Browser, server: ServerProcess) -> None:
    """Signed in with one click; no complaint in the console, and no other host is asked."""
    context = browser.new_context()
    watched = Watched(context)
    page = opened(watched, server)
    page.get_by_role("button", name="Get a token").click()
    expect(page.locator("#sign-in-state")).to_have_text("signed in as alice")
    page.locator("#startRun > summary").click()
    started = sent(page, "startRun")
    expect(started).to_contain_text("202 Accepted")
    run_id = (started.text_content() or "").partition('"run_id": "')[2].partition('"')[0]
    page.locator("#readEvents > summary").click()
    page.locator('#readEvents [name="path:run_id"]').fill(run_id)
    page.locator("#readEvents select").select_option("text/event-stream")
    expect(sent(page, "readEvents")).to_contain_text("event: agent_completed")
    page.locator('#readEvents [name="header:Last-Event-ID"]').fill("9999")
    page.locator("#listRuns > summary").click()
    expect(sent(page, "listRuns")).to_contain_text(run_id)
    assert watched.problems(urlsplit(server.url).netloc) == []
    expect(sent(page, "readEvents")).to_contain_text("ack_ahead")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(browser: Browser, server: ServerProcess, scheme: Any) -> None:
    """With every operation open, in both colour schemes, on a phone."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844}, bypass_csp=True)
    page = opened(Watched(context), server)
    for summary in page.locator("#operations > details > summary").all():
        summary.click()
    page.add_script_tag(path=npm_package("axe-core") / "axe.min.js")
    found = page.evaluate("axe.run()")
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_the_types_compile_and_tell_frames_apart(tmp_path: Path) -> None:
    """Strictly; a front end that takes one frame for another is told so by its compiler."""
    compiler = npm_package("typescript") / "bin" / "tsc"
    (tmp_path / "frames.d.ts").write_text(TARGET.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "uses.ts").write_text(
        """
        import type { ClientFrame, Envelope, EventType, ServerFrame } from "./frames";
        export const ack: ClientFrame = { type: "ack", run_id: "r", seq: 1, count: 1 };
        export function said(envelope: Envelope): string {
          switch (envelope.type) {
            case "agent_thinking": return envelope.data.text;
            case "agent_completed": return String(envelope.data.receipt.counts["agent_delta"]);
            default: return envelope.type satisfies EventType;
          }
        }
        export const waits = (frame: ServerFrame) => frame.type === "rejected" ? frame.retry_after_seconds ?? 0 : 0;
        // @ts-expect-error an ack names its run
        export const wrong: ClientFrame = { type: "ack", seq: 1 };
        """,
        encoding="utf-8",
    )
    command = ["node", str(compiler), "--noEmit", "--strict", "--target", "es2022", "uses.ts", "frames.d.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
