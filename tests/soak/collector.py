"""The Collector with the shipped file and its waits, of 330 s and 15 s: which traces come out whole.

    python -m tests.soak.collector

Seven minutes. Four Collectors, each with a server of its own, at the same time; ports, folders, back ends and the share
are theirs, everything else is the file's. One has a share of 0 and runs of all kinds, some longer than its wait; its
back end is away for a minute. One, of the same share, is stopped and started while runs go on. One keeps all good
runs. One has a server that is killed.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:  # `python -m tests.soak.collector` begins at the root
    sys.path.insert(0, str(TESTS))

from support.collector import Collector  # noqa: E402 # after the path
from support.collector_config import loaded, seconds  # noqa: E402
from support.collector_runs import Backend, Traffic, traffic  # noqa: E402
from support.otelcol import build_collector  # noqa: E402

DECISION_SECONDS: Final = seconds(loaded()["processors"]["tail_sampling"]["decision_wait"])
MARGIN_SECONDS: Final = 60
AWAY_SECONDS: Final = 60
AWAY_RUNS: Final = 120
WHOLE, NOTHING, CUT = "whole", "nothing", "cut"
THREADS: Final = 32
"""All that waits at the same time."""


class Soak:
    """Runs, what is expected of each, and when all began."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.expected: list[tuple[Traffic, str, str]] = []

    def expect(self, outcome: str, runs: Traffic, name: str) -> str:
        """Note it; gives the name."""
        self.expected.append((runs, name, outcome))
        return name

    async def until(self, second: float) -> None:
        """That second of the soak: it is about time, which nothing else can tell."""
        await asyncio.to_thread(self._wait, second)

    def _wait(self, second: float) -> None:
        runs = self.expected[0][0]
        runs.collector.wait_for(lambda: time.monotonic() - self.began >= second, f"second {second}", 2 * second + 60)

    def say(self, what: str) -> None:
        """What happens now."""
        print(f"{time.monotonic() - self.began:5.0f} s  {what}", flush=True)


async def all_kinds(soak: Soak, runs: Traffic, away: "Away") -> None:
    """A share of 0: what is bad comes, whole, however early a service's spans were."""
    expect, wait = soak.expect, DECISION_SECONDS
    background: list[Awaitable[None]] = [
        runs.calls(expect(WHOLE, runs, "good, service's span 345 s before its end"), then=soak.until(wait + 15)),
        runs.calls(expect(WHOLE, runs, "failed, service's span 345 s before"), fails=True, then=soak.until(wait + 15)),
        runs.calls(expect(NOTHING, runs, "good, service's span 200 s before"), then=soak.until(200)),
        runs.calls(expect(WHOLE, runs, "failed, service's span 200 s before"), fails=True, then=soak.until(200)),
        runs.good(expect(NOTHING, runs, "good")),
        runs.slow(expect(WHOLE, runs, "slow")),
        runs.failed(expect(WHOLE, runs, "failed")),
        runs.missing(expect(WHOLE, runs, "missing")),
        away.minute(soak, runs),
    ]
    await asyncio.gather(*background)


class Away:
    """The back end of the first Collector, which is away for a minute."""

    def __init__(self) -> None:
        self.here = Backend()
        self._port = int(self.here.endpoint.rpartition(":")[2])

    async def minute(self, soak: Soak, runs: Traffic) -> None:
        """Failed runs all the while."""
        await soak.until(100)
        soak.say("the back end goes away")
        await asyncio.to_thread(self.here.__exit__, None, None, None)
        for number in range(AWAY_RUNS):
            await soak.until(100 + number * AWAY_SECONDS / AWAY_RUNS)
            await runs.failed(soak.expect(WHOLE, runs, f"failed, back end away, {number}"))
        await soak.until(100 + AWAY_SECONDS)
        waiting = runs.collector.count("exporter_queue_size")
        self.here = Backend(port=self._port)
        runs.backends.append(self.here)
        self.here.__enter__()
        soak.say(f"the back end is there again; {waiting / 1024:.0f} KiB are queued")


async def restarted(soak: Soak, runs: Traffic) -> None:
    """A share of 0, stopped and started: what it holds is decided on when it stops, and its cache is gone."""
    expect = soak.expect
    again = asyncio.Event()

    async def started_again() -> None:
        await again.wait()

    early = [
        runs.calls(expect(WHOLE, runs, "failed, span early, Collector restarted"), fails=True, then=started_again()),
        runs.calls(expect(CUT, runs, "good, span early, Collector restarted"), then=started_again()),
    ]
    calling = asyncio.gather(*early)
    await runs.failed(expect(WHOLE, runs, "failed, then Collector stopped"))
    await asyncio.to_thread(runs.collector.wait_for, lambda: runs.collector.undecided >= 3, "three traces")
    await asyncio.to_thread(runs.collector.stop)
    await runs.failed(expect(WHOLE, runs, "failed, while Collector away"))
    await asyncio.to_thread(runs.collector.start)
    soak.say("a Collector was stopped and started")
    again.set()
    await calling
    await runs.failed(expect(WHOLE, runs, "failed, after Collector's restart"))


async def soak_all(folder: Path) -> Soak:
    """All of it, side by side."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    away = Away()
    with (
        away.here,
        collector(folder / "kinds", away.here, 0) as kinds,
        Backend() as second,
        collector(folder / "restart", second, 0) as restart,
        Backend() as third,
        collector(folder / "all", third, 100) as everything,
        Backend() as fourth,
        collector(folder / "killed", fourth, 0) as killed,
    ):
        soak = Soak()
        await asyncio.gather(
            all_kinds(soak, kinds, away),
            restarted(soak, restart),
            everything.good(soak.expect(WHOLE, everything, "good, share 100")),
            everything.calls(soak.expect(WHOLE, everything, "good, service's span early, share 100")),
            killed.calls_until_killed(soak.expect(CUT, killed, "its server killed")),
        )
        soak.say("all runs are done")
        await asyncio.to_thread(wait_for_outcomes, soak)
        soak.say("as far as it goes")
        show(soak)
        lost = ("receiver_refused_spans", "exporter_enqueue_failed_spans", "exporter_send_failed_spans")
        for runs in (kinds, restart, everything, killed):
            print({name: int(runs.collector.count(name)) for name in lost})
        away.here.__exit__(None, None, None)
    return soak


@contextmanager
def collector(folder: Path, backend: Backend, share: float) -> Iterator[Traffic]:
    """A Collector with the shipped file, and a server that reports to it."""
    with (
        Collector(folder / "collector", backend.endpoint, share=share) as started,
        traffic(folder, started, backend) as runs,
    ):
        yield runs


def wait_for_outcomes(soak: Soak) -> None:
    """Until everything is decided and what is to come has come, or is late."""
    collectors = {runs.collector for runs, _, _ in soak.expected}
    for one in collectors:
        one.wait_for(lambda: not one.undecided and not one.count("exporter_queue_size"), "end", DECISION_SECONDS + 30)  # noqa: B023
    first = soak.expected[0][0].collector
    try:
        first.wait_for(lambda: all(outcome(*e[:2]) == e[2] for e in soak.expected), "outcomes", MARGIN_SECONDS)
    except AssertionError:
        soak.say("not everything is as expected")


def outcome(runs: Traffic, name: str) -> str:
    """What came of a run's trace."""
    passed = runs.passed(name)
    return WHOLE if passed.whole else CUT if passed.received else NOTHING


def show(soak: Soak) -> None:
    """The table; those of the minute without a back end as one line."""
    away = [(runs, name, expected) for runs, name, expected in soak.expected if "back end away" in name]
    for runs, name, expected in soak.expected:
        if "back end away" not in name:
            wrong = "" if outcome(runs, name) == expected else f"   EXPECTED {expected}"
            print(runs.passed(name).line() + wrong)
    whole = sum(runs.passed(name).whole for runs, name, _ in away)
    print(f"failed, while the back end was away for {AWAY_SECONDS} s: {whole} of {len(away)} whole")


def main() -> int:
    """Do it, print, and judge."""
    if unbuilt := build_collector():
        sys.exit(f"there is no Collector: {unbuilt}")
    with tempfile.TemporaryDirectory(prefix="tracewire-collector-") as folder:
        soak = asyncio.run(soak_all(Path(folder)))
    return 0 if all(outcome(runs, name) == expected for runs, name, expected in soak.expected) else 1


if __name__ == "__main__":
    sys.exit(main())
