"""Users who ask for one run after the other until it is over, and then wait for what they asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from chaos.journal import Journal, RunJournal
from chaos.killing import pause
from tracewire.client import Client, ClientError, ClientRun, Stage

OPEN_RUNS_MAX: Final = 4
CONNECT_SECONDS: Final = 600.0
"""These users wait for as long as the server is away: what hangs is told at the end."""
FORGETTING_SHARE: Final = 0.1
THINK_SECONDS: Final = (0.3, 3.0)

TokenProvider = Callable[[], Awaitable[str]]


class OurUser:
    """A user of `tracewire.client.Client`. The journal holds what came out of the iteration over each run.

    Now and then the program that uses the client forgets everything, and a new one catches up from what `ready` lists.
    """

    def __init__(self, journal: Journal, url: str, token: TokenProvider) -> None:
        self._journal = journal
        self._url = url
        self._token = token
        self._asked = asyncio.Event()

    async def live(self, over: asyncio.Event) -> None:
        """Until it is over, every run has ended, and a new client finds none that is not acked to its end."""
        while True:
            last = over.is_set()
            caught_up = await self._one_life(over)
            if last and caught_up and not self._journal.unfinished:
                return
            await pause(0.1, asyncio.Event())

    async def _one_life(self, over: asyncio.Event) -> bool:
        """One client, from its first connection to its end; whether it found nothing to catch up with."""
        journal, found = self._journal, True
        for run in journal.unfinished:
            run.forget()
        try:
            async with Client(self._url, self._token, connect_seconds=CONNECT_SECONDS) as client:
                # The acks of these went with a connection or a server: whoever comes anew has them all again.
                unacked = [journal.runs[run.request_id] for run in client.runs if run.request_id in journal.runs]
                for run in unacked:
                    run.forget()
                found = bool(unacked)
                counting = asyncio.create_task(self._count_losses(client))
                watching = {asyncio.create_task(self._watch(client, run)) for run in journal.unfinished}
                try:
                    await self._ask_and_watch(client, watching, over)
                finally:
                    for task in (counting, *watching):
                        task.cancel()
                    await asyncio.gather(counting, *watching, return_exceptions=True)
        except ClientError as error:
            journal.note("wrong", "", f"the client gave up: {error}")
        return not found

    async def _ask_and_watch(self, client: Client, watching: set["asyncio.Task[None]"], over: asyncio.Event) -> None:
        journal, random = self._journal, self._journal.random
        while not over.is_set():
            if len(journal.unfinished) < OPEN_RUNS_MAX:
                watching.add(asyncio.create_task(self._watch(client, journal.ask())))
            await pause(random.uniform(*THINK_SECONDS), over)
            if random.random() < FORGETTING_SHARE:
                return
        if watching:
            await asyncio.gather(*watching)

    async def _watch(self, client: Client, journal: RunJournal) -> None:
        """Take one run's events as they come out of the client, to the end."""
        try:
            run = await self._get(client, journal)
            async for envelope in run:
                journal.take(msgspec.to_builtins(envelope))
            if not run.receipt_agrees:
                journal.note("wrong", run.last_seq, f"for the client the receipt {run.receipt} does not agree")
        except ClientError as error:
            journal.note("wrong", journal.last_seq, f"{type(error).__name__} {error.code}: {error}")
            journal.forget()

    async def _get(self, client: Client, journal: RunJournal) -> ClientRun:
        """As somebody does who has nothing but `ready` and the request id."""
        listed = next((run for run in client.runs if run.request_id == journal.request_id), None)
        if listed is not None:
            run = await client.follow(listed.run_id)
        else:
            run = await client.start_run(journal.asked, agent="chaotic", request_id=journal.request_id)
        self._journal.accept(journal, run.run_id)
        return run

    async def _count_losses(self, client: Client) -> None:
        async for state in client.states():
            if state.stage is Stage.RECONNECTING:
                self._journal.losses += 1
            elif state.stage is Stage.READY and self._journal.unfinished:
                self._journal.resumes += 1
