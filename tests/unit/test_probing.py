"""What a probe concludes from what its client saw and what the ledger says."""

from typing import Any

import pytest

from tracewire.client import ConnectionFailedError
from tracewire.probing import Broken, Went, _checks, _named, judge
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, LINKS, Link

FIVE = [event_type.value for event_type in CRITICAL_TYPES]


def ledger_of(*types: str, **changes: Any) -> dict[str, Any]:
    """The ledger of a run of these events, each of which has crossed every link."""
    stamps = {link.value: 1.0 for link in LINKS}
    rows = [{"seq": seq, "type": event_type, **stamps} for seq, event_type in enumerate(types or FIVE, start=1)]
    return {"events": rows, "waiting": [], "missing": [], "settled": True} | changes


def stopped_at(link: str, seq: int) -> dict[str, Any]:
    """The ledger of a run whose event has not crossed this link, nor any behind it."""
    ledger = ledger_of()
    behind = [one.value for one in LINKS][[one.value for one in LINKS].index(link) :]
    ledger["events"][seq - 1] |= dict.fromkeys(behind)
    return ledger


def went(*order: str, **changes: Any) -> Went:
    """A run that brought its client these events, and ended well."""
    seen = list(order or FIVE)
    values = {"receipt_agrees": True, "receipt": None, "ended_badly": None, "trouble": None} | changes
    return Went(seen, {name: seen.count(name) for name in seen}, **values)


def test_a_run_that_went_the_whole_way_is_not_broken() -> None:
    """Every link has a line that says so."""
    assert judge(went(), ledger_of()) is None
    checks = _checks(None, ledger_of())
    assert [(link, True) for link in LINKS] == [(check.link, check.holds) for check in checks]
    assert "socket  ok     they are written to the socket: 5 of 5 events" in [check.line for check in checks]


@pytest.mark.parametrize("link", [link.value for link in LINKS])
@pytest.mark.parametrize("seq", [1, 3, 5])
def test_the_first_link_without_a_stamp_is_named(link: str, seq: int) -> None:
    """With the event that it has not taken; those behind it were not reached."""
    ledger = stopped_at(link, seq)
    broken = judge(went(*FIVE[: seq - 1], trouble="no terminal event within 20 s"), ledger)
    assert broken is not None
    assert (Link(link), True) == (broken.link, f"{FIVE[seq - 1]} (seq {seq})" in broken.why)
    assert "no terminal event within 20 s" in broken.why
    holds = [check.holds for check in _checks(broken, ledger)]
    before = [one.value for one in LINKS].index(link)
    assert [True] * before + [False] + [None] * (4 - before) == holds


def test_an_event_that_waits_for_its_seq_is_the_bridges() -> None:
    """Emitted and not sequenced, whatever became of the run."""
    for changes in ({"trouble": "no terminal event within 20 s"}, {"ended_badly": "internal error: AttributeError"}):
        broken = judge(went(**changes), ledger_of("agent_error", waiting=["agent_started"]))
        assert broken is not None
        assert (Link.BRIDGE, True) == (broken.link, next(iter(changes.values())) in broken.why)


CASES: dict[str, tuple[Went, dict[str, Any], Link, str]] = {
    "never emitted": (
        went(*FIVE[:2]),
        ledger_of(*FIVE[:2]),
        Link.ENGINE,
        "the agent emitted no tool_executing",
    ),
    "stamped everywhere, and not there": (
        went(*FIVE[:2], *FIVE[3:]),
        ledger_of(),
        Link.CLIENT,
        "tool_executing did not arrive",
    ),
    "lost connection": (
        went(trouble=ConnectionFailedError("closed with 1006")),
        ledger_of(),
        Link.CLIENT,
        "the connection was lost: closed with 1006",
    ),
    "out of order": (
        went(*FIVE[1:4], FIVE[0], FIVE[4]),
        ledger_of(),
        Link.BRIDGE,
        "the first event is agent_thinking, the last agent_completed",
    ),
    "receipt": (
        went(receipt_agrees=False),
        ledger_of(),
        Link.CLIENT,
        "the receipt says None, there came",
    ),
    "late": (
        went(),
        ledger_of(missing=[{"link": "emitter", "event_type": "agent_thinking"}]),
        Link.EMITTER,
        "agent_thinking was missing there, and came after its deadline",
    ),
    "not settled": (went(), ledger_of(settled=False), Link.CLIENT, "the run is not settled"),
    "failed": (went(ended_badly="the run ended with agent_error"), ledger_of(), Link.ENGINE, "ended with agent_error"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_else_does_not_hold_is_told_with_its_link(case: str) -> None:
    """What no missing stamp shows."""
    seen, ledger, link, why = CASES[case]
    broken = judge(seen, ledger)
    assert broken is not None
    assert (link, True) == (broken.link, why in broken.why)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (Broken(Link.ENGINE, "internal error: L1: not configured"), (Link.ENGINE, "L1")),
        (Broken(Link.ENGINE, "could not start: L3: no bridge"), (Link.BRIDGE, "L3")),
        (Broken(Link.ENGINE, "internal error: L4: no emitter"), (Link.EMITTER, "L4")),
        (Broken(Link.ENGINE, "the agent emitted no agent_thinking"), (Link.ENGINE, None)),
        (Broken(Link.EMITTER, "not durable"), (Link.EMITTER, "L5")),
        (Broken(Link.SOCKET, "not written"), (Link.SOCKET, "L6")),
        (Broken(Link.CLIENT, "not acked"), (Link.CLIENT, "L6")),
        (Broken(None, "nothing listens there"), (None, None)),
    ],
)
def test_the_wiring_check_is_the_servers_or_that_of_the_link(
    broken: Broken, expected: tuple[Link | None, str | None]
) -> None:
    """A joint that the server names says more than what was missing behind it."""
    named = _named(broken)
    assert expected == (named.link, named.check)
