"""The `tracewire` command with every mutant of the matrix in it, each for the user of its row.

    python -m mutants.server serve --port 0

The product knows of none of this, and everybody else is served as ever.
"""

import sys
from functools import partial

import pytest

from mutants.exports import break_exports
from mutants.hops import break_hops
from mutants.rows import named
from mutants.stations import break_stations
from support.lies import lie, lose_stamps
from tracewire import cli

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        break_hops(patch)
        break_stations(patch)
        break_exports(patch)
        lie(patch, partial(named, "lie"))
        lose_stamps(patch, partial(named, "unstamped"))
        cli.main(sys.argv[1:])
