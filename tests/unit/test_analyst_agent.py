"""Whatever it is asked, the analyst thinks, calls real tools and answers; what it streams is what it returns."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fixtures.recordings import builder
from fixtures.recordings.builder import Script
from tracewire.agents.analyst import REQUIRED_TYPES, TOOL_NAMES, agent, build_analyst
from tracewire.agents.analyst.sample import PLANTED, load_sample
from tracewire.eventlog import RunSummary, StoredEvent
from tracewire.runs.recordings import RecordingStore
from tracewire_telemetry.vocabulary import Outcome

USER = "ada"
OWN_RUN = "019a4e33-0000-7000-8000-00000000ffff"


class RecordingContext:
    """A context at the outer edge: it notes what the engine would emit."""

    def __init__(self, value: Any, user_id: str = USER) -> None:
        self.user_id = user_id
        self.run_id = OWN_RUN
        self.thread_id = "t"
        self.input = value
        self.history = ()
        self.types = ["agent_started"]
        self.calls: list[tuple[str, str, Any]] = []
        self.streamed = ""

    async def thinking(self, text: str) -> None:
        assert text
        self.types.append("agent_thinking")

    async def delta(self, text: str) -> None:
        self.types.append("agent_delta")
        self.streamed += text

    @asynccontextmanager
    async def tool(self, name: str, arguments: Any):
        json.dumps(arguments)
        self.types.append("tool_executing")
        call = SimpleNamespace(result=None)
        status = "error"
        try:
            yield call
            status = "ok"
        finally:
            self.calls.append((name, status, call.result))
            self.types.append("tool_completed")


class LogOfRuns:
    """The part of the event log that the analyst reads."""

    def __init__(self) -> None:
        self.summaries: list[RunSummary] = []
        self.events: dict[str, list[StoredEvent]] = {}

    def add(self, script: Script, number: int, user_id: str = USER, outcome: Outcome | None = Outcome.COMPLETED) -> str:
        run_id = f"019a4e33-{number:04x}-7000-8000-000000000000"
        frames = [frame for _, sent, _, frame in script.frames if not sent and "traceparent" in frame]
        rows = [StoredEvent(frame["seq"], json.dumps({**frame, "run_id": run_id}).encode()) for frame in frames]
        self.events[run_id] = rows
        self.summaries.insert(
            0,
            RunSummary(
                run_id=run_id,
                user_id=user_id,
                request_id=f"q-{number}",
                thread_id="t",
                agent="researcher",
                trace_id="0" * 32,
                root_span_id="0" * 16,
                started_unix_ns=1_762_248_600_000_000_000 + number,
                last_seq=rows[-1].seq if rows else 0,
                acked_seq=rows[-1].seq if rows else 0,
                outcome=outcome,
                ended_unix_ns=None if outcome is None else 1_762_248_602_500_000_000,
            ),
        )
        return run_id

    async def runs(self, user_id: str, *, limit: int, before_run_id: str | None = None):
        return [run for run in self.summaries if run.user_id == user_id][:limit]

    async def run(self, run_id: str):
        return next((run for run in self.summaries if run.run_id == run_id), None)

    async def replay(self, run_id: str, after_seq: int, *, limit: int):
        return [row for row in self.events[run_id] if row.seq > after_seq][:limit]


@pytest.fixture
def log() -> LogOfRuns:
    return LogOfRuns()


@pytest.fixture
def recordings(tmp_path: Path) -> RecordingStore:
    return RecordingStore(tmp_path)


async def ask(log: LogOfRuns, recordings: RecordingStore, value: Any) -> tuple[str, RecordingContext]:
    """Run the analyst; check what holds of every run of it."""
    ctx = RecordingContext(value)
    answer = await build_analyst(log, recordings)(ctx)
    ctx.types.append("agent_completed")
    assert set(REQUIRED_TYPES) <= set(ctx.types)
    assert ctx.streamed == answer
    assert {name for name, _, _ in ctx.calls} <= set(TOOL_NAMES)
    for _, _, result in ctx.calls:
        assert len(msgspec.json.encode(result)) < 4096
    assert len(answer.encode()) < 60_000
    return answer, ctx


async def test_the_sample_shows_every_fault_that_was_planted(log, recordings):
    answer, ctx = await ask(log, recordings, "Give me an overview of the sample")
    results = {name: result for name, _, result in ctx.calls}
    assert list(results) == [name for name in TOOL_NAMES if name not in ("list_runs", "read_runs")]
    assert results["find_runs"]["runs"] == PLANTED.runs
    assert results["find_foreign"] == {"foreign": 1, "at": [f"line {PLANTED.foreign_line}"]}
    first, last = PLANTED.gap
    assert results["check_sequences"] == {
        "missing": {f"run {PLANTED.gap_run}": f"{first}–{last}"},
        "repeats": 1,
        "out_of_order": 0,
    }
    assert results["check_contract"] == {
        "without_terminal_event": 1,
        "unpaired_tools": 2,
        "breaches": 0,
        "receipts_that_differ": 1,
    }
    assert results["measure_silence"] == {"stalls": 1, "longest_seconds": PLANTED.stall_seconds}
    assert f"**run {PLANTED.gap_run}**: seq {first}–{last} missing (2 events), between line 24" in answer
    assert "arrived: `tool_completed` 1 of 2, `agent_delta` 2 of 3" in answer
    assert f"**run {PLANTED.endless_run}**: no terminal event" in answer
    assert f"**run {PLANTED.repeat_run}**: line 49 (`agent_delta`, seq {PLANTED.repeated_seq}) repeats" in answer
    assert f"**run {PLANTED.unpaired_run}**: `{PLANTED.unpaired_tool}` starts at line 50" in answer
    assert f"**run {PLANTED.stall_run}**: silent for 30.0 s between line 39" in answer
    assert "never completes; by the receipt its end was sent, and lost." in answer
    assert "never completes; by the receipt its end was never sent." in answer
    assert f"**run {PLANTED.clean_run}**" not in answer.split("### Silence")[0].split("### How")[0]


def test_the_sample_holds_what_its_description_says():
    """The description is compared with the file itself, line by line, without the analyst's own code."""
    rows = [json.loads(line) for line in load_sample().body.splitlines()]
    frames = [row["data"] for row in rows if row["direction"] == "receive"]
    accepted = [frame["run_id"] for frame in frames if frame["type"] == "run_accepted"]
    assert len(accepted) == PLANTED.runs
    seqs = [[f["seq"] for f in frames if f.get("run_id") == run_id and "traceparent" in f] for run_id in accepted]
    assert seqs[PLANTED.clean_run - 1] == list(range(1, 13))
    assert set(range(1, 11)) - set(seqs[PLANTED.gap_run - 1]) == set(range(PLANTED.gap[0], PLANTED.gap[1] + 1))
    assert seqs[PLANTED.repeat_run - 1].count(PLANTED.repeated_seq) == 2
    assert rows[PLANTED.foreign_line - 1]["data"]["run_id"] not in accepted
    resumes = [row["data"]["runs"] for row in rows if row["data"]["type"] == "resume"]
    assert resumes == [{accepted[PLANTED.resumed_run - 1]: PLANTED.resumed_after_seq}]
    ends = {frame["run_id"] for frame in frames if frame["type"] == "agent_completed"}
    assert [run_id for run_id in accepted if run_id not in ends] == [accepted[PLANTED.endless_run - 1]]


async def test_a_question_is_answered_first_and_what_else_was_noticed_after_it(log, recordings):
    answer, _ = await ask(log, recordings, {"question": "what is missing?", "recording_id": "sample"})
    assert answer.startswith("*I read the question as: what is missing; in the sample recording.*")
    assert "### What is missing" in answer
    assert "### Tool calls" not in answer
    assert "**Besides:** 1 event came twice." in answer


async def test_a_question_that_cannot_be_read_gets_the_overview_and_what_can_be_asked(log, recordings):
    answer, _ = await ask(log, recordings, {"question": "xyzzy", "recording_id": "sample"})
    assert answer.startswith("*I could not tell what the question asks for")
    assert "### What is missing" in answer
    assert "You can ask:" in answer


async def test_a_question_about_one_run_is_answered_for_that_run(log, recordings):
    answer, _ = await ask(log, recordings, "what is missing in run 2 of the sample?")
    assert "**run 4**" not in answer
    answer, _ = await ask(log, recordings, "what is missing in run 9 of the sample?")
    assert "There is no `run 9` in it" in answer


async def test_a_recording_of_the_user_is_investigated(log, recordings):
    script = Script()
    script.ready()
    script.accept("r-1").whole()
    recording_id = recordings.save(USER, "my.har", builder.chromium_har(script))
    answer, ctx = await ask(log, recordings, {"question": "is anything missing?", "recording_id": recording_id})
    assert "`my.har` (HAR)" in answer
    assert "Nothing is missing" in answer
    assert all(status == "ok" for _, status, _ in ctx.calls)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "The file is empty"),
        (b"\x00" * 1000, "binary"),
        (b"garbage\n" * 1000, "None of the 1000 lines"),
        (bytes(n % 251 + 1 for n in range(16 * 1024 * 1024)), "None of the"),
        (b'{"log": {"entries": []}}', "no WebSocket"),
    ],
)
async def test_a_file_that_cannot_be_read_is_an_answer(log, recordings, body, told):
    recording_id = recordings.save(USER, "file", body)
    answer, ctx = await ask(log, recordings, {"question": "what is missing?", "recording_id": recording_id})
    assert told in answer
    assert [(name, status) for name, status, _ in ctx.calls] == [("open_recording", "error")]


async def test_another_users_recording_is_answered_like_one_that_does_not_exist(log, recordings):
    other = recordings.save("bob", "secret.har", b"x")
    answers = []
    for recording_id in (other, "019a4e33-ac04-79e3-8779-79b9806dc17c", "../../etc/passwd"):
        answer, _ = await ask(log, recordings, {"question": "gaps?", "recording_id": recording_id})
        answers.append(answer.replace(recording_id, "ID"))
    assert len(set(answers)) == 1
    assert "There is no recording 'ID' of yours." in answers[0]


async def test_names_in_a_file_cannot_break_the_answer(log, recordings):
    script = Script()
    script.receive(type="start", run_id="a|b`c\n# d")
    script.receive(type="tool_call", run_id="a|b`c\n# d", tool_name="x" * 5000)
    recording_id = recordings.save(USER, "n`|\n# a", builder.bare_jsonl(script))
    answer, _ = await ask(log, recordings, {"question": "everything, tools", "recording_id": recording_id})
    assert "`a¦b'c # d`" in answer
    assert "\n# " not in answer
    assert "x" * 65 not in answer


async def test_own_runs_are_read_from_the_log(log, recordings):
    whole = Script()
    builder.ScriptedRun(whole, "r").whole()
    going = Script()
    builder.ScriptedRun(going, "r").start()
    log.add(whole, 1)
    newest = log.add(going, 2, outcome=None)
    log.add(whole, 3, user_id="bob")
    answer, ctx = await ask(log, recordings, "What ran lately?")
    assert ctx.calls[0] == ("list_runs", "ok", {"runs": 2, "open": 1, "newest": [s.run_id for s in log.summaries[1:]]})
    assert ctx.calls[1] == ("read_runs", "ok", {"runs": 2, "events": 9, "left_out": 0})
    assert f"| run 1 | `{newest}` | 2025-11-04 09:30:00 | – | 1 | 0 | still going on |" in answer
    assert "| 2.5 s | 8 | 0 | completed |" in answer
    assert "Nothing is missing" in answer


async def test_a_run_of_the_log_can_be_named_but_not_another_users(log, recordings):
    whole = Script()
    builder.ScriptedRun(whole, "r").whole()
    mine, bobs = log.add(whole, 1), log.add(whole, 2, user_id="bob")
    log.add(whole, 3)
    answer, _ = await ask(log, recordings, f"how did {mine} end?")
    assert answer.count("| `019a4e33") == 1
    answer, ctx = await ask(log, recordings, f"how did {bobs} end?")
    assert "You have no runs of that id" in answer
    assert ctx.calls[0][2]["runs"] == 0


async def test_events_that_the_log_knows_of_and_does_not_give_are_missing(log, recordings):
    script = Script()
    builder.ScriptedRun(script, "r").whole()
    run_id = log.add(script, 1)
    del log.events[run_id][-2:]
    answer, _ = await ask(log, recordings, "what is missing in my runs?")
    assert "**run 1**: seq 7–8 missing (2 events) at the end, by what the log knows of the run." in answer


@pytest.mark.parametrize("value", ["", "what is missing?", {}, {"question": "xyzzy"}])
async def test_a_user_without_runs_is_told_so(log, recordings, value):
    answer, ctx = await ask(log, recordings, value)
    assert "**You have no runs in the log** but this one" in answer
    assert [name for name, _, _ in ctx.calls] == ["list_runs"]


async def test_its_own_run_is_not_among_the_runs(log, recordings):
    script = Script()
    builder.ScriptedRun(script, "r").start()
    log.add(script, 1, outcome=None)
    log.summaries[0] = msgspec.structs.replace(log.summaries[0], run_id=OWN_RUN)
    answer, _ = await ask(log, recordings, "my runs")
    assert "You have no runs" in answer


async def test_runs_with_more_events_than_are_read_are_named_not_read(log, recordings, monkeypatch):
    monkeypatch.setattr("tracewire.agents.analyst.own_runs.EVENTS_MAX", 10)
    monkeypatch.setattr("tracewire.agents.analyst.own_runs.PAGE_EVENTS", 3)
    script = Script()
    builder.ScriptedRun(script, "r").whole()
    log.add(script, 1)
    log.add(script, 2)
    answer, ctx = await ask(log, recordings, "overview")
    assert ctx.calls[1][2] == {"runs": 1, "events": 8, "left_out": 1}
    assert "1 run had too many events to read here" in answer


@pytest.mark.parametrize("value", [None, 7, ["q"], {"question": 1}, {"recording": "x"}])
async def test_any_other_input_fails_the_run_with_what_is_accepted(log, recordings, value):
    with pytest.raises(ValueError, match="The analyst takes a question as text"):
        await build_analyst(log, recordings)(RecordingContext(value))


async def test_work_runs_neither_on_the_event_loop_nor_in_its_default_executor(log, recordings, monkeypatch):
    class Refusing(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any):
            raise AssertionError("the default executor was used")

    threads = set()
    read = agent.read_recording
    monkeypatch.setattr(
        agent, "read_recording", lambda *args: (threads.add(threading.current_thread().name), read(*args))[1]
    )
    asyncio.get_running_loop().set_default_executor(Refusing())
    await ask(log, recordings, "the sample")
    assert [name.partition("_")[0] for name in threads] == ["analyst"]


def test_the_agents_name_is_analyst(log, recordings):
    assert build_analyst(log, recordings).__name__ == "analyst"
