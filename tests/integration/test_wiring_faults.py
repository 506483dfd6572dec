"""Each link is seen to be broken: the wiring checks and every scenario S1 to S16 that needs the link catch the fault.

What is caught is put into a table, link by scenario (`-s` shows it). Scenarios that look at a server process have the
fault put into a process of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
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
from support.factory_scenarios import (
    s03_every_dependency_of_the_emitter,
    s09_many_emitters_at_once,
    s10_the_same_for_every_user,
    s11_the_shared_engine_delegates,
    s12_one_way_to_an_engine,
    s13_configuration_goes_down_the_chain,
    s16_the_architecture,
)
from support.faults import FAULTS, Fault
from support.served_chain import served_chain
from support.served_scenarios import (
    s05_one_run_over_a_real_socket,
    s06_two_users_side_by_side,
    s07_the_delivery_score_is_whole,
    s15_premium_users_at_once,
)
from support.servers import ServerUnderTest, server_under_test
from tracewire import wiring
from tracewire.wiring import WiringCheck, broken, check_wiring

SILENT_SECONDS = 1.0
"""How long to wait for what does not come."""
TOLD_LINES = 15
Scenario = Callable[..., Awaitable[Any]]
Outcomes = dict[str, BaseException | None]

SCENARIOS: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "s01": (s01_a_signed_in_user_runs_an_agent, {"user_id": "user-s01"}),
    "s02": (s02_the_factories_hand_off, {"user_ids": ("user-s02a", "user-s02b")}),
    "s03": (s03_every_dependency_of_the_emitter, {"user_id": "user-s03"}),
    "s04": (s04_no_silent_failure, {"user_id": "user-s04"}),
    "s08": (s08_three_users_from_one_factory, {"user_ids": ("user-s08a", "user-s08b", "user-s08c")}),
    "s09": (s09_many_emitters_at_once, {}),
    "s10": (s10_the_same_for_every_user, {}),
    "s11": (s11_the_shared_engine_delegates, {"user_id": "user-s11"}),
    "s12": (s12_one_way_to_an_engine, {"user_id": "user-s12"}),
    "s13": (s13_configuration_goes_down_the_chain, {"user_id": "user-s13"}),
    "s14": (s14_the_complete_chain, {"user_id": "user-s14"}),
    "s16": (s16_the_architecture, {"user_id": "user-s16"}),
}
SERVED: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "s05": (s05_one_run_over_a_real_socket, {"timed": False}),  # beside three others
    "s06": (s06_two_users_side_by_side, {}),
    "s07": (s07_the_delivery_score_is_whole, {}),
    "s15": (s15_premium_users_at_once, {"users": 6}),
}
NO_SOCKET = frozenset({"s02", "s09", "s10", "s12"})
SERVED_FAULTS = (
    "L1-emitter_factory_without_connections",
    "L2-no_engine",
    "L3-no_bridge",
    "L4-no_emitter",
    "L5-quiet_emit_tool_completed",
    "L6-writes_are_swallowed",
)
LINKS = tuple(f"L{number}" for number in range(1, 7))
BY_NAME = {str(fault): fault for fault in FAULTS}

# What a fault does to the scenarios, once a run of the tests.


class Caught:
    """What each fault did: the wiring checks of the server in which it was, and what each scenario that needs its link
    raised. `None` for the fault is a chain that nothing is broken of.
    """

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._here: dict[Fault | None, tuple[list[WiringCheck], Outcomes]] = {}
        self._served: dict[Fault | None, Outcomes] = {}

    async def here(self, fault: Fault | None) -> tuple[list[WiringCheck], Outcomes]:
        """In a server of this process."""
        if fault not in self._here:
            async with server_of(self._folders.mktemp("here") / "data", fault) as server:
                self._here[fault] = await self._break(server, fault)
        return self._here[fault]

    async def _break(self, server: ServerUnderTest, fault: Fault | None) -> tuple[list[WiringCheck], Outcomes]:
        if fault is None:
            return await side_by_side(server, SCENARIOS, within_seconds=WITHIN_SECONDS)
        within_seconds = patience_seconds(fault)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wiring, "DELIVERY_SECONDS", within_seconds)
            fault.break_it(patch, server.server)
            names = [name for name in fault.scenarios if name in SCENARIOS]
            return await side_by_side(server, names, within_seconds=within_seconds)

    async def served(self, fault: Fault | None) -> Outcomes:
        """In a server process."""
        if fault not in self._served:
            folder = self._folders.mktemp("served")
            within_seconds = {"within_seconds": patience_seconds(fault)} if fault is not None else {}
            async with served_chain(folder, fault=str(fault) if fault is not None else None) as chain:
                names = [name for name in SERVED if fault is None or name in fault.scenarios]
                outcomes = [outcome_of(SERVED[name], chain, **within_seconds) for name in names]
                self._served[fault] = dict(zip(names, await asyncio.gather(*outcomes), strict=True))
        return self._served[fault]


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Caught:
    """What was found out in this run of the tests."""
    return Caught(tmp_path_factory)


def patience_seconds(fault: Fault) -> float:
    """How long to wait for an event: what breaks before the socket is told over it, and what swallows it is silent."""
    return SILENT_SECONDS if fault.check == "L6" else WITHIN_SECONDS


def server_of(data_dir: Path, fault: Fault | None) -> AbstractAsyncContextManager[ServerUnderTest]:
    """A server. Where a fault is put in, an event that no client acks counts as missing after half a second.

    The other deadlines are far off where nothing is to be missed by them: a busy machine is slow, and not broken.
    """
    deadlines: dict[str, float] = {}
    if fault is not None:
        deadlines |= {"client_deadline_seconds": 0.5, "bridge_deadline_seconds": 30, "emitter_deadline_seconds": 30}
        deadlines |= {"heal_deadline_seconds": 0}
    if fault is not None and fault.check == "L6":
        deadlines |= {"outbox_age_seconds": 1, "socket_deadline_seconds": 1.2}
    return server_under_test(data_dir, agents=known_agents(), **deadlines)


async def side_by_side(
    server: ServerUnderTest, names: Iterable[str], *, within_seconds: float
) -> tuple[list[WiringCheck], Outcomes]:
    """The wiring checks, and what each of the scenarios raises, all at the same time on one server."""
    chosen = list(names)
    outcomes = asyncio.gather(
        *(
            outcome_of(SCENARIOS[name], server, **({} if name in NO_SOCKET else {"within_seconds": within_seconds}))
            for name in chosen
        )
    )
    checks = await check_wiring(server.server)
    return checks, dict(zip(chosen, await outcomes, strict=True))


async def outcome_of(scenario: tuple[Scenario, dict[str, Any]], chain: Any, **arguments: Any) -> BaseException | None:
    """What the scenario raises on this chain."""
    function, own_arguments = scenario
    try:
        await function(chain, **own_arguments, **arguments)
    except Exception as error:  # noqa: BLE001 # what it is, the test asks
        return error
    return None


def named_link(outcome: BaseException | None) -> str | None:
    """The link that a scenario named; what else it did, in words."""
    return outcome.check if isinstance(outcome, BrokenChainError) else repr(outcome)


def told(outcomes: Outcomes) -> list[str]:
    """The scenarios that are red, each with the beginning of what it raised: a summary of many tests shows no more."""
    return [
        "\n".join([f"{name}: {type(outcome).__name__}", *str(outcome).splitlines()[:TOLD_LINES]])
        for name, outcome in outcomes.items()
        if outcome is not None
    ]


def require_named(fault: Fault, outcomes: Outcomes) -> None:
    """Each scenario named the fault's link; what shows only in a run showed in payloads and in the trace, each."""
    named = {name: named_link(found) for name, found in outcomes.items()}
    odd = [f"{name}: {outcomes[name]!r}" for name, link in named.items() if link != fault.check]
    assert dict.fromkeys(outcomes, fault.check) == named, odd
    if fault.during_run:
        for outcome in outcomes.values():
            assert isinstance(outcome, BrokenChainError)
            assert {"payload", "trace"} <= outcome.seen_in, outcome


# The tests.


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_is_caught_and_its_link_named(fault: Fault, caught: Caught) -> None:
    """The wiring checks name the broken link and reach none behind it; each scenario that needs the link goes red.

    A fault that shows only in a run is caught by the payloads and by the trace, each on its own.
    """
    checks, outcomes = await caught.here(fault)
    assert fault.check == broken(checks), [check.line for check in checks]
    number = int(fault.check[1])
    assert [True] * (number - 1) + [False] + [None] * (6 - number) == [check.holds for check in checks]
    assert outcomes.keys() == set(fault.scenarios) & SCENARIOS.keys()
    require_named(fault, outcomes)


@pytest.mark.parametrize("name", SERVED_FAULTS)
async def test_a_fault_in_a_server_process_is_caught_and_its_link_named(name: str, caught: Caught) -> None:
    """Seen from outside, by payloads and by exported traces: one run, two users, the score, and many users go red."""
    fault = BY_NAME[name]
    outcomes = await caught.served(fault)
    assert outcomes.keys() == SERVED.keys()
    require_named(fault, outcomes)
    for outcome in outcomes.values():
        assert isinstance(outcome, BrokenChainError)
        assert {"payload", "trace"} <= outcome.seen_in, outcome


async def test_without_a_fault_everything_holds(caught: Caught) -> None:
    """Side by side on one server, as under a fault, the checks and all scenarios hold."""
    checks, outcomes = await caught.here(None)
    assert [check.holds for check in checks] == [True] * 6, [check.line for check in checks]
    outcomes = outcomes | await caught.served(None)
    assert [] == told(outcomes), "\n".join(told(outcomes))
    assert (SCENARIOS | SERVED).keys() == outcomes.keys()


@pytest.mark.timeout(300)
async def test_every_scenario_is_red_where_its_link_is_broken(caught: Caught) -> None:
    """The whole table: a row a scenario, a column a link, in each cell the faults caught of those put in.

    A dash: the scenario does without that link. Run by itself, this finds out everything that the tests above did.
    """
    unbroken = (await caught.here(None))[1] | await caught.served(None)
    found: dict[tuple[str, str], list[bool]] = {}
    for fault in FAULTS:
        outcomes = (await caught.here(fault))[1]
        if str(fault) in SERVED_FAULTS:
            outcomes = outcomes | await caught.served(fault)
        for name, outcome in outcomes.items():
            found.setdefault((name, fault.check), []).append(named_link(outcome) == fault.check)
    print("\n" + "\n".join(table_lines(unbroken, found)))
    assert told(unbroken) == [], "\n".join(told(unbroken))
    assert [cell for cell, caught_all in found.items() if not all(caught_all)] == []
    assert {f"s{number:02}" for number in range(1, 17)} == unbroken.keys()
    assert {name for name, _ in found} == unbroken.keys()
    assert {link for _, link in found} == set(LINKS)


def table_lines(unbroken: Outcomes, found: dict[tuple[str, str], list[bool]]) -> list[str]:
    """The table, for people."""
    lines = [f"{'scenario':<44}{'whole':<8}" + "".join(f"{link:<11}" for link in LINKS)]
    for name in sorted(unbroken):
        function = (SCENARIOS | SERVED)[name][0]
        title = f"{name.upper()} {function.__name__.partition('_')[2].replace('_', ' ')}"
        cells = [
            f"{sum(caught_all)}/{len(caught_all)} red" if (caught_all := found.get((name, link))) else "-"
            for link in LINKS
        ]
        whole = "green" if unbroken[name] is None else "RED"
        lines.append(f"{title:<44}{whole:<8}" + "".join(f"{cell:<11}" for cell in cells))
    return lines


def test_every_link_and_every_scenario_has_a_fault() -> None:
    """No link and no scenario is left out, and a process has a fault of each link."""
    assert set(LINKS) == {fault.check for fault in FAULTS}
    assert SCENARIOS.keys() | SERVED.keys() == {name for fault in FAULTS for name in fault.scenarios}
    assert len(FAULTS) == len({str(fault) for fault in FAULTS})
    assert list(LINKS) == [BY_NAME[name].check for name in SERVED_FAULTS]
