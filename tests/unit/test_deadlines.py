"""Every way in which an event can be missing, and every way in which it only seems to be, under a virtual clock."""

import pytest

from tracewire_telemetry.deadlines import came
from tracewire_telemetry.ledger import Missing
from tracewire_telemetry.limits import EngineDeadlines, LinkDeadlines
from tracewire_telemetry.verdicts import count_verdicts
from tracewire_telemetry.vocabulary import NEXT, EventType, Link, Outcome, Verdict
from unit.ledgers import LedgerScript, ns

STARTED, THINKING, COMPLETED = EventType.AGENT_STARTED, EventType.AGENT_THINKING, EventType.AGENT_COMPLETED
EXECUTING, TOOL_COMPLETED = EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED
ENGINE = EngineDeadlines(start_seconds=5, idle_seconds=60, tool_seconds=30)


def named(found: list[Missing]) -> list[tuple[Link, str, int | None]]:
    """Where what is missing."""
    return [(lost.link, lost.event_type, lost.seq) for lost in found]


# --- the engine -----------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_start_in_time_lacks_agent_started() -> None:
    """Counted from its record; once; and it has come when it is emitted, however late."""
    script = LedgerScript(engine=ENGINE)
    assert script.overdue(4_999) == []
    [lost] = script.overdue(5_000)
    assert named([lost]) == [(Link.ENGINE, "agent_started", None)]
    assert (script.overdue(900_000), came(script.ledger, lost)) == ([], 0)
    script.durable(STARTED, 900_001)
    assert came(script.ledger, lost) == ns(900_001)
    assert dict(count_verdicts(script.ledger)) == {(STARTED, Verdict.NO_SOCKET): 1}


def test_a_run_that_starts_in_time_lacks_nothing() -> None:
    """On the last nanosecond too."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 4_990)
    assert script.overdue(5_000) == []


def test_an_agent_that_falls_silent_lacks_whatever_comes_next() -> None:
    """60 s after its last event; what comes then, of any type, ends the silence; a second one is another."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 0)
    assert script.overdue(60_001) == []
    [first] = script.overdue(60_002)
    assert named([first]) == [(Link.ENGINE, NEXT, None)]
    assert script.overdue(200_000) == []
    script.durable(THINKING, 300_000)
    assert came(script.ledger, first) == ns(300_000)
    assert script.overdue(360_001) == []
    assert named(script.overdue(360_002)) == [(Link.ENGINE, NEXT, None)]


def test_a_run_that_ended_is_not_silent() -> None:
    """Whatever its clients still owe."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 0)
    script.durable(COMPLETED, 10)
    script.ended(20)
    assert script.overdue(3_600_000) == []


def test_an_agent_that_waits_for_its_user_is_not_silent() -> None:
    """For an hour; its clock runs from the answer on."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 0)
    script.durable(EventType.INPUT_REQUIRED, 10)
    script.ledger.input_awaited(True, ns(12))
    assert script.overdue(3_600_000) == []
    script.ledger.input_awaited(False, ns(3_600_000))
    assert script.overdue(3_659_999) == []
    assert named(script.overdue(3_660_000)) == [(Link.ENGINE, NEXT, None)]


def test_a_tool_that_executes_is_activity_until_its_own_deadline() -> None:
    """A tool of 89 s under a deadline of 30 s has ended with `timeout`, or its agent does not listen."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 0)
    script.durable(EXECUTING, 10)
    assert script.overdue(90_009) == []
    assert named(script.overdue(90_010)) == [(Link.ENGINE, NEXT, None)]


def test_of_two_tools_the_one_that_began_last_counts() -> None:
    """The first has ended, the second goes on."""
    script = LedgerScript(engine=ENGINE)
    script.durable(EXECUTING, 0)
    script.durable(EXECUTING, 20_000)
    script.durable(TOOL_COMPLETED, 25_000)
    assert script.overdue(109_999) == []
    assert named(script.overdue(110_000)) == [(Link.ENGINE, NEXT, None)]


def test_an_agent_that_waits_for_the_bridge_or_the_log_is_not_silent() -> None:
    """What it emitted is missing further on, and that is one incident, not two."""
    script = LedgerScript(engine=ENGINE)
    script.durable(STARTED, 0)
    script.emitted(THINKING, 10)
    assert named(script.overdue(3_600_000)) == [(Link.BRIDGE, "agent_thinking", None)]


def test_an_event_that_waits_for_its_turn_at_the_bridge_is_not_late_by_those_before_it() -> None:
    """Three tools begin at once, and each commit takes 900 ms: the last is the bridge's to take when its turn comes."""
    script = LedgerScript()
    first, second, third = (script.emitted(EXECUTING, 0) for _ in range(3))
    for ordinal, at_ms in ((first, 0), (second, 900)):
        seq = script.ledger.sequenced(ordinal, ns(at_ms))
        assert script.overdue(at_ms + 899) == []
        script.ledger.committed(seq, ns(at_ms + 900))
    assert script.overdue(2_799) == []
    assert named(script.overdue(2_800)) == [(Link.BRIDGE, "tool_executing", None)]
    script.ledger.sequenced(third, ns(2_900))


def test_a_type_that_is_on_its_way_at_the_end_is_not_owed_by_the_engine() -> None:
    """It is the bridge's."""
    script = LedgerScript(engine=ENGINE, required=(STARTED, THINKING))
    script.durable(STARTED, 0)
    script.emitted(THINKING, 10)
    assert script.ledger.ended(Outcome.COMPLETED, ns(20)) == []
    assert named(script.overdue(1_010)) == [(Link.BRIDGE, "agent_thinking", None)]


def test_a_required_type_that_never_was_emitted_cannot_come_any_more() -> None:
    """The run is settled with it."""
    script = LedgerScript(required=(THINKING,))
    script.durable(COMPLETED, 0)
    [lost] = script.ledger.ended(Outcome.COMPLETED, ns(20))
    assert (named([lost]), came(script.ledger, lost), script.settled) == (
        [(Link.ENGINE, "agent_thinking", None)],
        0,
        True,
    )


# --- liveness before blame ------------------------------------------------------------------------------------------


def unacked() -> tuple[LedgerScript, int]:
    """An event written at 3 ms, and never acked; the script and the socket."""
    script = LedgerScript()
    socket = script.attached()
    script.sent(STARTED, 0, socket)
    return script, socket


def test_a_socket_that_showed_life_since_the_write_is_blamed_at_the_deadline() -> None:
    """It was there in the last second, and another one later it has not acked."""
    script, socket = unacked()
    script.life[socket] = ns(9_004)
    assert (script.look(10_003).missing, script.look(10_003).ping) == ([], set())
    found = script.look(10_004)
    assert (named(found.missing), found.blamed) == ([(Link.CLIENT, "agent_started", 1)], {socket})


def test_a_socket_that_showed_no_life_since_the_write_is_asked_first() -> None:
    """Nothing is missing yet, and it is asked once. What showed life early may have stood still ever since."""
    script, socket = unacked()
    script.life[socket] = ns(9_003)
    found = script.look(10_003)
    assert (found.missing, found.ping, found.blamed, found.dead) == ([], {socket}, set(), set())
    assert script.look(10_253).ping == set()


def test_a_socket_that_answers_and_does_not_ack_is_blamed_as_soon_as_that_is_seen() -> None:
    """Its answer is looked for a quarter of a second after the question. From it on the client has a second to ack."""
    script, socket = unacked()
    script.life[socket] = ns(3)
    assert script.look(10_003).due_ns == ns(10_253)
    script.life[socket] = ns(10_010)
    assert (script.look(10_253).missing, script.look(10_254).due_ns) == ([], ns(11_010))
    assert named(script.look(11_010).missing) == [(Link.CLIENT, "agent_started", 1)]


@pytest.mark.parametrize("woken_ms", [9_990, 14_900])
def test_a_client_that_stood_still_and_acks_as_soon_as_it_goes_on_misses_nothing(woken_ms: int) -> None:
    """Its pong comes before its ack, also where its process is continued just before it would be blamed, or cut."""
    script, socket = unacked()
    script.life[socket] = ns(3) if woken_ms > 10_003 else ns(woken_ms)
    found = script.look(10_003)
    script.life[socket] = ns(woken_ms)
    looked_ms = max(10_003, woken_ms + 50)
    assert (found.missing, script.overdue(looked_ms)) == ([], [])
    script.acknowledged(socket, 1, woken_ms + 500)
    assert (script.overdue(3_600_000), script.ledger.missing) == ([], [])


def test_a_client_that_goes_on_showing_life_wins_no_time_by_it() -> None:
    """The moment that it has to ack is counted from the first sign that was seen."""
    script, socket = unacked()
    script.life[socket] = ns(10_000)
    assert script.overdue(10_003) == []
    script.life[socket] = ns(10_900)
    assert script.overdue(10_999) == []
    assert named(script.overdue(11_000)) == [(Link.CLIENT, "agent_started", 1)]


def test_a_socket_that_stays_silent_for_five_seconds_is_dead_and_its_events_are_pending() -> None:
    """Not a nanosecond earlier; nothing is missing then."""
    script, socket = unacked()
    script.life[socket] = ns(3)
    script.look(10_003)
    assert script.look_ns(ns(15_003) - 1).dead == set()
    found = script.look(15_003)
    assert (found.missing, found.dead) == ([], {socket})
    script.detached(socket, 15_003)
    assert (script.overdue(3_600_000), script.ledger.pending, script.ledger.missing) == ([], 1, [])


def test_of_two_sockets_the_one_that_is_alive_is_blamed() -> None:
    """An ack by any counts for the user, so that nobody waits for the dead one."""
    script = LedgerScript()
    dead, alive = script.attached(), script.attached()
    script.sent(STARTED, 0, dead, alive)
    script.life |= {dead: ns(1), alive: ns(9_010)}
    script.look(10_003)
    found = script.look(10_010)
    assert (len(found.missing), found.blamed, found.ping) == (1, {alive}, set())


def test_a_client_that_never_acked_is_neither_asked_nor_blamed() -> None:
    """It is named once as one that does not ack."""
    script = LedgerScript()
    socket = script.attached(acking=False)
    script.sent(STARTED, 0, socket)
    script.life[socket] = 0
    found = script.look(10_003)
    assert (found.missing, found.ping, found.excused) == ([], set(), {socket})


def test_a_count_that_differs_is_a_missing_event_at_the_client() -> None:
    """One at a time; it heals by a count that is right, which the watch sees."""
    script, socket = unacked()
    script.acknowledged(socket, 1, 5)
    lost = script.ledger.counted_otherwise(1, ns(5))
    assert lost is not None
    assert named([lost]) == [(Link.CLIENT, "agent_started", 1)]
    assert script.ledger.counted_otherwise(1, ns(6)) is None
    assert came(script.ledger, lost) == 0
    script.ledger.miscounted = None
    assert came(script.ledger, lost) == ns(5)


# --- what came after all --------------------------------------------------------------------------------------------


def test_an_event_has_come_when_it_is_acked() -> None:
    """Being written is not enough where somebody can ack."""
    script = LedgerScript()
    socket = script.attached()
    script.durable(STARTED, 0)
    [lost] = script.overdue(6_002)
    script.ledger.written(socket, 1, ns(7_000))
    assert came(script.ledger, lost) == 0
    script.acknowledged(socket, 1, 7_500)
    assert came(script.ledger, lost) == ns(7_500)


def test_where_nobody_can_ack_an_event_has_come_when_it_is_written() -> None:
    """The reader's chain ends there."""
    script = LedgerScript()
    socket = script.ledger.attached(ns(0), reader=True)
    script.durable(STARTED, 0)
    [lost] = script.overdue(6_002)
    script.ledger.written(socket, 1, ns(7_000))
    assert came(script.ledger, lost) == ns(7_000)


@pytest.mark.parametrize("link", [Link.BRIDGE, Link.EMITTER])
def test_where_nobody_follows_an_event_has_come_when_it_is_durable(link: Link) -> None:
    """It is pending then, as any other of that user's."""
    script = LedgerScript()
    ordinal = script.emitted(STARTED, 0)
    if link is Link.EMITTER:
        script.ledger.sequenced(ordinal, ns(1))
    [lost] = script.overdue(2_001)
    assert lost.link is link
    if link is Link.BRIDGE:
        script.ledger.sequenced(ordinal, ns(3_000))
    script.ledger.committed(1, ns(4_000))
    assert came(script.ledger, lost) == ns(4_000)


def test_an_event_that_was_refused_after_its_deadline_never_comes() -> None:
    """Its caller was told, and the next of its seq is another one."""
    script = LedgerScript()
    seq = script.sequenced(THINKING, 0)
    [lost] = script.overdue(2_001)
    script.ledger.revoked(seq)
    script.sent(COMPLETED, 3_000, script.attached(3_000))
    script.acknowledged(1, 1, 3_100)
    assert (lost.seq, came(script.ledger, lost)) == (None, 0)


# --- a process that stood still -------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [Link.BRIDGE, Link.EMITTER, Link.SOCKET, Link.CLIENT])
def test_nobody_is_late_by_the_time_in_which_the_process_stood_still(link: Link) -> None:
    """Two seconds of it: each deadline is two seconds later, and holds then."""
    script = LedgerScript(deadlines=LinkDeadlines(1, 1, 1, 1))
    socket = script.attached()
    if link is Link.BRIDGE:
        script.emitted(STARTED, 0)
    elif link is Link.EMITTER:
        script.sequenced(STARTED, -1)
    elif link is Link.SOCKET:
        script.durable(STARTED, -2)
    else:
        script.sent(STARTED, -3, socket)
    script.stalled_ns = 2_000_000_000
    assert script.overdue(2_999) == []
    assert [lost.link for lost in script.overdue(3_000)] == [link]
