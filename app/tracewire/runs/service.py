"""Runs, as their users see them: started, followed, cancelled, answered, listed.

Enters: requests of a signed-in user, from the gateway. Leaves: accepted runs, on their way. Next: `ExecutionEngine`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import uuid_utils
from msgspec import Struct

from tracewire.allowances import UserAllowances
from tracewire.delivery.connection import Connection
from tracewire.delivery.connections import Connections
from tracewire.engine.agent import AgentRegistry, AgentSpec
from tracewire.engine.context import UserExecutionContext
from tracewire.engine.execution_engine import ExecutionEngine
from tracewire.engine.user_execution_engine import RunResult
from tracewire.errors import LogUnavailableError, RejectedError, RequestIdReusedError, TracewireError
from tracewire.eventlog import Accepted, EventLog, RunRecord, RunSummary, Turn
from tracewire.readiness import Readiness
from tracewire.runs.recovery import close_broken_run
from tracewire.settings import Settings
from tracewire_telemetry.chain import TraceContext, is_sampled, new_trace_ids, parse_traceparent
from tracewire_telemetry.ledger import RunIdentity, RunLedger
from tracewire_telemetry.limits import EngineDeadlines
from tracewire_telemetry.vocabulary import Outcome, RejectCode, RunErrorCode
from tracewire_telemetry.watch import OpenRun, Watch

ID_CHARACTERS_MAX: Final = 128
_PRINTABLE_ID: Final = re.compile(r"[^\x00-\x1f\x7f]+")


class StartRun(Struct, frozen=True):
    """What a user asks for. `input` is any JSON value; `agent` defaults to the server's first."""

    request_id: str
    input: Any
    agent: str | None = None
    thread_id: str | None = None
    traceparent: str | None = None


class AcceptedRun(Struct, frozen=True):
    """A run whose record is durable. `run` is its watched side, `None` where it has ended already."""

    context: UserExecutionContext
    spec: AgentSpec
    record: RunRecord
    created: bool
    run: OpenRun | None
    history: Sequence[Turn] = ()


class RunService:
    """The runs of all users; each method looks only at those of the user it is given."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        engine: ExecutionEngine,
        agents: AgentRegistry,
        connections: Connections,
        watch: Watch,
        readiness: Readiness,
    ) -> None:
        self._settings = settings
        self._log = log
        self._engine = engine
        self._agents = agents
        self._connections = connections
        self._watch = watch
        self._readiness = readiness
        per_minute = settings.run_starts_per_minute_max
        self._starts = UserAllowances(per_minute / 60, per_minute)
        self._closing: set[asyncio.Task[None]] = set()

    # Starting.

    async def accept(self, user_id: str, request: StartRun, *, handshake: TraceContext | None = None) -> AcceptedRun:
        """Make a run of the request, durable, or find the one that an earlier such request made.

        A created run holds a place of the user's; `start` gives it back when the run ends.

        Raises:
            RejectedError: it says what was wrong and what to do.
        """
        spec = self._checked(user_id, request)
        try:
            self._admit(user_id)
        except RejectedError:
            earlier = await self._earlier(user_id, request, spec)
            if earlier is None:
                raise
            return earlier
        created = False
        try:
            record, now = self._record(user_id, request, spec)
            history = await self._history(user_id, request.thread_id)
            accepted = await self._accept(record)
            created = accepted.created
            if not created:
                return self._found(accepted.record, spec)
            run = self._open(record, spec, request, handshake, now)
            return AcceptedRun(_context(record), spec, record, True, run, history)
        finally:
            if not created:
                self._engine.release(user_id)
                self._starts.give_back(user_id)

    def _admit(self, user_id: str) -> None:
        self._engine.admit(user_id)
        wait = self._starts.take(user_id, time.monotonic_ns())
        if wait:
            self._engine.release(user_id)
            raise RejectedError(
                RejectCode.RATE_LIMITED,
                f"you start more than {self._settings.run_starts_per_minute_max} runs a minute; wait before the next",
                retry_after_seconds=wait,
            )

    def start(self, accepted: AcceptedRun, announce: Callable[[Connection], None]) -> None:
        """Let every ready socket of the user follow the accepted run, announce it there, and run its agent."""
        run_id, user_id = accepted.context.run_id, accepted.context.user_id
        for connection in self._connections.of(user_id):
            if connection.reader:
                continue
            connection.follow(run_id, accepted.run)
            announce(connection)
        task = self._engine.start(accepted.context, accepted.spec, accepted.record.input, accepted.history)
        task.add_done_callback(partial(self._look_after, accepted))

    def _look_after(self, accepted: AcceptedRun, task: "asyncio.Task[RunResult]") -> None:
        """A run that its stations could not end, because they crashed or the log took nothing, is ended past them."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            code, why = RunErrorCode.WORKER_LOST, "internal error"
            if isinstance(error, TracewireError):
                why = f"internal error: {error}"
        elif task.result().outcome is Outcome.LOG_UNAVAILABLE:
            code, why = RunErrorCode.LOG_UNAVAILABLE, "the event log failed while the run was open; start it again"
        else:
            return
        context = accepted.context
        closing = asyncio.get_running_loop().create_task(
            close_broken_run(self._log, self._connections, context.user_id, context.run_id, accepted.run, code, why)
        )
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Give up on runs that still wait for the log: the next start ends them."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _checked(self, user_id: str, request: StartRun) -> AgentSpec:
        if self._readiness.draining:
            raise RejectedError(
                RejectCode.DRAINING, "the server is stopping; start the run on the next one", retry_after_seconds=2
            )
        if not self._readiness.ready:
            reasons = "; ".join(self._readiness.reasons.values())
            raise RejectedError(RejectCode.LOG_UNAVAILABLE, f"no new runs now: {reasons}", retry_after_seconds=5)
        _check_id("request_id", request.request_id)
        if request.thread_id is not None:
            _check_id("thread_id", request.thread_id)
            if request.thread_id == user_id:
                raise RejectedError(RejectCode.INVALID_INPUT, "thread_id must not be your user id: name the thread")
        spec = self._agents.get(request.agent)
        if spec is None:
            known = ", ".join(self._agents.names)
            raise RejectedError(
                RejectCode.UNKNOWN_AGENT, f"there is no agent {request.agent!r}; this server has {known}"
            )
        return spec

    def _record(self, user_id: str, request: StartRun, spec: AgentSpec) -> tuple[RunRecord, int]:
        now, unix_ns = time.monotonic_ns(), time.time_ns()
        trace_id, root_span_id = new_trace_ids()
        record = RunRecord(
            run_id=str(uuid_utils.uuid7()),
            user_id=user_id,
            request_id=request.request_id,
            thread_id=request.thread_id or str(uuid_utils.uuid7()),
            agent=spec.name,
            input=request.input,
            trace_id=f"{trace_id:032x}",
            root_span_id=f"{root_span_id:016x}",
            started_unix_ns=unix_ns,
            sampled=is_sampled(trace_id, self._settings.trace_share),
        )
        return record, now

    async def _accept(self, record: RunRecord) -> Accepted:
        try:
            return await self._log.accept(record)
        except RecursionError:
            raise RejectedError(RejectCode.INVALID_INPUT, "the input is nested too deeply to be kept") from None
        except RequestIdReusedError as error:
            raise RejectedError(
                RejectCode.REQUEST_ID_REUSED,
                f"request_id {record.request_id!r} stands for a run with another agent or input; use a new one",
            ) from error
        except LogUnavailableError as error:
            raise RejectedError(RejectCode.LOG_UNAVAILABLE, str(error), retry_after_seconds=5) from error

    async def _earlier(self, user_id: str, request: StartRun, spec: AgentSpec) -> AcceptedRun | None:
        """The run of a repeated request, which needs no place of its own."""
        if await self._log.run_of_request(user_id, request.request_id) is None:
            return None
        record, _ = self._record(user_id, request, spec)
        return self._found((await self._accept(record)).record, spec)

    def _found(self, record: RunRecord, spec: AgentSpec) -> AcceptedRun:
        return AcceptedRun(_context(record), spec, record, False, self._watch.runs.get(record.run_id))

    def _open(
        self, record: RunRecord, spec: AgentSpec, request: StartRun, handshake: TraceContext | None, now: int
    ) -> OpenRun:
        identity = RunIdentity(
            run_id=record.run_id,
            user_id=record.user_id,
            thread_id=record.thread_id,
            agent=record.agent,
            trace_id=int(record.trace_id, 16),
            root_span_id=int(record.root_span_id, 16),
            sampled=record.sampled,
            origin=self._watch.origins.of(record.user_id),
            required=spec.requires,
        )
        links = [link for link in (handshake, parse_traceparent(request.traceparent)) if link is not None]
        deadlines = spec.deadlines.filled(self._settings)
        engine = EngineDeadlines(deadlines.start_seconds, deadlines.idle_seconds, deadlines.tool_seconds)
        return self._watch.open(identity, links, now=now, unix_ns=record.started_unix_ns, engine=engine)

    async def _history(self, user_id: str, thread_id: str | None) -> Sequence[Turn]:
        limit = self._settings.history_turns_max
        if thread_id is None or not limit:
            return ()
        try:
            return await self._log.turns(user_id, thread_id, limit=limit)
        except LogUnavailableError as error:
            raise RejectedError(RejectCode.LOG_UNAVAILABLE, str(error), retry_after_seconds=5) from error

    # Everything else.

    async def find(self, user_id: str, run_id: str) -> RunSummary:
        """The user's run.

        Raises:
            RejectedError: `unknown_run`, also where it is another user's.
        """
        run = await self._log.run(run_id)
        if run is None or run.user_id != user_id:
            raise RejectedError(RejectCode.UNKNOWN_RUN, f"you have no run {run_id!r}")
        return run

    async def cancel(self, user_id: str, run_id: str, reason: str = "cancelled by the user") -> None:
        """Ask an open run to end with `agent_cancelled`. A second call while it ends changes nothing.

        Raises:
            RejectedError: `unknown_run`, or `run_ended`.
        """
        run = await self.find(user_id, run_id)
        engine = self._engine.engine_of(run_id)
        if not run.open or engine is None:
            raise RejectedError(RejectCode.RUN_ENDED, f"run {run_id} has ended; there is nothing to cancel")
        engine.cancel(reason)

    async def provide_input(self, user_id: str, run_id: str, input_id: str, value: Any) -> None:
        """Answer a run's `input_required`.

        Raises:
            RejectedError: `unknown_run`, `run_ended`, or `invalid_input` where it awaits no such input.
        """
        run = await self.find(user_id, run_id)
        engine = self._engine.engine_of(run_id)
        if not run.open or engine is None:
            raise RejectedError(RejectCode.RUN_ENDED, f"run {run_id} has ended; it awaits no input")
        engine.provide_input(input_id, value)

    def acknowledged_elsewhere(self, run_id: str, seq: int) -> None:
        """A user has acked events of a run that is not open here: incidents of an earlier process heal by it."""
        self._watch.acknowledged_elsewhere(run_id, seq)

    def open_run(self, user_id: str, run_id: str) -> OpenRun | None:
        """The watched side of the user's run while it is not settled."""
        run = self._watch.runs.get(run_id)
        return run if run is not None and run.ledger.identity.user_id == user_id else None

    def ledger_of(self, run_id: str) -> RunLedger | None:
        """The run's ledger until its stamps are in the log."""
        run = self._watch.runs.get(run_id) or self._watch.settling.runs.get(run_id)
        return run.ledger if run is not None else None


def _context(record: RunRecord) -> UserExecutionContext:
    return UserExecutionContext(record.user_id, record.run_id, record.thread_id, record.request_id)


def _check_id(name: str, value: str) -> None:
    if not value.strip() or len(value) > ID_CHARACTERS_MAX or not _PRINTABLE_ID.fullmatch(value):
        raise RejectedError(
            RejectCode.INVALID_INPUT,
            f"{name} must have 1 to {ID_CHARACTERS_MAX} characters, none of them a control character, not all of them "
            "blank",
        )
