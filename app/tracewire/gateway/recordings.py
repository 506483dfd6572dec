"""`POST /recordings`: what the analyst is to look at, too large for a frame."""

import asyncio
from functools import partial
from typing import Any

from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromQuery

from tracewire.gateway.runs import shared
from tracewire.runs.recordings import RecordingStore, TooLargeError
from tracewire.settings import Settings


@post("/recordings", status_code=201, request_max_body_size=None)
async def upload(
    request: Request[Any, Any, Any], state: State, name: FromQuery[str] = "recording"
) -> Response[dict[str, Any]]:
    """Keep a recording (a browser's HAR, or a JSONL file of frames) for its user. `name` is what answers call it."""
    user_id = await shared(state).user_of(request)
    store: RecordingStore = state["recordings"]
    settings: Settings = state["settings"]
    if int(request.headers.get("content-length", "0")) > settings.recording_bytes_max:
        raise _too_large(settings)  # before any of it is read
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.recording_bytes_max:
            raise _too_large(settings)
    save = partial(store.save, user_id, name[:200], bytes(body))
    try:
        recording_id = await asyncio.get_running_loop().run_in_executor(state["file_threads"], save)
    except TooLargeError:
        raise _too_large(settings) from None
    return Response({"recording_id": recording_id, "bytes": len(body)}, status_code=201)


def _too_large(settings: Settings) -> HTTPException:
    return HTTPException(
        status_code=413,
        detail=f"a recording has at most {settings.recording_bytes_max} bytes (TRACEWIRE_RECORDING_BYTES_MAX)",
    )
