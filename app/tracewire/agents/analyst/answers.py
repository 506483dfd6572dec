"""The findings as an answer in Markdown: how the question was read, what was asked for, and what else was noticed.

Pure. Figures and places stand in every claim. Lists are cut at `ITEMS_MAX`, and say so.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from tracewire.agents.analyst import conduct_sections, delivery_sections
from tracewire.agents.analyst.conduct import ended_how
from tracewire.agents.analyst.frames import FRAMES_MAX, Source
from tracewire.agents.analyst.investigation import Findings, RunFindings
from tracewire.agents.analyst.own_runs import OwnRuns, seconds_taken, started_at
from tracewire.agents.analyst.phrases import Section, code, moment, number_of, seconds
from tracewire.agents.analyst.questions import SAMPLE, Intent, Question

ITEMS_MAX: Final = 12
"""Items of a section that are shown; the others are counted."""

RUNS_SHOWN_MAX: Final = 20
"""Rows of the table of runs."""

CHUNK_CHARACTERS: Final = 600
"""About how much of the answer one delta carries; it is cut between paragraphs."""

_SECTIONS: Final[dict[Intent, tuple[str, Callable[[Findings], Section]]]] = {
    Intent.LOSSES: ("What is missing", delivery_sections.losses),
    Intent.ORDER: ("Repeats and order", delivery_sections.order),
    Intent.FOREIGN: ("Somebody else's", delivery_sections.foreign),
    Intent.TOOLS: ("Tool calls", conduct_sections.tools),
    Intent.ENDINGS: ("How the runs ended", conduct_sections.endings),
    Intent.SILENCE: ("Silence", conduct_sections.silence),
    Intent.COUNTS: ("Events", conduct_sections.counts),
}
_ASKABLE: Final = (
    "what is missing or was lost; what came twice or out of order; what belongs to another user; how the tool calls "
    "went; how the runs ended; where it was silent; how many events there are of which type; which runs there were "
    "lately; an overview"
)


def answer(question: Question, findings: Findings, own: OwnRuns | None = None) -> str:
    """The answer to a question about a recording, or about the user's own runs."""
    chosen, unknown = _chosen(question, findings)
    paragraphs = [how_it_was_read(question)]
    if unknown:
        paragraphs.append(f"There is no {', '.join(map(code, unknown))} in it; this is about all of its runs.")
    paragraphs.append(_what_it_is(findings, own))
    asked = question.asked
    if chosen.runs:
        paragraphs.append(_table(chosen, own))
    overview = Intent.OVERVIEW in asked or set(asked) == {Intent.RECENT}
    sections = {intent: build(chosen) for intent, (_, build) in _SECTIONS.items()}
    for intent, section in sections.items():
        if intent in asked or (overview and section.problems):
            paragraphs.extend(_section(_SECTIONS[intent][0], section))
    if overview:
        fine = [section.headline for section in sections.values() if not section.problems]
        paragraphs.append(" ".join(fine))
    else:
        besides = [s.headline for i, s in sections.items() if s.problems and i not in asked]
        if besides:
            paragraphs.append(f"**Besides:** {' '.join(besides)}")
    if not question.intents:
        paragraphs.append(f"You can ask: {_ASKABLE}.")
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def how_it_was_read(question: Question) -> str:
    """The reading of the question, in a sentence."""
    if question.recording_id == SAMPLE:
        subject = "the sample recording"
    else:
        subject = "your recording" if question.recording_id else "your own runs"
    if not question.text:
        return f"*There was no question, so this is an overview of {subject}.*"
    if not question.intents:
        return f"*I could not tell what the question asks for, so this is an overview of {subject}.*"
    return f"*I read the question as: {'; '.join(intent.value for intent in question.intents)}; in {subject}.*"


def unreadable(question: Question, message: str) -> str:
    """The answer where there is nothing to look into, and why."""
    return (
        f"{how_it_was_read(question)}\n\n**I could not look into it.** {message}\n\n"
        f"You can hand in a recording with `POST /recordings` and name its id, say “the sample” for the recording that "
        f"comes with Tracewire, or leave both out to ask about your own runs. You can ask: {_ASKABLE}."
    )


def no_runs(question: Question) -> str:
    """The answer to a user who has not run anything yet."""
    named = " of that id" if question.run_ids else ""
    return (
        f"{how_it_was_read(question)}\n\n**You have no runs{named} in the log** but this one. To see what I find in a "
        f"recording, ask what is missing in the sample. You can ask: {_ASKABLE}."
    )


def chunks(text: str) -> Iterator[str]:
    """The text in pieces that add up to it, cut between paragraphs where they allow it."""
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + len(paragraph) > CHUNK_CHARACTERS:
            yield piece
            piece = ""
        piece += f"{paragraph}\n\n"
    yield piece.removesuffix("\n\n")


def _chosen(question: Question, findings: Findings) -> tuple[Findings, tuple[str, ...]]:
    """The findings of the runs that the question names, and the names that stand for none."""
    if not question.labels and not question.run_ids:
        return findings, ()
    by_name = {one.run.label: one for one in findings.runs} | {one.run.run_id: one for one in findings.runs}
    names = (*question.labels, *question.run_ids)
    named = {id(by_name[name]) for name in names if name in by_name}
    unknown = tuple(name for name in names if name not in by_name)
    if not named:
        return findings, unknown
    runs = tuple(one for one in findings.runs if id(one) in named)
    return msgspec.structs.replace(findings, runs=runs, strangers=(), unanswered=()), unknown


def _what_it_is(findings: Findings, own: OwnRuns | None) -> str:
    reading = findings.reading
    if own is not None:
        left = f" {number_of(len(own.left_out), 'run')} had too many events to read here." if own.left_out else ""
        waiting = [s for s in own.summaries if not s.open and s.acked_seq < s.last_seq]
        acks = f" Of {number_of(len(waiting), 'run')} the end was not acknowledged by a client." if waiting else ""
        count = len(own.summaries)
        these = "This is the one run" if count == 1 else f"These are the newest {count} runs"
        return f"{these} of yours that I looked at, from the log.{left}{acks}"
    kinds = {Source.HAR: "HAR", Source.ARRAY: "a JSON array"}
    unit = {Source.HAR: "message", Source.ARRAY: "frame"}.get(reading.source, "line")
    text = (
        f"{code(reading.name)} ({kinds.get(reading.source, 'JSONL')}): {number_of(reading.places, unit)}, "
        f"{number_of(len(reading.sockets), 'socket')}, {number_of(len(findings.runs), 'run')}."
    )
    if reading.unreadable:
        named = "; ".join(f"{bad.place}: {bad.why}" for bad in reading.unreadable_first)
        text += f" {number_of(reading.unreadable, unit)} could not be read ({named})."
    if reading.empty_sockets:
        text += f" Of {number_of(reading.empty_sockets, 'further socket')} the messages were not exported."
    if reading.cut:
        text += f" **Only the first {FRAMES_MAX:,} frames were read**: what is said of the runs' ends may be wrong."
    return text


def _table(findings: Findings, own: OwnRuns | None) -> str:
    """One row a run. Of the user's own runs the log knows start, length and outcome, also of those not read."""
    rows = [
        "| run | id | started (UTC) | took | events | missing | end |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    summaries = {summary.run_id: summary for summary in own.summaries} if own is not None else {}
    endless = {one.run.run_id for one in findings.endless}
    for one in findings.runs[:RUNS_SHOWN_MAX]:
        summary = summaries.get(one.run.run_id)
        took = one.pace.duration_seconds if summary is None else seconds_taken(summary)
        start = moment(one.pace.started_at) if summary is None else started_at(summary)
        end = "still going on" if one.run.run_id in findings.still_open else ended_how(one.conduct)
        cells = (
            one.run.label,
            code(one.run.run_id),
            start,
            "–" if took is None else seconds(took),
            str(sum(one.conduct.counts.values())),
            _missing(one, endless=one.run.run_id in endless),
            end,
        )
        rows.append(f"| {' | '.join(cells)} |")
    more = len(findings.runs) - RUNS_SHOWN_MAX
    if more > 0:
        rows.append(f"\nand {number_of(more, 'more run')}.")
    return "\n".join(rows)


def _missing(one: RunFindings, *, endless: bool) -> str:
    """How many events; `?` where no numbers tell."""
    counted = str(one.lost) if one.sequences.numbered and not one.sequences.shared else "?"
    if not endless:
        return counted
    return "the end" if counted == "0" else f"{counted} and the end"


def _section(title: str, section: Section) -> Iterator[str]:
    yield f"### {title}"
    yield f"**{section.headline}**"
    items = [f"- {item}" for item in section.items[:ITEMS_MAX]]
    if len(section.items) > ITEMS_MAX:
        items.append(f"- … and {len(section.items) - ITEMS_MAX:,} more of this kind.")
    if items:
        yield "\n".join(items)
