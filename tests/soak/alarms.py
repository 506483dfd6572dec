"""No false alarm: people do what people do, for a million events through real sockets, and no incident is opened.

    python -m tests.soak.alarms [--events 1000000] [--seed S] [--seconds 60] [--short] [--plant]

They reconnect, are offline, stand still with their whole process, resume, cancel, fail, call tools of 45 s and to
their deadline and past it, leave questions unanswered for long, have a second socket that is slow, read over HTTP, ack
nothing, leave for good; the server is drained and started again, its event loop stands still for 2 s, its wall clock
goes an hour forward and back. With `--plant` three users truly lose an event, to see that these are found.

The seed settles what is asked for and done; how that falls together is settled by the machine.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Final

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:  # `python -m tests.soak.alarms` begins at the root
    sys.path.insert(0, str(TESTS))

import uvloop  # noqa: E402 # after the path

from soak.alarm_agents import SHORT  # noqa: E402
from soak.alarm_campaign import Campaign, Outcome, SoakPlan  # noqa: E402

ALARMS_SHOWN: Final = 20
COLUMNS: Final = (
    ("events", "at socket", "at client", "runs", "reconnects", "offline", "stopped_reading"),
    ("stops", "stalls", "clock steps", "drains", "cancels", "answers", "streams", "left"),
    ("incidents", "missing", "affected", "named"),
)


def main() -> int:
    """Do it, print, and judge."""
    default = SoakPlan()
    parser = argparse.ArgumentParser(prog="python -m tests.soak.alarms", description=__doc__)
    parser.add_argument("--events", type=int, default=default.events, help="that come to users, at least")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="that it goes on, at least")
    parser.add_argument("--seconds-max", type=float, default=default.seconds_max, help="after which it is enough")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what all that is random follows from")
    parser.add_argument("--short", action="store_true", help="with deadlines that are a third of the default")
    parser.add_argument("--plant", action="store_true", help="losses that are true: it ends with 1, and names them")
    options = parser.parse_args()
    plan = default._replace(
        events=options.events, seconds=options.seconds, seconds_max=options.seconds_max, seed=options.seed,
        planted=options.plant, pace=SHORT if options.short else default.pace,
    )  # fmt: skip
    print(f"seed {plan.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tracewire-alarms-") as folder:
        outcome = uvloop.run(Campaign(Path(folder), plan, lambda line: print(line, flush=True)).run())
    print("\n".join(table(outcome)))
    return 0 if outcome.good else 1


def table(outcome: Outcome) -> list[str]:
    """The outcome in lines."""
    lines = [f"\n{outcome.seconds:.0f} s"]
    for names in COLUMNS:
        lines += [
            "  ".join(f"{name:>15}" for name in names),
            "  ".join(f"{outcome.counts[name]:>15,}" for name in names),
        ]
    alarms = outcome.alarms[:ALARMS_SHOWN]
    if len(outcome.alarms) > len(alarms):
        alarms.append(f"... and {len(outcome.alarms) - len(alarms)} more")
    return [*lines, "", *(alarms or ["no incident"]), *outcome.problems]


if __name__ == "__main__":
    sys.exit(main())
