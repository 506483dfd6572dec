"""The log: one JSON object a line on standard error, without secrets, and without the libraries' chatter."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict

from tracewire_telemetry.logs import (
    LINES_WAITING_MAX,
    PEER_EVENTS,
    PEER_LINES_MAX,
    PEER_SECONDS,
    QUIET_LOGGERS,
    SECRET_KEYS,
    LogThread,
    PeerBound,
    configure_logging,
    write_in_thread,
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's: put back what was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """What stands on standard error; nothing may stand on standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_a_record_is_one_json_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With level, time in UTC, and its fields as they were given."""
    configure_logging(level="info", json=True)
    structlog.get_logger("t").warning("event_missing", seq=3, run_id="run", text="ä\nb")
    (record,) = lines(capsys)
    assert str(record.pop("timestamp")).endswith("Z")
    assert record == {"event": "event_missing", "level": "warning", "seq": 3, "run_id": "run", "text": "ä\nb"}


def test_where_nobody_is_looking_on_records_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error of a test is no terminal."""
    configure_logging(level="info")
    structlog.get_logger("t").info("ready")
    assert [record["event"] for record in lines(capsys)] == ["ready"]


def test_at_a_terminal_records_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """No JSON, the same facts."""
    configure_logging(level="info", json=False)
    structlog.get_logger("t").info("ready", port=8000)
    text = capsys.readouterr().err
    assert "ready" in text
    assert "8000" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("key", sorted(SECRET_KEYS))
def test_a_secret_never_reaches_the_log(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of its field, given directly or bound before, at a terminal or not."""
    for as_json in (True, False):
        configure_logging(level="info", json=as_json)
        logger = structlog.get_logger("t")
        logger.info("first", **{key: "s3cr3t-value"})
        logger.bind(**{key: "s3cr3t-value"}).info("second")
        text = capsys.readouterr().err
        assert text.count("[redacted]") == 2
        assert "s3cr3t-value" not in text


def test_records_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings stay."""
    configure_logging(level="warning", json=True)
    logger = structlog.get_logger("t")
    logger.info("quiet")
    logger.warning("loud")
    assert [record["event"] for record in lines(capsys)] == ["loud"]


def test_a_librarys_records_are_written_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line, with the logger's name; the chatter of those that are named is left out."""
    configure_logging(level="info", json=True)
    logging.getLogger("some.library").info("hello %s", "there")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).info("chatter with ?token=abc")
    logging.getLogger("uvicorn.error").error("a failure")
    assert [(record["event"], record["logger"]) for record in lines(capsys)] == [
        ("hello there", "some.library"),
        ("a failure", "uvicorn.error"),
    ]


def test_an_exception_is_one_record_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a line-by-line reader does not lose it."""
    configure_logging(level="info", json=True)
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        structlog.get_logger("t").exception("run_failed", run_id="run")
    (record,) = lines(capsys)
    assert record["event"] == "run_failed"
    assert "RuntimeError: the cause" in str(record["exception"])


def test_an_exception_that_a_thread_writes_has_its_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The thread handles none: it is taken hold of where it is logged, by us and by libraries."""
    configure_logging(level="info", json=True)
    stop = write_in_thread()
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        structlog.get_logger("t").exception("run_failed")
        logging.getLogger("some.library").exception("it failed")
    stop()
    assert [True, True] == ["RuntimeError: the cause" in str(line.get("exception")) for line in lines(capsys)]


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """The handlers of before are replaced."""
    configure_logging(level="info", json=True)
    configure_logging(level="info", json=True)
    structlog.get_logger("t").info("once")
    assert len(lines(capsys)) == 1


class Clock:
    """A clock that stands."""

    now = 1.0

    def __call__(self) -> float:
        return self.now


def written(bound: PeerBound, event: str) -> EventDict | None:
    """What becomes of one of our records."""
    try:
        return bound(None, "info", {"event": event})
    except structlog.DropEvent:
        return None


@pytest.mark.parametrize("event", sorted(PEER_EVENTS))
def test_a_peer_cannot_fill_the_log(event: str) -> None:
    """So many lines of one kind in a time, and then the first says how many were left out."""
    clock = Clock()
    bound = PeerBound(clock)
    first = [written(bound, event) for _ in range(PEER_LINES_MAX + 7)]
    assert [{"event": event}] * PEER_LINES_MAX + [None] * 7 == first
    clock.now += PEER_SECONDS
    assert {"event": event, "left_out": 7} == written(bound, event)


def test_what_no_peer_causes_is_written_however_often() -> None:
    """Runs, incidents and errors are never left out."""
    bound = PeerBound()
    assert {"event": "run_ended"} == written(bound, "run_ended")
    assert all(written(bound, "run_ended") for _ in range(PEER_LINES_MAX * 2))


class HeldWriter(logging.Handler):
    """Writes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Wait, then keep the line."""
        assert self.let_go.wait(30)
        self.lines.append(record.getMessage())


def test_a_log_that_nobody_takes_holds_up_nobody() -> None:
    """Lines past the bound are left out, and the next one that can be written says how many."""
    writer = HeldWriter()
    thread = LogThread(writer)
    for number in range(LINES_WAITING_MAX + 100):
        thread.emit(logging.LogRecord("t", logging.INFO, "", 0, "line %d", (number,), None))
    writer.let_go.set()
    thread.stop(30.0)
    left_out = LINES_WAITING_MAX + 100 - len(writer.lines)
    assert 0 < left_out <= 100
    assert [f"line {number}" for number in range(len(writer.lines))] == writer.lines
    thread = LogThread(writer)
    thread._left_out = left_out
    thread.emit(logging.LogRecord("t", logging.INFO, "", 0, "later", None, None))
    thread.stop(30.0)
    assert [f"{left_out} log lines were left out: whoever takes them is too slow", "later"] == writer.lines[-2:]


def test_what_was_logged_before_the_end_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Stopping waits for the thread, and later lines are written as before."""
    configure_logging(level="info", json=True)
    stop = write_in_thread()
    numbers = range(500)
    for number in numbers:
        structlog.get_logger("t").info("counted", number=number)
    stop()
    structlog.get_logger("t").info("after")
    assert [*numbers, None] == [line.get("number") for line in lines(capsys)]


def test_the_log_of_the_process_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """The bound is in its place: ours and a library's line alike."""
    configure_logging(level="info", json=True)
    for _ in range(PEER_LINES_MAX + 5):
        structlog.get_logger("t").info("frame_rejected", code="malformed")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    events = [str(line["event"]) for line in lines(capsys)]
    assert {"frame_rejected": PEER_LINES_MAX, "Invalid HTTP request received.": PEER_LINES_MAX} == Counter(events)
