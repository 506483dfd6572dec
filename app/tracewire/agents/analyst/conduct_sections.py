"""What an answer says of the runs themselves: their tools, their ends, their silences, their events.

Pure. A section is written for somebody who has the file open: every claim names the run and where to look.
"""

from collections import Counter

from tracewire.agents.analyst.conduct import ended_how
from tracewire.agents.analyst.investigation import Findings, RunFindings
from tracewire.agents.analyst.phrases import Section, at, code, number_of, seconds, sentence
from tracewire.agents.analyst.silence import STALL_SECONDS
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType


def tools(findings: Findings) -> Section:
    """The tool calls: those that have one half only, and those that failed."""
    calls = sum(one.conduct.counts.get(EventType.TOOL_EXECUTING, 0) for one in findings.runs)
    items: list[str] = []
    for one in findings.runs:
        hint = _why_unpaired(one)
        items.extend(
            f"**{one.run.label}**: {code(frame.tool_name)} starts at {at(findings, frame)} and never completes{hint}."
            for frame in one.conduct.left_open
        )
        items.extend(
            f"**{one.run.label}**: {code(frame.tool_name)} completes at {at(findings, frame)} without having started."
            for frame in one.conduct.never_opened
        )
    unpaired = len(items)
    failed = [line for one in findings.runs for line in _failed(findings, one)]
    items += failed
    names = Counter(
        frame.tool_name or "?"
        for one in findings.runs
        for frame in one.run.events
        if frame.event is EventType.TOOL_EXECUTING
    )
    if names:
        items.append("Called: " + ", ".join(f"{code(name)} {count}×" for name, count in names.most_common(8)) + ".")
    made = f"{number_of(calls, 'tool call')} started"
    failures = f" {number_of(len(failed), 'tool call')} failed." if failed else ""
    if unpaired:
        lacking = f"{number_of(unpaired, 'tool event')} {'lacks' if unpaired == 1 else 'lack'} the other half"
        return Section(f"{made}, and {lacking}.{failures}", tuple(items), unpaired + len(failed))
    ended = f"{made}, each with its end.{failures}" if calls else f"No tool was called.{failures}"
    return Section(ended, tuple(items), len(failed))


def _failed(findings: Findings, one: RunFindings) -> list[str]:
    """The calls that ended, and not well."""
    names = {
        frame.tool_call_id: frame.tool_name
        for frame in one.run.events
        if frame.event is EventType.TOOL_EXECUTING and frame.tool_call_id is not None
    }
    return [
        f"**{one.run.label}**: {code(frame.tool_name or names.get(frame.tool_call_id or ''))} failed at "
        f"{at(findings, frame)}: {code(frame.failure)}."
        for frame in one.run.distinct
        if frame.failure is not None
    ]


def _why_unpaired(one: RunFindings) -> str:
    """Whether the end was lost on the way or never sent, where the receipt can tell."""
    receipt = one.conduct.terminal.receipt if one.conduct.terminal is not None else None
    if receipt is None:
        return "; its end may be among what is missing" if one.lost else ""
    lost = any(m.type == EventType.TOOL_COMPLETED.value and m.arrived < m.announced for m in one.conduct.mismatches)
    return "; by the receipt its end was sent, and lost" if lost else "; by the receipt its end was never sent"


def endings(findings: Findings) -> Section:
    """How each run ended, and what broke the contract of a run on the way."""
    ways = Counter(_end(findings, one) for one in findings.runs)
    errors = sum(
        one.conduct.terminal is not None and one.conduct.terminal.event is EventType.AGENT_ERROR
        for one in findings.runs
    )
    items = [f"**{one.run.label}**: {_ended_at(findings, one)}." for one in findings.runs]
    breaches = 0
    for one in findings.runs:
        for breach in one.conduct.breaches:
            breaches += 1
            items.append(f"**{one.run.label}**: {breach.message} ({breach.rule}): {at(findings, breach.frame)}.")
        if one.conduct.truncated:
            cut = ", ".join(findings.reading.cite(frame) for frame in one.conduct.truncated[:5])
            items.append(f"**{one.run.label}**: {number_of(len(one.conduct.truncated), 'event')} cut short: {cut}.")
    said = [f"{number_of(count, 'run')} {way}" for way, count in ways.most_common()]
    if breaches:
        said.append(f"{number_of(breaches, 'event')} came out of place")
    return Section(sentence(said) or "There is no run.", tuple(items), errors + breaches)


def _end(findings: Findings, one: RunFindings) -> str:
    return "still going on" if one.run.run_id in findings.still_open else ended_how(one.conduct)


def _ended_at(findings: Findings, one: RunFindings) -> str:
    end = _end(findings, one)
    return end if one.conduct.terminal is None else f"{end} at {at(findings, one.conduct.terminal)}"


def silence(findings: Findings) -> Section:
    """The stalls, and the longest silence of each run."""
    stalls = [(one, stall) for one in findings.runs for stall in one.pace.stalls]
    items = [
        f"**{one.run.label}**: silent for {seconds(stall.seconds)} between {at(findings, stall.before)} and "
        f"{at(findings, stall.after)}."
        for one, stall in stalls
    ]
    for one in findings.runs:
        longest = one.pace.longest
        if longest is not None and longest not in one.pace.stalls:
            waiting = f", waiting for {longest.waiting_for}" if longest.waiting_for else ""
            items.append(
                f"**{one.run.label}**: longest silence {seconds(longest.seconds)}{waiting}, "
                f"before {at(findings, longest.after)}."
            )
    if not any(one.pace.timed for one in findings.runs):
        return Section("The recording has no times: silence cannot be measured.")
    found = number_of(len(stalls), "silence") if stalls else "No silence"
    headline = f"{found} of {STALL_SECONDS:.0f} s or more, not counting tools and awaited input."
    return Section(headline, tuple(items), len(stalls))


def counts(findings: Findings) -> Section:
    """How many events of each type, over all runs and in each."""
    total: Counter[EventType] = Counter()
    others: Counter[str] = Counter()
    for one in findings.runs:
        total.update(one.conduct.counts)
        others.update(one.conduct.other_types)
    items = []
    for event_type in EVENT_TYPES:
        each = [f"{one.run.label}: {n}" for one in findings.runs if (n := one.conduct.counts.get(event_type))]
        if each:
            shown = ", ".join(each[:8]) + (", …" if len(each) > 8 else "")
            items.append(f"{code(event_type.value)}: {total[event_type]:,} ({shown})")
    if others:
        shown = ", ".join(f"{code(name)} {count}" for name, count in others.most_common(10))
        items.append(f"Types that are no event of a run's contract: {shown}.")
    events = number_of(sum(total.values()), "event")
    return Section(
        f"{events} of {number_of(len(total), 'type')} in {number_of(len(findings.runs), 'run')}.", tuple(items)
    )
