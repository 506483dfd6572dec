"""A thread that notices when the event loop stands still, and names the line that holds it.

Nothing in an event loop protects other users from an agent that blocks it; that it is named is the best there is.
"""

import asyncio
import sys
import threading
import traceback

import structlog

_log = structlog.get_logger("tracewire.watchdog")


class LoopWatchdog:
    """Logs `event_loop_blocked` with the blocking line, once each time the loop stands still for `limit_seconds`."""

    def __init__(self, *, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._stopped = threading.Event()
        self._beaten = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the running loop, from its own thread."""
        arguments = (asyncio.get_running_loop(), threading.get_ident())
        self._thread = threading.Thread(target=self._watch, args=arguments, name="tracewire-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        self._beaten.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        while not self._stopped.wait(self._limit_seconds / 2):
            self._beaten.clear()
            try:
                loop.call_soon_threadsafe(self._beaten.set)
            except RuntimeError:  # the loop is closed
                return
            if self._beaten.wait(self._limit_seconds) or self._stopped.is_set():
                continue
            frame = sys._current_frames().get(thread_id)
            if frame is not None:
                stack = traceback.extract_stack(frame)
                line = stack[-1]
                _log.error(
                    "event_loop_blocked",
                    seconds=self._limit_seconds,
                    line=f"{line.filename}:{line.lineno} in {line.name}",
                    call_stack=[f"{entry.filename}:{entry.lineno} in {entry.name}" for entry in stack[-8:]],
                )
            self._beaten.wait()
