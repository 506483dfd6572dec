"""Structured logs: one line a record on standard error, JSON where nobody is looking on, colours at a terminal."""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRET_KEYS = frozenset({"authorization", "token", "secret", "password", "cookie"})


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in event.keys() & SECRET_KEYS:
        event[key] = "[redacted]"
    return event


def _catch_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take hold of the exception that is being handled: in the thread that writes the record there is none."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


QUIET_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "litestar", "websockets", "httpx", "httpcore")
"""Libraries whose chatter is left out. uvicorn's line for an accepted socket would hold its query string."""


PEER_EVENTS = frozenset(
    {"connection_refused", "frame_rejected", "handshake_refused", "origin_refused", "request_refused"}
    | {"sign_in_refused", "socket_gone", "socket_ready", "socket_refused", "socket_silent", "socket_too_slow"}
    | {"socket_violated_protocol", "stream_gone", "stream_opened", "too_many_sockets"}
    | {"Invalid HTTP request received.", "Unsupported upgrade request."}  # uvicorn's
)
"""What a peer can cause as often as it likes. The metrics count each of them."""
PEER_LINES_MAX = 200
PEER_SECONDS = 10.0


class PeerBound(logging.Filter):
    """Lets no peer fill the log: of each of `PEER_EVENTS`, `PEER_LINES_MAX` lines in `PEER_SECONDS`. The first line
    after some were left out says how many, as `left_out`.

    Called as a processor it stops our own records before anything is spent on them; as a filter it stops libraries'.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The event, unless it is left out."""
        left_out = self._count(event.get("event"))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a library's record is written; ours have been counted."""
        return isinstance(record.msg, dict) or self._count(record.msg) is not None

    def _count(self, event: Any) -> int | None:
        """How many were left out before this one, or `None` where it is left out itself."""
        if event not in PEER_EVENTS:
            return 0
        now = self._clock()
        since, count = self._told.get(event, (now, 0))
        left_out = 0
        if now - since >= PEER_SECONDS:
            left_out = max(0, count - PEER_LINES_MAX)
            since, count = now, 0
        self._told[event] = (since, count + 1)
        return left_out if count < PEER_LINES_MAX else None


class LogThread(logging.Handler):
    """Hands records to a thread that writes them: a disk that is slow to take a line must not hold the event loop.

    At most `LINES_WAITING_MAX` wait; the first line after some were left out is one that says how many.
    """

    def __init__(self, writer: logging.Handler) -> None:
        super().__init__()
        self._writer = writer
        self._waiting: queue.Queue[logging.LogRecord | threading.Event | None] = queue.Queue(LINES_WAITING_MAX)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="tracewire-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record."""
        if record.args:
            # Its arguments may change before the thread comes to it.
            record.msg, record.args = record.getMessage(), None
        try:
            if self._left_out:
                self._waiting.put_nowait(_left_out_record(self._left_out))
                self._left_out = 0
            self._waiting.put_nowait(record)
        except queue.Full:
            self._left_out += 1

    def flush(self) -> None:
        """Wait until all that was logged before is written, for a second at most: nobody may be reading."""
        written = threading.Event()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(written)
            written.wait(1.0)

    def stop(self, limit_seconds: float = 1.0) -> None:
        """Write what waits, for so long at most, and end the thread."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=limit_seconds)
            self._thread.join(limit_seconds)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            if isinstance(record, threading.Event):
                record.set()
            else:
                self._writer.handle(record)


LINES_WAITING_MAX = 10_000


def _left_out_record(count: int) -> logging.LogRecord:
    message = f"{count} log lines were left out: whoever takes them is too slow"
    return logging.LogRecord("tracewire.log", logging.WARNING, __file__, 0, message, None, None)


def write_in_thread() -> Callable[[], None]:
    """Have what `configure_logging` set up written by a thread from now on; what is returned ends that, all written."""
    root = logging.getLogger()
    threads = [LogThread(handler) for handler in root.handlers]
    root.handlers[:] = threads

    def stop() -> None:
        root.handlers[:] = [thread._writer for thread in threads]
        for thread in threads:
            thread.stop()

    return stop


def configure_logging(*, level: str, json: bool | None = None, quiet: Iterable[str] = QUIET_LOGGERS) -> None:
    """Set up the process's logging, ours and the libraries' alike. Call it once, from the command line.

    `json` defaults to "standard error is no terminal". The loggers named in `quiet` say warnings and worse only.
    """
    as_json = (not sys.stderr.isatty()) if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    # Plain tracebacks: those with every local variable show users' inputs, and take seconds of the event loop.
    terminal = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Processor = structlog.processors.JSONRenderer() if as_json else terminal
    bound = PeerBound()
    structlog.configure(
        processors=[bound, *shared, _catch_exception, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info if as_json else _keep,
                renderer,
            ],
        )
    )
    handler.addFilter(bound)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def _keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return event
