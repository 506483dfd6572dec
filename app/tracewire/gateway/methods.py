"""HEAD and OPTIONS, for every route alike."""

import re
from collections.abc import Iterable
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute

_PREFLIGHT = b"access-control-request-method"


class EveryMethod:
    """An application that answers HEAD as its own answers GET, and OPTIONS with every method that a path takes (the
    framework names those of one of its handlers).

    The server below leaves the body of an answer to HEAD out. To the application the client has gone already: a stream
    answers with its headers, and ends.
    """

    def __init__(self, app: Litestar) -> None:
        self._app: Any = app
        self._allowed = [
            (re.compile(re.sub(r"\{[^}]*\}", "[^/]+", found.path_format) or "/"), allowed(found.methods))
            for found in app.routes
            if isinstance(found, HTTPRoute)
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        method = scope["method"] if scope["type"] == "http" else None
        if method == "HEAD":
            await self._app({**scope, "method": "GET"}, _gone, send)
            return
        if method == "OPTIONS" and not any(name == _PREFLIGHT for name, _ in scope["headers"]):
            path = scope["path"].rstrip("/") or "/"
            found = next((methods for pattern, methods in self._allowed if pattern.fullmatch(path)), None)
            if found is not None:
                await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", found.encode())]})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)


async def _gone() -> dict[str, str]:
    return {"type": "http.disconnect"}


def allowed(methods: Iterable[Any]) -> str:
    """The methods as `Allow` names them: where GET is answered, HEAD is."""
    names = {str(method) for method in methods}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))
