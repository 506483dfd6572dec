"""The short form of `python -m tests.mutants`: one row of each deed and place, side by side on one server."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from mutants.__main__ import table
from mutants.campaign import CONTROLS, Campaign
from mutants.judging import Seen, problems_of, rows_of
from mutants.rows import DONE, HOPS, Mutant, all_rows, short_rows
from support.chain_checks import Finding
from support.servers import FIVE

pytestmark = pytest.mark.timeout(300)  # deadlines pass in real time, and later on a slow machine
HEALED: Final = Mutant("drop", "socket", "agent_thinking")
OTHER: Final = ("client", "agent_thinking", "healed")
LOST: Final = Mutant("drop", "bridge", "agent_thinking")


def test_every_way_of_breaking_the_chain_is_caught_or_healed_and_nobody_else_is_touched(tmp_path: Path) -> None:
    """The suites' checks name the link, the incident and the gauge name user, type and link, the counters agree."""
    evening = asyncio.run(Campaign(tmp_path, short_rows(), monitored=False).run())
    lines, good = table(evening)
    print("\n".join(lines))
    assert good, [line for line in lines if "WRONG" in line]
    # Those to whom nothing was done were there all the time.
    assert len(evening.controls) >= 2 * CONTROLS


def test_a_row_to_which_nothing_was_done_fails(tmp_path: Path) -> None:
    """On a server without mutants no row is caught, healed, or as it must be: the table finds out."""
    evening = asyncio.run(Campaign(tmp_path, [HEALED, LOST], monitored=False, program="tracewire.cli").run())
    problems = {row.mutant: row.problems for row in rows_of(evening)}
    for row in (HEALED, LOST):
        assert {"nothing was done to it", "neither caught nor healed"} <= set(problems[row])
    assert not table(evening)[1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"findings": []}, "the checks name nothing, must name L6"),
        ({"findings": [Finding("L5", "trace", "")]}, "the checks name L5, must name L6"),
        ({"findings": [Finding("L6", "payload", "")]}, "it is seen in ['payload'], must be in ['trace']"),
        ({"healed": []}, "healed by [], must be by 'resumed'"),
        ({"incidents": [OTHER]}, f"the incidents are [{OTHER}], must be [('socket', 'agent_thinking', 'healed')]"),
        ({"incidents": []}, "the incidents are [], must be [('socket', 'agent_thinking', 'healed')]"),
        ({"told": set()}, "alerts told of [], must be of [('agent_thinking', 'socket')]"),
    ],
)
def test_what_is_not_as_it_must_be_is_told(change: dict[str, object], problem: str | None) -> None:
    """A wrong link, a check that does not see it, an incident or an alert that is missing or another."""
    values: dict[str, object] = {
        "findings": [Finding("L6", "trace", "")],
        "healed": ["resumed"],
        "incidents": [("socket", "agent_thinking", "healed")],
        "told": {("agent_thinking", "socket")},
        "whole": True,
    }
    seen = Seen(**(values | change))  # type: ignore[arg-type] # as above
    assert ([problem] if problem else []) == problems_of(HEALED, seen)


def test_the_matrix_is_whole() -> None:
    """Each deed at each hop for each type, and each row once; the short form has each deed at each place."""
    rows = all_rows()
    assert {Mutant(what, hop, event_type) for what in DONE for hop in HOPS for event_type in FIVE} <= set(rows)
    assert len(rows) == len(set(rows))
    assert {(row.what, row.where) for row in rows} == {(row.what, row.where) for row in short_rows()}
