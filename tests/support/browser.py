"""A real Chromium for tests of the page and of the browser client, and the npm packages that they need beside it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from support.real_programs import missing

PACKAGES = Path(__file__).parents[1] / "e2e" / "page"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 15_000


def chromium_path() -> str:
    """Where Chromium is; without it the test is skipped, or fails where real parts are required."""
    found = shutil.which("chromium")
    if found is None:
        missing("chromium is missing: install Debian's package chromium")
    return str(found)


def npm_package(name: str) -> Path:
    """The folder of an installed npm package of `tests/e2e/page`."""
    folder = PACKAGES / "node_modules" / name
    if shutil.which("node") is None or not folder.is_dir():
        missing(f"the npm package {name} is missing: run `npm ci` in tests/e2e/page (Node.js 20 or newer)")
    return folder


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A browser context whose pages' console, errors and requests are kept."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.told: list[str] = []
        self.hosts: set[str] = set()
        context.set_default_timeout(WAIT_MS)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.told.append(f"uncaught: {error.error}"))
        context.on("request", self._request)

    def open(self, url: str) -> Page:
        """A new tab at this address."""
        page = self.context.new_page()
        page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        page.goto(url)
        return page

    def problems(self, host: str) -> list[str]:
        """What no page may do: complain in its console, throw, or ask another host."""
        return [*self.told, *(f"asked {other}" for other in sorted(self.hosts - {host}))]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.told.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(request.url).netloc)
