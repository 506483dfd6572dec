"""What every event log promises, held against each implementation of the port.

An implementation joins by one entry in `IMPLEMENTATIONS`.
"""

import asyncio
import contextlib
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tracewire.errors import (
    EventLogError,
    LogUnavailableError,
    RequestIdReusedError,
    SequenceError,
    UnknownRunError,
)
from tracewire.eventlog import EventLog, IncidentQuery, RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.events import AgentCompleted, Envelope, Receipt, encode_envelope
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import EventType, IncidentState, Link, Outcome


class SqliteImplementation:
    """`BODY_REFUSED` is a body that the storage refuses; `out_of_order` makes every commit fail while it is open."""

    BODY_REFUSED = bytes(1024 * 1024 + 1)
    OPEN_IN_CHILD = """
from tracewire.eventlog.sqlite import SqliteEventLog
log = SqliteEventLog(Path(sys.argv[1]))
"""

    def create(self, folder: Path, *, commit_retry_seconds: float = 0.05) -> EventLog:
        return SqliteEventLog(
            folder,
            commit_retry_seconds=commit_retry_seconds,
            ack_flush_seconds=0.001,
            probe_interval_seconds=0,
            row_bytes_max=1024 * 1024,
        )

    @contextlib.contextmanager
    def out_of_order(self, folder: Path) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


IMPLEMENTATIONS = [pytest.param(SqliteImplementation(), id="sqlite")]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> SqliteImplementation:
    return request.param


@contextlib.asynccontextmanager
async def opened(log: EventLog) -> AsyncIterator[EventLog]:
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def log(implementation: SqliteImplementation, tmp_path: Path) -> AsyncIterator[EventLog]:
    async with opened(implementation.create(tmp_path)) as log:
        yield log


def record(number: int, user: str = "ada", thread: str = "thread", **fields: Any) -> RunRecord:
    values: dict[str, Any] = {
        "run_id": f"0197{number:04x}-0000-7000-8000-000000000000",
        "user_id": user,
        "request_id": f"request-{number}",
        "thread_id": thread,
        "agent": "analyst",
        "input": {"question": "why?", "number": number},
        "trace_id": f"{number:032x}",
        "root_span_id": f"{number:016x}",
        "started_unix_ns": 1_750_000_000_000_000_000 + number,
    }
    return RunRecord(**{**values, **fields})


async def accepted(log: EventLog, number: int, events: int = 0, outcome: Outcome | None = None, **fields: Any) -> str:
    """A run with so many events; `outcome` is that of the last."""
    run = record(number, **fields)
    await log.accept(run)
    for seq in range(1, events + 1):
        await log.append(run.run_id, seq, b"event %d" % seq, outcome=outcome if seq == events else None)
    return run.run_id


async def seqs(log: EventLog, run_id: str) -> list[int]:
    return [event.seq for event in await log.replay(run_id, 0, limit=1000)]


async def run_ids(runs: Any) -> list[str]:
    return [run.run_id for run in await runs]


# --- accepting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "why?", 7, 1.5, True, [], {"ü": [None, {"a": "\u2028"}]}], ids=repr)
async def test_a_record_comes_back_as_it_was_accepted(log: EventLog, value: Any) -> None:
    """Whatever JSON value the input is, nothing of the record is lost or changed."""
    given = record(1, input=value, sampled=False)
    answer = await log.accept(given)
    assert answer.created
    assert given == answer.record
    assert given == await log.record(given.run_id)


async def test_the_same_request_is_answered_with_the_run_that_is_there(log: EventLog) -> None:
    """A repeated request gets the first run's record, whatever run id, trace and order of keys it came with."""
    first = record(1, input={"a": 1, "b": [2]})
    again = record(2, request_id=first.request_id, input={"b": [2], "a": 1}, sampled=False)
    await log.accept(first)
    answer = await log.accept(again)
    assert not answer.created
    assert first == answer.record
    assert await log.record(again.run_id) is None


async def test_fifty_same_requests_at_once_make_one_run(log: EventLog) -> None:
    """Of concurrent equal requests exactly one creates; all get the same record."""
    answers = await asyncio.gather(*(log.accept(record(n, request_id="one", input=0)) for n in range(50)))
    assert [answer.created for answer in answers] == [True] + [False] * 49
    assert {answers[0].record.run_id} == {answer.record.run_id for answer in answers}
    assert [answers[0].record.run_id] == await run_ids(log.runs("ada", limit=100))


@pytest.mark.parametrize("changed", [{"agent": "other"}, {"input": {"question": "who?"}}, {"input": True}], ids=repr)
async def test_a_request_id_cannot_stand_for_another_request(log: EventLog, changed: dict[str, Any]) -> None:
    """Another agent or input under a used request id is refused, and the run that is there stays as it was."""
    first = record(1, input=1)
    await log.accept(first)
    with pytest.raises(RequestIdReusedError):
        await log.accept(record(2, request_id=first.request_id, **{"input": 1, **changed}))
    assert [first.run_id] == await run_ids(log.runs("ada", limit=9))


async def test_a_request_id_is_each_user_s_own(log: EventLog) -> None:
    """Two users may choose the same request id, and each finds only the run of theirs."""
    mine, theirs = record(1, request_id="same"), record(2, user="bob", request_id="same")
    assert (await log.accept(mine)).created
    assert (await log.accept(theirs)).created
    found = [await log.run_of_request(user, "same") for user in ("ada", "bob", "eve")]
    assert [mine.run_id, theirs.run_id, None] == [run and run.run_id for run in found]


# --- appending ------------------------------------------------------------------------------------------------------


async def test_events_come_back_byte_for_byte_in_order(log: EventLog) -> None:
    """What is replayed are the bytes that were appended, by seq."""
    run_id = await accepted(log, 1)
    bodies = [b"", b"\x00\xff", b'{"a":1}', bytes(100_000)]
    for seq, body in enumerate(bodies, 1):
        await log.append(run_id, seq, body)
    events = await log.replay(run_id, 0, limit=100)
    assert list(enumerate(bodies, 1)) == [(event.seq, event.body) for event in events]


@pytest.mark.parametrize("seq", [-1, 0, 1, 2, 4, 2**63])
async def test_any_seq_but_the_next_is_refused_and_consumes_none(log: EventLog, seq: int) -> None:
    """After a refusal the run's next seq is what it was."""
    run_id = await accepted(log, 1, events=2)
    with pytest.raises(SequenceError):
        await log.append(run_id, seq, b"wrong")
    await log.append(run_id, 3, b"right")
    assert await seqs(log, run_id) == [1, 2, 3]


async def test_a_run_that_was_not_accepted_takes_no_event(log: EventLog) -> None:
    """An append to a run that the log does not hold is refused; so are its stamps."""
    with pytest.raises(SequenceError):
        await log.append("unknown", 1, b"event")
    with pytest.raises(UnknownRunError):
        await log.store_stamps("unknown", b"[]")


@pytest.mark.parametrize("reopen", [False, True])
async def test_a_run_that_ended_takes_no_event(implementation, tmp_path: Path, reopen: bool) -> None:
    """After its terminal event a run refuses every append, in the same group, later, and after a restart."""
    async with opened(implementation.create(tmp_path)) as log:
        run_id = await accepted(log, 1)
        end = log.append(run_id, 1, b"end", outcome=Outcome.CANCELLED)
        late = log.append(run_id, 2, b"late")
        assert [None, SequenceError] == [r and type(r) for r in await asyncio.gather(end, late, return_exceptions=True)]
        if not reopen:
            with pytest.raises(SequenceError):
                await log.append(run_id, 2, b"late")
    async with opened(implementation.create(tmp_path)) as log:
        with pytest.raises(SequenceError):
            await log.append(run_id, 2, b"late")
        assert await seqs(log, run_id) == [1]


async def test_appends_return_in_the_order_handed_over(log: EventLog) -> None:
    """Across runs and within one, no append returns before one that was handed over earlier."""
    runs = [await accepted(log, n) for n in range(10)]
    order = [(run_id, seq) for seq in range(1, 21) for run_id in runs]
    returned = []

    async def append(run_id: str, seq: int) -> None:
        await log.append(run_id, seq, b"event")
        returned.append((run_id, seq))

    await asyncio.gather(*(append(*step) for step in order))
    assert order == returned


async def test_a_wrong_seq_fails_alone(log: EventLog) -> None:
    """Of appends that are committed together, the one with a wrong seq fails and the others are durable."""
    runs = [await accepted(log, n) for n in range(3)]
    results = await asyncio.gather(
        log.append(runs[0], 1, b"event"),
        log.append(runs[1], 5, b"event"),
        log.append(runs[2], 1, b"event"),
        log.append(runs[0], 2, b"event"),
        return_exceptions=True,
    )
    assert [None, SequenceError, None, None] == [result and type(result) for result in results]
    assert [await seqs(log, run_id) for run_id in runs] == [[1, 2], [], [1]]


async def test_a_body_that_the_storage_refuses_fails_alone(implementation, log: EventLog) -> None:
    """A poison row takes nothing down but itself and what counted on it; its seq stays free, the log healthy."""
    runs = [await accepted(log, n) for n in range(3)]
    results = await asyncio.gather(
        log.append(runs[0], 1, b"event"),
        log.append(runs[1], 1, b"event"),
        log.append(runs[1], 2, implementation.BODY_REFUSED, outcome=Outcome.COMPLETED),
        log.append(runs[1], 3, b"event"),
        log.accept(record(3)),
        log.append(runs[2], 1, b"event", outcome=Outcome.TIMEOUT),
        log.append(runs[0], 2, b"event"),
        return_exceptions=True,
    )
    assert [EventLogError, SequenceError] == [type(r) for r in results if isinstance(r, Exception)]
    assert await log.health() is None
    await log.append(runs[1], 2, b"smaller")
    assert [await seqs(log, run_id) for run_id in runs] == [[1, 2], [1, 2], [1]]
    assert [runs[0], runs[1], record(3).run_id] == await run_ids(log.open_runs())


async def test_cancelling_one_caller_disturbs_no_other_and_takes_nothing_back(log: EventLog) -> None:
    """The cancelled caller is cancelled once its event is durable; the others return as ever."""

    async def append(run_id: str) -> None:
        pending[run_id] = log.append(run_id, 1, b"event")
        await pending[run_id]

    pending: dict[str, asyncio.Future[None]] = {}
    cancelled_run, other_run = [await accepted(log, n) for n in range(2)]
    cancelled = asyncio.create_task(append(cancelled_run))
    other = asyncio.create_task(append(other_run))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert pending[cancelled_run].result() is None
    assert await seqs(log, cancelled_run) == [1]
    await other
    await log.append(other_run, 2, b"event")
    assert await seqs(log, other_run) == [1, 2]


async def test_what_is_durable_is_called_for_before_anybody_who_waits_goes_on(log: EventLog) -> None:
    """In the order handed over, once each, also for a caller that was cancelled; never for what was refused."""
    run_id = await accepted(log, 1)
    seen: list[str] = []

    async def append(seq: int) -> None:
        await log.append(run_id, seq, b"event", on_durable=lambda: seen.append(f"{seq} durable"))
        seen.append(f"{seq} returned")

    tasks = [asyncio.create_task(append(seq)) for seq in (1, 2, 7, 3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(None), asyncio.CancelledError, SequenceError, type(None)] == [type(end) for end in ends]
    assert [line for line in seen if "durable" in line] == ["1 durable", "2 durable", "3 durable"]
    assert seen.index("3 returned") > seen.index("1 returned") > seen.index("1 durable")
    assert await seqs(log, run_id) == [1, 2, 3]


async def test_a_call_for_what_is_durable_that_fails_disturbs_nobody_else(log: EventLog) -> None:
    """Its own caller is told; the event stays, and the others return."""

    def fail() -> None:
        raise ZeroDivisionError

    runs = [await accepted(log, n) for n in range(2)]
    failed = log.append(runs[0], 1, b"event", on_durable=fail)
    await log.append(runs[1], 1, b"event")
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert [await seqs(log, run_id) for run_id in runs] == [[1], [1]]
    await log.append(runs[0], 2, b"event")


async def test_an_append_that_is_on_its_way_cannot_be_cancelled(log: EventLog) -> None:
    """Its future tells what came of it, whoever tried to cancel it, and whoever does not wait for it."""
    run_id = await accepted(log, 1)
    good, bad = log.append(run_id, 1, b"event"), log.append(run_id, 7, b"event")
    good.cancel()
    bad.cancel()
    await log.append(run_id, 2, b"event")
    assert good.result() is None
    assert isinstance(bad.exception(), SequenceError)
    assert await seqs(log, run_id) == [1, 2]


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_seq", "limit", "expected"),
    [(0, 3, [1, 2, 3]), (2, 2, [3, 4]), (4, 10, [5]), (5, 10, []), (2**70, 10, []), (0, 0, []), (-1, 1, [1])],
)
async def test_replay_starts_after_a_seq_and_keeps_to_its_limit(
    log: EventLog, after_seq: int, limit: int, expected: list[int]
) -> None:
    """The events above a seq, in order, and no more than asked for."""
    run_id = await accepted(log, 1, events=5)
    assert expected == [event.seq for event in await log.replay(run_id, after_seq, limit=limit)]


async def test_replay_sees_whatever_was_appended(log: EventLog) -> None:
    """As soon as an append has returned, a replay that starts holds its event, while other runs go on."""
    runs = [await accepted(log, n) for n in range(5)]

    async def check(run_id: str) -> None:
        for seq in range(1, 31):
            await log.append(run_id, seq, b"event")
            assert [seq] == [event.seq for event in await log.replay(run_id, seq - 1, limit=9)]
            assert (await log.run(run_id)).last_seq == seq

    await asyncio.gather(*(check(run_id) for run_id in runs))


async def test_what_the_log_does_not_hold_is_none_or_empty(log: EventLog) -> None:
    """Unknown ids are no errors when reading."""
    assert [
        await log.run("unknown"),
        await log.record("unknown"),
        await log.stamps("unknown"),
        await log.run_of_request("ada", "unknown"),
    ] == [None] * 4
    assert [
        *await log.replay("unknown", 0, limit=9),
        *await log.runs("ada", limit=9),
        *await log.unfinished("ada", limit=9),
        *await log.turns("ada", "thread", limit=9),
        *await log.open_runs(),
    ] == []


async def test_a_summary_follows_its_run(log: EventLog) -> None:
    """Open without an end, then ended with outcome, time and last seq; the ids are the record's."""
    run_id = await accepted(log, 1, events=2)
    run = await log.run(run_id)
    given = record(1)
    for name in ("run_id", "user_id", "request_id", "thread_id", "agent", "trace_id", "root_span_id"):
        assert getattr(given, name) == getattr(run, name)
    assert (given.started_unix_ns, 2, 0, True) == (run.started_unix_ns, run.last_seq, run.acked_seq, run.open)
    await log.append(run_id, 3, b"end", outcome=Outcome.TIMEOUT)
    run = await log.run(run_id)
    assert (run.outcome, run.last_seq, run.open) == (Outcome.TIMEOUT, 3, False)
    assert run.ended_unix_ns > given.started_unix_ns


async def test_runs_are_the_user_s_own_newest_first_and_paged(log: EventLog) -> None:
    """A page holds the user's runs older than the last page's, newest first, whatever order they came in."""
    for n in (3, 1, 5, 2, 4):
        await accepted(log, n)
    await accepted(log, 9, user="bob")
    ids = [record(n).run_id for n in (5, 4, 3, 2, 1)]
    assert ids[:2] == await run_ids(log.runs("ada", limit=2))
    assert ids[2:4] == await run_ids(log.runs("ada", limit=2, before_run_id=ids[1]))
    assert ids[4:] == await run_ids(log.runs("ada", limit=2, before_run_id=ids[3]))
    assert await run_ids(log.runs("ada", limit=0)) == []


async def test_unfinished_are_open_runs_and_those_not_acked_to_their_end(log: EventLog) -> None:
    """Newest first, the user's own, within the limit; an ack counts from the moment it was given."""
    await accepted(log, 1, events=2, outcome=Outcome.COMPLETED)
    await accepted(log, 2, events=2)
    await accepted(log, 3, events=2, outcome=Outcome.CANCELLED)
    await accepted(log, 4, events=0)
    await accepted(log, 5, user="bob")
    ids = {n: record(n).run_id for n in range(1, 5)}
    assert [ids[4], ids[3], ids[2], ids[1]] == await run_ids(log.unfinished("ada", limit=9))
    for n in (1, 2, 3):
        log.ack(ids[n], 1)
    assert [ids[4], ids[3], ids[2], ids[1]] == await run_ids(log.unfinished("ada", limit=9))
    for n in (2, 3):
        log.ack(ids[n], 2)
    assert [ids[4], ids[2], ids[1]] == await run_ids(log.unfinished("ada", limit=9))
    assert [ids[4], ids[2], ids[1]] == await run_ids(log.unfinished("ada", limit=3))
    assert [ids[4]] == await run_ids(log.unfinished("ada", limit=1))


async def test_unsettled_runs_are_those_of_every_user_that_ended_and_have_no_stamps(log: EventLog) -> None:
    """Whose traces a crash may have taken, oldest first."""
    for n, user, outcome in ((1, "ada", Outcome.COMPLETED), (2, "bob", Outcome.TIMEOUT), (4, "ada", Outcome.CANCELLED)):
        await accepted(log, n, user=user, events=2, outcome=outcome)
    await accepted(log, 3, events=2)
    await log.store_stamps(record(1).run_id, b"{}")
    assert [record(2).run_id, record(4).run_id] == await run_ids(log.unsettled_runs())
    assert [2, 2] == [run.last_seq for run in await log.unsettled_runs()]


async def test_open_runs_are_those_of_every_user_without_a_terminal_event(log: EventLog) -> None:
    """What a start-up after a crash has to close."""
    await accepted(log, 1)
    await accepted(log, 2, events=1, outcome=Outcome.COMPLETED)
    await accepted(log, 3, events=1, user="bob")
    assert {record(1).run_id: 0, record(3).run_id: 1} == {r.run_id: r.last_seq for r in await log.open_runs()}


async def test_turns_are_a_thread_s_newest_completed_runs_oldest_first(log: EventLog) -> None:
    """What was asked and what came of it, without runs that failed, are open, or are another's."""

    async def complete(number: int, **fields: Any) -> None:
        run_id = await accepted(log, number, events=1, **fields)
        event = AgentCompleted(output=[number], duration_ms=1.0, receipt=Receipt(2, {}))
        envelope = Envelope(EventType.AGENT_COMPLETED, run_id, 2, "2026-01-01T00:00:00Z", "analyst", "00", event)
        await log.append(run_id, 2, encode_envelope(envelope), outcome=Outcome.COMPLETED)

    for number in (1, 2, 3):
        await complete(number)
    await complete(4, thread="another")
    await complete(5, user="bob")
    await accepted(log, 6, events=1, outcome=Outcome.AGENT_EXCEPTION)
    await accepted(log, 7, events=1)
    turns = await log.turns("ada", "thread", limit=2)
    assert [(record(n).run_id, record(n).input, [n]) for n in (2, 3)] == [(t.run_id, t.input, t.output) for t in turns]


async def test_stamps_are_kept_and_replaced(implementation, tmp_path: Path) -> None:
    """The last stamps of a run are what is found, also after a restart."""
    async with opened(implementation.create(tmp_path)) as log:
        run_id = await accepted(log, 1)
        assert await log.stamps(run_id) is None
        await log.store_stamps(run_id, b"[1]")
        await log.store_stamps(run_id, b"[2]")
        assert await log.stamps(run_id) == b"[2]"
    async with opened(implementation.create(tmp_path)) as log:
        assert await log.stamps(run_id) == b"[2]"


# --- acks -----------------------------------------------------------------------------------------------------------


async def test_an_ack_never_moves_back(implementation, tmp_path: Path) -> None:
    """The highest ack counts at once, and after a restart, whatever comes after it."""
    async with opened(implementation.create(tmp_path)) as log:
        run_id = await accepted(log, 1, events=5)
        for seq, expected in ((2, 2), (4, 4), (3, 4), (0, 4)):
            log.ack(run_id, seq)
            assert (await log.run(run_id)).acked_seq == expected
    async with opened(implementation.create(tmp_path)) as log:
        assert (await log.run(run_id)).acked_seq == 4
        log.ack(run_id, 1)
        assert (await log.run(run_id)).acked_seq == 4
    async with opened(implementation.create(tmp_path)) as log:
        assert (await log.run(run_id)).acked_seq == 4


async def test_an_ack_beyond_the_last_event_does_not_count_for_later_ones(implementation, tmp_path: Path) -> None:
    """Nobody has processed what was not there; an ack of an unknown run is nothing."""
    async with opened(implementation.create(tmp_path)) as log:
        run_id = await accepted(log, 1, events=3)
        log.ack(run_id, 2**70)
        log.ack(run_id, 99)
        log.ack("unknown", 1)
        assert (await log.run(run_id)).acked_seq <= 3
    async with opened(implementation.create(tmp_path)) as log:
        await log.append(run_id, 4, b"event")
        assert (await log.run(run_id)).acked_seq <= 3


# --- durability -----------------------------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(implementation, tmp_path: Path) -> None:
    """Records, events and ends outlive the object; an open run goes on with its next seq."""
    async with opened(implementation.create(tmp_path)) as log:
        open_run = await accepted(log, 1, events=3)
        ended_run = await accepted(log, 2, events=2, outcome=Outcome.COMPLETED)
        before = await log.runs("ada", limit=9)
    async with opened(implementation.create(tmp_path)) as log:
        assert before == await log.runs("ada", limit=9)
        assert not (await log.accept(record(1))).created
        with pytest.raises(SequenceError):
            await log.append(open_run, 3, b"again")
        await log.append(open_run, 4, b"event")
        assert [await seqs(log, open_run), await seqs(log, ended_run)] == [[1, 2, 3, 4], [1, 2]]


CHILD = """
import asyncio, sys
from pathlib import Path
from tracewire.eventlog import RunRecord
{open}
async def append_forever(run_id):
    await log.accept(RunRecord(run_id, "ada", run_id, "thread", "analyst", None, "0" * 32, "0" * 16, 1))
    seq = 0
    while True:
        seq += 1
        await log.append(run_id, seq, b"event %d" % seq)
        print(run_id, seq, flush=True)

async def main():
    await log.open()
    await asyncio.gather(*(append_forever(f"run-{{n}}") for n in range(8)))

asyncio.run(main())
"""


async def test_what_a_killed_process_had_acknowledged_is_there(implementation, tmp_path: Path) -> None:
    """After SIGKILL in the middle of appending, every seq that had been reported is in the log, without a gap."""
    program = CHILD.format(open=implementation.OPEN_IN_CHILD)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        lines = [await child.stdout.readline() for _ in range(800)]
    finally:
        child.send_signal(signal.SIGKILL)
        rest, _ = await child.communicate()
    # What follows the last line feed was cut off, and was not reported.
    lines += rest.splitlines(keepends=True)
    reported: dict[str, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            run_id, seq = line.decode().split()
            reported[run_id] = int(seq)
    assert len(reported) == 8
    async with opened(implementation.create(tmp_path)) as log:
        for run_id, seq in reported.items():
            events = await log.replay(run_id, 0, limit=100_000)
            assert list(range(1, len(events) + 1)) == [event.seq for event in events]
            assert len(events) >= seq
            await log.append(run_id, len(events) + 1, b"event")


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_a_log_that_cannot_commit_says_so_and_recovers(implementation, log: EventLog, tmp_path: Path) -> None:
    """Writes fail, consume nothing and can be repeated once the storage is back, without a restart."""
    run_id = await accepted(log, 1, events=1)
    assert await log.health() is None
    with implementation.out_of_order(tmp_path):
        results = await asyncio.gather(
            log.append(run_id, 2, b"event"),
            log.append(run_id, 3, b"end", outcome=Outcome.COMPLETED),
            log.accept(record(2)),
            log.store_stamps(run_id, b"[]"),
            return_exceptions=True,
        )
        assert [LogUnavailableError] * 4 == [type(result) for result in results]
        assert "cannot be written" in str(results[0])
        assert "cannot be written" in await log.health()
        assert await seqs(log, run_id) == [1]
    await log.append(run_id, 2, b"event")
    assert await log.health() is None
    await log.append(run_id, 3, b"end", outcome=Outcome.COMPLETED)
    assert (await log.accept(record(2))).created
    assert (await log.run(run_id)).last_seq == 3


async def test_health_finds_out_by_itself_that_the_log_is_back(implementation, log: EventLog, tmp_path: Path) -> None:
    """While nothing is written because the server is not ready, asking for the health is what ends the trouble."""
    with implementation.out_of_order(tmp_path):
        with pytest.raises(LogUnavailableError):
            await log.accept(record(1))
        assert await log.health() is not None
    assert await log.health() is None


async def test_an_ack_given_in_trouble_is_kept(implementation, log: EventLog, tmp_path: Path) -> None:
    """An ack whose commit failed is written when the log is back."""
    run_id = await accepted(log, 1, events=2)
    with implementation.out_of_order(tmp_path):
        log.ack(run_id, 2)
        for _ in range(2):  # the ack is handed over by the time that the first has failed, and fails with the second
            with pytest.raises(LogUnavailableError):
                await log.append(run_id, 3, b"event")
    await log.close()
    async with opened(implementation.create(tmp_path)) as log_again:
        assert (await log_again.run(run_id)).acked_seq == 2


async def test_close_does_not_wait_for_a_storage_that_is_out_of_order(implementation, tmp_path: Path) -> None:
    """What is on its way fails, instead of being tried again for as long as the setting allows."""
    log = implementation.create(tmp_path, commit_retry_seconds=3600)
    async with opened(log):
        run_id = await accepted(log, 1)
        with implementation.out_of_order(tmp_path):
            append = log.append(run_id, 1, b"event")
            async with asyncio.timeout(30):
                await log.close()
        with pytest.raises(LogUnavailableError):
            await append


# --- closing --------------------------------------------------------------------------------------------------------


async def test_close_commits_what_was_handed_over(implementation, tmp_path: Path) -> None:
    """An append that is on its way when the log is closed is durable; closing twice, or at once, is fine."""
    log = implementation.create(tmp_path)
    await log.open()
    run_id = await accepted(log, 1)
    append = log.append(run_id, 1, b"event")
    await asyncio.gather(log.close(), log.close())
    await append
    await log.close()
    async with opened(implementation.create(tmp_path)) as log:
        assert await seqs(log, run_id) == [1]


@pytest.mark.parametrize("ever_open", [True, False])
async def test_a_log_that_is_not_open_is_unavailable(implementation, tmp_path: Path, ever_open: bool) -> None:
    """Every call says so, before `open` and after `close`."""
    log = implementation.create(tmp_path)
    if ever_open:
        await log.open()
        await log.close()
    calls = [
        lambda: log.accept(record(1)),
        lambda: log.append("run", 1, b"event"),
        lambda: log.replay("run", 0, limit=1),
        lambda: log.run("run"),
        lambda: log.record("run"),
        lambda: log.run_of_request("ada", "request"),
        lambda: log.runs("ada", limit=1),
        lambda: log.unfinished("ada", limit=1),
        lambda: log.open_runs(),
        lambda: log.turns("ada", "thread", limit=1),
        lambda: log.store_stamps("run", b"[]"),
        lambda: log.stamps("run"),
    ]
    for call in calls:
        with pytest.raises(LogUnavailableError):
            await call()
    with pytest.raises(LogUnavailableError):
        log.ack("run", 1)
    assert await log.health() is not None
    await log.close()


async def test_the_log_tells_its_backlog_and_its_size(log: EventLog) -> None:
    """The age of what waits for its commit is above zero while it waits, and zero after; the size grows."""
    run_id = await accepted(log, 1)
    assert log.oldest_uncommitted_seconds == 0
    size = log.bytes_on_disk
    append = log.append(run_id, 1, bytes(100_000))
    assert log.oldest_uncommitted_seconds > 0
    await append
    assert log.oldest_uncommitted_seconds == 0
    assert log.bytes_on_disk >= size + 100_000


# --- incidents ------------------------------------------------------------------------------------------------------


def incident(number: int, **fields: Any) -> Incident:
    """An incident whose id is as new as its number."""
    values: dict[str, Any] = {
        "incident_id": f"incident-{number:06}",
        "run_id": f"run-{number}",
        "user_id": "ada",
        "agent": "five",
        "trace_id": "0" * 32,
        "link": Link.SOCKET,
        "event_type": "agent_thinking",
        "first_seq": 2,
        "last_seq": 2,
        "count": 1,
        "since_unix_ns": number,
    }
    return Incident(**(values | fields))


async def test_an_incident_is_kept_as_it_was_stored_last(log: EventLog) -> None:
    """What joins it and how it ends replace what was there; what opened it stays."""
    healed = IncidentState.HEALED
    silence = incident(2, link=Link.ENGINE, event_type="next", first_seq=None, last_seq=None)
    await log.store_incidents([incident(1), silence])
    changed = incident(1, last_seq=9, count=8, state=healed, ended_unix_ns=50, late_seconds=1.5)
    await log.store_incidents([changed])
    found = await log.incidents(IncidentQuery(10))
    assert [silence, changed] == list(found)


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"limit": 2}, [6, 5]),
        ({"limit": 0}, []),
        ({"before_id": "incident-000003"}, [2, 1]),
        ({"user_id": "bob"}, [2]),
        ({"run_id": "run-4"}, [4]),
        ({"link": Link.CLIENT}, [3]),
        ({"event_type": "next"}, [4]),
        ({"state": IncidentState.LOST}, [5]),
        ({"since_unix_ns": 5}, [6, 5]),
        ({"user_id": "ada", "state": IncidentState.OPEN, "limit": 2}, [6, 4]),
        ({"user_id": "eve' OR 1"}, []),
    ],
)
async def test_incidents_are_found_by_every_filter_newest_first(
    log: EventLog, filters: dict[str, Any], numbers: list[int]
) -> None:
    """All of those that are given must hold."""
    await log.store_incidents(
        [
            incident(1),
            incident(2, user_id="bob"),
            incident(3, link=Link.CLIENT),
            incident(4, event_type="next"),
            incident(5, state=IncidentState.LOST, ended_unix_ns=9),
            incident(6),
        ]
    )
    found = await log.incidents(IncidentQuery(**({"limit": 100} | filters)))
    assert [f"incident-{number:06}" for number in numbers] == [one.incident_id for one in found]


async def test_a_page_of_a_hundred_thousand_incidents_is_there_in_a_second(log: EventLog) -> None:
    """Also where a filter holds for few of them, and where it holds for none."""
    for start in range(0, 100_000, 10_000):
        await log.store_incidents([incident(n, user_id=f"user-{n % 1000}") for n in range(start, start + 10_000)])
    queries = (
        IncidentQuery(100),
        IncidentQuery(100, user_id="user-7"),
        IncidentQuery(100, event_type="next"),
        IncidentQuery(100, link=Link.CLIENT, state=IncidentState.OPEN),
        IncidentQuery(100, since_unix_ns=200_000),
    )
    seconds = []
    for query in queries:
        began = time.perf_counter()
        await log.incidents(query)
        seconds.append(time.perf_counter() - began)
    assert max(seconds) < 1


async def test_open_incidents_outlive_the_process(implementation: SqliteImplementation, tmp_path: Path) -> None:
    """With their first `since`."""
    async with opened(implementation.create(tmp_path)) as log:
        await log.store_incidents([incident(1)])
    async with opened(implementation.create(tmp_path)) as log:
        assert [incident(1)] == list(await log.incidents(IncidentQuery(9, state=IncidentState.OPEN)))
