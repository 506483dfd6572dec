"""What the suites' own checks find in each story, and what the chain healed by itself."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from mutants.expected import expected
from mutants.rows import Mutant
from mutants.stories import Evening, Story
from support.chain_checks import Finding, payload_findings, trace_findings, traceparents
from support.served_chain import unflagged
from support.wire import contract_problems

_NAMED: Final = re.compile(r"\b(L[1-6]): ")
_OWNED: Final = re.compile(r'mark-[0-9a-f]{16}|(?<="run_id": ")[^"]+')


class Seen(Struct):
    """What there is to say of one row.

    Attributes:
        findings: what the suites' checks raise, the first broken link first.
        healed: by what the chain mended it, if the client processed every event once and in order.
        incidents: link, type and state of each.
        told: type and link of what was alerted on.
        whole: whether the client processed exactly the run's five events, and acked them.
    """

    findings: list[Finding]
    healed: list[str]
    incidents: list[tuple[str, str, str]]
    told: set[tuple[str, str]]
    whole: bool

    @property
    def check(self) -> str:
        """The first link that the checks name; empty where they find nothing."""
        return self.findings[0].check if self.findings else ""

    @property
    def seen_in(self) -> list[str]:
        """Where they found that link broken."""
        return sorted({finding.seen_in for finding in self.findings if finding.check == self.check})


def seen_of(story: Story, strayed: Sequence[str] = ()) -> Seen:
    """Hold one story against what must be, by what the client got, what the log has, and what was exported."""
    run_id, user_id = story.run_id, story.user_id
    processed = payload_findings(story.processed, user_id, run_id, "L6", input_value=story.mark)
    durable = payload_findings(story.durable, user_id, run_id, "L5", input_value=story.mark)
    unacked = []
    if story.acked_seq != len(story.durable):
        message = f"of {len(story.durable)} events {story.acked_seq} are acknowledged"
        unacked.append(Finding("L6", "payload", message))
    own = [event for event in story.crossing.events if event["run_id"] == story.run_id]
    crossed = [Finding("L6", "wire", problem) for problem in (contract_problems(own) if own else ["nothing crossed"])]
    traced = trace_findings(
        story.trace, user_id, run_id, sockets=1, traceparents=unflagged(traceparents(story.durable))
    )
    foreign = [Finding("L4", "payload", f"{user_id} got a frame of this run") for user_id in strayed]
    findings = [*foreign, *processed, *durable, *unacked, *crossed, *traced]
    if story.client_error:
        findings.append(Finding("L6", "payload", f"the client says: {story.client_error}"))
    named = _named(story)
    if named is not None:
        findings = [msgspec.structs.replace(finding, check=named) for finding in findings]
    whole = not (processed or unacked or story.client_error)
    return Seen(
        sorted(findings),
        _healed(story) if whole else [],
        [(one["link"], one["type"], one["state"]) for one in story.incidents],
        story.told,
        whole,
    )


def _named(story: Story) -> str | None:
    """The broken link that the server names for this run: to its user, or in its log."""
    said = [event["data"]["message"] for event in story.processed if event["type"] == "agent_error"]
    found = (_NAMED.search(text) for text in [*said, story.named])
    return next((match[1] for match in found if match), None)


def _healed(story: Story) -> list[str]:
    """What was done about it, as far as it can be counted."""
    crossing, mutant = story.crossing, story.mutant
    healed = [f"closed {code}" for code in crossing.closes if code == 4003]
    healed += ["resumed"] * sum(story.run_id in runs for runs in crossing.resumes)
    healed += [f"healed at {one['link']}" for one in story.incidents if one["state"] == "healed"]
    if mutant is not None and (mutant.where == "ack" or (mutant.what, mutant.where) == ("unstamped", "client")):
        ends = Counter(one.end_ns for one in story.trace if one.name.startswith("settle ") and one.status != "error")
        healed += ["acked with the next"] * sum(count - 1 for count in ends.values())
    seqs = [event["seq"] for event in crossing.events if event["run_id"] == story.run_id]
    healed += ["taken once"] * (len(seqs) - len(set(seqs)))
    if mutant is not None and mutant.what == "repeat" and "taken once" not in healed:
        healed.append("taken once")  # of two that were handed over, one went on
    return healed


class Row(Struct):
    """One line of the table. `others` got what is this user's; `problems`: what is not as it must be."""

    mutant: Mutant
    seen: Seen
    others: list[str]
    problems: list[str]

    def __str__(self) -> str:
        seen, mutant = self.seen, self.mutant
        caught = f"{seen.check} by {', '.join(seen.seen_in)}" if seen.check else "-"
        incident = ", ".join(f"{state} at {link}: {event_type}" for link, event_type, state in seen.incidents)
        told = ", ".join(f"{event_type} at {link}" for event_type, link in sorted(seen.told))
        healed = ", ".join(dict.fromkeys(seen.healed))
        columns = (
            f"{mutant.what:<10}{mutant.where:<9}{mutant.event_type:<16}",
            f"{caught:<26}",
            f"{healed:<46}",
            f"{incident or '-':<38}",
            f"{told or '-':<26}",
            f"{', '.join(self.others) or 'clean':<8}",
            "WRONG" if self.problems else "",
        )
        return "  ".join(columns).rstrip() + "".join(f"\n    {problem}" for problem in self.problems)


HEADER: Final = (
    f"{'what':<10}{'where':<9}{'event':<16}  {'caught: names':<26}  {'healed by':<46}  {'incident':<38}"
    f"  {'alert for the user':<26}  others"
)


def rows_of(evening: Evening) -> list[Row]:
    """Each row, held against what must come of it."""
    to = strays(evening)
    rows = []
    for story in evening.stories:
        assert story.mutant is not None
        mine = [user_id for user_id, others in to.items() if story.user_id in others]
        seen = seen_of(story, mine)
        problems = _problems(story, story.mutant, seen)
        problems += [f"{user_id} got a frame of this run" for user_id in mine if user_id != story.mutant.victim]
        problems += [f"it got frames of {', '.join(to[story.user_id])}"] if story.user_id in to else []
        names = ["its victim" if user_id == story.mutant.victim else user_id for user_id in mine]
        rows.append(Row(story.mutant, seen, names, problems))
    return rows


def _problems(story: Story, mutant: Mutant, seen: Seen) -> list[str]:
    problems = []
    if not story.done and mutant.what not in ("lie", "unstamped"):  # those show only in what comes of them
        problems.append("nothing was done to it")
    if not seen.check and not seen.healed:
        problems.append("neither caught nor healed")
    problems += problems_of(mutant, seen)
    if not story.settled:
        problems.append("its run is not settled")
    return problems + [f"found: {finding}"[:300] for finding in seen.findings[:6] if problems]


def problems_of(mutant: Mutant, seen: Seen) -> list[str]:
    """What was seen of this row and must not be, or must be and was not."""
    must, problems = expected(mutant), []
    if seen.check != must.check:
        problems.append(f"the checks name {seen.check or 'nothing'}, must name {must.check or 'nothing'}")
    elif not set(must.seen_in) <= set(seen.seen_in):
        problems.append(f"it is seen in {seen.seen_in}, must be in {list(must.seen_in)}")
    if must.healed and must.healed not in seen.healed:
        problems.append(f"healed by {seen.healed}, must be by {must.healed!r}")
    incidents = [must.incident] if must.incident is not None else []
    if seen.incidents != incidents:
        problems.append(f"the incidents are {seen.incidents}, must be {incidents}")
    told = {(event_type, link) for link, event_type, _ in incidents}
    if seen.told != told:
        problems.append(f"alerts told of {sorted(seen.told)}, must be of {sorted(told)}")
    return problems


def others(evening: Evening) -> list[str]:
    """What befell those to whom nothing was done."""
    found = []
    to = strays(evening)
    for story in evening.controls:
        seen = seen_of(story)
        if seen.findings or seen.incidents or seen.told or not (seen.whole and story.settled):
            found.append(f"{story.user_id}: {seen.findings[:3]} {seen.incidents} {sorted(seen.told)}")
        if story.user_id in to:
            found.append(f"{story.user_id} got frames of {', '.join(to[story.user_id])}")
    return found


def counted(evening: Evening) -> list[tuple[str, float, float]]:
    """What the server's counters say of all rows together, and what was seen: equal, or something is not counted."""
    incidents = [one for story in (*evening.stories, *evening.controls) for one in story.incidents]
    crossings = evening.crossings.values()
    seen: dict[tuple[str, ...], float] = {
        ("events_missing_total",): sum(one["count"] for one in incidents),
        ("events_healed_total",): sum(one["count"] for one in incidents if one["state"] == "healed"),
        ("resumes_total", "recovered"): sum(len(runs) for crossing in crossings for runs in crossing.resumes),
        ("closes_total", "4003"): sum(crossing.closes.count(4003) for crossing in crossings),
    }
    return [
        (" ".join(key), sum(v for name, v in evening.counters.items() if name[: len(key)] == key), value)
        for key, value in seen.items()
    ]


def strays(evening: Evening) -> dict[str, list[str]]:
    """Whose frames each user got that belong to somebody else's run."""
    stories = [*evening.stories, *evening.controls]
    owner = {story.mark: story.user_id for story in stories} | {story.run_id: story.user_id for story in stories}
    found: dict[str, set[str]] = {}
    for user_id, crossing in evening.crossings.items():
        for text in crossing.raw:
            others = {owner.get(mark, user_id) for mark in _OWNED.findall(text)} - {user_id}
            if others:
                found.setdefault(user_id, set()).update(others)
    return {user_id: sorted(others) for user_id, others in found.items()}
