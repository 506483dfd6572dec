"""Who gets a drill: one run of its user, of its agent, by its id, in time, once."""

import asyncio

import pytest

from tracewire.drills import ARMED_SECONDS, Drills, DrillState
from tracewire.errors import RejectedError
from tracewire_telemetry.vocabulary import EventType, Link, Origin, RejectCode
from unit.ledgers import OPENED_NS, LedgerScript

THINKING = EventType.AGENT_THINKING
EXPIRED_NS = OPENED_NS + int(ARMED_SECONDS * 1_000_000_000)
WAIT_SECONDS = 20


def drill_run(**changes: str) -> LedgerScript:
    """The ledger of a run, the drill's own unless something of it is changed."""
    return LedgerScript(**({"user_id": "drill", "agent": "drill"} | changes))


def test_a_drill_is_given_to_its_run_once() -> None:
    """From then on it is under way, and nobody else gets it, not even the same request again."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    run = drill_run()
    assert drills.take(drill.drill_id, run.ledger, OPENED_NS) is drill
    assert (DrillState.RUNNING, run.ledger) == (drill.state(OPENED_NS), drill.ledger)
    assert drills.take(drill.drill_id, drill_run().ledger, OPENED_NS) is None


@pytest.mark.parametrize(
    "changes", [{"user_id": "ada"}, {"user_id": "drill2"}, {"user_id": "Drill"}, {"agent": "five"}]
)
def test_a_run_of_another_user_or_agent_gets_no_drill_even_by_its_id(changes: dict[str, str]) -> None:
    """And it stays armed for whom it was armed."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    assert drills.take(drill.drill_id, drill_run(**changes).ledger, OPENED_NS) is None
    assert DrillState.ARMED is drill.state(OPENED_NS)


def test_another_request_of_the_drills_user_gets_no_drill() -> None:
    """The id is what only who armed it knows."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    assert drills.take("drill-", drill_run().ledger, OPENED_NS) is None
    assert DrillState.ARMED is drill.state(OPENED_NS)


def test_a_drill_whose_run_does_not_come_is_over_and_makes_room() -> None:
    """Until then another one is refused, and told when to come back."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    with pytest.raises(RejectedError, match="another drill is under way") as refused:
        drills.arm(THINKING, Link.CLIENT, EXPIRED_NS - 1)
    assert (RejectCode.RATE_LIMITED, ARMED_SECONDS) == (refused.value.reject_code, refused.value.retry_after_seconds)
    assert DrillState.OVER is drill.state(EXPIRED_NS)
    assert drills.take(drill.drill_id, drill_run().ledger, EXPIRED_NS) is None
    assert drills.arm(THINKING, Link.CLIENT, EXPIRED_NS).link is Link.CLIENT
    assert drills.find(drill.drill_id) is None


def test_a_drill_is_over_when_its_run_is_settled() -> None:
    """Before that its client may still be healing."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    run = drill_run()
    drills.take(drill.drill_id, run.ledger, OPENED_NS)
    with pytest.raises(RejectedError):
        drills.arm(THINKING, Link.SOCKET, EXPIRED_NS)
    run.ledger.settled_ns = EXPIRED_NS
    assert DrillState.OVER is drill.state(EXPIRED_NS)
    drills.arm(THINKING, Link.SOCKET, EXPIRED_NS)


def test_the_deliveries_of_a_drills_run_do_not_count_against_the_objective() -> None:
    """They are the service's own; those of any other run are the user's."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.SOCKET, OPENED_NS)
    own, other = drill_run(), drill_run()
    drills.take("another", other.ledger, OPENED_NS)
    drills.take(drill.drill_id, own.ledger, OPENED_NS)
    assert (Origin.CANARY, Origin.USER) == (own.ledger.identity.origin, other.ledger.identity.origin)


async def test_an_event_is_lost_once_and_held_until_it_was_noticed_at_its_link() -> None:
    """What is missing at another link is not this drill's; and a run that is stopped is let go at once."""
    drills = Drills()
    drill = drills.arm(THINKING, Link.EMITTER, OPENED_NS)
    ledger = drill_run().ledger
    drills.take(drill.drill_id, ledger, OPENED_NS)
    assert [drill.loses(THINKING, link) for link in (Link.EMITTER, Link.BRIDGE)] == [True, False]
    assert not drill.loses(EventType.AGENT_STARTED, Link.EMITTER)
    held = asyncio.create_task(drill.hold())
    await asyncio.sleep(0)
    assert not drill.loses(THINKING, Link.EMITTER)
    ledger.never_emitted("next", OPENED_NS, OPENED_NS)
    done, _ = await asyncio.wait({held}, timeout=0.2)
    assert done == set()
    drill.stopped = lambda: True
    await asyncio.wait_for(held, WAIT_SECONDS)
    assert drill.lost_unix_ns is not None
    assert drill.noticed_unix_ns is None
