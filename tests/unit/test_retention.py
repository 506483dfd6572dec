"""What retention removes, what it leaves, and that the log stays as small as it was told to be. A virtual clock."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from support.servers import settings_for
from tracewire.errors import EventsExpiredError, LogUnavailableError, SequenceError
from tracewire.eventlog import RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.eventlog.sqlite_schema import WAL_BYTES_KEPT
from tracewire.events import AgentStarted, AgentThinking, Envelope, ToolExecuting, decode_envelope, encode_envelope
from tracewire.runs.incidents import adopt_incidents
from tracewire.runs.recordings import RecordingStore, UnknownRecordingError
from tracewire.runs.recovery import close_lost_runs
from tracewire.runs.retention import BATCH_EVENTS, NANOSECONDS_PER_HOUR, Retention, Swept
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.vocabulary import EventType, Link, Outcome

HOUR = NANOSECONDS_PER_HOUR
MIB = 1024 * 1024


class Kept:
    """A log with its retention, and a clock that stands still at the time of its making until it is moved."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor, **limits: Any) -> None:
        self.folder = folder
        self.log = SqliteEventLog(folder, ack_flush_seconds=0.001)
        self.recordings = RecordingStore(folder)
        self.metrics = Metrics(version="0")
        self.unix_ns = time.time_ns()
        self.watched: set[str] = set()
        self.retention = Retention(
            settings_for(folder, **limits),
            self.log,
            self.recordings,
            self.metrics,
            watched=self.watched.__contains__,
            threads=threads,
            unix_ns=lambda: self.unix_ns,
        )

    async def run(self, run_id: str, events: int = 3, *, open_: bool = False, size: int = 100, text: str = "") -> str:
        """A run of one user with so many events, ended by the last of them."""
        await self.log.accept(
            RunRecord(run_id, "ada", f"request-{run_id}", "thread", "analyst", text, "0" * 32, "0" * 16, 1)
        )
        for seq in range(1, events + 1):
            ends = seq == events and not open_
            await self.log.append(run_id, seq, thought(run_id, seq, size), outcome=Outcome.COMPLETED if ends else None)
        return run_id

    async def seqs(self, run_id: str, after_seq: int = 0) -> list[int]:
        return [event.seq for event in await self.log.replay(run_id, after_seq, limit=100_000)]


def thought(run_id: str, seq: int, size: int) -> bytes:
    event = AgentStarted("hello") if seq == 1 else AgentThinking("x" * size, seq)
    return encode(run_id, seq, event)


def encode(run_id: str, seq: int, event: Any) -> bytes:
    parent = f"00-{1:032x}-{1:016x}-01"
    return encode_envelope(
        Envelope(EventType(event.type), run_id, seq, "2025-06-01T00:00:00Z", "analyst", parent, event)
    )


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@contextlib.asynccontextmanager
async def kept(folder: Path, threads: ThreadPoolExecutor, **limits: Any) -> AsyncIterator[Kept]:
    made = Kept(folder, threads, **limits)
    try:
        await made.log.open()
        yield made
    finally:
        await made.log.close()


# --- by age ---------------------------------------------------------------------------------------------------------


async def test_a_run_goes_whole_when_its_time_after_its_end_is_over(tmp_path: Path, threads: Any) -> None:
    """Not before; an open run never does; and what is gone does not stand in the file any more."""
    secret = "what the user had said"
    async with kept(tmp_path, threads, retention_hours=24) as of:
        await of.run("ended", text=secret)
        await of.log.store_stamps("ended", b"stamps")
        await of.run("open", 2, open_=True)
        of.unix_ns += 24 * HOUR - 60_000_000_000
        assert Swept() == await of.retention.sweep()
        of.unix_ns += 120_000_000_000
        assert Swept(runs_by_age=1, events=3) == await of.retention.sweep()
        assert await of.log.run("ended") is None
        assert await of.log.stamps("ended") is None
        assert [] == await of.seqs("ended")
        assert ["open"] == [run.run_id for run in await of.log.unfinished("ada", limit=9)]
    assert secret.encode() not in (tmp_path / "events.db").read_bytes()


async def test_a_request_is_the_same_run_for_as_long_as_that_is_kept(tmp_path: Path, threads: Any) -> None:
    """Afterwards the same request id stands for a new one."""
    async with kept(tmp_path, threads, retention_hours=1) as of:
        await of.run("first")
        again = RunRecord("second", "ada", "request-first", "thread", "analyst", "", "0" * 32, "0" * 16, 1)
        assert ("first", False) == ((answer := await of.log.accept(again)).record.run_id, answer.created)
        of.unix_ns += 2 * HOUR
        await of.retention.sweep()
        assert ("second", True) == ((answer := await of.log.accept(again)).record.run_id, answer.created)


async def test_a_run_that_is_still_watched_stays(tmp_path: Path, threads: Any) -> None:
    """Its delivery is being accounted for; it goes with the next sweep after that."""
    async with kept(tmp_path, threads, retention_hours=1) as of:
        await of.run("run")
        of.unix_ns += 2 * HOUR
        of.watched.add("run")
        assert Swept() == await of.retention.sweep()
        of.watched.clear()
        assert 1 == (await of.retention.sweep()).runs_by_age


async def test_a_recording_goes_when_nobody_has_used_it_for_as_long(tmp_path: Path, threads: Any) -> None:
    """Its age counts from its last use, so that a kept run's recording is there."""
    async with kept(tmp_path, threads, retention_hours=1) as of:
        unused, used = (of.recordings.save("ada", "name", b"body") for _ in range(2))
        of.unix_ns += 2 * HOUR
        for path in (tmp_path / "recordings").glob(f"*/{used}*"):
            os.utime(path, ns=(of.unix_ns, of.unix_ns))
        assert 1 == (await of.retention.sweep()).recordings
        assert b"body" == of.recordings.load("ada", used).body
        with pytest.raises(UnknownRecordingError):
            of.recordings.load("ada", unused)


def test_loading_a_recording_is_using_it(tmp_path: Path) -> None:
    """What was last loaded before some time is removed; what was loaded since is not."""
    store = RecordingStore(tmp_path)
    recording_id = store.save("ada", "name", b"body")
    [path] = (tmp_path / "recordings").glob("*/*")
    os.utime(path, (1, 1))
    store.load("ada", recording_id)
    assert 0 == store.remove_unused(2)
    os.utime(path, (1, 1))
    assert 1 == store.remove_unused(2)


# --- by number ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_", [True, False], ids=["open", "ended"])
async def test_a_long_run_keeps_its_newest_events(tmp_path: Path, threads: Any, open_: bool) -> None:
    """The window moves, exactly; asking for what is before it is answered with where the log now begins."""
    async with kept(tmp_path, threads, run_events_max=100) as of:
        await of.run("run", 3 * BATCH_EVENTS + 7, open_=open_)
        await of.run("short", 100, open_=open_)
        first_seq = 3 * BATCH_EVENTS + 7 - 99
        assert Swept(events=first_seq - 1) == await of.retention.sweep()
        assert first_seq == (await of.log.run("run")).first_seq
        assert list(range(first_seq, first_seq + 100)) == await of.seqs("run", first_seq - 1)
        assert 1 == (await of.log.run("short")).first_seq
        for after_seq in (0, first_seq - 2):
            with pytest.raises(EventsExpiredError) as expired:
                await of.seqs("run", after_seq)
            assert first_seq == expired.value.first_seq
        assert Swept() == await of.retention.sweep()


async def test_a_run_that_a_crash_cuts_off_behind_its_window_gets_an_honest_receipt(
    tmp_path: Path, threads: Any
) -> None:
    """The events that have expired count, over several sweeps, and the tool that they left open is closed."""
    async with kept(tmp_path, threads, run_events_max=100) as of:
        await of.run("run", 1, open_=True)
        await of.log.append("run", 2, encode("run", 2, ToolExecuting("call-1", "search", {"q": "?"})))
        for start, end in ((3, 151), (151, 301)):
            for seq in range(start, end):
                await of.log.append("run", seq, thought("run", seq, 10))
            await of.retention.sweep()
        assert 201 == (await of.log.run("run")).first_seq
        assert 1 == await close_lost_runs(of.log, Metrics(version="1", agents=["five"]))
        closed, ended = [decode_envelope(event.body) for event in await of.log.replay("run", 300, limit=9)]
    assert ("tool_completed", "call-1", "search") == (
        closed.type.value,
        closed.data["tool_call_id"],
        closed.data["tool_name"],
    )
    counts = {"agent_started": 1, "tool_executing": 1, "agent_thinking": 298, "tool_completed": 1, "agent_error": 1}
    assert {"last_seq": 302, "counts": counts} == ended.data["receipt"]


async def test_the_newest_event_is_never_dropped(tmp_path: Path, threads: Any) -> None:
    """A run whose log would begin behind its end is left as it is."""
    async with kept(tmp_path, threads) as of:
        await of.run("run", 3)
        with pytest.raises(SequenceError):
            await of.log.trim("run", 4, b"")
        assert [1, 2, 3] == await of.seqs("run")


# --- by size --------------------------------------------------------------------------------------------------------


async def test_a_log_that_is_too_large_loses_the_runs_that_ended_first(tmp_path: Path, threads: Any) -> None:
    """Only as many as the bound asks for; open runs stay, however old they are."""
    async with kept(tmp_path, threads, retention_bytes=16 * MIB) as of:
        await of.run("open", 2, open_=True)
        for number in range(24):
            await of.run(f"run-{number:02}", 20, size=50_000)
        before = await of.log.bytes_used()
        swept = await of.retention.sweep()
        assert before > 16 * MIB >= await of.log.bytes_used() > 14 * MIB
        left = [run.run_id for run in await of.log.runs("ada", limit=99)]
        assert [f"run-{number:02}" for number in reversed(range(swept.runs_by_size, 24))] + ["open"] == left
        assert [1, 2] == await of.seqs("open")


async def test_open_runs_that_exceed_the_bound_are_left_and_named_once(tmp_path: Path, threads: Any) -> None:
    """The operator is told that the bound cannot be kept, and no run is cut for it."""
    async with kept(tmp_path, threads, retention_bytes=16 * MIB) as of:
        await of.run("open", 400, open_=True, size=50_000)
        with structlog.testing.capture_logs() as records:
            await of.retention.sweep()
            await of.retention.sweep()
        assert ["retention_over_bound"] == [record["event"] for record in records]
        assert list(range(1, 401)) == await of.seqs("open")


async def test_what_is_freed_is_used_again(tmp_path: Path, threads: Any) -> None:
    """Six times what the bound allows goes through the log, and the file and its WAL stay what they were."""
    async with kept(tmp_path, threads, retention_bytes=16 * MIB) as of:
        sizes = []
        for round_ in range(6):
            await asyncio.gather(*(of.run(f"{round_}-{number}", 16, size=50_000) for number in range(20)))
            await of.retention.sweep()
            sizes.append((tmp_path / "events.db").stat().st_size)
            assert (tmp_path / "events.db-wal").stat().st_size <= WAL_BYTES_KEPT
        assert max(sizes) <= 2 * 16 * MIB
        assert max(sizes[3:]) <= 1.1 * max(sizes[:3])


async def test_the_wal_stays_bounded_while_readers_never_rest(tmp_path: Path, threads: Any) -> None:
    """Readers hold a checkpoint back for as long as one of them reads: never for good."""
    async with kept(tmp_path, threads) as of:
        await of.run("read", 500, size=2000)
        stop = asyncio.Event()

        async def read() -> None:
            while not stop.is_set():
                await of.seqs("read")

        readers = [asyncio.create_task(read()) for _ in range(4)]
        await of.run("written", 1, open_=True)
        for first_seq in range(2, 3202, 20):
            batch = range(first_seq, first_seq + 20)
            await asyncio.gather(*(of.log.append("written", seq, bytes(50_000)) for seq in batch))
        wal = (tmp_path / "events.db-wal").stat().st_size
        stop.set()
        await asyncio.gather(*readers)
        assert 150 * MIB < (await of.log.bytes_used())
        assert wal <= 1.5 * WAL_BYTES_KEPT


# --- beside everything else -----------------------------------------------------------------------------------------


async def test_a_removal_takes_its_turns(tmp_path: Path, threads: Any) -> None:
    """One call takes out no more than it was told to, and leaves a run whose rest is whole."""
    async with kept(tmp_path, threads) as of:
        await of.run("run", 30, size=1000)
        assert (0, 10) == as_pair(await of.log.remove(["run"], events_max=10, bytes_max=MIB))
        assert list(range(11, 31)) == await of.seqs("run", 10)
        assert (0, 5) == as_pair(await of.log.remove(["run"], events_max=10, bytes_max=5000))
        assert (1, 15) == as_pair(await of.log.remove(["unknown", "run"], events_max=99, bytes_max=MIB))


def as_pair(removed: Any) -> tuple[int, int]:
    return removed.runs, removed.events


async def test_a_sweep_that_the_log_refuses_is_told_and_repeated(tmp_path: Path, threads: Any) -> None:
    """Retention outlives a log that takes no writes, and goes on when it does."""
    async with kept(tmp_path, threads, retention_hours=1, retention_sweep_seconds=0.05) as of:
        await of.run("run")
        of.unix_ns += 2 * HOUR
        remove, failed, done = of.log.remove, asyncio.Event(), asyncio.Event()

        async def refuse_once(*arguments: Any, **options: Any) -> Any:
            if not failed.is_set():
                failed.set()
                raise LogUnavailableError("no")
            removed = await remove(*arguments, **options)
            done.set()
            return removed

        of.log.remove = refuse_once
        with structlog.testing.capture_logs() as records:
            of.retention.start()
            async with asyncio.timeout(30):
                await done.wait()
            await of.retention.stop()
        assert "retention_failed" == records[0]["event"]
        assert await of.log.run("run") is None


async def test_what_was_removed_is_counted(tmp_path: Path, threads: Any) -> None:
    """The metrics tell runs by the reason of their removal, the events, and what the log holds."""
    async with kept(tmp_path, threads, retention_hours=1) as of:
        await of.run("run")
        of.unix_ns += 2 * HOUR
        await of.retention.sweep()
        shown = of.metrics.exposition()[0].decode()
        used = await of.log.bytes_used()
    assert 'tracewire_eventlog_expired_runs_total{reason="age"} 1.0' in shown
    assert 'tracewire_eventlog_expired_runs_total{reason="size"} 0.0' in shown
    assert "tracewire_eventlog_expired_events_total 3.0" in shown
    assert f"tracewire_eventlog_used_bytes {float(used)}" in shown


# --- what retention leaves of an incident ---------------------------------------------------------------------------


async def test_an_incident_outlives_the_events_that_it_is_of(tmp_path: Path, threads: Any) -> None:
    """A start-up adopts it, with its place: only what is durable is ever removed."""
    adopted: list[Incident] = []

    class Watching:
        def adopt(self, incidents: Sequence[Incident]) -> None:
            adopted.extend(incidents)

    async with kept(tmp_path, threads, run_events_max=100) as of:
        await of.run("long", 400, open_=True)
        told = Incident("i", "long", "ada", "analyst", "0" * 32, Link.CLIENT, "agent_thinking", 5, 7, 3, of.unix_ns)
        await of.log.store_incidents([told])
        assert (await of.retention.sweep()).events
        with pytest.raises(EventsExpiredError):
            await of.log.replay("long", 4, limit=1)
        await adopt_incidents(of.log, cast("Any", Watching()))
    assert [told] == adopted
