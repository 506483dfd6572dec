"""Three witnesses of many runs at once agree: `python -m tests.soak.witnesses [--users 200] [--runs 1000]`.

What clients received, what the traces say, what the metrics counted, over real sockets and a real OTLP export.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.evidence import RUNS, USERS, gather_evidence, witnessed_server  # after the path


async def _soak(users: int, runs: int) -> int:
    with tempfile.TemporaryDirectory(prefix="tracewire-witnesses-") as folder:
        async with witnessed_server(Path(folder)) as (process, receiver):
            evidence = await gather_evidence(process, receiver, users=users, runs=runs)
    agreement = evidence.agree()
    spans = sum(len(trace) for trace in evidence.traces)
    print(
        f"{agreement.runs} runs of {agreement.users} users at once: {agreement.events} events, {agreement.crossings} "
        f"crossings of links, {spans} spans over OTLP; three witnesses agree on all of them ({evidence.seconds:.1f} s)"
    )
    return 0


def main() -> int:
    """The exit code: 0 where the witnesses agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--runs", type=int, default=RUNS)
    asked = parser.parse_args()
    return asyncio.run(_soak(asked.users, asked.runs))


if __name__ == "__main__":
    sys.exit(main())
