"""The log: one JSON object a line on standard error, without secrets, and without the libraries' chatter."""

import json
import logging
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from tracewire_telemetry.logs import (
    PEER_EVENTS,
    PEER_LINES_MAX,
    PEER_SECONDS,
    QUIET_LOGGERS,
    SECRET_KEYS,
    PeerBound,
    configure_logging,
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


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """The handlers of before are replaced."""
    configure_logging(level="info", json=True)
    configure_logging(level="info", json=True)
    structlog.get_logger("t").info("once")
    assert len(lines(capsys)) == 1


def record(event: object, at: float) -> logging.LogRecord:
    """A record as structlog hands it to the handler."""
    made = logging.LogRecord("t", logging.INFO, "", 0, event, None, None)
    made.created = at
    return made


@pytest.mark.parametrize("event", sorted(PEER_EVENTS))
def test_a_peer_cannot_fill_the_log(event: str) -> None:
    """So many lines of one kind in a time, and then the first says how many were left out."""
    bound = PeerBound()
    written = [bound.filter(record({"event": event}, 1.0)) for _ in range(PEER_LINES_MAX + 7)]
    assert [True] * PEER_LINES_MAX + [False] * 7 == written
    next_one = record({"event": event}, 1.0 + PEER_SECONDS)
    assert bound.filter(next_one)
    assert {"event": event, "left_out": 7} == next_one.msg


def test_what_no_peer_causes_is_written_however_often() -> None:
    """Runs, incidents and errors are never left out."""
    bound = PeerBound()
    assert all(bound.filter(record({"event": "run_ended"}, 1.0)) for _ in range(PEER_LINES_MAX * 2))


def test_the_log_of_the_process_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """The bound is in its place: ours and a library's line alike."""
    configure_logging(level="info", json=True)
    for _ in range(PEER_LINES_MAX + 5):
        structlog.get_logger("t").info("frame_rejected", code="malformed")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    events = [str(line["event"]) for line in lines(capsys)]
    assert {"frame_rejected": PEER_LINES_MAX, "Invalid HTTP request received.": PEER_LINES_MAX} == Counter(events)
