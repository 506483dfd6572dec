"""Each link is seen to be broken: the wiring checks and the suites' own checks catch every fault, and name its link."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from support.agents import known_agents
from support.chain_checks import (
    WITHIN_SECONDS,
    BrokenChainError,
    s01_a_signed_in_user_runs_an_agent,
    s02_the_factories_hand_off,
    s04_no_silent_failure,
    s08_three_users_from_one_factory,
    s14_the_complete_chain,
)
from support.faults import FAULTS, Fault
from support.servers import ServerUnderTest, server_under_test
from tracewire import wiring
from tracewire.wiring import WiringCheck, broken, check_wiring

SILENT_SECONDS = 1.0
"""How long to wait for what does not come."""
Scenario = Callable[..., Awaitable[None]]

SCENARIOS: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "s01": (s01_a_signed_in_user_runs_an_agent, {"user_id": "user-s01"}),
    "s02": (s02_the_factories_hand_off, {"user_ids": ("user-s02a", "user-s02b")}),
    "s04": (s04_no_silent_failure, {"user_id": "user-s04"}),
    "s08": (s08_three_users_from_one_factory, {"user_ids": ("user-s08a", "user-s08b", "user-s08c")}),
    "s14": (s14_the_complete_chain, {"user_id": "user-s14"}),
}
NO_SOCKET = frozenset({"s02"})


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A server on which an event counts as missing half a second after it was due at a socket or from a client."""
    async with server_under_test(
        tmp_path / "data",
        agents=known_agents(),
        outbox_age_seconds=0.2,
        bridge_deadline_seconds=0.25,
        emitter_deadline_seconds=30,
        socket_deadline_seconds=0.5,
        client_deadline_seconds=0.5,
    ) as server:
        yield server


async def side_by_side(
    server: ServerUnderTest, scenarios: Iterable[str], *, within_seconds: float
) -> tuple[list[WiringCheck], list[BaseException | None]]:
    """The wiring checks, and what each of the scenarios raises, all at the same time on one server."""
    outcomes = asyncio.gather(*(outcome_of(name, server, within_seconds) for name in scenarios))
    return await check_wiring(server.server), await outcomes


async def outcome_of(scenario: str, server: ServerUnderTest, within_seconds: float) -> BaseException | None:
    """What the scenario raises on this server."""
    function, arguments = SCENARIOS[scenario]
    try:
        await function(server, **arguments, **({} if scenario in NO_SOCKET else {"within_seconds": within_seconds}))
    except Exception as error:  # noqa: BLE001 # what it is, the test asks
        return error
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_is_caught_and_its_link_named(
    fault: Fault, quick: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wiring checks name the broken link and reach none behind it; each scenario that needs the link goes red.

    A fault that shows only in a run is caught by the payloads and by the trace, each on its own.
    """
    swallowed = fault.check == "L6" or not fault.during_run
    within_seconds = SILENT_SECONDS if swallowed else WITHIN_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(wiring, "DELIVERY_SECONDS", within_seconds)
        fault.break_it(patch, quick.server)
        checks, outcomes = await side_by_side(quick, fault.scenarios, within_seconds=within_seconds)
    assert fault.check == broken(checks), [check.line for check in checks]
    number = int(fault.check[1])
    assert [True] * (number - 1) + [False] + [None] * (6 - number) == [check.holds for check in checks]
    named = dict(zip(fault.scenarios, map(named_link, outcomes), strict=True))
    assert dict.fromkeys(fault.scenarios, fault.check) == named, outcomes
    if fault.during_run:
        for outcome in outcomes:
            assert isinstance(outcome, BrokenChainError)
            assert {"payload", "trace"} <= outcome.seen_in, outcome


def named_link(outcome: BaseException | None) -> str | None:
    """The link that a scenario named; what else it did, in words."""
    return outcome.check if isinstance(outcome, BrokenChainError) else repr(outcome)


async def test_without_a_fault_everything_holds(chain: ServerUnderTest) -> None:
    """Side by side on one server, as under a fault, the checks and all scenarios hold."""
    checks, outcomes = await side_by_side(chain, SCENARIOS, within_seconds=WITHIN_SECONDS)
    assert [check.holds for check in checks] == [True] * 6, [check.line for check in checks]
    assert [None] * len(SCENARIOS) == outcomes


def test_every_link_and_every_scenario_has_a_fault() -> None:
    """The table leaves no link and no scenario out."""
    assert {f"L{number}" for number in range(1, 7)} == {fault.check for fault in FAULTS}
    assert set(SCENARIOS) == {name for fault in FAULTS for name in fault.scenarios}
    assert len(FAULTS) == len({str(fault) for fault in FAULTS})
