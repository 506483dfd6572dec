"""Who gets into the page, and how its files are served, with and without sign-in configured."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from zipfile import ZipFile

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from support.auth import E2EAuthHelper
from support.browser import Watched, chromium
from support.servers import ServerProcess

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}
TYPES = {
    "/": "text/html; charset=utf-8",
    "/console/app.js": "text/javascript; charset=utf-8",
    "/console/style.css": "text/css; charset=utf-8",
    "/console/icon.svg": "image/svg+xml",
    "/client/tracewire.js": "text/javascript; charset=utf-8",
    "/client/tracewire.d.ts": "application/typescript; charset=utf-8",
    "/client/frames.d.ts": "application/typescript; charset=utf-8",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this module."""
    with chromium() as started:
        yield started


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A browser context of its own."""
    context = browser.new_context()
    yield Watched(context)
    context.close()


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in development mode."""
    with ServerProcess(tmp_path_factory.mktemp("development") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def issuer() -> E2EAuthHelper:
    """Who signs tokens for `signed`."""
    return E2EAuthHelper.by_secret()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, issuer: E2EAuthHelper) -> Iterator[ServerProcess]:
    """A server with sign-in configured, which tolerates no difference of clocks."""
    environ = issuer.environ | {"TRACEWIRE_JWT_LEEWAY_SECONDS": "0"}
    with ServerProcess(tmp_path_factory.mktemp("signed") / "data", environ=environ) as started:
        yield started


def bring(page: Page, token: str) -> None:
    """Sign in with a token, as it is pasted."""
    page.get_by_label("Your token").fill(f" {token}\n")
    page.get_by_role("button", name="Sign in").click()


def test_a_token_signs_in_and_outlives_a_reload(watched: Watched, signed: ServerProcess, issuer: E2EAuthHelper) -> None:
    """Where sign-in is configured, no name will do; a token does, until one signs out, and it is then forgotten."""
    page = watched.open(signed.url)
    expect(page.get_by_label("Sign in as")).to_be_hidden()
    bring(page, issuer.token("paster"))
    expect(page.locator("#connection")).to_have_text("connected")
    expect(page.locator("#who")).to_have_text("paster")
    page.reload()
    expect(page.locator("#connection")).to_have_text("connected")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#connection")).to_have_text("closed: signed out")
    page.reload()
    expect(page.get_by_label("Your token")).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    assert watched.problems(urlsplit(signed.url).netloc) == []


@pytest.mark.parametrize(("ttl_seconds", "told"), [(-60, "the token has expired"), (None, "the token does not hold")])
def test_a_token_that_does_not_hold_is_told_and_not_tried_again(
    watched: Watched, signed: ServerProcess, issuer: E2EAuthHelper, ttl_seconds: float | None, told: str
) -> None:
    """The state says why; in an hour there was one socket and no more."""
    token = issuer.token("late", ttl_seconds=ttl_seconds) if ttl_seconds is not None else issuer.token("x")[:-3] + "AAA"
    page = watched.context.new_page()
    opened: list[str] = []
    page.on("websocket", lambda socket: opened.append(socket.url))
    page.clock.install()
    page.goto(signed.url)
    bring(page, token)
    expect(page.locator("#connection")).to_have_text(f"closed: {told}")
    expect(page.get_by_role("alert")).to_have_text(f"You are signed out: {told}.")
    expect(page.get_by_label("Your token")).to_be_focused()
    page.clock.run_for(3_600_000)
    page.evaluate("() => document.title")
    assert len(opened) == 1
    assert token not in opened[0]
    assert watched.problems(urlsplit(signed.url).netloc) == []
    bring(page, issuer.token("late"))
    expect(page.locator("#connection")).to_have_text("connected")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_token_that_expires_while_connected_ends_the_session(
    watched: Watched, signed: ServerProcess, issuer: E2EAuthHelper
) -> None:
    """A pasted token cannot be renewed: at its end the state says so, and the page asks for another."""
    page = watched.open(signed.url)
    bring(page, issuer.token("brief", ttl_seconds=6))
    expect(page.locator("#connection")).to_have_text("connected")
    expect(page.locator("#connection")).to_have_text("closed: the token has expired", timeout=20_000)
    expect(page.get_by_label("Your token")).to_be_visible()
    assert watched.problems(urlsplit(signed.url).netloc) == []


def test_development_sign_in_is_not_there_where_sign_in_is_configured(signed: ServerProcess) -> None:
    """404, as any path that is none, and the page is told not to offer it."""
    with httpx.Client(base_url=signed.url, headers={"Origin": signed.url}) as http:
        assert http.post("/console/sign-in", json={"user": "anybody"}).status_code in (404, 405)
        assert http.get("/console/about").json() == {"development": False}


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, None),
        ("null", None),
        ("https://attacker.example", None),
        ("http://127.0.0.1:1", None),
        ("http://attacker.example:{port}", "attacker.example:{port}"),  # DNS rebinding: a foreign name that points here
    ],
)
def test_development_sign_in_is_for_the_servers_own_page(
    development: ServerProcess, origin: str | None, host: str | None
) -> None:
    """No origin, a foreign one, another port, or a foreign name for this machine: 403, and no token."""
    port = str(urlsplit(development.url).port)
    headers = {
        name: value.replace("{port}", port) for name, value in (("Origin", origin), ("Host", host)) if value is not None
    }
    refused = httpx.post(f"{development.url}/console/sign-in", json={"user": "alice"}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("user", ["", " ", "x" * 257])
def test_a_name_that_no_user_can_have_is_refused(development: ServerProcess, user: str) -> None:
    """400, saying what a name is."""
    refused = httpx.post(f"{development.url}/console/sign-in", json={"user": user}, headers={"Origin": development.url})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")


@pytest.mark.parametrize("path", TYPES)
def test_files_are_served_with_a_strict_policy(development: ServerProcess, path: str) -> None:
    """Each with its type and the whole policy, never sniffed, never framed; asked for again, it is not sent again."""
    with httpx.Client(base_url=development.url) as http:
        got = http.get(path)
        again = http.get(path, headers={"If-None-Match": f'"other", W/{got.headers["etag"]}'})
        changed = http.get(path, headers={"If-None-Match": '"other"'})
    assert (got.status_code, got.headers["content-type"]) == (200, TYPES[path])
    assert set(got.headers["content-security-policy"].split("; ")) == POLICY
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["referrer-policy"] == "no-referrer"
    assert got.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", got.headers["etag"])
    assert (changed.status_code, changed.content) == (200, got.content)
    is_client = path.startswith("/client/")
    assert got.headers.get("access-control-allow-origin") == ("*" if is_client else None)
    assert got.headers["cross-origin-resource-policy"] == ("cross-origin" if is_client else "same-origin")


@pytest.mark.parametrize(
    "path", ["/console/tracewire.js", "/client/app.js", "/console/..%2Fmain.py", "/console/%2e%2e/main.py", "/console/"]
)
def test_nothing_else_is_served(development: ServerProcess, path: str) -> None:
    """Each file has one address; what is no file of the page has none."""
    assert httpx.get(development.url + path).status_code == 404


def test_nothing_is_inline_and_nothing_is_foreign() -> None:
    """No file of the page holds an inline script, an inline style, a handler attribute, or another host's address."""
    folder = Path(__file__).parents[2] / "app" / "tracewire" / "console"
    index = (folder / "index.html").read_text()
    assert "<script>" not in index
    assert "<style" not in index
    assert " style=" not in index
    assert not [name for name in ("onclick=", "onload=", "onsubmit=", "javascript:") if name in index]
    for path in [*folder.glob("*.js"), folder / "index.html", folder / "style.css"]:
        text = path.read_text()
        assert "innerHTML" not in text, path.name
        assert "https://" not in text, path.name


def test_the_wheel_holds_the_page_and_the_client(tmp_path: Path) -> None:
    """Whoever installs the package is served the same files."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("tracewire/console/")}
    assert packed == {f"tracewire/console/{path.name}" for path in (root / "app/tracewire/console").iterdir()}
