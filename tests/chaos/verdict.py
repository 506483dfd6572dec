"""What was wrong in the end: what callers saw against the log, and the exported traces as trees. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chaos.journal import TERMINAL_NAMES, Journal, RunJournal, Seen, Wrong, seen_of


class SpanOf(NamedTuple):
    """What is kept of an exported span."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str


class LoggedRun(NamedTuple):
    """A run as the server has it in the end: its `GET /runs` entry and its envelopes."""

    view: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]


def judge_user(journal: Journal, logged: Mapping[str, LoggedRun]) -> list[Wrong]:
    """Everything that is wrong with one user, by the runs that the server has of it, by run id."""
    wrongs = list(journal.wrongs)
    requests = Counter(run.view["request_id"] for run in logged.values())
    for request_id, count in requests.items():
        if request_id not in journal.runs:
            wrongs.append(Wrong("foreign", journal.user_id, "", 0, f"nobody asked for {request_id}"))
        elif count > 1:
            wrongs.append(Wrong("repeated", journal.user_id, "", 0, f"{count} runs of request {request_id}"))
    for run in journal.runs.values():
        wrongs += run.wrongs
        if not run.ended:
            what = f"request {run.request_id} came to event {run.last_seq} and no terminal one"
            wrongs.append(Wrong("hanging", run.user_id, run.run_id, 0, what))
        found = logged.get(run.run_id)
        if found is not None:
            wrongs += judge_run(run, found)
        elif run.run_id:
            wrongs.append(Wrong("lost", run.user_id, run.run_id, 0, "the log does not have the run"))
    return wrongs


def judge_run(run: RunJournal, logged: LoggedRun) -> list[Wrong]:
    """What is wrong with the run's log, and with what its callers saw against it."""

    def wrong(kind: str, seq: int, what: str) -> Wrong:
        return Wrong(kind, run.user_id, run.run_id, seq, what)

    kept = {envelope["seq"]: envelope for envelope in logged.events}
    wrongs = []
    if list(kept) != list(range(1, len(logged.events) + 1)):
        wrongs.append(wrong("lost", 0, f"the log holds the seqs {list(kept)}"))
    ends = [seq for seq, envelope in kept.items() if envelope["type"] in TERMINAL_NAMES]
    if ends != [len(kept)]:
        wrongs.append(wrong("hanging" if not ends else "repeated", 0, f"in the log, terminal events at {ends}"))
    for number, viewing in enumerate(run.viewings, 1):
        for seen in viewing:
            told = _differs(seen, kept)
            if told:
                wrongs.append(wrong("wrong", seen.seq, f"in viewing {number} {told}"))
    had = {seq for seen in run.seen for seq in range(seen.first, seen.seq + 1)}
    wrongs += [
        wrong("lost", seq, f"{kept[seq]['type']} is in the log and never came") for seq in kept if seq not in had
    ]
    if run.ended and logged.view["acked_seq"] != logged.view["last_seq"]:
        wrongs.append(wrong("wrong", 0, f"of {logged.view['last_seq']} events {logged.view['acked_seq']} are acked"))
    return wrongs


def _differs(seen: Seen, kept: Mapping[int, Mapping[str, Any]]) -> str:
    covered = [kept.get(seq) for seq in range(seen.first, seen.seq + 1)]
    if None in covered:
        return f"a caller saw {seen.type}, which is not in the log"
    envelopes = [envelope for envelope in covered if envelope is not None]
    if len(envelopes) == 1:
        expected = seen_of(envelopes[0])
        return "" if (expected.type, expected.digest) == (seen.type, seen.digest) else "the log has another event there"
    types = {envelope["type"] for envelope in envelopes}
    joined = "".join(envelope["data"].get("text", "") for envelope in envelopes)
    return "" if (types, joined) == ({seen.type}, seen.text) else "the joined text is not the log's"


def judge_traces(spans: Iterable[SpanOf], runs: Mapping[str, tuple[str, str, str]]) -> list[Wrong]:
    """What is wrong with the exported traces; `runs` has (user id, run id, outcome) by trace id."""
    traces: dict[str, list[SpanOf]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    wrongs = []
    for trace_id, found in traces.items():
        user_id, run_id, _ = runs.get(trace_id, ("-", "", ""))
        wrongs += [Wrong("wrong", user_id, run_id, 0, f"trace {trace_id}: {what}") for what in _problems_of(found)]
    return wrongs


def _problems_of(spans: Sequence[SpanOf]) -> list[str]:
    ids = Counter(span.span_id for span in spans)
    problems = [f"span id {span_id} came {count} times" for span_id, count in ids.items() if count > 1]
    roots = [span.name for span in spans if not span.parent_id]
    orphans = [span for span in spans if span.parent_id and span.parent_id not in ids]
    if len(roots) > 1:
        problems.append(f"{len(roots)} roots: {', '.join(roots)}")
    if not roots:
        problems.append(f"no root among {len(spans)} spans")
    return problems + [f"{span.name} is an orphan: its parent {span.parent_id} never came" for span in orphans]
