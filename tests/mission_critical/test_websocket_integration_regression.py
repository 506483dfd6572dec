"""S14 to S16: what must hold before anything is released.

Each scenario is checked by the event payloads and by the exported traces. A run of the tests that leaves one of these
out fails (`no_skip.py`).
"""

import asyncio
from collections.abc import Iterator

import pytest

from support.chain_checks import USERS, python_client, s14_the_complete_chain
from support.faults import Fault, one_fault_a_link
from support.servers import FIVE, ServerUnderTest
from tracewire import wiring
from tracewire.wiring import TITLES, broken, check_wiring
from tracewire_telemetry.testing.spans import RecordedTrace
from tracewire_telemetry.vocabulary import LINKS, Link

pytestmark = [pytest.mark.mission_critical, pytest.mark.no_skip]

LINK_NAMES = ("L1", "L2", "L3", "L4", "L5", "L6")

# S14: the complete chain.


async def test_s14_all_six_links_hold_and_a_run_is_whole_at_every_station(chain: ServerUnderTest) -> None:
    """The six checks hold; a run over a real socket has its five events in payloads and trace, at each link."""
    await s14_the_complete_chain(chain)


async def test_s14_the_checks_say_of_each_link_that_it_holds(chain: ServerUnderTest) -> None:
    """Six lines, one a link, in order; the run behind L6 left a whole trace with every event at every station."""
    checks = await check_wiring(chain.server)
    assert [(name, True) for name in LINK_NAMES] == [(check.check, check.holds) for check in checks]
    assert [TITLES[check.check] in check.line for check in checks] == [True] * 6
    assert broken(checks) is None
    runs = await chain.server.log.runs(wiring.USER, limit=10)
    delivered = runs[0]
    assert delivered.last_seq == delivered.acked_seq > 0
    trace = await chain.trace(delivered.run_id)
    assert trace.problems() == []
    every_seq = list(range(1, delivered.last_seq + 1))
    for link in LINKS[1:]:
        assert (link, sorted(seqs_at(trace, link))) == (link, every_seq)


async def test_s14_the_checks_leave_nothing_behind(chain: ServerUnderTest) -> None:
    """After the checks no run is open and no place taken: a user starts as many runs as the limit allows."""
    for _ in range(2):
        await check_wiring(chain.server)
    assert list(await chain.server.log.open_runs()) == []
    assert chain.server.telemetry.watch.runs == {}
    limit = chain.server.settings.runs_per_user_max
    async with python_client(chain, wiring.USER) as client:
        runs = await asyncio.gather(*(client.start_run("ask", agent="five") for _ in range(limit)))
        received = [[envelope.type.value async for envelope in run] for run in runs]
    assert [list(FIVE)] * limit == received


@pytest.mark.parametrize("fault", one_fault_a_link(), ids=str)
async def test_s14_a_broken_link_is_named(
    chain: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Those before it hold, it is named, those behind it are not reached; repaired, the chain is whole again."""
    monkeypatch.setattr(wiring, "DELIVERY_SECONDS", 0.5)
    with monkeypatch.context() as patch:
        fault.break_it(patch, chain.server)
        checks = await check_wiring(chain.server)
    assert fault.check == broken(checks), [check.line for check in checks]
    number = LINK_NAMES.index(fault.check)
    behind = [f"not reached ({fault.check})"] * (5 - number)
    assert [True] * number + [False] == [check.holds for check in checks[: number + 1]]
    assert behind == [check.message for check in checks[number + 1 :]]
    monkeypatch.undo()
    await s14_the_complete_chain(chain, user_id=USERS[1])


def seqs_at(trace: RecordedTrace, link: Link) -> Iterator[int]:
    """The seqs that crossed this link by the trace; a burst of deltas has one span."""
    for span in trace:
        if span.attributes.get("tracewire.link") == link.value:
            first = span.attributes["tracewire.event.seq"]
            yield from range(first, span.attributes.get("tracewire.event.last_seq", first) + 1)
