"""The judgement of the chaos: it calls each kind of wrong by its name, and nothing that is right."""

from typing import Any

import pytest

from chaos.journal import Journal, RunJournal
from chaos.verdict import LoggedRun, SpanOf, judge_traces, judge_user

USER = "chaos-1"


def event(seq: int, name: str = "agent_thinking", **data: Any) -> dict[str, Any]:
    """An envelope as it comes and as the log has it."""
    return {"type": name, "run_id": "run", "seq": seq, "data": data or {"text": f"{USER} {seq}"}}


def last(seq: int) -> dict[str, Any]:
    """The terminal event after so many thoughts."""
    counts = {"agent_thinking": seq - 1, "agent_completed": 1}
    return event(seq, "agent_completed", output=f"{USER} done", receipt={"last_seq": seq, "counts": counts})


LOG = [event(1), event(2), last(3)]


def journal_of(*came: dict[str, Any]) -> tuple[Journal, RunJournal]:
    """A user with one run of which these came."""
    journal = Journal(USER, "seed")
    run = journal.ask()
    journal.accept(run, "run")
    for envelope in came:
        run.take(envelope)
    return journal, run


def logged(*events: dict[str, Any], **changes: Any) -> dict[str, LoggedRun]:
    """The run as the server has it."""
    view = {"request_id": f"{USER}-1", "acked_seq": len(events), "last_seq": len(events)} | changes
    return {"run": LoggedRun(view, events)}


def kinds(journal: Journal, log: dict[str, LoggedRun]) -> list[tuple[str, int]]:
    """What is wrong, by kind and seq."""
    return [(wrong.kind, wrong.seq) for wrong in judge_user(journal, log)]


def test_a_whole_run_is_right() -> None:
    """Also where its caller forgot it in between, and where deltas came joined."""
    journal, run = journal_of(event(1))
    run.forget()
    for envelope in LOG:
        run.take(envelope)
    assert [] == kinds(journal, logged(*LOG))
    deltas = [event(seq, "agent_delta", text=f"{seq} ") for seq in (1, 2)]
    end = event(3, "agent_error", receipt={"last_seq": 3, "counts": {"agent_delta": 2, "agent_error": 1}})
    joined, _ = journal_of(event(2, "agent_delta", text="1 2 ") | {"first_seq": 1}, end)
    assert [] == kinds(joined, logged(*deltas, end))


@pytest.mark.parametrize(
    ("came", "wrong"),
    [
        ([LOG[0], LOG[2]], [("lost", 2), ("wrong", 3), ("lost", 2)]),
        ([LOG[0], LOG[0], LOG[1], LOG[2]], [("repeated", 1), ("wrong", 3)]),
        ([*LOG, LOG[2]], [("repeated", 3), ("wrong", 3)]),
        (LOG[:2], [("hanging", 0), ("lost", 3)]),
        ([LOG[0], event(2, text="chaos-7 was here"), LOG[2]], [("foreign", 2), ("wrong", 2)]),
        ([LOG[0], event(2) | {"run_id": "another"}, LOG[2]], [("foreign", 2)]),
        ([LOG[0], event(2, text=f"{USER} something else"), LOG[2]], [("wrong", 2)]),
    ],
    ids=["lost", "repeated", "ended twice", "hanging", "names a stranger", "another run's", "another text"],
)
def test_what_came_wrongly_is_named(came: list[dict[str, Any]], wrong: list[tuple[str, int]]) -> None:
    """By kind and seq, as it came and against the log."""
    journal, _ = journal_of(*came)
    assert wrong == kinds(journal, logged(*LOG))


def test_what_the_log_lacks_is_named() -> None:
    """An event that a caller saw, a terminal event, a seq, the run; and one that nobody asked for."""
    journal, _ = journal_of(*LOG)
    assert [("hanging", 0), ("wrong", 3)] == kinds(journal, logged(*LOG[:2]))
    assert [("lost", 0), ("hanging", 0), ("wrong", 1), ("wrong", 3)] == kinds(journal, logged(LOG[1]))
    assert [("lost", 0)] == kinds(journal, {})
    assert [("foreign", 0)] == kinds(journal, logged(*LOG, request_id="unheard-of"))
    assert [("repeated", 0)] == kinds(journal, logged(*LOG) | {"twin": logged(*LOG)["run"]})[:1]
    assert [("wrong", 0)] == kinds(journal, logged(*LOG, acked_seq=2))


ROOT = SpanOf("trace", "1", "", "invoke_agent")
CHILD = SpanOf("trace", "2", "1", "create")


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([ROOT, CHILD], 0),
        ([CHILD], 2),
        ([ROOT, CHILD, CHILD], 1),
        ([ROOT, ROOT._replace(span_id="3")], 1),
        ([ROOT, CHILD._replace(parent_id="9")], 1),
    ],
    ids=["whole", "without a root", "an id twice", "two roots", "an orphan"],
)
@pytest.mark.parametrize("outcome", ["completed", "worker_lost"])
def test_a_trace_is_judged_as_a_tree(spans: list[SpanOf], outcome: str, count: int) -> None:
    """One root, no orphan, no span id twice; of a run that a crash has ended, too."""
    assert count == len(judge_traces(spans, {"trace": (USER, "run", outcome)}))
