"""What an agent is given: the one way in which it can be seen to do something.

Each call stamps the event at the engine and hands it to the bridge; it returns when the event is durable. After the
run's end every call raises `RunEndedError`.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.engine.agent import Deadlines
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.tool_call import ThreadedToolCall, ToolCall
from tracewire.eventlog import Turn
from tracewire.events import AgentDelta, AgentThinking, Event, InputRequired
from tracewire_telemetry.spans import AgentTracer, AgentTracerProvider
from tracewire_telemetry.watch import OpenRun

INPUT_KINDS = ("approval", "question")
TOOL_NAME_CHARACTERS_MAX = 256
"""A name is not cut as texts are: both events of the call must hold it whole."""
_T = TypeVar("_T")


class AgentContext:
    """`ctx` of an async agent. `input` is what the user sent, `history` the thread's earlier completed runs."""

    def __init__(
        self,
        context: UserExecutionContext,
        input_value: Any,
        history: tuple[Turn, ...],
        bridge: AgentWebSocketBridge,
        run: OpenRun,
        deadlines: Deadlines,
    ) -> None:
        self.user_id = context.user_id
        self.run_id = context.run_id
        self.thread_id = context.thread_id
        self.input = input_value
        self.history = history
        self.deadlines = deadlines
        self.bridge = bridge
        self.run = run
        self.on_deadline: Callable[[], object] = lambda: None
        self._steps = 0
        self._calls = 0
        self._inputs: dict[str, asyncio.Future[Any]] = {}
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_left_seconds = deadlines.run_seconds
        self._closed = False

    # What an agent calls.

    async def thinking(self, text: str) -> None:
        """Say what is being thought about: `agent_thinking`."""
        self._steps += 1
        await self.emit(AgentThinking(_text(text), self._steps))

    async def delta(self, text: str) -> None:
        """Stream a piece of the answer: `agent_delta`."""
        await self.emit(AgentDelta(_text(text)))

    def tool(self, name: str, arguments: Any = None) -> ToolCall:
        """A tool call, for `async with`: `tool_executing` on entry, `tool_completed` on every way out.

        Set `call.result` to what came of it. An exception passes through, and is the call's error; past the tool's
        deadline the block gets a `TimeoutError`.

        Raises:
            ValueError: the name is longer than `TOOL_NAME_CHARACTERS_MAX`.
        """
        if len(_text(name)) > TOOL_NAME_CHARACTERS_MAX:
            raise ValueError(f"a tool's name has at most {TOOL_NAME_CHARACTERS_MAX} characters, not {len(_text(name))}")
        self._calls += 1
        return ToolCall(self, f"call_{self._calls}", _text(name), arguments)

    async def ask(self, prompt: str, *, kind: str = "question", schema: dict[str, Any] | None = None) -> Any:
        """Ask the user and wait for the answer: `input_required`, then `provide_input`. The run's deadline stands
        still meanwhile; that of a tool in which it is asked runs on.

        Raises:
            ValueError: `kind` is neither `approval` nor `question`.
        """
        if kind not in INPUT_KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(INPUT_KINDS)}")
        input_id = f"input_{len(self._inputs) + 1}"
        answer = self._inputs[input_id] = asyncio.get_running_loop().create_future()
        event = InputRequired(input_id, kind, _text(prompt))
        if schema is not None:
            event = InputRequired(input_id, kind, _text(prompt), schema)
        self._pause_deadline()
        self.run.awaiting_input = True
        try:
            await self.emit(event)
            return await answer
        finally:
            answer.cancel()  # also one that was never asked, which nobody will answer
            self.run.awaiting_input = any(not future.done() for future in self._inputs.values())
            if not self.run.awaiting_input:
                self.arm_deadline()

    @property
    def tracer(self) -> AgentTracer:
        """For the agent's own spans: they nest under the run's or the tool's span, and leave with the trace."""
        return self.run.spans.tracer

    @property
    def tracer_provider(self) -> AgentTracerProvider:
        """For libraries that take a tracer provider."""
        return self.run.spans.tracer_provider

    # What its engine calls.

    async def emit(self, event: Event) -> EmitOutcome:
        """Stamp the event at the engine and hand it to the bridge."""
        return await self.bridge.emit(event, self.run.ledger.emitted(event.type, time.monotonic_ns()))

    def answer(self, input_id: str, value: Any) -> bool:
        """The user's answer to an `input_required`; whether it was awaited."""
        waiting = self._inputs.get(input_id)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(value)
        return True

    def arm_deadline(self) -> None:
        """Let the run's deadline run on, unless the run is over."""
        if self._deadline is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._deadline_left_seconds, lambda: self.on_deadline())

    def _pause_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline_left_seconds = max(0.0, self._deadline.when() - asyncio.get_running_loop().time())
            self._deadline.cancel()
            self._deadline = None

    def close(self) -> None:
        """The run is over: no deadline runs, nobody waits for an answer."""
        self._closed = True
        self._pause_deadline()
        for waiting in self._inputs.values():
            waiting.cancel()


class ThreadedAgentContext:
    """`ctx` of an agent that is a plain `def`: the same calls without `await`, made from the agent's own thread."""

    def __init__(self, context: AgentContext, loop: asyncio.AbstractEventLoop) -> None:
        self.user_id = context.user_id
        self.run_id = context.run_id
        self.thread_id = context.thread_id
        self.input = context.input
        self.history = context.history
        self.tracer = context.tracer
        self.tracer_provider = context.tracer_provider
        self._context = context
        self._loop = loop

    def thinking(self, text: str) -> None:
        """Say what is being thought about: `agent_thinking`."""
        self.wait_for(self._context.thinking(text))

    def delta(self, text: str) -> None:
        """Stream a piece of the answer: `agent_delta`."""
        self.wait_for(self._context.delta(text))

    def tool(self, name: str, arguments: Any = None) -> ThreadedToolCall:
        """A tool call, for `with`. A thread cannot be interrupted: past the deadline the `TimeoutError` comes at the
        end of the block, the tool's event in time.
        """
        return ThreadedToolCall(self._context.tool(name, arguments), self.wait_for)

    def ask(self, prompt: str, *, kind: str = "question", schema: dict[str, Any] | None = None) -> Any:
        """Ask the user and wait for the answer."""
        return self.wait_for(self._context.ask(prompt, kind=kind, schema=schema))

    def wait_for(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Have the event loop make this call, and wait for what comes of it."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


def _text(value: Any) -> str:
    """What an agent gives for a text: numbers and the like are written as Python writes them."""
    return value if isinstance(value, str) else str(value)
