"""What clients received, what the traces say and what the metrics counted: the same events at the same links."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.evidence import RUNS, USERS, Evidence, gather_evidence, witnessed_server
from support.servers import FIVE
from tracewire_telemetry.testing.chains import assert_chain
from tracewire_telemetry.testing.checks import assert_no_secret
from tracewire_telemetry.testing.runs import LINK_NAMES, events_received, events_traced
from tracewire_telemetry.testing.spans import RecordedTrace
from tracewire_telemetry.testing.witnesses import DisagreementError

FEW_USERS, FEW_RUNS = 3, 6


async def test_three_witnesses_agree_on_a_thousand_runs_of_two_hundred_users_at_once(tmp_path: Path) -> None:
    """Every event of every run at each of the five links, over real sockets and a real OTLP export."""
    async with witnessed_server(tmp_path) as (process, receiver):
        evidence = await gather_evidence(process, receiver, users=USERS, runs=RUNS)
        log = process.log_text()
    agreement = evidence.agree()
    assert (USERS, RUNS, RUNS * len(FIVE)) == (agreement.users, agreement.runs, agreement.events)
    assert (RUNS * len(FIVE) * len(LINK_NAMES), 0) == (agreement.crossings, agreement.lost)
    for record, trace in zip(evidence.clients, evidence.traces, strict=True):
        assert assert_chain(trace, FIVE, user_id=record.user_id) == events_received(record)
    tokens = [process.token(record.user_id).rpartition(".")[2] for record in evidence.clients[:5]]
    assert_no_secret(receiver, log, evidence.metrics_after, values=tokens)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """What there is of a few runs, for the tests that bend it."""

    async def gathered() -> Evidence:
        async with witnessed_server(tmp_path_factory.mktemp("few")) as (process, receiver):
            return await gather_evidence(process, receiver, users=FEW_USERS, runs=FEW_RUNS)

    return asyncio.run(gathered())


def without_spans(evidence: Evidence, *names: str) -> Evidence:
    """The first run's trace without these spans."""
    first, *others = evidence.traces
    return replace(evidence, traces=[RecordedTrace(s for s in first if s.name not in names), *others])


def without_frame(evidence: Evidence, seq: int) -> Evidence:
    """The first client without the frame that it received of this event."""
    first, *others = evidence.clients
    kept = [frame for frame in first.frames if frame["seq"] != seq]
    return replace(evidence, clients=[replace(first, frames=kept), *others])


def counted_less(evidence: Evidence, event_type: str, link: str) -> Evidence:
    """One such event fewer in the scrape."""
    pattern = re.compile(
        rf'(tracewire_events_total\{{(?=[^}}]*link="{link}")(?=[^}}]*event_type="{event_type}")[^}}]*\}}) (\S+)'
    )
    after, times = pattern.subn(lambda found: f"{found[1]} {float(found[2]) - 1}", evidence.metrics_after)
    assert times == 1
    return replace(evidence, metrics_after=after)


def repeated_frame(evidence: Evidence) -> Evidence:
    """The first client got its third event twice."""
    first, *others = evidence.clients
    return replace(evidence, clients=[replace(first, frames=[*first.frames, first.frames[2]]), *others])


def unacked(evidence: Evidence) -> Evidence:
    """The first client acked its last event to nobody."""
    first, *others = evidence.clients
    return replace(evidence, clients=[replace(first, acked_seq=4), *others])


def swapped_user(evidence: Evidence) -> Evidence:
    """The first run's trace says that it is somebody else's."""
    first, *others = evidence.traces
    bent = [replace(s, attributes={**s.attributes, "user.id": "user-999"}) for s in first]
    return replace(evidence, traces=[RecordedTrace(bent), *others])


@pytest.mark.parametrize(
    ("bend", "witness", "seq", "event_type", "link"),
    [
        (lambda e: without_frame(e, 3), "the client", 3, "tool_executing", "socket"),
        (repeated_frame, "the client", 3, "tool_executing", "socket"),
        (unacked, "the client", 5, "agent_completed", "client"),
        (lambda e: without_spans(e, "settle tool_completed"), "the trace", 4, "tool_completed", "client"),
        (lambda e: without_spans(e, "process agent_thinking"), "the trace", 2, "agent_thinking", "emitter"),
        (swapped_user, "the trace", 1, "agent_started", "engine"),
    ],
)  # fmt: skip
def test_a_witness_that_stands_alone_is_named_with_user_run_event_and_link(
    evidence: Evidence,
    bend: Callable[[Evidence], Evidence],
    witness: str,
    seq: int,
    event_type: str,
    link: str,
) -> None:
    """One of the three is bent at one event of one run; the others' runs are not mentioned."""
    bent = bend(evidence)
    with pytest.raises(DisagreementError) as raised:
        bent.agree()
    found = raised.value.disagreements
    record = evidence.clients[0]
    assert {record.run_id} == {one.run_id for one in found}
    assert [(seq, event_type, link)] == [(one.seq, one.event_type, one.link) for one in found]
    assert {witness} == {one.witness for one in found}
    for said in (record.user_id, record.run_id, f"event {seq} {event_type} at {link}", witness):
        assert said in str(raised.value)


def test_metrics_that_stand_alone_are_named_with_event_and_link(evidence: Evidence) -> None:
    """They know no run: it is said that it is one of so many."""
    with pytest.raises(DisagreementError) as raised:
        counted_less(evidence, "tool_completed", "socket").agree()
    [one] = raised.value.disagreements
    assert ("the metrics", "tool_completed", "socket") == (one.witness, one.event_type, one.link)
    assert "metrics counted 5" in str(raised.value)
    assert f"one of {FEW_RUNS}" in str(raised.value)


@pytest.mark.parametrize(("empty", "who"), [("clients", "the client"), ("traces", "the trace")])
def test_a_witness_without_a_word_is_no_agreement(evidence: Evidence, empty: str, who: str) -> None:
    """Nothing received and nothing recorded would agree with each other."""
    with pytest.raises(AssertionError, match=f"{who} tells of no event"):
        replace(evidence, **{empty: []}).agree()
    with pytest.raises(AssertionError, match="the metrics tells of no event"):
        replace(evidence, metrics_after=evidence.metrics_before).agree()


def test_the_events_of_client_and_trace_are_the_same_list(evidence: Evidence) -> None:
    """Each run's five events, with all five links, in order."""
    for record, trace in zip(evidence.clients, evidence.traces, strict=True):
        received = events_received(record)
        assert [(seq, name, LINK_NAMES) for seq, name in enumerate(FIVE, 1)] == [
            (event.seq, event.event_type, event.links) for event in received
        ]
        assert events_traced(trace) == received
    assert Counter(event.user_id for record in evidence.clients for event in events_received(record)) == {
        f"user-{number:03}": FEW_RUNS // FEW_USERS * len(FIVE) for number in range(FEW_USERS)
    }
