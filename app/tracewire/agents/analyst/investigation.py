"""A recording's findings: each check on each run, side by side.

Pure. Enters: a `Reading`. Leaves: `Findings` for `answers`. The analyst calls the checks one by one, as its tools.
"""

from collections.abc import Mapping

from msgspec import Struct

from tracewire.agents.analyst.attribution import attributed
from tracewire.agents.analyst.conduct import Conduct, check_contract
from tracewire.agents.analyst.frames import Frame, Reading
from tracewire.agents.analyst.runs import Found, Run, find_runs
from tracewire.agents.analyst.sequences import Sequences, check_sequences
from tracewire.agents.analyst.silence import Pace, measure_silence
from tracewire.agents.analyst.strangers import Stranger, find_strangers


class RunFindings(Struct, frozen=True):
    """One run, and what each check says of it."""

    run: Run
    sequences: Sequences
    conduct: Conduct
    pace: Pace

    @property
    def lost(self) -> int:
        """Events that are known to be missing."""
        return sum(gap.size for gap in self.sequences.missing)


class Findings(Struct, frozen=True):
    """Everything that is known of a recording. Of the runs in `still_open` the log says that they are going on."""

    reading: Reading
    runs: tuple[RunFindings, ...]
    streams: tuple[tuple[Run, Sequences], ...] = ()
    strangers: tuple[Stranger, ...] = ()
    unanswered: tuple[Frame, ...] = ()
    still_open: frozenset[str] = frozenset()

    @property
    def endless(self) -> tuple[RunFindings, ...]:
        """Runs that lack a terminal event, and are not known to be going on."""
        return tuple(one for one in self.runs if one.conduct.terminal is None and one.run.run_id not in self.still_open)


def sequences_of(found: Found) -> tuple[tuple[Sequences, ...], tuple[tuple[Run, Sequences], ...]]:
    """The check of the numbers for each run, and for each socket that numbers over its runs."""
    return tuple(map(check_sequences, found.runs)), tuple((run, check_sequences(run)) for run in found.streams)


def conduct_of(found: Found) -> tuple[Conduct, ...]:
    """The check of the contract for each run."""
    return tuple(map(check_contract, found.runs))


def pace_of(found: Found, reading: Reading) -> tuple[Pace, ...]:
    """The silences of each run."""
    ends_at = max((frame.time for frame in reading.frames if frame.time is not None), default=None)
    return tuple(measure_silence(run, ends_at) for run in found.runs)


def joined(
    reading: Reading,
    found: Found,
    sequences: tuple[Sequences, ...],
    streams: tuple[tuple[Run, Sequences], ...],
    conduct: tuple[Conduct, ...],
    pace: tuple[Pace, ...],
    strangers: tuple[Stranger, ...] = (),
    still_open: frozenset[str] = frozenset(),
) -> Findings:
    """The results of the checks, run by run."""
    return Findings(
        reading=reading,
        runs=tuple(
            RunFindings(run=run, sequences=one, conduct=two, pace=three)
            for run, one, two, three in zip(found.runs, sequences, conduct, pace, strict=True)
        ),
        streams=streams,
        strangers=strangers,
        unanswered=found.unanswered,
        still_open=still_open,
    )


def investigate(reading: Reading, known_last_seqs: Mapping[str, int] | None = None) -> Findings:
    """Every check on every run of a recording."""
    frames = attributed(reading.frames)
    strangers = find_strangers(frames)
    found = find_runs(frames, strangers, known_last_seqs)
    sequences, streams = sequences_of(found)
    return joined(reading, found, sequences, streams, conduct_of(found), pace_of(found, reading), strangers)
