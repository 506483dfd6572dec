"""One tool call of an agent: its two events, its span and its deadline."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tracewire.errors import NotSerializableError, RunEndedError
from tracewire.events import ToolCompleted, ToolExecuting
from tracewire_telemetry.spans import ToolSpan
from tracewire_telemetry.vocabulary import ToolStatus

if TYPE_CHECKING:
    from tracewire.engine.agent_context import AgentContext

REDACTED: Final = "[redacted]"
_SECRET_KEY: Final = re.compile(
    r"pass(word|wd|phrase)|secret|token|api[-_]?key|auth(orization)?$|credential|cookie|private[-_]?key", re.IGNORECASE
)
_SECRET_VALUE: Final = re.compile(
    r"^((?i:bearer)\s+\S+|eyJ[\w-]+\.[\w-]+\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY.*)", re.DOTALL
)
_DEPTH_MAX: Final = 8


class ToolCall:
    """`call` in `async with ctx.tool(...) as call`. Set `call.result` to any JSON value."""

    def __init__(self, context: "AgentContext", tool_call_id: str, name: str, arguments: Any) -> None:
        self.id = tool_call_id
        self.name = name
        self.result: Any = None
        self._context = context
        self._arguments = {} if arguments is None else arguments
        self._timeout: asyncio.Timeout | None = None
        self._span: ToolSpan | None = None
        self._completed = False

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except asyncio.CancelledError:
            if self.id in self._context.bridge.contract.open_tools:  # its event is durable all the same
                await self.complete(ToolStatus.CANCELLED, "the call was cancelled")
            raise
        # Not in __init__: a plain `def` makes its calls in a thread, where no loop runs.
        self._timeout = asyncio.timeout(self._context.deadlines.tool_seconds)
        await self._timeout.__aenter__()
        if self._span is not None:
            self._span.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.leave()
        try:
            if self._timeout is not None:
                await self._timeout.__aexit__(kind, error, traceback)
                if error is None and self._timeout.expired():
                    raise TimeoutError  # the block swallowed its cancellation
        except TimeoutError:
            limit = self._context.deadlines.tool_seconds
            await self.complete(ToolStatus.TIMEOUT, f"the tool passed its deadline of {limit:g} s")
            raise TimeoutError(f"tool {self.name} passed its deadline of {limit:g} s") from error
        if error is None:
            await self.complete_with_result()
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            await self.complete(ToolStatus.CANCELLED, "the call was cancelled")
        else:
            await self.complete(ToolStatus.ERROR, said(error))

    async def open(self) -> None:
        """Emit `tool_executing`, and start the call's span."""
        emitted = await self._context.emit(ToolExecuting(self.id, self.name, redact(self._arguments)))
        self._span = self._context.run.spans.start_tool(emitted.seq, self.name, self.id)

    async def complete_with_result(self) -> None:
        """Emit `tool_completed` with the result; one that is no JSON is the call's error, and raised."""
        try:
            await self.complete(ToolStatus.OK)
        except NotSerializableError as error:
            self.result = None
            await self.complete(ToolStatus.ERROR, f"the result cannot be written as JSON: {error}")
            raise

    async def complete(self, status: ToolStatus, error: str | None = None) -> None:
        """Emit `tool_completed`, once. A run that has ended has closed the call already."""
        if self._completed:
            return
        result = self.result if status is ToolStatus.OK else None
        duration_ms = self._context.bridge.tool_duration_ms(self.id)
        event = ToolCompleted(self.id, self.name, status, result, duration_ms)
        if error is not None:
            event = ToolCompleted(self.id, self.name, status, result, duration_ms, error)
        try:
            await self._context.emit(event)
        except RunEndedError:
            return  # the bridge closed the call with the run, and its span says so too
        self._completed = True
        if self._span is not None:
            self._span.end(status, time.monotonic_ns())


class ThreadedToolCall:
    """`call` in `with ctx.tool(...) as call` of an agent that runs in a thread."""

    def __init__(self, call: ToolCall, wait_for: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._call = call
        self._wait_for = wait_for
        self._timed_out = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def result(self) -> Any:
        """What came of the call."""
        return self._call.result

    @result.setter
    def result(self, value: Any) -> None:
        self._call.result = value

    def __enter__(self) -> Self:
        self._wait_for(self._open())
        if self._call._span is not None:
            self._call._span.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._call._span is not None:
            self._call._span.leave()
        self._wait_for(self._close(error))
        if self._timed_out and error is None:
            limit = self._call._context.deadlines.tool_seconds
            raise TimeoutError(f"tool {self._call.name} passed its deadline of {limit:g} s")

    async def _open(self) -> None:
        await self._call.open()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._call._context.deadlines.tool_seconds, self._time_out)

    def _time_out(self) -> None:
        self._timed_out = True
        limit = self._call._context.deadlines.tool_seconds
        completed = self._call.complete(ToolStatus.TIMEOUT, f"the tool passed its deadline of {limit:g} s")
        self._closing = asyncio.get_running_loop().create_task(completed)

    async def _close(self, error: BaseException | None) -> None:
        self._timer.cancel()
        if self._closing is not None:
            await self._closing
        elif error is None:
            await self._call.complete_with_result()
        else:
            await self._call.complete(ToolStatus.ERROR, said(error))


def said(error: BaseException) -> str:
    """The error in one line, as text that can be written; its type alone where it cannot say more."""
    try:
        return f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 # an agent's exception can raise even while it is written out
        return type(error).__name__


def redact(value: Any, depth: int = 0) -> Any:
    """The arguments without what looks like a secret: by the key's name, or by the look of the value.

    What is nested too deeply to be looked through is left out whole.
    """
    if depth > _DEPTH_MAX and isinstance(value, dict | list | tuple):
        return REDACTED
    if isinstance(value, dict):
        return {
            key: REDACTED if isinstance(key, str) and _SECRET_KEY.search(key) else redact(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, depth + 1) for item in value]
    if isinstance(value, str) and _SECRET_VALUE.match(value):
        return REDACTED
    return value
