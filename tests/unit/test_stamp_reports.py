"""The report of a run whose stamps a crash took, in part or all, and of one that is not settled."""

from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.stamps import (
    LedgerReport,
    LedgerRow,
    MissingRow,
    decode_stamps,
    encode_stamps,
    report_of,
    report_without_stamps,
    stamps_of,
    unknown_stamps,
)
from tracewire_telemetry.vocabulary import EventType, Link, Outcome, Verdict
from unit.ledgers import OPENED_NS, OPENED_UNIX_NS, TRACE_ID, LedgerScript, ns

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
NULLS = (None, None, None, None, None, None)


def test_a_run_whose_stamps_a_crash_took_shows_what_happened_and_of_no_event_when() -> None:
    """What was acked is known; the rest is pending, and the chain is not called complete."""
    script = LedgerScript()
    socket = script.attached()
    for number in range(3):
        script.sent(THINKING, number, socket)
    script.acknowledged(socket, 2, 20)
    script.ended(30, Outcome.WORKER_LOST)
    stamps = unknown_stamps(script.ledger)
    assert ([[-1] * 3] * 5, [-1] * 3) == (stamps.links, stamps.verdicts)
    report = report_of(decode_stamps(encode_stamps(stamps)))
    assert [LedgerRow(seq, THINKING, *NULLS) for seq in (1, 2, 3)] == report.events
    assert (1, False, Outcome.WORKER_LOST) == (report.pending, report.chain_complete, report.outcome)


def test_a_run_without_any_stamps_shows_what_the_log_holds() -> None:
    """Its events in order, nulls, and that nothing is known of their chain."""
    report = report_without_stamps(
        run_id="run",
        user_id="ada",
        agent="five",
        trace_id="abc",
        started_unix_ns=OPENED_UNIX_NS,
        outcome=Outcome.WORKER_LOST,
        types=[STARTED, THINKING],
    )
    assert (
        LedgerReport(
            run_id="run",
            user_id="ada",
            agent="five",
            trace_id="abc",
            started="2023-11-14T22:13:20.000000+00:00",
            ended_ms=None,
            outcome=Outcome.WORKER_LOST,
            settled=True,
            chain_complete=False,
            pending=0,
            sockets=0,
            events=[LedgerRow(1, STARTED, *NULLS), LedgerRow(2, THINKING, *NULLS)],
            missing=[],
            waiting=[],
        )
        == report
    )
    going_on = report_without_stamps(
        run_id="run", user_id="ada", agent="five", trace_id="abc", started_unix_ns=1_500, outcome=None, types=[]
    )
    assert (False, "1970-01-01T00:00:00.000002+00:00") == (going_on.settled, going_on.started)


def test_a_run_that_goes_on_has_verdicts_of_what_is_certain_alone() -> None:
    """Acked, or missing; the others have none yet. Moments of the missing are exact to a microsecond."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, 10)
    script.durable(THINKING, 20)
    script.durable(THINKING, 30)
    lost = script.ledger.gone[2] = Missing(Link.SOCKET, THINKING, 2, OPENED_NS + 1_234_567, ns(7_000))
    stamps = stamps_of(script.ledger)
    report = report_of(stamps)
    assert [Verdict.IN_TIME, Verdict.MISSING, None] == [row.verdict for row in report.events]
    assert -1 == stamps.verdicts[2]
    assert [MissingRow(lost.link, "agent_thinking", 2, 1.235, 7_000.0)] == report.missing
    assert (False, TRACE_ID) == (report.settled, int(report.trace_id, 16))


def test_what_is_pending_is_durable_and_not_acked_while_nobody_follows() -> None:
    """What is on its way to the log is not, nor what was acked."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, 10)
    script.durable(THINKING, 20)
    script.sequenced(COMPLETED, 30)
    script.detached(socket, 40)
    assert 1 == report_of(stamps_of(script.ledger)).pending


def test_a_run_that_was_settled_is_so_whatever_comes_after() -> None:
    """Its ledger takes nothing more, and is not asked again."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    assert not stamps_of(script.ledger).settled
    script.ledger.settled_ns = ns(10)
    assert stamps_of(script.ledger).settled
