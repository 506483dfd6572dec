"""Structured logs: one line a record on standard error, JSON where nobody is looking on, colours at a terminal."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRET_KEYS = frozenset({"authorization", "token", "secret", "password", "cookie"})


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in event.keys() & SECRET_KEYS:
        event[key] = "[redacted]"
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
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        fields: Any = record.msg
        event = fields.get("event") if isinstance(fields, dict) else fields
        if event not in PEER_EVENTS:
            return True
        since, count = self._told.get(event, (record.created, 0))
        if record.created - since >= PEER_SECONDS:
            if count > PEER_LINES_MAX and isinstance(fields, dict):
                fields["left_out"] = count - PEER_LINES_MAX
            since, count = record.created, 0
        self._told[event] = (since, count + 1)
        return count < PEER_LINES_MAX


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
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
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
    handler.addFilter(PeerBound())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def _keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return event
