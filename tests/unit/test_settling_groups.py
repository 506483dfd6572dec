"""How many settled runs go to the log at once, and that nothing but turns of the loop lies between their spans."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from tracewire_telemetry import settling
from tracewire_telemetry.metrics import Metrics
from tracewire_telemetry.settling import SETTLED_AT_ONCE_MAX, SettledRun, Settling
from tracewire_telemetry.spans import RunSpans
from tracewire_telemetry.vocabulary import Outcome
from unit.ledgers import LedgerScript
from unit.sockets import turns

WAIT_SECONDS = 10.0
SPANS_MAX = 10


class CountedSpans:
    """As many spans as the test says, each built in a turn of its own."""

    def __init__(self, count: int) -> None:
        self._count = count

    def build(self) -> Iterator[None]:
        """A turn for each."""
        yield from (None for _ in range(self._count))

    def finish(self) -> list[object]:
        """All of them."""
        return [object() for _ in range(self._count)]


class EndedRun:
    """A run that was cancelled before its first event, with so many spans."""

    def __init__(self, number: int, spans: int) -> None:
        script = LedgerScript(run_id=f"run-{number}")
        script.ended(1, Outcome.CANCELLED)
        self.ledger = script.ledger
        self.spans = cast("RunSpans", CountedSpans(spans))


class CountingLog:
    """Notes the size of each group of stamps that are stored at once."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self._storing = 0
        self._group = 0

    async def store(self, run_id: str, stamps: bytes) -> None:
        """As the port says; those that are called meanwhile are of the same group."""
        self._storing += 1
        self._group += 1
        await turns(3)
        self._storing -= 1
        if not self._storing:
            self.groups.append(self._group)
            self._group = 0


@asynccontextmanager
async def settling_runs(log: CountingLog, spans: list[int]) -> AsyncIterator[Settling]:
    """Runs with so many spans each, added at once and being settled."""
    made = Settling(Metrics(version="1", agents=["five"]), None)
    for number, count in enumerate(spans):
        made.add(cast("SettledRun", EndedRun(number, count)))
    task = asyncio.create_task(made.settle_forever(log.store))
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize(
    ("spans", "groups"),
    [
        ([0] * (SETTLED_AT_ONCE_MAX + 1), [SETTLED_AT_ONCE_MAX, 1]),
        ([4] * 5, [3, 2]),
        ([SPANS_MAX - 1, 1, 1], [2, 1]),
        ([SPANS_MAX, 1], [1, 1]),
    ],
)
async def test_runs_are_settled_together_until_they_or_their_spans_are_many(
    monkeypatch: pytest.MonkeyPatch, spans: list[int], groups: list[int]
) -> None:
    """One commit for thirty-two; fewer where the spans that are held meanwhile are as many as a run may have."""
    monkeypatch.setattr(settling, "SPANS_PER_RUN_MAX", SPANS_MAX)
    log = CountingLog()
    async with settling_runs(log, spans) as made:
        await asyncio.wait_for(made.idle.wait(), WAIT_SECONDS)
    assert (groups, {}) == (log.groups, made.runs)


async def test_spans_are_built_with_turns_of_the_loop_between_them_and_no_waits() -> None:
    """A run is settled in as many turns as it needs: no time has to pass."""
    log = CountingLog()
    async with settling_runs(log, [5]) as made:
        await turns(5)
        assert (False, []) == (made.idle.is_set(), log.groups)
        await turns(30)
        assert (True, [1]) == (made.idle.is_set(), log.groups)
