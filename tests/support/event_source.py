"""A reader of server-sent events as HTML's `EventSource` reads them, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

WAIT_SECONDS = 20.0
ACCEPT = {"Accept": "text/event-stream"}


@dataclass
class Event:
    """One event: its id, its type and its data, as they stood in the stream."""

    id: str = ""
    type: str = ""
    data: str = ""


@dataclass
class EventSource:
    """One open stream. `raw` is all that came, `comments` its comments, `retry_ms` what it asks for."""

    response: httpx.Response
    raw: str = ""
    comments: list[str] = field(default_factory=list)
    retry_ms: int | None = None
    _lines: AsyncIterator[str] | None = None

    async def lines(self) -> AsyncIterator[str]:
        """The stream's lines, each within the time that a test waits."""
        buffer = ""
        parts = self.response.aiter_text()
        while True:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            self.raw += part
            buffer += part
            *whole, buffer = buffer.split("\n")
            for line in whole:
                yield line

    async def event(self) -> Event | None:
        """The next event; `None` at the end of the stream."""
        self._lines = self._lines or self.lines()
        event = Event()
        async for line in self._lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if event.data:
                    return event
            elif not name:
                self.comments.append(value)
            elif name == "retry":
                self.retry_ms = int(value)
            else:
                assert name in ("id", "event", "data"), line
                setattr(event, "type" if name == "event" else name, value)
        return None

    async def events(self) -> list[Event]:
        """Every event to the end of the stream."""
        found: list[Event] = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found

    async def comment(self, wanted: str) -> list[Event]:
        """Read until this comment has come; the events before it."""
        self._lines = self._lines or self.lines()
        found: list[Event] = []
        async for line in self._lines:
            name, _, value = line.partition(":")
            if name == "id":
                found.append(Event(value.removeprefix(" ")))
            if not name and value.removeprefix(" ") == wanted:
                return found
        raise AssertionError(f"the stream ended without {wanted!r}: {self.raw[-200:]}")


@asynccontextmanager
async def event_source(
    url: str, token: str, run_id: str, *, last_id: int | str | None = None, **params: Any
) -> AsyncIterator[EventSource]:
    """An open stream of a run's events, resumed after `last_id` as a browser resumes."""
    headers = {**ACCEPT, "Authorization": f"Bearer {token}"}
    if last_id is not None:
        headers["Last-Event-ID"] = str(last_id)
    timeout = httpx.Timeout(WAIT_SECONDS)
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout) as http,
        http.stream("GET", f"/runs/{run_id}/events", params=params) as response,
    ):
        yield EventSource(response)
