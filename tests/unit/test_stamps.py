"""A run's stamps as they are stored, and the report that people are shown."""

import msgspec
import pytest

from tracewire_telemetry.stamps import (
    LedgerReport,
    LedgerRow,
    MissingRow,
    decode_stamps,
    encode_stamps,
    report_of,
    stamps_of,
)
from tracewire_telemetry.vocabulary import EventType, Link, Outcome, Verdict
from unit.ledgers import OPENED_UNIX_NS, TRACE_ID, LedgerScript, ns

STARTED, THINKING = EventType.AGENT_STARTED, EventType.AGENT_THINKING
COMPLETED = EventType.AGENT_COMPLETED


def report(script: LedgerScript) -> LedgerReport:
    """The report, by way of the bytes that the log keeps."""
    return report_of(decode_stamps(encode_stamps(stamps_of(script.ledger))))


def test_a_settled_run_shows_when_each_link_took_each_event() -> None:
    """Milliseconds since the run's start, with verdicts, through the stored bytes and back."""
    script = LedgerScript(run_id="run-1")
    socket = script.attached()
    script.sent(STARTED, 10, socket)
    script.sent(COMPLETED, 20.5, socket)
    script.acknowledged(socket, 2, 30)
    script.ended(23.5)
    assert LedgerReport(
        run_id="run-1",
        user_id="ada",
        agent="five",
        trace_id=f"{TRACE_ID:032x}",
        started="2023-11-14T22:13:20.000000+00:00",
        ended_ms=23.5,
        outcome=Outcome.COMPLETED,
        settled=True,
        chain_complete=True,
        pending=0,
        sockets=1,
        events=[
            LedgerRow(1, STARTED, 10.0, 11.0, 12.0, 13.0, 30.0, Verdict.IN_TIME),
            LedgerRow(2, COMPLETED, 20.5, 21.5, 22.5, 23.5, 30.0, Verdict.IN_TIME),
        ],
        missing=[],
        waiting=[],
    ) == report(script)


def test_an_open_run_shows_what_it_waits_for() -> None:
    """Stamps that are not there are null; what the bridge has not sequenced is named."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, 5)
    script.sequenced(THINKING, 10)
    script.emitted(EventType.TOOL_EXECUTING, 20)
    shown = report(script)
    assert (
        shown.ended_ms,
        shown.outcome,
        shown.settled,
        shown.waiting,
    ) == (None, None, False, [EventType.TOOL_EXECUTING])
    assert [
        LedgerRow(1, STARTED, 0.0, 1.0, 2.0, 3.0, 5.0, Verdict.IN_TIME),
        LedgerRow(2, THINKING, 10.0, 11.0, None, None, None, None),
    ] == shown.events


def test_a_stamp_at_the_very_start_is_a_time_and_not_an_absence() -> None:
    """0 ms is shown as 0, not as null."""
    script = LedgerScript()
    script.ledger.emitted(STARTED, ns(0))
    script.ledger.sequenced(1, ns(0))
    assert (
        report(script).events[0].engine,
        report(script).events[0].bridge,
        report(script).events[0].emitter,
    ) == (0.0, 0.0, None)


def test_what_is_not_stamped_is_stored_as_minus_one() -> None:
    """Microseconds since the start otherwise: five columns, one entry an event."""
    script = LedgerScript()
    script.durable(STARTED, 2)
    assert stamps_of(script.ledger).links == [[2_000], [3_000], [4_000], [-1], [-1]]
    assert stamps_of(script.ledger).ended_us == -1


def test_missing_events_are_shown_with_link_and_moments() -> None:
    """One at the client and one that was owed; the chain is not complete."""
    script = LedgerScript(required=(EventType.TOOL_EXECUTING,))
    socket = script.attached()
    script.sent(COMPLETED, 0, socket)
    script.ended(4)
    script.overdue(10_003)
    shown = report(script)
    assert [
        MissingRow(Link.ENGINE, EventType.TOOL_EXECUTING, None, 4.0, 4.0),
        MissingRow(Link.CLIENT, COMPLETED, 1, 3.0, 10_003.0),
    ] == shown.missing
    assert (shown.chain_complete, shown.events[0].verdict, shown.settled) == (False, Verdict.MISSING, True)


def test_a_run_whose_user_is_away_shows_how_much_is_pending() -> None:
    """Durable and unacked, no socket; the verdict comes with the settlement."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.durable(COMPLETED, 10)
    assert (
        report(script).pending,
        report(script).sockets,
        [row.verdict for row in report(script).events],
    ) == (2, 0, [None, None])
    script.ended(13)
    assert (report(script).pending, [row.verdict for row in report(script).events]) == (2, [Verdict.NO_SOCKET] * 2)


def test_nothing_is_pending_while_a_socket_follows() -> None:
    """What is on its way to a client is not pending."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.attached()
    assert (report(script).pending, report(script).sockets) == (0, 1)


def test_the_stamps_take_at_most_a_hundred_bytes_an_event() -> None:
    """10,000 events of an hour's run, in the log for as long as the run is kept."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(10_000):
        script.sent(EventType.AGENT_DELTA, 3_500_000 + number, socket)
    script.acknowledged(socket, 10_000, 3_600_000)
    script.ended(3_600_000)
    assert len(encode_stamps(stamps_of(script.ledger))) < 1_000_000


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"run_id": 1}', b"\xff"])
def test_what_are_no_stamps_is_refused(body: bytes) -> None:
    """A damaged row is an error, not an empty ledger."""
    with pytest.raises(msgspec.DecodeError):
        decode_stamps(body)


def test_the_start_is_the_wall_clocks_at_the_runs_record() -> None:
    """To the nanosecond, as it was read once."""
    assert stamps_of(LedgerScript().ledger).started_unix_ns == OPENED_UNIX_NS
