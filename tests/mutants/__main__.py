"""`python -m tests.mutants`: the chain broken from the outside in every way of the matrix, each for a user of its own.

A real server, real sockets through a proxy, a real OTLP export, the Python client, a real Prometheus and Alertmanager.
Each row must be caught by the suites' own checks, which name the link, or be healed and counted; its incident and its
alert must be the right ones; and everybody else must be left alone. It ends with 1 where any row is not so.
"""

import argparse
import asyncio
import fnmatch
import sys
import tempfile
from pathlib import Path

from mutants.campaign import Campaign
from mutants.judging import HEADER, counted, others, rows_of
from mutants.rows import all_rows, short_rows
from mutants.stories import Evening


def main() -> int:
    """Do it, print, and judge."""
    options = _options()
    rows = short_rows() if options.short else all_rows()
    rows = [row for row in rows if not options.rows or any(fnmatch.fnmatch(row.user_id, one) for one in options.rows)]
    if not rows:
        raise SystemExit("no row has such a name")
    with tempfile.TemporaryDirectory(prefix="tracewire-mutants-") as folder:
        campaign = Campaign(Path(folder), rows, monitored=not options.gauge, say=lambda line: print(line, flush=True))
        evening = asyncio.run(campaign.run())
    lines, good = table(evening)
    print("\n".join(lines))
    return 0 if good else 1


def table(evening: Evening) -> tuple[list[str], bool]:
    """The table and what stands below it, and whether all is as it must be."""
    rows, harmed, counts = rows_of(evening), others(evening), counted(evening)
    wrong = [row for row in rows if row.problems]
    uneven = [name for name, told, seen in counts if told != seen]
    caught, healed = sum(bool(row.seen.check) for row in rows), sum(bool(row.seen.healed) for row in rows)
    alerts = "Prometheus and Alertmanager" if evening.monitored else "the gauge that names users"
    lines = [
        HEADER,
        *map(str, rows),
        "",
        f"{len(rows)} rows: {caught} caught by the suites' checks, {healed} healed, {len(wrong)} not as they must be",
        f"alerts by {alerts}; {evening.seconds:.0f} s",
        f"{len(evening.controls)} runs of users to whom nothing was done: {len(harmed)} not clean",
        *harmed,
        *(f"counted: {name}: the server says {told:g}, seen {seen:g}" for name, told, seen in counts),
    ]
    return lines, not (wrong or harmed or uneven)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("rows", nargs="*", help="names of rows, as drop--socket--*; none: all")
    parser.add_argument("--short", action="store_true", help="one row of each deed and place")
    parser.add_argument("--gauge", action="store_true", help="no Prometheus: the gauge itself instead of its alerts")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
