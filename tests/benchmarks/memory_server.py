"""The `tracewire` command on a log in memory, to tell what the one on the disk costs.

Nothing else differs: what is handed over in one turn of the event loop is answered in the next, as one group.
Run it as `python -m tests.benchmarks.memory_server serve`.
"""

import asyncio
from collections.abc import Callable, Sequence

from tracewire import cli, main
from tracewire.eventlog import Accepted, RunRecord
from tracewire.eventlog.sqlite import SqliteEventLog
from tracewire.eventlog.sqlite_writes import Pending
from tracewire_telemetry.incidents import Incident
from tracewire_telemetry.vocabulary import Outcome


class MemoryLog(SqliteEventLog):
    """Keeps records and events in dictionaries. Reads go to the database, which is empty: nobody resumes here."""

    records: dict[str, RunRecord]
    bodies: dict[str, list[bytes]]
    _answers: "list[Pending]"

    async def open(self) -> None:
        self.records, self.bodies, self._answers = {}, {}, []
        await super().open()

    async def accept(self, record: RunRecord) -> Accepted:
        self.records[record.run_id] = record
        self.bodies[record.run_id] = []
        return Accepted(record, True)

    def append(
        self,
        run_id: str,
        seq: int,
        body: bytes,
        *,
        outcome: Outcome | None = None,
        on_durable: Callable[[], object] | None = None,
    ) -> "asyncio.Future[None]":
        self.bodies[run_id].append(body)
        future = Pending(on_durable, loop=self._loop)
        if not self._answers:
            self._loop.call_soon(self._answer_all)
        self._answers.append(future)
        return future

    def _answer_all(self) -> None:
        answers, self._answers = self._answers, []
        for future in answers:
            future.durable()

    def ack(self, run_id: str, seq: int) -> None:
        """Nobody asks for it again."""

    async def store_stamps(self, run_id: str, stamps: bytes) -> None:
        """Nobody asks for them again."""

    async def store_incidents(self, incidents: Sequence[Incident]) -> None:
        """There are none."""


if __name__ == "__main__":
    main.SqliteEventLog = MemoryLog  # type: ignore[misc] # the benchmark's server alone
    cli.main()
