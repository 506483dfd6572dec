"""The browser client in a real Chromium, from pages of another origin, against a real `tracewire serve`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from support.auth import E2EAuthHelper
from support.browser import PACKAGES, Watched, chromium, npm_package
from support.servers import FIVE, ServerProcess

QUESTION = "what is missing in the sample recording?"


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


@pytest.fixture(scope="module")
def other_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page that Vite built of TypeScript with a local copy of the client, served on a port of its own."""
    npm_package("vite")
    node = str(shutil.which("node"))
    out = tmp_path_factory.mktemp("vite") / "out"
    environ = os.environ | {"TRACEWIRE_TEST_OUT": str(out)}
    command = [node, "serve.mjs"]
    with subprocess.Popen(command, cwd=PACKAGES, env=environ, stdout=subprocess.PIPE, text=True) as vite:
        assert vite.stdout is not None
        address = vite.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address
        vite.terminate()


@contextmanager
def signed_server(folder: Path, **environ: str) -> Iterator[tuple[ServerProcess, E2EAuthHelper]]:
    """A server that is not in development mode, and who signs for it."""
    issuer = E2EAuthHelper.by_secret()
    with ServerProcess(folder / "data", environ=issuer.environ | environ) as server:
        yield server, issuer


def test_a_page_of_an_allowed_origin_gets_everything(watched: Watched, other_origin: str, tmp_path: Path) -> None:
    """A page of an origin on the list, built by Vite, asks the analyst: all five types come, and the receipt agrees."""
    with signed_server(tmp_path, TRACEWIRE_ALLOWED_ORIGINS=other_origin) as (server, issuer):
        page = watched.open(other_origin)
        page.evaluate("asked => window.ask(...asked)", [server.url + "/ws", issuer.token("elsewhere"), QUESTION])
        expect(page.locator("#verdict")).to_have_text("everything came")
        shown = page.locator("#events li").all_text_contents()
        assert set(FIVE) <= {text.partition(" ")[0] for text in shown}
        assert (shown[0], shown[-1]) == ("agent_started", "agent_completed")
        assert page.evaluate("window.states.map(([state]) => state)") == ["connecting", "ready", "closed"]
        assert watched.problems(urlsplit(other_origin).netloc) == [f"asked {urlsplit(server.url).netloc}"]


def test_a_page_of_another_origin_is_refused_readably(watched: Watched, other_origin: str, tmp_path: Path) -> None:
    """Its origin is not on the list: the socket is closed with 4503, which the page can read, and the end."""
    with signed_server(tmp_path, TRACEWIRE_ALLOWED_ORIGINS="https://somewhere.example") as (server, issuer):
        page = watched.open(other_origin)
        page.evaluate("asked => window.ask(...asked)", [server.url + "/ws", issuer.token("elsewhere"), QUESTION])
        assert page.evaluate("window.states")[:2] == [["connecting", None], ["closed", 4503]]
        expect(page.locator("#verdict")).to_contain_text("the connection is closed")


def test_the_module_can_be_imported_from_the_server(
    watched: Watched, other_origin: str, process: ServerProcess
) -> None:
    """A page of another origin may also import the module from where it is served."""
    page = watched.open(other_origin)
    names = page.evaluate("async url => Object.keys(await import(url)).sort()", f"{process.url}/client/tracewire.js")
    assert names == ["Run", "Tracewire", "TracewireError"]


def test_the_types_hold_what_a_strict_compiler_asks(browser: Browser) -> None:
    """The page of another origin, which uses the client as the README does, passes `tsc --strict`."""
    npm_package("typescript")
    command = [str(shutil.which("node")), "node_modules/typescript/bin/tsc", "-p", "."]
    done = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
