"""The whole matrix at once: one server, one proxy, one receiver of traces, each row a user with a client of its own.

Beside them controls, to whom nothing is done, run after run.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec

from mutants.moments import let_pass
from mutants.proxy import MutatingProxy
from mutants.rows import Mutant
from mutants.stories import Evening, Story, traces_of
from mutants.told import GaugeReader, Labels, LogReader, samples
from support.auth import E2EAuthHelper
from support.chain_checks import AGENT
from support.monitoring import Monitoring, monitoring_beside
from support.servers import FIVE, ServerProcess
from support.wire import Frame
from tracewire.client import Client, ClientError, ClientRun
from tracewire_telemetry.testing.recorder import OtlpReceiver

TESTS: Final = Path(__file__).resolve().parents[1]
ALERT: Final = "TracewireUserEventsMissing"
DEADLINES: Final = {
    "START": "30",
    "TOOL": "60",
    "IDLE": "60",
    "BRIDGE": "1",
    "EMITTER": "1.5",
    "SOCKET": "2.5",
    "CLIENT": "4",
    "SILENCE": "3",
    "HEAL": "12",
}
AT_ONCE: Final = 60
CONTROLS: Final = 12
CONTROL_REST_SECONDS: Final = 3.0
START_SECONDS: Final = 30.0
RUN_SECONDS: Final = 90.0
GRACE_SECONDS: Final = 1.5
"""How long a client goes on after its run is settled: what has not come by then does not come."""
TRACE_SECONDS: Final = 6.0
ALERT_SECONDS: Final = 60.0
MANY: Final = {"sum by (job) (tracewire_users_affected) > 10": "sum by (job) (tracewire_users_affected) > 100000"}
"""So many at once are otherwise one notification."""


class Campaign:
    """One server with the matrix in it. `monitored`: a real Prometheus and Alertmanager tell the alerts.

    `program` is the module of the server; another than `mutants.server` has no mutants.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Mutant],
        *,
        monitored: bool,
        program: str = "mutants.server",
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._program = program
        self._folder = folder
        self._rows = rows
        self._monitored = monitored
        self._say = say
        self._auth = E2EAuthHelper.by_secret()
        self._over = asyncio.Event()

    async def run(self) -> Evening:
        """Do all of it."""
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            self._receiver = stack.enter_context(OtlpReceiver())
            self._process = await stack.enter_async_context(self._served())
            self._log = LogReader(self._process.data_dir.parent / f"{self._process.data_dir.name}.log")
            self._gauge = GaugeReader(self._process.ops_url)
            self._proxy = await stack.enter_async_context(MutatingProxy(self._process.ws_url))
            monitoring = await stack.enter_async_context(self._monitoring()) if self._monitored else None
            followers = [asyncio.create_task(self._log.follow()), asyncio.create_task(self._gauge.follow())]
            stack.callback(lambda: [follower.cancel() for follower in followers])
            controls = [asyncio.create_task(self._control(f"control-{number}")) for number in range(CONTROLS)]
            places = asyncio.Semaphore(AT_ONCE)
            stories = list(await asyncio.gather(*(self._row(mutant, places) for mutant in self._rows)))
            self._over.set()
            clean = [story for told in await asyncio.gather(*controls) for story in told]
            await self._log.until(lambda: not self._log.open_incidents, RUN_SECONDS)
            self._say(f"{len(stories)} rows and {len(clean)} runs of controls after {time.monotonic() - began:.1f} s")
            await self._look_back([*stories, *clean], monitoring)
            counters = await self._counters()
            for follower in followers:
                assert not follower.done(), follower
        seconds = time.monotonic() - began
        return Evening(stories, clean, self._proxy.crossings, counters, self._log.problems, self._monitored, seconds)

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[ServerProcess]:
        paths = (str(TESTS), os.environ.get("PYTHONPATH", ""))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._receiver.endpoint,
            "TRACEWIRE_DRAIN_GRACE_SECONDS": "0",
            "TRACEWIRE_OUTBOX_AGE_SECONDS": "2",
            "TRACEWIRE_MISSING_SHOWN_SECONDS": "6",
            "TRACEWIRE_MISSING_USERS_NAMED_MAX": "1000",
            "TRACEWIRE_RUN_STARTS_PER_MINUTE_MAX": "1000",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **{f"TRACEWIRE_{name}_DEADLINE_SECONDS": seconds for name, seconds in DEADLINES.items()},
            **self._auth.environ,
        }
        process = ServerProcess(
            self._folder / "data", "--agent", "mutants.agents:paced",
            environ=environ, cwd=TESTS, program=("-m", self._program),
        )  # fmt: skip
        await asyncio.to_thread(process.__enter__)
        try:
            yield process
        finally:
            await asyncio.to_thread(process.__exit__)

    @contextlib.asynccontextmanager
    async def _monitoring(self) -> AsyncIterator[Monitoring]:
        address = self._process.ops_url.removeprefix("http://")
        async with monitoring_beside(self._folder / "monitoring", {"tracewire": address}, replace=MANY) as monitoring:
            await asyncio.to_thread(monitoring.wait_for, 'up{job="tracewire"} == 1')
            yield monitoring

    # One run.

    async def _row(self, mutant: Mutant, places: asyncio.Semaphore) -> Story:
        async with places, contextlib.AsyncExitStack() as stack:
            if mutant.what in ("leak", "astray"):
                await stack.enter_async_context(self._client(mutant.victim))
            return await self._story(mutant.user_id, mutant)

    async def _control(self, user_id: str) -> list[Story]:
        stories: list[Story] = []
        while not self._over.is_set():
            stories.append(await self._story(user_id, None))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONTROL_REST_SECONDS):
                    await self._over.wait()
        return stories

    def _client(self, user_id: str) -> Client:
        return Client(self._proxy.url_of(user_id), self._auth.token(user_id), connect_seconds=START_SECONDS)

    async def _story(self, user_id: str, mutant: Mutant | None) -> Story:
        """Start a run by the Python client, follow it to its end, and stay until it is settled."""
        mark = f"mark-{os.urandom(8).hex()}"
        async with self._client(user_id) as client:
            crossing = self._proxy.crossings[user_id]
            if mutant is not None and mutant.what == "delay" and mutant.where in ("client", "ack"):
                # Who has never acked anything owes no ack: he does now.
                crossing.done = True
                async for _ in await client.start_run("warm-up", agent=AGENT):
                    pass
                await self._log.until(
                    lambda: bool(crossing.acks) and crossing.acks[-1]["seq"] == len(FIVE), RUN_SECONDS
                )
                crossing.forget()
            async with asyncio.timeout(START_SECONDS):
                run = await client.start_run(mark, agent=AGENT)
            processed: list[Frame] = []
            following = asyncio.create_task(_follow(run, processed))
            settled = await self._log.until(lambda: run.run_id in self._log.settled, RUN_SECONDS)
            await asyncio.wait({following}, timeout=GRACE_SECONDS)
            following.cancel()
            (error,) = await asyncio.gather(following, return_exceptions=True)
            said = "it waits for more" if isinstance(error, asyncio.CancelledError) else str(error or "")
        return Story(user_id, mutant, mark, run.run_id, crossing, processed, said, settled)

    # Afterwards.

    async def _look_back(self, stories: Sequence[Story], monitoring: Monitoring | None) -> None:
        async with httpx.AsyncClient(base_url=self._process.ops_url, timeout=30) as http:
            found = (await http.get("/incidents", params={"limit": "1000"})).raise_for_status().json()["incidents"]
        affected = {one["user_id"]: (one["type"], one["link"]) for one in found}
        told = await self._told(affected, monitoring)
        await self._traces(stories)
        places = asyncio.Semaphore(8)

        async def look(story: Story) -> None:
            async with places:
                story.durable, story.acked_seq = await self._read_back(story)

        await asyncio.gather(*map(look, stories))
        for story in stories:
            story.incidents = [one for one in found if one["run_id"] == story.run_id]
            story.told = told.get(story.user_id, set())
            story.done = story.crossing.done or story.user_id in self._log.deeds
            story.named = self._log.named.get(story.run_id, "")

    async def _told(self, affected: dict[str, Labels], monitoring: Monitoring | None) -> dict[str, set[Labels]]:
        """Of whom the alert told, or, without Prometheus, whom the gauge showed."""
        if monitoring is None:
            return self._gauge.seen
        receiver = monitoring.receiver

        def told() -> dict[str, set[Labels]]:
            users: dict[str, set[Labels]] = {}
            for alert in (alert for one in receiver.told(ALERT, "firing") for alert in one.alerts):
                labels = alert["labels"]
                users.setdefault(labels["user_id"], set()).add((labels["event_type"], labels["link"]))
            return users

        with contextlib.suppress(AssertionError):  # whose alert did not come is in the table
            await asyncio.to_thread(
                receiver.wait, lambda: affected.keys() <= told().keys(), ALERT_SECONDS, "alert of each"
            )
        return told()

    async def _traces(self, stories: Iterable[Story]) -> None:
        """Each run's trace, as far as it came; whole ones need not be waited for."""
        left = {story.run_id: story for story in stories}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRACE_SECONDS):
                while left:
                    by_run = traces_of(self._receiver, left)
                    for run_id, trace in by_run.items():
                        left[run_id].trace = trace
                        if trace.complete:
                            del left[run_id]
                    await let_pass(1.0)

    async def _read_back(self, story: Story) -> tuple[list[Frame], int]:
        headers = {"Authorization": f"Bearer {self._auth.token(story.user_id)}"}
        async with httpx.AsyncClient(base_url=self._process.url, headers=headers, timeout=30) as http:
            events = (await http.get(f"/runs/{story.run_id}/events")).raise_for_status().json()["events"]
            run = (await http.get(f"/runs/{story.run_id}")).raise_for_status().json()
        return events, run["acked_seq"]

    async def _counters(self) -> dict[tuple[str, ...], float]:
        async with httpx.AsyncClient(base_url=self._process.ops_url, timeout=30) as http:
            text = (await http.get("/metrics")).text
        return {
            (name.removeprefix("tracewire_"), *(labels[label] for label in sorted(labels))): value
            for name, labels, value in samples(text)
        }


async def _follow(run: ClientRun, processed: list[Frame]) -> str:
    """Take what comes, to the run's end; what the client itself has to complain of."""
    try:
        async for envelope in run:
            processed.append(msgspec.to_builtins(envelope))  # noqa: PERF401 # what came before an error counts
    except ClientError as error:
        return f"{type(error).__name__}: {error}"
    return ""
