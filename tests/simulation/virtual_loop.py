"""An event loop whose clock is virtual and whose processes can be killed: all of a schedule runs in it, in one thread.

Callbacks run in the order in which they became ready, as in asyncio; each takes a little virtual time, so that what
comes from outside (frames, commits, faults) falls between any two of them. Where nothing is ready the clock jumps.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

NS_PER_SECOND: Final = 1_000_000_000
START_NS: Final = 1_000 * NS_PER_SECOND
"""Not 0, which stands for "not stamped" in a ledger."""
EPOCH_NS: Final = 1_700_000_000 * NS_PER_SECOND
STEP_NS: Final = 5_000

_process: ContextVar["Process | None"] = ContextVar("simulated_process", default=None)


class HungError(Exception):
    """Virtual time ran out, or nothing was left that could ever happen."""


class Process:
    """What dies together. Nothing of a dead process runs again: no callback, no `finally`, as after `kill -9`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.context: Context = copy_context()
        self.context.run(_process.set, self)

    def kill(self) -> None:
        """End it between two steps."""
        self.alive = False


class _Task(asyncio.Task[Any]):
    """A task whose hash does not depend on where it lies in memory: sets of tasks are iterated alike in every run."""

    def __init__(self, coroutine: Any, *, number: int, context: Context | None = None, **options: Any) -> None:
        self._number = number
        self.context = copy_context() if context is None else context
        super().__init__(coroutine, context=self.context, **options)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs a schedule. `steps` counts the callbacks that ran; what `at_step` holds is called before the step that it
    names. `failures` are errors that nobody has caught.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.steps = 0
        self.failures: list[str] = []
        self.at_step: list[tuple[int, Callable[[], None]]] = []
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._tasks: list[_Task] = []
        self._over = False
        self.set_task_factory(self._make_task)

    # What asyncio asks of a loop.

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_ns / NS_PER_SECOND

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._over:
            self._queue.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._over:
            heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nothing may fail unseen while a schedule runs. Tasks that did are found at its end: when the collector
        would tell of them is not the seed's to say.
        """
        if not self._over and "never retrieved" not in context["message"]:
            error = context.get("exception")
            self.failures.append(f"{context['message']}: {type(error).__name__}: {error}")

    def _make_task(self, _: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> _Task:
        task = _Task(coroutine, number=next(self._numbers), loop=self, **options)
        self._tasks.append(task)  # held, so that no `finally` runs at a moment that the collector chooses
        return task

    # Running.

    def run(self, main: Coroutine[Any, Any, None], *, seconds_max: float) -> None:
        """Run until `main` is done.

        Raises:
            HungError: it was not done by then, in virtual time.
        """
        end_ns = self.now_ns + int(seconds_max * NS_PER_SECOND)
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._turn(end_ns)
            task.result()
        finally:
            self._finish()
            asyncio._set_running_loop(None)
            self.close()

    def _turn(self, end_ns: int) -> None:
        timers, queue = self._timers, self._queue
        while timers and (timers[0][2]._cancelled or timers[0][0] * NS_PER_SECOND <= self.now_ns):
            handle: asyncio.Handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                queue.append(handle)
        if not queue:
            if not timers:
                raise HungError("nothing is left that could happen")
            self.now_ns = max(self.now_ns, -int(-timers[0][0] * NS_PER_SECOND // 1))
            if self.now_ns > end_ns:
                raise HungError("virtual time ran out")
            return
        handle = queue.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(_process)
        if process is not None and not process.alive:
            return
        self.steps += 1
        while self.at_step and self.at_step[0][0] <= self.steps:
            self.at_step.pop(0)[1]()
        if process is not None and not process.alive:
            return
        self.now_ns += STEP_NS
        handle._run()

    def _finish(self) -> None:
        """Let go of what never ended, here and now."""
        self._over = True
        self._queue.clear()
        self._timers.clear()
        for task in self._tasks:
            process = task.context.get(_process)
            if task.done():
                if task._log_traceback and (process is None or process.alive):
                    self.failures.append(f"nobody asked how {task.get_coro().__qualname__} ended: {task.exception()!r}")
            else:
                # One that awaits in a `finally` cannot be closed; it is dead all the same.
                with contextlib.suppress(BaseException):
                    task.context.run(task.get_coro().close)
        self._tasks.clear()
