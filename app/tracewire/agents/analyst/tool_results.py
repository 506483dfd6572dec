"""What the analyst's tools answer: small JSON, with figures that count everything and lists that show the beginning."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from tracewire.agents.analyst.conduct import Conduct
from tracewire.agents.analyst.frames import Reading
from tracewire.agents.analyst.ranges import written
from tracewire.agents.analyst.runs import Found, Run
from tracewire.agents.analyst.sequences import Sequences
from tracewire.agents.analyst.silence import Pace
from tracewire.agents.analyst.strangers import Stranger
from tracewire.eventlog import RunSummary

SHOWN_MAX: Final = 10
"""Entries of a list that are shown."""


def of_reading(reading: Reading, size_bytes: int) -> dict[str, Any]:
    """Of `open_recording`."""
    return {
        "name": reading.name,
        "bytes": size_bytes,
        "kind": reading.source.value,
        "lines_or_messages": reading.places,
        "sockets": len(reading.sockets),
        "frames": len(reading.frames),
        "unreadable": reading.unreadable,
    }


def of_summaries(summaries: Sequence[RunSummary]) -> dict[str, Any]:
    """Of `list_runs`."""
    return {
        "runs": len(summaries),
        "open": sum(summary.open for summary in summaries),
        "newest": [summary.run_id for summary in summaries[:SHOWN_MAX]],
    }


def of_strangers(reading: Reading, strangers: Sequence[Stranger]) -> dict[str, Any]:
    """Of `find_foreign`."""
    return {
        "foreign": len(strangers),
        "at": [reading.cite(stranger.frame) for stranger in strangers[:SHOWN_MAX]],
    }


def of_runs(found: Found) -> dict[str, Any]:
    """Of `find_runs`."""
    return {"runs": len(found.runs), "events": {run.label: len(run.events) for run in found.runs[:SHOWN_MAX]}}


def of_sequences(
    found: Found, sequences: Sequence[Sequences], streams: Sequence[tuple[Run, Sequences]]
) -> dict[str, Any]:
    """Of `check_sequences`."""
    rows = [*zip(found.runs, sequences, strict=True), *streams]
    missing = ((run.label, one.missing) for run, one in rows if one.missing)
    return {
        "missing": {
            label: written((gap.first, gap.last) for gap in gaps[:SHOWN_MAX])
            for label, gaps in islice(missing, SHOWN_MAX)
        },
        "repeats": sum(len(one.repeats) for one in sequences),
        "out_of_order": sum(len(one.late) for one in sequences),
    }


def of_conduct(conduct: Sequence[Conduct]) -> dict[str, Any]:
    """Of `check_contract`."""
    return {
        "without_terminal_event": sum(one.terminal is None for one in conduct),
        "unpaired_tools": sum(len(one.left_open) + len(one.never_opened) for one in conduct),
        "breaches": sum(len(one.breaches) for one in conduct),
        "receipts_that_differ": sum(bool(one.mismatches) for one in conduct),
    }


def of_pace(pace: Sequence[Pace]) -> dict[str, Any]:
    """Of `measure_silence`."""
    longest = max((one.longest.seconds for one in pace if one.longest is not None), default=0.0)
    return {"stalls": sum(len(one.stalls) for one in pace), "longest_seconds": round(longest, 3)}
