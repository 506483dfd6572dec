"""The page at `/` and the browser client, as they are served; and the sign-in that development mode offers to the page.

Nothing of another host is loaded: the content security policy that leaves with each file allows none.
"""

import hashlib
import time
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final
from urllib.parse import urlsplit

from litestar import Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from tracewire.errors import RejectedError
from tracewire.gateway.auth import USER_ID_CHARACTERS_MAX, sign_token
from tracewire.settings import Settings, is_loopback
from tracewire_telemetry.vocabulary import RejectCode

SIGN_IN_SECONDS: Final = 3_600
# 'self' covers the socket of the same host too (CSP 3).
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# A module that a page of another origin imports is fetched with CORS. It holds nothing that is not public.
_CLIENT_HEADERS: Final = PAGE_HEADERS | {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_CONTENT_TYPES: Final = {  # Litestar adds the charset of `text/…`
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".d.ts": "application/typescript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CLIENT_FILES: Final = frozenset({"tracewire.js", "tracewire.d.ts", "frames.d.ts"})


class ServedFile(Struct, frozen=True):
    """A file as it leaves. `etag` is of its contents, so that an update is seen and nothing else is sent again."""

    body: bytes
    content_type: str
    etag: str


class SignIn(Struct, frozen=True):
    """The body of `POST /console/sign-in`."""

    user: str


def console_routes(settings: Settings) -> list[HTTPRouteHandler]:
    """The routes of the page and of the browser client. The sign-in is among them in development mode alone."""
    files = load_files(resources.files("tracewire").joinpath("console"))

    @get("/", include_in_schema=False, sync_to_thread=False)
    def page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The page."""
        return answer(request, files["index.html"], PAGE_HEADERS)

    @get("/console/{name:str}", include_in_schema=False, sync_to_thread=False)
    def part(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """A part of the page."""
        return answer(request, _found(files, name), PAGE_HEADERS)

    @get("/console/about", include_in_schema=False, sync_to_thread=False)
    def about() -> Response[dict[str, bool]]:
        """What the page needs to know before anyone has signed in."""
        return Response({"development": settings.development}, headers={"Cache-Control": "no-store"})

    @get("/client/{name:str}", include_in_schema=False, sync_to_thread=False)
    def client(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """The browser client, for pages of any origin."""
        if name not in _CLIENT_FILES:
            raise NotFoundException
        return answer(request, files[name], _CLIENT_HEADERS)

    @post("/console/sign-in", include_in_schema=False, sync_to_thread=False)
    def sign_in(request: Request[Any, Any, Any], data: JSONBody[SignIn]) -> Response[dict[str, Any]]:
        """A token for any user, to the page of this machine."""
        require_own_page(request)
        if not data.user.strip() or len(data.user) > USER_ID_CHARACTERS_MAX:
            raise RejectedError(RejectCode.INVALID_INPUT, f"a user's name has 1 to {USER_ID_CHARACTERS_MAX} characters")
        token = sign_token(settings, data.user, ttl_seconds=SIGN_IN_SECONDS)
        body = {"token": token, "expires_at": int(time.time()) + SIGN_IN_SECONDS}
        return Response(body, status_code=200, headers={"Cache-Control": "no-store"})

    routes: list[HTTPRouteHandler] = [page, part, about, client]
    return [*routes, sign_in] if settings.development else routes


def load_files(folder: Traversable) -> dict[str, ServedFile]:
    """The files of a folder by name."""
    found: dict[str, ServedFile] = {}
    for entry in folder.iterdir():
        suffix = next((suffix for suffix in _CONTENT_TYPES if entry.name.endswith(suffix)), None)
        if suffix is not None:
            found[entry.name] = served(entry.read_bytes(), _CONTENT_TYPES[suffix])
    return found


def served(body: bytes, content_type: str) -> ServedFile:
    """A file of these contents."""
    return ServedFile(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def answer(request: Request[Any, Any, Any], file: ServedFile, headers: dict[str, str]) -> Response[bytes]:
    """The file, or 304 where the browser has it already."""
    tagged = headers | {"ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(b"", status_code=304, headers=tagged)
    return Response(file.body, media_type=file.content_type, headers=tagged)


def require_own_page(request: Request[Any, Any, Any]) -> None:
    """Refuse whoever is not the page of this server, asked for by a loopback name, from this machine.

    The host's name is looked at because a foreign site can have its own name point here (DNS rebinding): its origin and
    its host would then be the same.

    Raises:
        RejectedError: `forbidden`.
    """
    host = request.headers.get("host", "")
    origin = urlsplit(request.headers.get("origin", ""))
    local = request.client is not None and is_loopback(request.client.host)
    own = origin.scheme in ("http", "https") and origin.netloc.lower() == host.lower()
    if not (local and own and is_loopback(urlsplit(f"//{host}").hostname or "")):
        raise RejectedError(
            RejectCode.FORBIDDEN,
            "only the page of this server on this machine signs in so; elsewhere use `tracewire token`",
        )


def _found(files: dict[str, ServedFile], name: str) -> ServedFile:
    if name not in files or name in _CLIENT_FILES:
        raise NotFoundException
    return files[name]
