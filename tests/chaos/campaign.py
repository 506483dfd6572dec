"""One campaign: a server that is killed and started again, its users, the proxy that harms their sockets; and, when
all is quiet, what everybody got against what the log holds.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import httpx

from chaos.bare import BareUser
from chaos.journal import USER_PREFIX, Journal, Wrong
from chaos.killing import KilledServer, pause
from chaos.proxy import CuttingProxy
from chaos.users import OurUser
from chaos.verdict import LoggedRun, SpanOf, judge_traces, judge_user
from support.servers import settings_for
from tracewire.gateway.auth import sign_token
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedSpan

UP_SECONDS_MIN: Final = 3.0
"""What the server has between two kills in the mean, at least, on a machine that is slow to start it."""
ACKS_SECONDS: Final = 5.0
TOKEN_SECONDS: Final = 12.0
"""Short, so that tokens are renewed all the time."""
HARM_SECONDS: Final = (0.05, 0.35)
READERS: Final = 8
LINKS: Final = ("engine", "bridge", "emitter", "socket", "client")


class Plan(NamedTuple):
    """What is to be done. `settle_seconds` after its end every run must have ended; `fault` is put into the server, to
    see that the campaign finds it.
    """

    seed: str
    users: int = 50
    seconds: float = 200.0
    kills: int = 32
    trace_share: float = 1.0
    settle_seconds: float = 60.0
    fault: str | None = None


class Outcome(NamedTuple):
    """What came of it."""

    counts: dict[str, int]
    wrongs: list[Wrong]
    log_problems: list[str]
    exit_code: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrongs and not self.log_problems and not self.exit_code


class _Spans(OtlpReceiver):
    """Keeps of each exported span no more than its place in its trace."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[SpanOf] = []

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        self.kept += [SpanOf(span.trace_id, span.span_id, span.parent_id, span.name) for span in spans]


class Campaign:
    """Carries out a plan in a folder. `say` is told how it goes."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._random = Random(plan.seed)
        self._journals = [Journal(f"{USER_PREFIX}{number}", plan.seed) for number in range(plan.users)]
        self._over = asyncio.Event()
        self._server: KilledServer
        self._started = time.monotonic()

    async def run(self) -> Outcome:
        """Do it."""
        plan = self._plan
        with _Spans() as spans:
            self._server = server = KilledServer(
                self._folder, Random(f"{plan.seed}-ports"), endpoint=spans.endpoint, fault=plan.fault,
                trace_share=plan.trace_share,
            )  # fmt: skip
            try:
                await server.start()
                async with CuttingProxy(server.port) as proxy:
                    bare = await self._disturb(proxy)
                logged = await self._read_logs()
                wrongs = [wrong for journal in self._journals for wrong in judge_user(journal, logged[journal.user_id])]
                wrongs = [await self._with_link(wrong) for wrong in wrongs[:50]] + wrongs[50:]
                exit_code = await server.stop()
            finally:
                server.abandon()
        wrongs += judge_traces(spans.kept, _by_trace(logged))
        counts = self._counts(logged, wrongs) | {
            "cuts": proxy.cuts + sum(user.cuts for user in bare),
            "stalls": proxy.stalls + sum(journal.stalls for journal in self._journals),
            "traces": len({span.trace_id for span in spans.kept}),
            "spans": len(spans.kept),
        }
        return Outcome(counts, wrongs, server.log_problems, exit_code, time.monotonic() - self._started)

    # The chaos.

    async def _disturb(self, proxy: CuttingProxy) -> list[BareUser]:
        ours, bare = [], []
        for number, journal in enumerate(self._journals):
            # Most go through the proxy; the others see a server that is not there as it is.
            port = self._server.port if number % 4 == 3 else proxy.port
            url = f"ws://127.0.0.1:{port}/ws"
            if number % 2:
                bare.append(BareUser(journal, url, self._token_of(journal)))
            else:
                ours.append(OurUser(journal, url, self._token_of(journal)))
        living = [asyncio.create_task(user.live(self._over)) for user in (*ours, *bare)]
        harming = asyncio.create_task(self._harm(proxy))
        try:
            await self._kill()
            self._over.set()
            self._say(f"{self._seconds()} it is over; {self._unfinished()} runs are to be finished")
            await self._settle(living)
        finally:
            for task in (harming, *living):
                task.cancel()
            ends = await asyncio.gather(harming, *living, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return bare

    async def _kill(self) -> None:
        """All kills, spread over the plan's time at random; some come while the server is starting."""
        plan, random, server = self._plan, self._random, self._server
        while server.kills < plan.kills:
            left = (plan.seconds - (time.monotonic() - self._started)) / (plan.kills - server.kills + 1)
            await pause(random.uniform(0.1, 2 * max(left, UP_SECONDS_MIN)), asyncio.Event())
            await server.kill()
            await pause(random.choice((0.0, 0.0, random.uniform(0, 1.5))), asyncio.Event())
            if server.kills < plan.kills and random.random() < 0.2:
                await server.start_and_kill(random.uniform(0.1, 1.2), asyncio.Event())
            await server.start()
            self._say(f"{self._seconds()} {server.kills} kills, {self._unfinished()} runs are open")
        await pause(max(0.0, plan.seconds - (time.monotonic() - self._started)), asyncio.Event())

    async def _harm(self, proxy: CuttingProxy) -> None:
        random = Random(f"{self._plan.seed}-harm")
        while not self._over.is_set():
            await pause(random.uniform(*HARM_SECONDS), self._over)
            proxy.harm(random)

    async def _settle(self, living: list["asyncio.Task[None]"]) -> None:
        done, pending = await asyncio.wait(living, timeout=self._plan.settle_seconds)
        for task in done:
            task.result()
        self._say(f"{self._seconds()} {len(pending)} users wait for {self._unfinished()} runs")

    # What there is in the end.

    async def _read_logs(self) -> dict[str, dict[str, LoggedRun]]:
        """What the server has of every user, by user and run id, once all acks that were sent are in."""
        turns = asyncio.Semaphore(READERS)
        async with httpx.AsyncClient(base_url=self._server.url, timeout=30) as http:

            async def read(journal: Journal) -> dict[str, LoggedRun]:
                async with turns:
                    return await self._read_log(http, journal)

            read_all = await asyncio.gather(*(read(journal) for journal in self._journals))
        return {journal.user_id: runs for journal, runs in zip(self._journals, read_all, strict=True)}

    async def _read_log(self, http: httpx.AsyncClient, journal: Journal) -> dict[str, LoggedRun]:
        headers = {"Authorization": f"Bearer {self._sign(journal.user_id, 600)}"}
        deadline = time.monotonic() + ACKS_SECONDS
        while True:
            views, before = [], ""
            while before is not None:
                page = (await http.get("/runs", params={"limit": 100, "before": before}, headers=headers)).json()
                views += page["runs"]
                before = page["next"]
            if all(view["acked_seq"] == view["last_seq"] for view in views) or time.monotonic() > deadline:
                break
            await pause(0.2, asyncio.Event())
        logged = {}
        for view in views:
            answer = await http.get(f"/runs/{view['run_id']}/events", headers=headers)
            logged[view["run_id"]] = LoggedRun(view, answer.json()["events"])
        return logged

    async def _with_link(self, wrong: Wrong) -> Wrong:
        """The wrong, with the first link that the event has not crossed, where the ledger tells."""
        if not (wrong.run_id and wrong.seq):
            return wrong
        headers = {"Authorization": f"Bearer {self._sign(wrong.user_id, 600)}"}
        async with httpx.AsyncClient(base_url=self._server.url, headers=headers, timeout=30) as http:
            answer = await http.get(f"/runs/{wrong.run_id}/ledger")
        rows = answer.json().get("events", []) if answer.status_code == 200 else []
        row = next((row for row in rows if row.get("seq") == wrong.seq), None)
        if row is None:
            return wrong
        if row["engine"] is None:
            return wrong._replace(what=f"{wrong.what} (its stamps went with a crash)")
        missing = next((link for link in LINKS if row[link] is None), None)
        return wrong._replace(what=f"{wrong.what} (not at: {missing})" if missing else f"{wrong.what} (at every link)")

    def _counts(self, logged: dict[str, dict[str, LoggedRun]], wrongs: list[Wrong]) -> dict[str, int]:
        kinds = Counter(wrong.kind for wrong in wrongs)
        runs = [run for found in logged.values() for run in found.values()]
        return {
            "users": len(self._journals),
            "runs": len(runs),
            "events": sum(len(run.events) for run in runs),
            "crashed": sum(run.view["outcome"] == "worker_lost" for run in runs),
            "kills": self._server.kills,
            "losses": sum(journal.losses for journal in self._journals),
            "resumes": sum(journal.resumes for journal in self._journals),
            **{kind: kinds[kind] for kind in ("lost", "repeated", "foreign", "hanging", "wrong")},
        }

    def _token_of(self, journal: Journal) -> Callable[[], Awaitable[str]]:
        async def provide() -> str:
            return self._sign(journal.user_id, TOKEN_SECONDS)

        return provide

    def _sign(self, user_id: str, ttl_seconds: float) -> str:
        return sign_token(settings_for(self._server.data_dir), user_id, ttl_seconds=ttl_seconds)

    def _unfinished(self) -> int:
        return sum(len(journal.unfinished) for journal in self._journals)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:5.0f} s"


def _by_trace(logged: dict[str, dict[str, LoggedRun]]) -> dict[str, tuple[str, str, str]]:
    return {
        run.view["trace_id"]: (user_id, run_id, run.view["outcome"] or "")
        for user_id, runs in logged.items()
        for run_id, run in runs.items()
    }
