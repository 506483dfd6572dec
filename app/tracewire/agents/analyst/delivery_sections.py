"""What an answer says of delivery: what is missing, what came twice or late, what is somebody else's.

Pure. A section is written for somebody who has the file open: every claim names the run and where to look.
"""

from collections.abc import Iterator

from tracewire.agents.analyst.frames import Source
from tracewire.agents.analyst.investigation import Findings, RunFindings
from tracewire.agents.analyst.phrases import Section, at, code, number_of, seconds, sentence
from tracewire.agents.analyst.ranges import size, written
from tracewire.agents.analyst.sequences import Gap, Repeat
from tracewire.agents.analyst.silence import STALL_SECONDS


def losses(findings: Findings) -> Section:
    """Missing events, missing ends, and requests that nothing came of."""
    lost = sum(one.lost for one in findings.runs) + sum(
        gap.size for _, sequences in findings.streams for gap in sequences.missing
    )
    affected = sum(one.lost > 0 for one in findings.runs)
    endless, unanswered = len(findings.endless), len(findings.unanswered)
    disagreeing = sum(bool(one.conduct.mismatches) and not one.lost for one in findings.runs)
    said = []
    if lost:
        where = f" (in {affected} of {number_of(len(findings.runs), 'run')})" if affected else ""
        said.append(f"{number_of(lost, 'event')} {'is' if lost == 1 else 'are'} missing{where}")
    if endless:
        said.append(f"{number_of(endless, 'run')} {'has' if endless == 1 else 'have'} no terminal event")
    if unanswered:
        said.append(f"{number_of(unanswered, 'request')} got no answer")
    if disagreeing:
        said.append(f"{number_of(disagreeing, 'receipt')} count{'s' if disagreeing == 1 else ''} otherwise")
    unnumbered = [one.run.label for one in findings.runs if one.run.frames and not one.sequences.numbered]
    clean = "Nothing is missing: the numbers have no gap, and every run that is over has its terminal event."
    if unnumbered:
        clean = "No loss can be shown."
    return Section(
        headline=sentence(said) or clean,
        items=tuple(_losses(findings, unnumbered)),
        problems=lost + endless + unanswered + disagreeing,
    )


def _losses(findings: Findings, unnumbered: list[str]) -> Iterator[str]:
    endless = {one.run.run_id for one in findings.endless}
    for one in findings.runs:
        for text in _missing(findings, one):
            yield f"**{one.run.label}**: {text}"
        if one.run.run_id in endless:
            yield f"**{one.run.label}**: {_no_end(findings, one)}"
    for run, sequences in findings.streams:
        for gap in sequences.missing:
            yield f"**{run.label}**: {_gap(findings, gap)}"
    for frame in findings.unanswered:
        yield f"{at(findings, frame)}: request {code(frame.request_id)} was neither accepted nor rejected."
    if unnumbered:
        shown = ", ".join(unnumbered[:8]) + (" and others" if len(unnumbered) > 8 else "")
        yield f"{shown}: no sequence numbers, so gaps can't be proven; ends, pairs and receipts still can."
    if findings.streams:
        yield "The numbers count the events of the socket, not of a run: gaps are named for the socket."


def _missing(findings: Findings, one: RunFindings) -> Iterator[str]:
    sequences, conduct = one.sequences, one.conduct
    for gap in sequences.missing:
        yield _gap(findings, gap)
    if sequences.head is not None and not sequences.head_missing:
        head = written([(sequences.head.first, sequences.head.last)])
        yield f"begins with seq {sequences.first_seq}; {head} came before the recording, or were lost."
    if conduct.terminal is not None and conduct.mismatches:
        counts = ", ".join(f"{code(m.type)} {m.arrived} of {m.announced}" for m in conduct.mismatches)
        yield f"the receipt at {at(findings, conduct.terminal)} counts otherwise; arrived: {counts}."
    if conduct.terminal is not None and conduct.terminal.receipt is not None and conduct.receipt_seq_differs:
        says = conduct.terminal.receipt.last_seq
        yield f"the receipt at {at(findings, conduct.terminal)} says that seq {says} is the last."
    if sequences.healed:
        numbers = f"{number_of(size(sequences.healed), 'event')} (seq {written(sequences.healed)})"
        yield f"not lost: {numbers} came after a resume or on another socket."


def _gap(findings: Findings, gap: Gap) -> str:
    lost = f"seq {written([(gap.first, gap.last)])} missing ({number_of(gap.size, 'event')})"
    if gap.before is not None and gap.after is not None:
        return f"{lost}, between {at(findings, gap.before)} and {at(findings, gap.after)}."
    if gap.after is None:
        return f"{lost} at the end, by what the log knows of the run."
    if gap.after.announced:
        return f"{lost} at the end; {findings.reading.cite(gap.after)} ({code(gap.after.name)}) announced them."
    return f"{lost} at the start, before {at(findings, gap.after)}."


def _no_end(findings: Findings, one: RunFindings) -> str:
    if not one.run.frames:
        where = f" at {findings.reading.cite(one.run.accepted)}" if one.run.accepted is not None else ""
        return f"accepted{where}, and no event of it arrived."
    text = f"no terminal event; the last that arrived is {at(findings, one.run.frames[-1])}"
    quiet = one.pace.quiet_end_seconds
    if quiet is None or findings.reading.source is Source.LOG:
        return f"{text}."
    if quiet < STALL_SECONDS:
        return f"{text}, and the recording stops {seconds(quiet)} later: the run may have been going on."
    return f"{text}, and the recording goes on for {seconds(quiet)} without it."


def order(findings: Findings) -> Section:
    """Events that came twice, numbers that stand for two events, and events behind later ones."""
    rows = [(one.run, one.sequences) for one in findings.runs]
    repeats = sum(len(sequences.repeats) for _, sequences in rows)
    late = sum(len(sequences.late) for _, sequences in rows)
    items: list[str] = []
    for run, sequences in rows:
        items.extend(f"**{run.label}**: {_repeat(findings, repeat)}" for repeat in sequences.repeats)
        items.extend(f"**{run.label}**: {at(findings, frame)} came behind a higher number." for frame in sequences.late)
    said = [f"{number_of(repeats, 'event')} came twice"] if repeats else []
    if late:
        said.append(f"{number_of(late, 'event')} came out of order")
    return Section(sentence(said) or "Nothing came twice, and nothing out of order.", tuple(items), repeats + late)


def _repeat(findings: Findings, repeat: Repeat) -> str:
    again = at(findings, repeat.again)
    if repeat.original is None:
        return f"{again} came, although the client had said on resuming that it has it."
    original = at(findings, repeat.original)
    if repeat.conflicting:
        return f"{again} has the number of another event, {original}."
    return f"{again} repeats {original}."


def foreign(findings: Findings) -> Section:
    """Frames of another user."""
    count = len(findings.strangers)
    items = tuple(f"{at(findings, stranger.frame)}: {stranger.why}." for stranger in findings.strangers)
    if not count:
        return Section("Nothing belongs to somebody else.")
    return Section(f"{number_of(count, 'event')} {'is' if count == 1 else 'are'} somebody else's.", items, count)
