"""The ledger of a run: what is stamped, what becomes missing and when, and when a run is settled."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tracewire_telemetry.deadlines import settled
from tracewire_telemetry.ledger import Missing, RunLedger
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.verdicts import count_verdicts, delivery_max_ns
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, EVENT_TYPES, EventType, Link, Outcome, Verdict
from unit.ledgers import LedgerScript, ns, unix_ns

STARTED, THINKING = EventType.AGENT_STARTED, EventType.AGENT_THINKING
DELTA, COMPLETED = EventType.AGENT_DELTA, EventType.AGENT_COMPLETED


# --- stamps ---------------------------------------------------------------------------------------------------------


def test_each_link_stamps_an_event_at_the_index_of_its_seq() -> None:
    """Five columns hold the five moments of each of two events."""
    script = LedgerScript()
    ledger, socket = script.ledger, script.attached()
    script.sent(STARTED, 10, socket)
    script.sent(THINKING, 20, socket)
    script.acknowledged(socket, 2, 30)
    columns = [ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client]
    assert [[ns(first), ns(second)] for first, second in ((10, 20), (11, 21), (12, 22), (13, 23), (30, 30))] == [
        list(column) for column in columns
    ]
    assert (ledger.last_seq, ledger.committed_count, ledger.acked) == (2, 2, 2)


def test_seqs_follow_the_order_of_the_bridge_and_keep_the_stamps_of_the_engine() -> None:
    """An event that was emitted second and sequenced first is seq 1, with its own type and engine stamp."""
    script = LedgerScript()
    first, second = script.emitted(THINKING, 1), script.emitted(DELTA, 2)
    assert [script.ledger.sequenced(second, ns(3)), script.ledger.sequenced(first, ns(4))] == [1, 2]
    assert [script.ledger.event_type(1), script.ledger.event_type(2)] == [DELTA, THINKING]
    assert [ns(2), ns(1)] == list(script.ledger.engine)
    assert [script.ledger.is_delta(1), script.ledger.is_delta(2)] == [True, False]


def test_nothing_is_owed_for_an_event_that_the_bridge_refused() -> None:
    """A withdrawn event is neither waiting nor ever overdue."""
    script = LedgerScript()
    script.ledger.withdrawn(script.emitted(THINKING, 0))
    assert (script.ledger.waiting, script.next_deadline_ns, script.overdue(60_000)) == ({}, None, [])


def test_a_revoked_seq_is_given_to_the_next_event() -> None:
    """After the log refused seq 2 nothing of it is left, and the next event gets the number."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.ledger.revoked(script.sequenced(THINKING, 10))
    assert script.ledger.last_seq == 1
    assert script.durable(DELTA, 20) == 2
    assert (DELTA, ns(20)) == (script.ledger.event_type(2), script.ledger.engine[1])


def test_only_the_newest_seq_can_be_revoked() -> None:
    """Revoking an older one would renumber what clients hold."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    script.sequenced(THINKING, 10)
    with pytest.raises(ValueError, match="only the newest seq, 2"):
        script.ledger.revoked(1)


def test_the_first_socket_that_gets_an_event_stamps_the_link() -> None:
    """Two sockets: the column holds the earlier write, and each socket's own writes are kept from its first on."""
    script = LedgerScript()
    phone, laptop = script.attached(), script.attached()
    script.sent(STARTED, 0, phone)
    script.sent(THINKING, 10, phone, laptop)
    assert [ns(3), ns(13)] == list(script.ledger.socket)
    sends = {socket: (send.first_seq, list(send.stamps)) for socket, send in script.ledger.sends.items()}
    assert {phone: (1, [ns(3), ns(13)]), laptop: (2, [ns(14)])} == sends


def test_acks_are_cumulative_and_never_move_back() -> None:
    """A late or repeated ack settles nothing and changes no stamp."""
    script = LedgerScript()
    phone, laptop = script.attached(), script.attached()
    for at in (0, 10, 20):
        script.sent(THINKING, at, phone, laptop)
    assert [
        script.acknowledged(phone, 2, 30),
        script.acknowledged(laptop, 1, 31),
        script.acknowledged(laptop, 2, 32),
        script.acknowledged(laptop, 3, 33),
    ] == [2, 0, 0, 1]
    assert [ns(30), ns(30), ns(33)] == list(script.ledger.client)
    assert [(1, 2, phone), (3, 3, laptop)] == [(ack.first_seq, ack.last_seq, ack.socket) for ack in script.ledger.acks]


def test_contiguous_pages_of_a_replay_are_one_replay() -> None:
    """Two pages for one socket join; another socket's, or one with a gap, stands for itself."""
    script = LedgerScript()
    for at in range(6):
        script.durable(THINKING, at)
    ledger = script.ledger
    ledger.replayed(1, 1, 2, ns(100), ns(101))
    ledger.replayed(1, 3, 4, ns(102), ns(103))
    ledger.replayed(2, 5, 5, ns(104), ns(105))
    ledger.replayed(1, 6, 6, ns(106), ns(107))
    assert [(1, 1, 4, ns(100), ns(103)), (2, 5, 5, ns(104), ns(105)), (1, 6, 6, ns(106), ns(107))] == [
        (replay.socket, replay.first_seq, replay.last_seq, replay.started_ns, replay.ended_ns)
        for replay in ledger.replays
    ]


def test_a_replay_stamps_the_socket_where_no_live_write_did() -> None:
    """The live write's stamp stays; the ack stamps the replay that it covers, and no other."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.durable(THINKING, 10)
    script.durable(THINKING, 20)
    script.ledger.replayed(socket, 1, 2, ns(50), ns(60))
    script.ledger.replayed(9, 3, 3, ns(61), ns(62))
    script.acknowledged(socket, 2, 70)
    assert [ns(3), ns(60), ns(62)] == list(script.ledger.socket)
    assert [ns(70), 0] == [replay.acked_ns for replay in script.ledger.replays]


def test_a_stamp_becomes_a_date_by_the_one_anchor_of_its_run() -> None:
    """The wall clock is read once, at the run's start, so that stepping it changes nothing."""
    script = LedgerScript()
    assert unix_ns(1234.5) == script.ledger.unix_ns(ns(1234.5))


# --- deadlines ------------------------------------------------------------------------------------------------------


def _stuck_before_the_bridge(script: LedgerScript) -> None:
    script.emitted(THINKING, 100)


def _stuck_before_the_log(script: LedgerScript) -> None:
    script.sequenced(THINKING, 99)


def _stuck_before_the_socket(script: LedgerScript) -> None:
    script.durable(THINKING, 98)


def _stuck_before_the_client(script: LedgerScript) -> None:
    script.sent(THINKING, 97, 1)


@pytest.mark.parametrize(
    ("stuck", "link", "seq", "seconds"),
    [
        (_stuck_before_the_bridge, Link.BRIDGE, None, 1),
        (_stuck_before_the_log, Link.EMITTER, 1, 2),
        (_stuck_before_the_socket, Link.SOCKET, 1, 6),
        (_stuck_before_the_client, Link.CLIENT, 1, 10),
    ],
)
def test_an_event_is_missing_at_the_first_link_that_did_not_take_it_exactly_at_its_deadline(
    stuck: Callable[[LedgerScript], None], link: Link, seq: int | None, seconds: int
) -> None:
    """Not a nanosecond before the deadline, counted from the previous stamp; and once only."""
    script = LedgerScript()
    script.attached()
    stuck(script)
    due_ns = ns(100 + seconds * 1_000)
    assert due_ns == script.next_deadline_ns
    assert script.look_ns(due_ns - 1).missing == []
    expected = [Missing(link, THINKING, seq, ns(100), due_ns)]
    assert expected == script.look_ns(due_ns).missing
    assert script.look_ns(due_ns + 3_600_000_000_000).missing == []
    assert expected == script.ledger.missing
    assert None is script.next_deadline_ns


def test_the_deadlines_default_to_those_of_the_contract() -> None:
    """Bridge 1 s, emitter 2 s, socket 6 s, client 10 s."""
    assert LinkDeadlines(1, 2, 6, 10) == LinkDeadlines()


def test_deadlines_are_those_of_the_settings() -> None:
    """Other deadlines, other moments."""
    script = LedgerScript(deadlines=LinkDeadlines(0.1, 0.2, 0.3, 0.4))
    script.attached()
    script.sent(STARTED, 0, 1)
    script.durable(THINKING, 0)
    script.sequenced(THINKING, 0)
    assert [(lost.link, lost.seq) for lost in script.overdue(201)] == [(Link.EMITTER, 3)]
    assert [(lost.link, lost.seq) for lost in script.overdue(302)] == [(Link.SOCKET, 2)]
    assert [(lost.link, lost.seq) for lost in script.overdue(403)] == [(Link.CLIENT, 1)]
    script.emitted(THINKING, 500)
    assert [(lost.link, lost.seq) for lost in script.overdue(600)] == [(Link.BRIDGE, None)]


def test_several_events_stuck_at_one_link_become_missing_each_at_its_own_deadline() -> None:
    """The second was written 4 s after the first, and is missing 4 s after it."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.sent(THINKING, 4_000, socket)
    assert [lost.seq for lost in script.overdue(10_003)] == [1]
    assert script.overdue(14_002) == []
    assert [lost.seq for lost in script.overdue(14_003)] == [2]


def test_all_that_is_overdue_is_declared_in_one_look() -> None:
    """Five unacked events of one moment are five missing events."""
    script = LedgerScript()
    socket = script.attached()
    for _ in range(5):
        script.sent(THINKING, 0, socket)
    assert [lost.seq for lost in script.overdue(10_003)] == [1, 2, 3, 4, 5]


def test_an_unacked_event_behind_an_unsettled_one_is_blocked_not_missing() -> None:
    """The client cannot ack seq 2 before seq 1: while seq 1 may still be written, seq 2 is owed nothing."""
    deadlines = LinkDeadlines(socket_seconds=60, client_seconds=1)
    script = LedgerScript(deadlines=deadlines)
    socket = script.attached()
    script.durable(STARTED, 0)
    script.sent(THINKING, 0, socket)
    assert script.overdue(59_000) == []


def test_behind_an_event_that_is_missing_for_good_the_rest_is_blocked_and_settled_with_it() -> None:
    """Seq 1 was never written, so nobody can ack seq 2: its client is not blamed; the objective counts both."""
    script = LedgerScript()
    socket = script.attached()
    script.durable(STARTED, 0)
    script.sent(COMPLETED, 0, socket)
    script.ended(5)
    assert [(lost.link, lost.seq) for lost in script.overdue(6_002)] == [(Link.SOCKET, 1)]
    assert script.settled
    assert script.overdue(3_600_000) == []
    assert dict(count_verdicts(script.ledger)) == {(STARTED, Verdict.MISSING): 1, (COMPLETED, Verdict.MISSING): 1}


def test_an_event_that_was_blocked_is_due_by_its_own_stamp_when_the_one_before_it_is_acked() -> None:
    """Seq 1 came after all, and is acked: seq 2, written long ago, is the client's now."""
    script = LedgerScript()
    socket = script.attached()
    script.durable(STARTED, 0)
    script.sent(COMPLETED, 0, socket)
    assert [lost.link for lost in script.overdue(6_002)] == [Link.SOCKET]
    script.ledger.replayed(socket, 1, 1, ns(7_000), ns(7_001))
    script.acknowledged(socket, 1, 7_002)
    assert script.overdue(10_002) == []
    assert [(lost.link, lost.seq) for lost in script.overdue(10_003)] == [(Link.CLIENT, 2)]


def test_an_event_that_came_after_all_is_not_declared_missing_again_further_on() -> None:
    """Late at the emitter, then written and never acked: it is one missing event, at the emitter."""
    script = LedgerScript()
    socket = script.attached()
    seq = script.sequenced(THINKING, 0)
    assert [lost.link for lost in script.overdue(2_001)] == [Link.EMITTER]
    script.ledger.committed(seq, ns(3_000))
    script.ledger.written(socket, seq, ns(3_001))
    assert script.overdue(60_000) == []
    assert [(lost.link, lost.seq) for lost in script.ledger.missing] == [(Link.EMITTER, 1)]


def test_an_event_that_the_bridge_took_too_late_has_one_verdict() -> None:
    """Missing at the bridge, then sequenced and acked: one missing event that knows its seq by then."""
    script = LedgerScript()
    socket = script.attached()
    ordinal = script.emitted(THINKING, 0)
    assert [(lost.link, lost.seq) for lost in script.overdue(1_000)] == [(Link.BRIDGE, None)]
    seq = script.ledger.sequenced(ordinal, ns(5_000))
    script.ledger.committed(seq, ns(5_001))
    script.ledger.written(socket, seq, ns(5_002))
    script.acknowledged(socket, seq, 5_003)
    script.ended(5_004, Outcome.CANCELLED)
    assert dict(count_verdicts(script.ledger)) == {(THINKING, Verdict.MISSING): 1}
    assert script.settled


def test_a_missing_event_that_the_log_refuses_in_the_end_does_not_condemn_the_next_of_its_seq() -> None:
    """Seq 1 is missing at the emitter and then revoked; what gets seq 1 next is acked in time."""
    script = LedgerScript()
    socket = script.attached()
    seq = script.sequenced(THINKING, 0)
    assert [lost.link for lost in script.overdue(2_001)] == [Link.EMITTER]
    script.ledger.revoked(seq)
    script.sent(COMPLETED, 3_000, socket)
    script.ended(3_004)
    assert not script.settled
    script.acknowledged(socket, 1, 3_005)
    assert dict(count_verdicts(script.ledger)) == {(THINKING, Verdict.MISSING): 1, (COMPLETED, Verdict.IN_TIME): 1}


# --- who follows ----------------------------------------------------------------------------------------------------


def test_without_a_socket_no_event_is_missing_at_socket_or_client() -> None:
    """A user who is away is owed the log's durability, and nothing beyond it."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    assert (script.next_deadline_ns, script.overdue(3_600_000)) == (None, [])
    assert script.ledger.pending == 1


def test_what_is_unacked_is_pending_when_the_last_socket_goes() -> None:
    """With one of two sockets gone the run waits; with both gone its unacked event is pending, and it is settled."""
    script = LedgerScript()
    phone, laptop = script.attached(), script.attached()
    script.sent(STARTED, 0, phone, laptop)
    script.sent(COMPLETED, 10, phone, laptop)
    script.acknowledged(phone, 1, 20)
    script.ended(15)
    script.detached(phone)
    assert (script.ledger.pending, script.settled) == (0, False)
    script.detached(laptop)
    assert (script.ledger.pending, script.settled) == (1, True)
    assert dict(count_verdicts(script.ledger)) == {(STARTED, Verdict.IN_TIME): 1, (COMPLETED, Verdict.NO_SOCKET): 1}


def test_deadlines_count_from_the_moment_at_which_a_socket_carries_the_run() -> None:
    """The user comes back an hour later: the events of before get the full time from then on."""
    script = LedgerScript()
    script.durable(STARTED, 0)
    socket = script.attached(3_600_000)
    assert ns(3_606_000) == script.next_deadline_ns
    script.ledger.replayed(socket, 1, 1, ns(3_600_001), ns(3_600_002))
    assert ns(3_610_002) == script.next_deadline_ns


def test_a_socket_that_takes_over_gets_the_full_time_for_what_another_was_sent() -> None:
    """The first socket goes 9 s after the write; its successor's client is due 10 s after it came."""
    script = LedgerScript()
    first = script.attached()
    script.sent(STARTED, 0, first)
    script.detached(first)
    script.attached(9_000)
    assert script.overdue(18_999) == []
    assert [(lost.link, lost.seq) for lost in script.overdue(19_000)] == [(Link.CLIENT, 1)]


def test_a_second_socket_does_not_postpone_what_the_first_is_due() -> None:
    """Opening tabs must not hide a missing ack."""
    script = LedgerScript()
    script.sent(STARTED, 0, script.attached())
    script.attached(9_000)
    assert ns(10_003) == script.next_deadline_ns


def test_a_client_that_never_acked_anything_is_excused() -> None:
    """Its chain ends at the socket: nothing is missing, and the run is settled at the deadline."""
    script = LedgerScript()
    script.sent(COMPLETED, 0, script.attached(acking=False))
    script.ended(3)
    assert not script.settled
    assert script.overdue(10_003) == []
    assert ([], {1}, True) == (script.ledger.missing, script.ledger.excused, script.settled)


def test_a_client_that_acked_once_owes_every_ack() -> None:
    """The first ack, of this run or of another on the socket, takes the excuse away."""
    script = LedgerScript()
    socket = script.attached(acking=False)
    script.sent(STARTED, 0, socket)
    script.sent(THINKING, 0, socket)
    script.acknowledged(socket, 1, 5)
    assert [(lost.link, lost.seq) for lost in script.overdue(10_003)] == [(Link.CLIENT, 2)]


def test_a_client_that_acks_no_more_but_is_gone_leaves_the_others_excused() -> None:
    """Only sockets that still follow the run count: the one that acked has gone."""
    script = LedgerScript()
    acking, silent = script.attached(), script.attached(acking=False)
    script.sent(STARTED, 0, acking, silent)
    script.detached(acking)
    assert script.overdue(60_000) == []
    assert {1} == script.ledger.excused


# --- the end of a run -----------------------------------------------------------------------------------------------


def test_a_completed_run_owes_the_types_that_its_agent_requires() -> None:
    """Each required type that it did not show is missing at the engine, at its end."""
    script = LedgerScript(required=CRITICAL_TYPES)
    script.durable(STARTED, 0)
    script.durable(COMPLETED, 10)
    script.ended(20)
    expected = [EventType.AGENT_THINKING, EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED]
    assert [Missing(Link.ENGINE, event_type, None, ns(20), ns(20)) for event_type in expected] == script.ledger.missing


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.COMPLETED])
def test_a_run_that_did_not_complete_owes_no_types(outcome: Outcome) -> None:
    """A cancelled or failed run is not asked for what it had no time to show."""
    script = LedgerScript(required=CRITICAL_TYPES)
    script.ended(20, outcome)
    assert script.ledger.missing == []


def test_a_run_is_settled_when_it_ended_and_all_is_acked() -> None:
    """Neither of the two is enough alone, in whichever order they come."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(COMPLETED, 0, socket)
    script.acknowledged(socket, 1, 5)
    assert not script.settled
    script.ended(6)
    assert script.settled


def test_a_run_waits_for_an_event_that_is_on_its_way_to_the_bridge_or_the_log() -> None:
    """An event in flight is settled by arriving or by its deadline, not by nobody following the run."""
    script = LedgerScript()
    script.durable(COMPLETED, 0)
    script.ended(3)
    ordinal = script.emitted(THINKING, 4)
    assert not script.settled
    seq = script.ledger.sequenced(ordinal, ns(5))
    assert not script.settled
    script.ledger.committed(seq, ns(6))
    assert script.settled


def test_a_run_is_settled_when_its_last_event_is_missing() -> None:
    """A deadline settles an event as an ack does."""
    script = LedgerScript()
    script.sent(COMPLETED, 0, script.attached())
    script.ended(3)
    script.overdue(10_003)
    assert script.settled


@pytest.mark.parametrize(("acked_ms", "verdict"), [(2_000, Verdict.IN_TIME), (2_001, Verdict.LATE)])
def test_an_event_acked_within_two_seconds_of_its_engine_stamp_is_in_time(acked_ms: int, verdict: Verdict) -> None:
    """The bound belongs to it."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.acknowledged(socket, 1, acked_ms)
    assert {(STARTED, verdict): 1} == dict(count_verdicts(script.ledger))
    assert acked_ms * 1_000_000 == delivery_max_ns(script.ledger)


def test_every_event_but_a_delta_has_one_verdict() -> None:
    """Deltas are left out; what never got a seq is counted as missing."""
    script = LedgerScript(required=(EventType.TOOL_EXECUTING,))
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    script.sent(DELTA, 10, socket)
    script.sent(COMPLETED, 20, socket)
    script.acknowledged(socket, 2, 30)
    script.ended(24)
    script.overdue(60_000)
    assert dict(count_verdicts(script.ledger)) == {
        (STARTED, Verdict.IN_TIME): 1,
        (COMPLETED, Verdict.MISSING): 1,
        (EventType.TOOL_EXECUTING, Verdict.MISSING): 1,
    }


# --- whatever happens -----------------------------------------------------------------------------------------------

_delays_ms = st.tuples(st.integers(0, 999), st.integers(0, 1_999), st.integers(0, 5_999), st.integers(0, 9_999))


@given(events=st.lists(st.tuples(st.integers(0, 30_000), _delays_ms), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_with_every_link_within_its_deadline_nothing_is_ever_missing(
    events: list[tuple[int, tuple[int, int, int, int]]],
) -> None:
    """However long the pauses between the events, and however often one looks."""
    script = LedgerScript()
    ledger, socket = script.ledger, script.attached()
    steps: list[tuple[int, int, Callable[[int], object]]] = []
    clock = written = acked = 0
    for seq, (pause, (bridge, emitter, send, ack)) in enumerate(events, 1):
        emitted = clock + pause
        sequenced = emitted + bridge
        clock = sequenced + emitter
        written, acked = max(written, clock + send), max(acked, max(written, clock + send) + ack)
        steps += [
            (emitted, seq, partial(ledger.emitted, THINKING)),
            (sequenced, seq, partial(ledger.sequenced, seq)),
            (clock, seq, partial(ledger.committed, seq)),
            (written, seq, partial(ledger.written, socket, seq)),
            (acked, seq, partial(ledger.acknowledged, socket, seq)),
        ]
    for at_ms, _, step in sorted(steps, key=lambda found: found[:2]):
        assert script.overdue(at_ms) == []
        step(ns(at_ms))
    ledger.ended(Outcome.COMPLETED, ns(acked))
    assert settled(ledger)
    assert len(events) == ledger.acked
    assert ledger.missing == []


class AnyRun(RuleBasedStateMachine):
    """A run to which anything can happen that the stations can do, at any pace, with looks at the deadlines between."""

    @initialize(required=st.sets(st.sampled_from(CRITICAL_TYPES), max_size=2))
    def begin(self, required: set[EventType]) -> None:
        self.script = LedgerScript(required=tuple(required))
        self.ledger: RunLedger = self.script.ledger
        self.now = ns(0)
        self.declared: list[Missing] = []
        self.written: dict[int, int] = {}
        self.emits = 0

    def look(self) -> None:
        self.declared += self.script.look_ns(self.now).missing

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 2.5, 7.0, 11.0]), looking=st.booleans())
    def time_passes(self, seconds: float, looking: bool) -> None:
        self.now += int(seconds * 1e9)
        if looking:
            self.look()

    @precondition(lambda self: not self.ledger.ended_ns)
    @rule(event_type=st.sampled_from(EVENT_TYPES))
    def emitted(self, event_type: EventType) -> None:
        self.ledger.emitted(event_type, self.now)
        self.emits += 1

    @precondition(lambda self: self.ledger.waiting and self.ledger.committed_count == self.ledger.last_seq)
    @rule(data=st.data())
    def sequenced(self, data: st.DataObject) -> None:
        ordinal = data.draw(st.sampled_from(sorted(self.ledger.waiting)))
        self.ledger.sequenced(ordinal, self.now)

    @precondition(lambda self: self.ledger.waiting)
    @rule()
    def withdrawn(self) -> None:
        self.ledger.withdrawn(min(self.ledger.waiting))

    @precondition(lambda self: self.ledger.committed_count < self.ledger.last_seq)
    @rule()
    def committed(self) -> None:
        self.ledger.committed(self.ledger.last_seq, self.now)

    @precondition(lambda self: self.ledger.committed_count < self.ledger.last_seq)
    @rule()
    def revoked(self) -> None:
        self.ledger.revoked(self.ledger.last_seq)

    @rule(acking=st.booleans())
    def attached(self, acking: bool) -> None:
        socket = self.ledger.attached(self.now, acking=acking)
        self.written[socket] = self.ledger.committed_count

    @precondition(lambda self: self.ledger.followers)
    @rule(data=st.data())
    def detached(self, data: st.DataObject) -> None:
        self.ledger.detached(data.draw(st.sampled_from(sorted(self.ledger.followers))), self.now)

    @precondition(lambda self: self.behind())
    @rule(data=st.data())
    def written_live(self, data: st.DataObject) -> None:
        socket = data.draw(st.sampled_from(self.behind()))
        self.written[socket] += 1
        self.ledger.written(socket, self.written[socket], self.now)

    def behind(self) -> list[int]:
        """Sockets to which something durable was not written."""
        return [s for s in sorted(self.ledger.followers) if self.written[s] < self.ledger.committed_count]

    @precondition(lambda self: self.ledger.followers and self.ledger.acked < self.ledger.committed_count)
    @rule(data=st.data())
    def replayed(self, data: st.DataObject) -> None:
        socket = data.draw(st.sampled_from(sorted(self.ledger.followers)))
        first = data.draw(st.integers(self.ledger.acked + 1, self.ledger.committed_count))
        self.ledger.replayed(socket, first, self.ledger.committed_count, self.now, self.now)

    @precondition(lambda self: self.ledger.followers and self.ledger.committed_count)
    @rule(data=st.data())
    def acknowledged(self, data: st.DataObject) -> None:
        socket = data.draw(st.sampled_from(sorted(self.ledger.followers)))
        seq = data.draw(st.integers(0, self.ledger.committed_count))
        before = self.ledger.acked
        assert max(0, seq - before) == self.ledger.acknowledged(socket, seq, self.now)

    @precondition(lambda self: not self.ledger.ended_ns and self.ledger.committed_count == self.ledger.last_seq)
    @rule(outcome=st.sampled_from(list(Outcome)))
    def ended(self, outcome: Outcome) -> None:
        before = len(self.ledger.missing)
        self.ledger.ended(outcome, self.now)
        self.declared += self.ledger.missing[before:]

    @invariant()
    def acks_stay_within_what_was_sent(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None:
            assert ledger.acked <= ledger.committed_count <= ledger.last_seq

    @invariant()
    def no_event_is_declared_missing_twice(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None:
            assert len(self.declared) == len(ledger.missing)
            seqs = Counter(lost.seq for lost in ledger.missing if lost.seq is not None)
            assert [seq for seq, count in seqs.items() if count > 1] == []
            assert sum(lost.link is not Link.ENGINE for lost in ledger.missing) <= self.emits

    @invariant()
    def a_run_that_ended_with_all_acked_is_settled(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None and ledger.ended_ns and not ledger.waiting:
            assert ledger.acked < ledger.last_seq or settled(ledger)

    @invariant()
    def only_a_run_that_ended_is_settled(self) -> None:
        ledger = getattr(self, "ledger", None)
        assert ledger is None or not settled(ledger) or ledger.ended_ns

    @invariant()
    def no_deadline_is_left_behind_after_a_look(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None:
            self.look()
            due = self.script.next_deadline_ns
            assert due is None or due > self.now

    def teardown(self) -> None:
        """Once every deadline has passed, a run that ended is settled, and each event has one verdict."""
        ledger = getattr(self, "ledger", None)
        if ledger is None:
            return
        if not ledger.ended_ns:
            ledger.ended(Outcome.CANCELLED, self.now)
        for _ in range(3):
            self.now += 60_000_000_000
            self.look()
        assert settled(ledger)
        verdicts = count_verdicts(ledger)
        counted = sum(not ledger.is_delta(seq) for seq in range(1, ledger.last_seq + 1))
        lost = sum(lost.seq is None and lost.event_type is not DELTA for lost in ledger.missing)
        assert counted + lost == sum(verdicts.values())


def test_whatever_happens_to_a_run_its_ledger_adds_up() -> None:
    """Random interleavings of everything that the stations do; the invariants are those of the machine above."""
    run_state_machine_as_test(AnyRun, settings=settings(max_examples=80, stateful_step_count=40, deadline=None))
