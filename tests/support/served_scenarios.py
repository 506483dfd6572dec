"""The scenarios that look at a server process from outside: S5 to S7, and S15.

Like those of `chain_checks`, each looks at payloads and at traces, and raises `BrokenChainError`, naming the link.
"""

import asyncio
import statistics
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from msgspec import Struct

from support.chain_checks import AGENT, Finding, contamination, require
from support.delivery_score import WHOLE, proven_score, received_score
from support.served_chain import ServedChain, ServedRun
from support.servers import FIVE
from support.wire import Wire, contract_problems
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

CONNECTED_SECONDS_MAX: Final = 2.0
FIRST_EVENT_SECONDS_MAX: Final = 5.0
DONE_SECONDS_MAX: Final = 60.0
MEAN_FIRST_EVENT_SECONDS_MAX: Final = 5.0
PREMIUM_USERS: Final = 50
RUNS_SIDE_BY_SIDE: Final = 3
SCORED_RUNS: Final = 3
NS: Final = 1e9


# S5: one run.


async def s05_one_run_over_a_real_socket(
    chain: ServedChain, *, user_id: str = "user-s05", within_seconds: float = DONE_SECONDS_MAX, timed: bool = True
) -> ServedRun:
    """All five types, started first and completed last, in time: by the client's clock and by the trace's.

    Not `timed`: whatever else this machine does at the same time, the three limits are left alone.
    """
    begun = time.monotonic()
    async with chain.signed_in(user_id) as wire:
        connected_seconds = time.monotonic() - begun
        run = await chain.run(wire, user_id, "ask", agent=AGENT, within_seconds=within_seconds)
    findings = list(run.findings)
    first_seconds = run.first_event - run.asked if run.first_event is not None else None
    if timed:
        findings += too_late("payload", connected_seconds, first_seconds, run.ended - run.asked)
    types = [event["type"] for event in run.received]
    if types and (types[0], types[-1]) != (FIVE[0], FIVE[-1]):
        findings.append(Finding(first_check(findings), "payload", f"it begins and ends with {types[0]}, {types[-1]}"))
    if timed and not findings:
        findings += trace_times(chain, run.trace)
    require(findings)
    return run


def too_late(seen_in: str, connected: float | None, first: float | None, done: float) -> list[Finding]:
    """Which of the three times (seconds) is over its limit; one that could not be taken is reported elsewhere."""
    limits = (
        ("connected", connected, CONNECTED_SECONDS_MAX),
        ("the first event came", first, FIRST_EVENT_SECONDS_MAX),
        ("done", done, DONE_SECONDS_MAX),
    )
    return [
        Finding("L6", seen_in, f"{what} after {seconds:.3f} s, must be within {limit:g} s")
        for what, seconds, limit in limits
        if seconds is not None and seconds > limit
    ]


def trace_times(chain: ServedChain, trace: RecordedTrace) -> list[Finding]:
    """The same three times as the trace of a whole run has them: handshake, first settled event, run."""
    root = trace.root
    handshakes = [span for link in root.links if (span := chain.span(*link)) is not None]
    if len(handshakes) != 1:
        return [Finding("L6", "trace", f"of {len(root.links)} handshakes that it links to {len(handshakes)} are here")]
    connected = (handshakes[0].end_ns - handshakes[0].start_ns) / NS
    return too_late("trace", connected, first_event_seconds(trace), (last_ns(trace) - root.start_ns) / NS)


def first_event_seconds(trace: RecordedTrace) -> float | None:
    """From the run's record to the moment when its first event was written to the socket."""
    sent = trace.named(f"send {FIVE[0]}")
    return (sent[0].end_ns - trace.root.start_ns) / NS if sent else None


def last_ns(trace: RecordedTrace) -> int:
    """When the last span ended."""
    return max(span.end_ns for span in trace)


# S6: two users.


async def s06_two_users_side_by_side(
    chain: ServedChain, *, user_ids: Sequence[str] = ("user-s06a", "user-s06b"), within_seconds: float = 20.0
) -> None:
    """Several runs of each at once: everybody gets all of their own, and nothing of the other's."""
    people = [Person(chain, user_id) for user_id in user_ids]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(person.connect(stack) for person in people))
        await asyncio.gather(*(person.run_all(RUNS_SIDE_BY_SIDE, within_seconds) for person in people))
    findings = [finding for person in people for run in person.runs for finding in run.findings]
    for person in people:
        foreign = {mark for other in people if other is not person for mark in other.marks}
        findings += contamination(person.wire, foreign)
        findings += foreign_spans(person.runs, foreign)
    require(findings)


class Person:
    """One user with a socket, whose inputs hold a mark that occurs nowhere else."""

    def __init__(self, chain: ServedChain, user_id: str) -> None:
        self.user_id = user_id
        self.mark = uuid.uuid4().hex
        self.wire: Wire
        self.runs: list[ServedRun] = []
        self._chain = chain

    @property
    def marks(self) -> set[str]:
        """What tells this user's frames and spans from others'."""
        accepted = [frame for frame in self.wire.frames if frame["type"] == "run_accepted"]
        ids = {frame[name] for frame in accepted for name in ("run_id", "request_id", "thread_id")}
        traces = {run.trace.root.trace_id for run in self.runs if len(run.trace)}
        return {self.user_id, self.mark, *ids, *traces}

    async def connect(self, stack: AsyncExitStack) -> None:
        """Sign in."""
        self.wire = await stack.enter_async_context(self._chain.signed_in(self.user_id))

    async def run_all(self, count: int, within_seconds: float) -> None:
        """Start so many runs before any is received, then follow each to its end."""
        inputs = [f"{self.mark} {number}" for number in range(count)]
        asked = time.monotonic()
        run_ids = [await self.wire.start_run(text, agent=AGENT) for text in inputs]
        for text, run_id in zip(inputs, run_ids, strict=True):
            self.runs.append(
                await self._chain.follow(
                    self.wire, self.user_id, run_id, text, asked=asked, within_seconds=within_seconds
                )
            )


def foreign_spans(runs: Iterable[ServedRun], foreign: Iterable[str]) -> list[Finding]:
    """Each span of these runs' traces that holds something of another user's."""
    strangers = set(foreign)
    return [
        Finding("L4", "trace", f"{span.name} of {run.user_id}'s run {run.run_id} holds {found}")
        for run in runs
        for span in run.trace
        if (found := {mark for mark in strangers if any(mark in text for text in said_by(span))})
    ]


def said_by(span: RecordedSpan) -> list[str]:
    """Everything that a span says, as text."""
    return [span.name, span.trace_id, *map(str, span.attributes.values())]


# S7: what a run is worth to its user.


async def s07_the_delivery_score_is_whole(
    chain: ServedChain, *, user_id: str = "user-s07", within_seconds: float = 20.0
) -> list[tuple[int, int]]:
    """Each run scores 100 by what its client got, and 100 by what its trace proves; the scores, in that order."""
    async with chain.signed_in(user_id) as wire:
        runs = [
            await chain.run(wire, user_id, f"ask {number}", agent=AGENT, within_seconds=within_seconds)
            for number in range(SCORED_RUNS)
        ]
    findings = [finding for run in runs for finding in run.findings]
    scores = [(received_score(run.received), proven_score(run.trace)) for run in runs]
    check = first_check(findings)
    for received, proven in scores:
        findings += [Finding(check, "payload", f"it scores {received} of {WHOLE}")] if received != WHOLE else []
        findings += [Finding(check, "trace", f"it scores {proven} of {WHOLE}")] if proven != WHOLE else []
    require(findings)
    return scores


def first_check(findings: Iterable[Finding]) -> str:
    """The first broken link of these, or the last one of all: what is lost on the way to the client."""
    return min((finding.check for finding in findings), default="L6")


# S15: many premium users.


class Continuity(Struct, frozen=True):
    """What the business is told. `contamination` counts what of one user's was seen at another's."""

    users_served_percent: float
    events_delivered_percent: float
    contamination: int
    mean_first_event_seconds: float

    @property
    def shortfalls(self) -> list[str]:
        """What falls short of all users served with all events, nothing of anybody else's, in time."""
        limit = MEAN_FIRST_EVENT_SECONDS_MAX
        said = {
            f"{self.users_served_percent:g} % of users are served": self.users_served_percent == 100,
            f"{self.events_delivered_percent:g} % of events are delivered": self.events_delivered_percent == 100,
            f"the contamination is {self.contamination}": self.contamination == 0,
            f"the first event takes {self.mean_first_event_seconds:.3f} s in the mean, must be within {limit:g} s": (
                self.mean_first_event_seconds <= limit
            ),
        }
        return [text for text, holds in said.items() if not holds]


async def s15_premium_users_at_once(
    chain: ServedChain, *, users: int = PREMIUM_USERS, within_seconds: float = 30.0
) -> tuple[Continuity, Continuity]:
    """Everybody is served, whole and in time, with nothing of anybody else's; by payloads, and by traces."""
    people = [Person(chain, f"premium-{number}-{uuid.uuid4().hex}") for number in range(users)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(person.connect(stack) for person in people))
        await asyncio.gather(*(person.run_all(1, within_seconds) for person in people))
    everything = {mark for person in people for mark in person.marks}
    by_payloads, by_traces = continuity_of_payloads(people, everything), continuity_of_traces(people, everything)
    findings = [finding for person in people for run in person.runs for finding in run.findings]
    check = first_check(findings)
    for seen_in, report in (("payload", by_payloads), ("trace", by_traces)):
        # What reaches another user left by an emitter that was not bound to its own.
        strayed = "L4" if report.contamination and not findings else check
        findings += [Finding(strayed, seen_in, text) for text in report.shortfalls]
    require(findings)
    return by_payloads, by_traces


def continuity_of_payloads(people: Sequence[Person], everything: set[str]) -> Continuity:
    """What the clients have to say."""
    runs = [run for person in people for run in person.runs]
    served = [run for run in runs if not contract_problems(run.received) and types_of(run) == list(FIVE)]
    waited = [(run.first_event or run.ended) - run.asked for run in runs]
    contaminated = sum(
        mark in text for person in people for text in person.wire.raw for mark in everything - person.marks
    )
    return Continuity(
        percent(len(served), len(people)),
        percent(sum(len(set(FIVE) & set(types_of(run))) for run in runs), len(people) * len(FIVE)),
        contaminated,
        statistics.fmean(waited),
    )


def continuity_of_traces(people: Sequence[Person], everything: set[str]) -> Continuity:
    """What the traces have to say; a run that left none counts as not served."""
    runs = [run for person in people for run in person.runs]
    whole = [run for run in runs if run.trace.complete and run.trace.root.attributes.get("tracewire.chain.complete")]
    settled = sum(
        span.name.removeprefix("settle ") in FIVE and span.status != "error"
        for run in runs
        for span in run.trace
        if span.name.startswith("settle ")
    )
    waited = [first for run in runs if len(run.trace) and (first := first_event_seconds(run.trace)) is not None]
    return Continuity(
        percent(sum(proven_score(run.trace) == WHOLE for run in whole), len(people)),
        percent(settled, len(people) * len(FIVE)),
        sum(len(foreign_spans(person.runs, everything - person.marks)) for person in people),
        statistics.fmean(waited) if waited else float("inf"),
    )


def types_of(run: ServedRun) -> list[Any]:
    """The types of the events that came, in order."""
    return [event["type"] for event in run.received]


def percent(part: int, whole: int) -> float:
    """Exactly 100 only where nothing is missing."""
    return 100 * part / whole
