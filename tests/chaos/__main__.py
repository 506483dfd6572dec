"""`python -m tests.chaos`: a real server, killed at random moments while its users work, and what came of it.

It ends with 1 where anything was lost, repeated, somebody else's, hanging or otherwise wrong, and names each: user,
run, event, link. The seed settles what the users ask for and what is done to the server and to the sockets; how that
falls together is settled by the machine.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import uvloop

from chaos.campaign import Campaign, Outcome, Plan

WRONGS_SHOWN = 60
COLUMNS = (
    ("runs", "events", "crashed", "kills", "cuts", "stalls", "losses", "resumes", "traces", "spans"),
    ("lost", "repeated", "foreign", "hanging", "wrong"),
)


def main() -> int:
    """Do it, print, and judge."""
    options = _options()
    plan = Plan(
        options.seed, options.users, options.seconds, options.kills, options.trace_share, options.settle, options.fault
    )
    print(f"seed {plan.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tracewire-chaos-") as folder:
        if options.folder:
            Path(options.folder).mkdir(parents=True, exist_ok=True)
        outcome = uvloop.run(_run(Path(options.folder or folder), plan))
    print("\n".join(table(outcome)))
    return 0 if outcome.good else 1


async def _run(folder: Path, plan: Plan) -> Outcome:
    return await Campaign(folder, plan, lambda line: print(line, flush=True)).run()


def _options() -> argparse.Namespace:
    default = Plan("")
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what all that is random follows from")
    parser.add_argument("--users", type=int, default=default.users, help="half of them with our client, half bare")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="how long it goes on, before the end")
    parser.add_argument("--kills", type=int, default=default.kills, help="of the server, by SIGKILL")
    parser.add_argument("--trace-share", type=float, default=default.trace_share, help="share of good runs exported")
    parser.add_argument("--settle", type=float, default=default.settle_seconds, help="seconds that it has to calm down")
    parser.add_argument("--fault", help="put this fault into the server, to see that it is found")
    parser.add_argument("--folder", help="keep the server's data and log here; an empty one, or none yet")
    options = parser.parse_args()
    if options.folder and Path(options.folder, "data").exists():
        parser.error(f"{options.folder} holds the data of an earlier campaign; name another folder")
    return options


def table(outcome: Outcome) -> list[str]:
    """The outcome in lines."""
    lines = [f"\n{outcome.counts['users']} users, {outcome.seconds:.0f} s, exit code {outcome.exit_code}"]
    for names in COLUMNS:
        lines += [
            "  ".join(f"{name:>9}" for name in names),
            "  ".join(f"{outcome.counts[name]:>9,}" for name in names),
        ]
    wrong = [str(wrong) for wrong in outcome.wrongs] + [f"server log: {line}" for line in outcome.log_problems]
    if len(wrong) > WRONGS_SHOWN:
        wrong = [*wrong[:WRONGS_SHOWN], f"... and {len(wrong) - WRONGS_SHOWN} more"]
    return [*lines, *(["", "WRONG:", *wrong] if wrong or not outcome.good else ["", "nothing wrong"])]


if __name__ == "__main__":
    sys.exit(main())
