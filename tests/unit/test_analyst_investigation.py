"""Faults that were planted are found, named and placed; where none was planted, none is found."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.recordings import builder
from fixtures.recordings.builder import Script
from tracewire.agents.analyst import conduct_sections
from tracewire.agents.analyst.investigation import Findings, RunFindings, investigate
from tracewire.agents.analyst.reading import read_recording
from tracewire.bridge import contract
from tracewire_telemetry.vocabulary import EventType


def findings_of(script: Script, write=builder.jsonl) -> Findings:
    return investigate(read_recording("r", write(script)))


def only(findings: Findings) -> RunFindings:
    [one] = findings.runs
    return one


def assert_clean(one: RunFindings) -> None:
    assert one.lost == 0
    assert (one.sequences.gaps, one.sequences.repeats, one.sequences.late) == ((), (), ())
    assert (one.conduct.left_open, one.conduct.never_opened, one.conduct.breaches) == ((), (), ())
    assert (one.conduct.mismatches, one.conduct.receipt_seq_differs, one.pace.stalls) == ((), False, ())
    assert one.conduct.terminal is not None


@pytest.mark.parametrize("write", [builder.jsonl, builder.bare_jsonl, builder.chromium_har, builder.firefox_har])
def test_a_clean_recording_has_no_finding(write):
    script = Script()
    script.ready()
    for name in ("r-1", "r-2", "r-3"):
        script.accept(name).whole(deltas=5)
    findings = findings_of(script, write)
    assert [one.run.label for one in findings.runs] == ["run 1", "run 2", "run 3"]
    assert (findings.strangers, findings.unanswered, findings.endless, findings.streams) == ((), (), (), ())
    for one in findings.runs:
        assert_clean(one)
        assert sum(one.conduct.counts.values()) == 10
        assert one.pace.duration_seconds == pytest.approx(0.9, abs=1e-3)


def test_a_gap_is_placed_between_its_neighbours_and_by_the_receipt():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    run.tool("a")
    run.tool("b", end_lost=True)
    run.emit("agent_delta", text="1", lost=True)
    run.emit("agent_delta", text="2")
    run.end()
    findings = findings_of(script)
    one = only(findings)
    [gap] = one.sequences.gaps
    assert (gap.first, gap.last, one.lost) == (5, 6, 2)
    assert gap.before is not None
    assert gap.after is not None
    assert (findings.reading.cite(gap.before), findings.reading.cite(gap.after)) == ("line 7", "line 8")
    assert [(m.type, m.announced, m.arrived) for m in one.conduct.mismatches] == [
        ("tool_completed", 2, 1),
        ("agent_delta", 2, 1),
    ]
    assert [frame.tool_call_id for frame in one.conduct.left_open] == ["b"]


def test_a_lost_end_is_missing_and_the_silence_behind_it_is_measured():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    run.end(lost=True)
    script.wait(40)
    script.receive(type="ping", id="p")
    findings = findings_of(script)
    assert findings.endless == findings.runs
    assert only(findings).pace.quiet_end_seconds == pytest.approx(40.1, abs=1e-3)


def test_a_later_announcement_proves_what_is_missing_at_the_end():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    run.emit("agent_delta", text="1", lost=True)
    run.end(lost=True)
    script.socket = 2
    script.ready(runs=({"run_id": "r-1", "state": "completed", "last_seq": 3, "acked_seq": 1},))
    one = only(findings_of(script))
    assert one.sequences.tail is not None
    assert (one.sequences.tail.first, one.sequences.tail.last, one.lost) == (2, 3, 2)


def test_an_accepted_run_of_which_nothing_arrives_is_found():
    script = Script()
    script.ready()
    script.accept("r-1")
    findings = findings_of(script)
    assert len(findings.endless) == 1
    assert only(findings).run.frames == ()


def test_a_request_without_an_answer_is_found():
    script = Script()
    script.ready()
    script.send(type="start_run", request_id="q-0", input="?")
    script.send(type="start_run", request_id="q-1", input="?")
    script.receive(type="rejected", frame="start_run", request_id="q-1", code="too_many_runs", message="wait")
    script.accept("r-1").whole()
    assert [frame.request_id for frame in findings_of(script).unanswered] == ["q-0"]


def test_a_start_that_was_lost_is_missing_only_if_the_run_was_accepted_here():
    for accepted in (True, False):
        script = Script()
        script.ready()
        run = script.accept("r-1") if accepted else builder.ScriptedRun(script, "r-1")
        run.emit("agent_started", message="", lost=True)
        run.emit("agent_thinking", text="hm", step=1)
        run.end()
        one = only(findings_of(script))
        assert one.sequences.head is not None
        assert (one.sequences.head.first, one.sequences.head.last, one.lost) == (1, 1, int(accepted))
        assert one.conduct.breaches == ()
        assert len(one.conduct.mismatches) == int(accepted)


def test_the_same_event_twice_on_a_socket_is_a_repeat():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    script.receive(**run.emit("agent_delta", text="1"))
    run.end()
    one = only(findings_of(script))
    assert [repeat.again.seq for repeat in one.sequences.repeats] == [2]
    assert (one.lost, one.conduct.counts[EventType.AGENT_DELTA], one.conduct.mismatches) == (0, 1, ())


def test_two_events_of_one_number_conflict():
    script = Script()
    run = script.accept("r-1")
    run.start()
    run.seq = 0
    run.emit("agent_thinking", text="", step=1)
    [repeat] = only(findings_of(script)).sequences.repeats
    assert repeat.conflicting


def test_a_lower_number_behind_a_higher_one_is_out_of_order_and_no_gap():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    late = run.emit("agent_delta", text="1", lost=True)
    run.emit("agent_delta", text="2")
    script.receive(**late)
    run.end()
    one = only(findings_of(script))
    assert ([frame.seq for frame in one.sequences.late], one.lost, one.sequences.repeats) == ([2], 0, ())


def test_what_a_second_socket_brings_after_a_resume_is_healed_and_no_repeat():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    frames = [run.emit("agent_delta", text=str(n), lost=n in (1, 2)) for n in range(4)]
    script.socket = 2
    script.ready(runs=({"run_id": "r-1", "last_seq": 5, "acked_seq": 2},))
    script.send(type="resume", runs={"r-1": 2})
    script.receive(type="resumed", run_id="r-1", recovered=True, state="running", from_seq=3, last_seq=5)
    for frame in frames[1:]:
        script.receive(**frame)
    run.end()
    for write in (builder.jsonl, builder.chromium_har):
        one = only(findings_of(script, write))
        assert (one.sequences.healed, one.sequences.repeats, one.sequences.late, one.lost) == (((3, 4),), (), (), 0)


def test_a_resume_on_the_same_socket_begins_anew_but_not_before_what_the_client_has():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    frames = [run.emit("agent_delta", text=str(n)) for n in range(3)]
    script.send(type="resume", runs={"r-1": 3})
    script.receive(type="resumed", run_id="r-1", recovered=True, state="running", from_seq=3, last_seq=4)
    script.receive(**frames[1])
    script.receive(**frames[2])
    run.end()
    repeats = only(findings_of(script)).sequences.repeats
    assert [(repeat.again.seq, repeat.original) for repeat in repeats] == [(3, None)]


def test_a_gap_that_a_resume_on_the_same_socket_fills_is_healed():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    lost = run.emit("agent_delta", text="1", lost=True)
    again = run.emit("agent_delta", text="2")
    script.send(type="resume", runs={"r-1": 1})
    script.receive(type="resumed", run_id="r-1", recovered=True, state="running", from_seq=2, last_seq=3)
    script.receive(**lost)
    script.receive(**again)
    run.end()
    one = only(findings_of(script))
    assert (one.sequences.healed, one.lost, one.sequences.repeats, one.sequences.late) == (((2, 2),), 0, (), ())


def test_joined_deltas_stand_for_all_that_they_join():
    script = Script()
    script.ready()
    run = script.accept("r-1")
    run.start()
    for n in range(4):
        joined = run.emit("agent_delta", text=str(n), lost=True)
    script.receive(**{**joined, "first_seq": 2})
    run.end()
    one = only(findings_of(script))
    assert (one.lost, one.conduct.counts[EventType.AGENT_DELTA], one.conduct.mismatches) == (0, 4, ())


def test_tools_without_their_other_half_are_named():
    script = Script()
    run = script.accept("r-1")
    run.start()
    run.emit("tool_executing", tool_call_id="a", tool_name="open", arguments={})
    run.emit("tool_completed", tool_call_id="b", tool_name="closed", status="ok", result=1, duration_ms=1)
    run.end()
    conduct = only(findings_of(script)).conduct
    assert ([f.tool_name for f in conduct.left_open], [f.tool_name for f in conduct.never_opened]) == (
        ["open"],
        ["closed"],
    )
    assert conduct.breaches == ()


def test_events_out_of_place_break_the_contracts_own_rules():
    script = Script()
    run = script.accept("r-1")
    run.emit("agent_thinking", text="too early", step=1)
    run.start()
    run.tool("a")
    run.tool("a")
    run.end()
    run.emit("agent_delta", text="too late")
    rules = [breach.rule for breach in only(findings_of(script)).conduct.breaches]
    assert rules == [contract.NOT_STARTED, contract.STARTED_TWICE, contract.TOOL_REPEATED, contract.AFTER_END]


def test_a_stall_is_silence_that_nothing_excuses():
    script = Script()
    run = script.accept("r-1")
    run.start()
    script.wait(30)
    run.emit("agent_thinking", text="hm", step=1)
    run.emit("tool_executing", tool_call_id="a", tool_name="slow", arguments={})
    script.wait(50)
    run.emit("tool_completed", tool_call_id="a", tool_name="slow", status="ok", result=1, duration_ms=1)
    run.emit("input_required", input_id="i", kind="question", prompt="?")
    script.wait(70)
    script.send(type="provide_input", run_id="r-1", input_id="i", value=1)
    script.wait(12)
    run.end()
    pace = only(findings_of(script)).pace
    assert [round(stall.seconds, 1) for stall in pace.stalls] == [30.1, 12.1]
    assert pace.longest is not None
    assert (round(pace.longest.seconds), pace.longest.waiting_for) == (70, "input")


def test_an_event_of_a_run_that_was_never_announced_is_foreign_and_its_run_is_not_ours():
    script = Script()
    script.ready()
    script.accept("r-1").whole()
    builder.ScriptedRun(script, "r-of-bob").emit("agent_thinking", text="secret", step=1)
    findings = findings_of(script)
    assert [stranger.frame.run_id for stranger in findings.strangers] == ["r-of-bob"]
    assert [one.run.run_id for one in findings.runs] == ["r-1"]


def test_an_event_with_another_users_id_is_foreign():
    script = Script()
    script.ready(user_id="ada")
    run = script.accept("r-1")
    run.start()
    run.emit("agent_thinking", text="", step=1, user_id="bob")
    run.emit("agent_thinking", text="", step=2, user_id="ada")
    run.end()
    assert [stranger.frame.seq for stranger in findings_of(script).strangers] == [2]


def test_without_a_ready_frame_no_run_is_called_foreign():
    script = Script()
    script.accept("r-1").whole()
    builder.ScriptedRun(script, "r-2").whole()
    assert findings_of(script).strangers == ()


def test_truncated_fields_are_listed():
    script = Script()
    run = script.accept("r-1")
    run.start()
    run.emit("agent_delta", text="cut", truncated={"text": 90_000})
    run.end()
    [frame] = only(findings_of(script)).conduct.truncated
    assert frame.truncated == ("text",)


def agui_run(script: Script, run_id: str, *, result_lost: bool = False) -> None:
    """AG-UI as another backend sends it: ids at both ends only, no numbers."""
    script.receive(type="RUN_STARTED", threadId="t", runId=run_id)
    script.receive(type="REASONING_MESSAGE_CONTENT", messageId="m", delta="hm")
    script.receive(type="TOOL_CALL_START", toolCallId=f"c-{run_id}", toolCallName="search")
    script.receive(type="TOOL_CALL_ARGS", toolCallId=f"c-{run_id}", delta="{}")
    script.receive(type="TOOL_CALL_END", toolCallId=f"c-{run_id}")
    if not result_lost:
        script.receive(type="TOOL_CALL_RESULT", messageId="m2", toolCallId=f"c-{run_id}", content="1", role="tool")
    for text in ("a", "a", "b"):
        script.receive(type="TEXT_MESSAGE_CONTENT", messageId="m3", delta=text)
    script.receive(type="RUN_FINISHED", threadId="t", runId=run_id)


def test_agui_frames_are_followed_without_numbers_and_no_gap_is_made_up():
    script = Script()
    agui_run(script, "r-1")
    agui_run(script, "r-2", result_lost=True)
    first, second = findings_of(script, builder.chromium_har).runs
    assert (first.sequences.numbered, first.lost, first.sequences.repeats) == (False, 0, ())
    assert_clean(first)
    assert first.conduct.counts == {
        EventType.AGENT_STARTED: 1,
        EventType.AGENT_THINKING: 1,
        EventType.TOOL_EXECUTING: 1,
        EventType.TOOL_COMPLETED: 1,
        EventType.AGENT_DELTA: 3,
        EventType.AGENT_COMPLETED: 1,
    }
    assert first.conduct.other_types == {"TOOL_CALL_ARGS": 1, "TOOL_CALL_END": 1}
    assert [frame.tool_name for frame in second.conduct.left_open] == ["search"]


def test_frames_without_any_id_are_told_apart_by_their_starts():
    script = Script()
    for _ in range(2):
        script.receive(type="start")
        script.receive(type="tool_call", name="search")
        script.receive(type="tool_result", name="search")
        script.receive(type="done")
    runs = findings_of(script, builder.bare_jsonl).runs
    assert [one.run.run_id for one in runs] == ["without id 1", "without id 2"]
    for one in runs:
        assert_clean(one)


def test_equal_frames_without_numbers_are_repeats_unless_two_tokens_can_be_equal():
    script = Script()
    for name in ("start", "token", "token", "thinking", "thinking", "done", "done"):
        script.receive(type=name, run_id="r-1")
    repeats = only(findings_of(script)).sequences.repeats
    assert [repeat.again.name for repeat in repeats] == ["done"]


def test_numbers_that_count_the_sockets_events_give_no_gaps_to_its_runs():
    script = Script()
    for number in range(1, 13):
        if number not in (5, 6):
            script.receive(type="delta", run_id=f"r-{number % 2}", seq=number)
    findings = findings_of(script)
    assert [one.lost for one in findings.runs] == [0, 0]
    [(stream, sequences)] = findings.streams
    assert (stream.label, [(gap.first, gap.last) for gap in sequences.gaps]) == ("socket 1", [(5, 6)])


def test_a_field_that_does_not_count_one_by_one_is_no_sequence_number():
    script = Script()
    for number in (100, 220, 350, 410):
        script.receive(type="delta", run_id="r-1", offset=number)
    assert not only(findings_of(script)).sequences.numbered
    script = Script()
    for number in (0, 1, 2, 4):
        script.receive(type="delta", run_id="r-1", index=number)
    assert [(gap.first, gap.last) for gap in only(findings_of(script)).sequences.gaps] == [(3, 3)]


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=4),
    data=st.data(),
)
def test_the_missing_ranges_are_exactly_what_was_dropped(lengths: list[int], data: st.DataObject):
    """Whatever is dropped between the first and the last event of a run is reported, and nothing else."""
    script = Script()
    script.ready()
    dropped: dict[str, set[int]] = {}
    waiting = []
    for number, length in enumerate(lengths):
        run = script.accept(f"r-{number}")
        lost = dropped[run.run_id] = data.draw(st.sets(st.integers(2, max(2, length - 1)), max_size=length - 2))
        waiting.append([run, lost, length])
    while waiting:
        entry = data.draw(st.sampled_from(waiting))
        run, lost, length = entry
        last = run.seq + 1 == length
        event_type = "agent_started" if run.seq == 0 else "agent_completed" if last else "agent_delta"
        run.emit(event_type, lost=run.seq + 1 in lost, text="x")
        if last:
            waiting.remove(entry)
    write = data.draw(st.sampled_from([builder.jsonl, builder.bare_jsonl, builder.chromium_har]))
    findings = findings_of(script, write)
    reported = {
        one.run.run_id: {seq for gap in one.sequences.missing for seq in range(gap.first, gap.last + 1)}
        for one in findings.runs
    }
    assert reported == dropped
    for one in findings.runs:
        gaps = one.sequences.gaps
        assert all(left.last + 1 < right.first for left, right in itertools.pairwise(gaps))
        lacking = sum(mismatch.announced - mismatch.arrived for mismatch in one.conduct.mismatches)
        assert lacking == len(dropped[one.run.run_id])
        assert (one.sequences.repeats, one.sequences.late) == ((), ())


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"status": "error", "error": "boom"}, "error: boom"),
        ({"status": "timeout"}, "timeout"),
        ({"error": {"message": "no such city"}}, "error: no such city"),
        ({"isError": True}, "error"),
        ({"status": "ok", "result": {"status": "error"}}, None),
    ],
)
def test_a_tool_call_that_failed_is_counted_and_cited(end: dict[str, Any], said: str | None) -> None:
    """Its status, its error or its flag say so; what the result holds does not."""
    script = Script()
    script.ready()
    run = script.accept("r")
    run.emit("agent_started", message="m")
    run.emit("tool_executing", tool_call_id="c", tool_name="search", arguments={})
    run.emit("tool_completed", tool_call_id="c", tool_name="search", duration_ms=1.0, **end)
    run.emit("agent_completed", output="x", duration_ms=2.0)
    section = conduct_sections.tools(findings_of(script))
    failed = [item for item in section.items if "failed at" in item]
    assert (0 if said is None else 1) == section.problems == len(failed)
    if said is not None:
        assert "1 tool call failed." in section.headline
        assert failed[0].startswith("**run 1**: `search` failed at line 6")
        assert failed[0].endswith(f": `{said}`.")
