"""The shared engine: admits runs within the limits, and delegates each to an engine of its user's own.

Enters: accepted runs. Leaves: their results. Next: `UserExecutionEngine`, one a run.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from tracewire.engine.agent import AgentSpec
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.factory import ExecutionFactory
from tracewire.engine.user_execution_engine import RunResult, UserExecutionEngine
from tracewire.errors import RejectedError, WiringError
from tracewire.eventlog import Turn
from tracewire_telemetry.vocabulary import Outcome, RejectCode

_log = structlog.get_logger("tracewire.engine")


class ExecutionEngine:
    """Runs of all users, each by its own engine from the factory. It holds nothing of any one user's."""

    def __init__(self, factory: ExecutionFactory, *, runs_max: int, runs_per_user_max: int) -> None:
        self._factory = factory
        self._runs_max = runs_max
        self._runs_per_user_max = runs_per_user_max
        self._admitted: Counter[str] = Counter()
        self._total = 0
        self._engines: dict[str, UserExecutionEngine] = {}
        self._tasks: dict[str, asyncio.Task[RunResult]] = {}

    def admit(self, user_id: str) -> None:
        """Take a place for a run of this user; `release` gives it back.

        Raises:
            RejectedError: `too_many_runs`, of this user or in all.
        """
        if self._admitted[user_id] >= self._runs_per_user_max:
            raise RejectedError(
                RejectCode.TOO_MANY_RUNS,
                f"you have {self._runs_per_user_max} open runs, the most a user may have; wait for one to end, "
                "or cancel one",
                retry_after_seconds=1,
            )
        if self._total >= self._runs_max:
            raise RejectedError(
                RejectCode.TOO_MANY_RUNS,
                f"the server has {self._runs_max} open runs, the most it takes; try again soon",
                retry_after_seconds=5,
            )
        self._admitted[user_id] += 1
        self._total += 1

    def release(self, user_id: str) -> None:
        """Give back a place that `admit` took."""
        self._total -= 1
        self._admitted[user_id] -= 1
        if not self._admitted[user_id]:
            del self._admitted[user_id]

    async def execute(
        self, context: UserExecutionContext, spec: AgentSpec, input_value: Any, history: Sequence[Turn] = ()
    ) -> RunResult:
        """Have an engine of the user's own run the agent; returns when the terminal event is durable."""
        try:
            engine = self._factory.create_user_engine(context)
            if engine is None:
                raise WiringError("L2", f"the factory gave no engine for run {context.run_id}")
        except Exception as error:
            await self._factory.close_unwired(context, error)
            raise
        self._engines[context.run_id] = engine
        try:
            return await engine.run(spec, spec.deadlines.filled(self._factory.settings), input_value, history)
        finally:
            del self._engines[context.run_id]

    def start(
        self, context: UserExecutionContext, spec: AgentSpec, input_value: Any, history: Sequence[Turn] = ()
    ) -> "asyncio.Task[RunResult]":
        """`execute` an admitted run in a task of its own; its place is released when it ends."""
        task = asyncio.get_running_loop().create_task(
            self.execute(context, spec, input_value, history), name=f"run {context.run_id}"
        )
        self._tasks[context.run_id] = task

        def ended(_: "asyncio.Task[RunResult]") -> None:
            del self._tasks[context.run_id]
            self.release(context.user_id)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("run_crashed", user_id=context.user_id, run_id=context.run_id, exc_info=error)

        task.add_done_callback(ended)
        return task

    def engine_of(self, run_id: str) -> UserExecutionEngine | None:
        """The engine of an open run, or `None`."""
        return self._engines.get(run_id)

    @property
    def open_count(self) -> int:
        """Runs that are executing."""
        return len(self._tasks)

    def stop_all(self, outcome: Outcome, message: str) -> None:
        """Ask every open run to end now, with this outcome."""
        for engine in list(self._engines.values()):
            engine.stop(outcome, message)

    async def drain(self, grace_seconds: float) -> None:
        """Let the open runs end for this long, then end them with `worker_lost`."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        self.stop_all(Outcome.WORKER_LOST, "the server is stopping; start the run again")
        if self._tasks:
            await asyncio.wait(self._tasks.values())
