"""Station one: runs an agent for one user, and hands everything that it does to the bridge.

Enters: an admitted run. Leaves: agent events, stamped; error, timeout, cancel and crash all end in a terminal event.
Next: `AgentWebSocketBridge`.
"""

import asyncio
import contextvars
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, ClassVar

import structlog
from msgspec import Struct

from tracewire.bridge.agent_websocket_bridge import AgentWebSocketBridge
from tracewire.engine.agent import AgentSpec, Deadlines
from tracewire.engine.agent_context import AgentContext, ThreadedAgentContext
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.tool_call import said
from tracewire.errors import (
    ContractBrokenError,
    DirectConstructionError,
    InvalidInputError,
    LogUnavailableError,
    NotSerializableError,
    RejectedError,
    RunEndedError,
    TracewireError,
    WiringError,
)
from tracewire.eventlog import Turn
from tracewire.events import AgentCancelled, AgentCompleted, AgentError, AgentStarted, Event, Receipt, TerminalEvent
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import Outcome, RejectCode, RunErrorCode
from tracewire_telemetry.watch import OpenRun

_log = structlog.get_logger("tracewire.engine")


class RunResult(Struct, frozen=True):
    """How a run ended. `output` is the agent's answer, `None` unless it completed."""

    outcome: Outcome
    output: Any
    message: str
    receipt: Receipt


class _Stop(Struct, frozen=True):
    """Why a run is ended from outside its agent."""

    outcome: Outcome
    message: str


class UserExecutionEngine:
    """Runs one agent once, for one user. `ExecutionFactory.create_user_engine(context)` builds it, nobody else."""

    context: UserExecutionContext
    bridge: AgentWebSocketBridge
    context_class: ClassVar[type[AgentContext]] = AgentContext

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        raise DirectConstructionError(
            "L3",
            "UserExecutionEngine is not built directly: it would have no bridge; "
            "call ExecutionFactory.create_user_engine(context)",
        )

    @classmethod
    def _wired(
        cls,
        context: UserExecutionContext,
        bridge: AgentWebSocketBridge,
        run: OpenRun,
        metrics: Metrics,
        threads: Executor,
        abandoned: "set[asyncio.Task[Any]]",
        cancel_grace_seconds: float,
    ) -> "UserExecutionEngine":
        engine = object.__new__(cls)
        engine.context = context
        engine.bridge = bridge
        engine._run = run
        engine._metrics = metrics
        engine._threads = threads
        engine._abandoned = abandoned
        engine._thread_ended = None
        engine._grace = cancel_grace_seconds
        engine._stopped = asyncio.get_running_loop().create_future()
        engine._agent_context = None
        engine._used = False
        return engine

    _run: OpenRun
    _metrics: Metrics
    _threads: Executor
    _abandoned: "set[asyncio.Task[Any]]"
    _thread_ended: asyncio.Event | None
    _grace: float
    _stopped: "asyncio.Future[_Stop]"
    _agent_context: AgentContext | None
    _used: bool

    async def run(
        self, spec: AgentSpec, deadlines: Deadlines, input_value: Any, history: Sequence[Turn] = ()
    ) -> RunResult:
        """Run the agent to its end, whatever that is; returns when the terminal event is durable.

        Raises:
            RunEndedError: this engine has run already; it serves one run.
        """
        if self._used:
            raise RunEndedError("this engine has run already; create one for each run")
        self._used = True
        ctx = self._agent_context = self.context_class(
            self.context, input_value, tuple(history), self.bridge, self._run, deadlines
        )
        loop = asyncio.get_running_loop()
        limit = f"the run passed its deadline of {deadlines.run_seconds:g} s"
        ctx.on_deadline = partial(self.stop, Outcome.TIMEOUT, limit)
        ctx.arm_deadline()
        task: asyncio.Task[Any] | None = None
        try:
            if not self._stopped.done():
                await ctx.emit(AgentStarted(f"{spec.name} started"))
                task = loop.create_task(self._agent(spec, ctx), context=self._agent_variables())
                await asyncio.wait({task, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
            return await self._finish(spec, task)
        except asyncio.CancelledError:
            self.stop(Outcome.WORKER_LOST, "the server stopped before the run ended")
            await self._finish(spec, task)
            raise
        except LogUnavailableError as error:
            return self._end_unlogged(spec, error)
        except RunEndedError:
            raise
        except Exception as error:  # noqa: BLE001 # said just below, in the log and to the user
            # A defect of ours, not of the agent: the user still gets a terminal event, and the log the traceback.
            _log.exception("engine_failed", agent=spec.name, run_id=self.context.run_id)
            cause = str(error) if isinstance(error, TracewireError) else type(error).__name__
            return await self._end(spec, Outcome.WORKER_LOST, f"internal error: {cause}")
        finally:
            ctx.close()

    def stop(self, outcome: Outcome, message: str) -> bool:
        """Ask the run to end now, with this outcome; whether it was the first to ask."""
        if self._stopped.done():
            return False
        self._stopped.set_result(_Stop(outcome, message))
        return True

    def cancel(self, reason: str) -> bool:
        """End the run with `agent_cancelled`; whether it was the first to ask."""
        return self.stop(Outcome.CANCELLED, reason)

    def provide_input(self, input_id: str, value: Any) -> None:
        """Answer an `input_required`.

        Raises:
            RejectedError: the run awaits no input of that id.
        """
        if self._agent_context is None or not self._agent_context.answer(input_id, value):
            raise RejectedError(RejectCode.INVALID_INPUT, f"the run awaits no input {input_id!r}")

    def _agent_variables(self) -> contextvars.Context:
        variables = contextvars.copy_context()
        variables.run(self._run.spans.enter)
        return variables

    async def _agent(self, spec: AgentSpec, ctx: AgentContext) -> Any:
        try:
            if spec.threaded:
                return await self._in_thread(spec, ctx)
            return await spec.function(ctx)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            # Out of a task these would end the whole server's loop: for the run it is an error like any other.
            raise _AgentExitError(f"the agent raised {type(error).__name__}") from error

    async def _in_thread(self, spec: AgentSpec, ctx: AgentContext) -> Any:
        loop = asyncio.get_running_loop()
        ended = self._thread_ended = asyncio.Event()
        threaded = ThreadedAgentContext(ctx, loop)
        result = self._threads.submit(contextvars.copy_context().run, spec.function, threaded)
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        return await asyncio.wrap_future(result)

    async def _finish(self, spec: AgentSpec, task: "asyncio.Task[Any] | None") -> RunResult:
        """Decide how the run ended, let the agent unwind, and emit the terminal event."""
        if self._stopped.done():
            if task is not None:  # also one that failed in the same moment, whose error would be lost
                await self._unwind(spec, task)
            stop = self._stopped.result()
            return await self._end(spec, stop.outcome, stop.message)
        assert task is not None  # noqa: S101 # nothing else ends the wait
        if task.cancelled():
            return await self._end(spec, Outcome.AGENT_EXCEPTION, "the agent cancelled itself")
        error = task.exception()
        if error is None:
            return await self._complete(spec, task.result())
        match error:
            case NotSerializableError():
                outcome = Outcome.NOT_SERIALIZABLE
            case ContractBrokenError():
                outcome = Outcome.CONTRACT_BROKEN
            case LogUnavailableError():
                outcome = Outcome.LOG_UNAVAILABLE
            case WiringError():
                outcome = Outcome.WORKER_LOST
            case _:
                outcome = Outcome.AGENT_EXCEPTION
        said_by = {"agent": spec.name, "user_id": self.context.user_id, "run_id": self.context.run_id}
        if isinstance(error, InvalidInputError):
            _log.info("agent_refused_input", **said_by, why=str(error))
        else:
            _log.error("agent_failed", **said_by, code=outcome.value, exc_info=error)
        message = str(error) if isinstance(error, TracewireError) else said(error)
        return await self._end(spec, outcome, message)

    async def _unwind(self, spec: AgentSpec, task: "asyncio.Task[Any]") -> None:
        """Cancel the agent and give it the grace period; one that goes on is left to itself, and counted."""
        task.cancel()
        going_on = asyncio.create_task(self._gone(task))
        await asyncio.wait({going_on}, timeout=self._grace)
        if going_on.done():
            if not task.cancelled() and task.exception() is not None:
                _log.info("agent_raised_while_stopping", run_id=self.context.run_id, error=repr(task.exception()))
            return
        self._metrics.run_abandoned(spec.name)
        _log.warning(
            "agent_abandoned",
            agent=spec.name,
            user_id=self.context.user_id,
            run_id=self.context.run_id,
            why="it did not end when its run was stopped",
        )
        # The loop holds its tasks weakly: without this one that goes on could vanish.
        self._abandoned.add(going_on)
        going_on.add_done_callback(self._abandoned.discard)

    async def _gone(self, task: "asyncio.Task[Any]") -> None:
        """Wait until the agent has really ended, its thread too."""
        await asyncio.wait({task})
        if self._thread_ended is not None:
            await self._thread_ended.wait()
        if not task.cancelled():
            task.exception()

    async def _complete(self, spec: AgentSpec, output: Any) -> RunResult:
        if self.bridge.contract.open_tools:
            _log.warning(
                "tools_left_open",
                agent=spec.name,
                run_id=self.context.run_id,
                tools=sorted(self.bridge.contract.open_tools.values()),
            )
        try:
            event = await self.bridge.complete(output, self._stamp(AgentCompleted))
        except NotSerializableError as error:
            _log.error("agent_failed", agent=spec.name, run_id=self.context.run_id, error=str(error))
            return await self._end(spec, Outcome.NOT_SERIALIZABLE, f"the agent's answer: {error}")
        return self._ended(Outcome.COMPLETED, event, output)

    async def _end(self, spec: AgentSpec, outcome: Outcome, message: str) -> RunResult:
        if outcome is Outcome.CANCELLED:
            event = await self.bridge.cancel(message, self._stamp(AgentCancelled))
        else:
            code = RunErrorCode(outcome.value)
            retryable = code in (RunErrorCode.TIMEOUT, RunErrorCode.WORKER_LOST, RunErrorCode.LOG_UNAVAILABLE)
            ordinal = self._stamp(AgentError)
            event = await self.bridge.fail(code, message, retryable=retryable, ordinal=ordinal)
        _log.info(
            "run_ended", agent=spec.name, user_id=self.context.user_id, run_id=self.context.run_id,
            outcome=outcome.value, reason=message,
        )  # fmt: skip
        return self._ended(outcome, event, None, message)

    def _end_unlogged(self, spec: AgentSpec, error: LogUnavailableError) -> RunResult:
        """The log takes no more, not even the terminal event: the next start closes the run in the log."""
        _log.error(
            "run_not_closed", agent=spec.name, user_id=self.context.user_id, run_id=self.context.run_id,
            error=str(error),
        )  # fmt: skip
        self._run.ended(Outcome.LOG_UNAVAILABLE, durable=False)
        return RunResult(Outcome.LOG_UNAVAILABLE, None, str(error), Receipt(self.bridge.emitter.durable_seq, {}))

    def _stamp(self, event_class: type[Event]) -> int:
        return self._run.ledger.emitted(event_class.type, time.monotonic_ns())

    def _ended(self, outcome: Outcome, event: TerminalEvent, output: Any, message: str = "") -> RunResult:
        self._run.ended(outcome)
        return RunResult(outcome, output, message, event.receipt)


class _AgentExitError(Exception):
    """An agent tried to end the process."""
