"""Runs over HTTP: start, list, read, cancel; and the agents that can be asked. A run belongs to its user."""

from typing import Any

import msgspec
import uuid_utils
from litestar import Controller, Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath
from msgspec import Struct

from tracewire.engine.agent import AgentRegistry
from tracewire.errors import EventsExpiredError, RejectedError
from tracewire.eventlog import EventLog, RunSummary
from tracewire.events import decode_envelope
from tracewire.gateway.auth import Authenticator, Principal
from tracewire.gateway.event_stream import stream_events, wants_stream
from tracewire.gateway.frames import encode_frame
from tracewire.gateway.protocol import find_token
from tracewire.gateway.reading import SEQ_MAX, read_body, read_integer
from tracewire.gateway.socket_runs import announce
from tracewire.runs.run import state_of
from tracewire.runs.service import RunService, StartRun
from tracewire_telemetry.stamps import LedgerReport, decode_stamps, report_of, report_without_stamps, stamps_of
from tracewire_telemetry.vocabulary import EventType, Outcome, RejectCode

PAGE_RUNS_MAX = 100
PAGE_EVENTS_MAX = 1_000


class RunRequest(Struct, frozen=True):
    """The body of `POST /runs`. The request id comes in `Idempotency-Key`."""

    input: Any
    agent: str | None = None
    thread_id: str | None = None
    traceparent: str | None = None


class RunStarted(Struct, frozen=True):
    """The run that a `POST /runs` started, or had started before."""

    run_id: str
    request_id: str
    thread_id: str


class RunView(Struct, frozen=True):
    """A run as its user sees it. Times are Unix nanoseconds."""

    run_id: str
    request_id: str
    thread_id: str
    agent: str
    state: str
    outcome: str | None
    last_seq: int
    acked_seq: int
    trace_id: str
    started_unix_ns: int
    ended_unix_ns: int | None


class RunPage(Struct, frozen=True):
    """Runs, newest first. `next` goes into `before` for the next page; `null`: there is none."""

    runs: list[RunView]
    next: str | None


class EventPage(Struct, frozen=True):
    """Envelopes in the order of their seq. `last_seq` is the run's newest durable one."""

    run_id: str
    last_seq: int
    events: list[msgspec.Raw]


class AgentView(Struct, frozen=True):
    """An agent that can be asked. `requires` are the event types that its completed runs owe."""

    name: str
    description: str
    requires: tuple[str, ...]
    default: bool


class HttpRuns:
    """What the routes below share."""

    def __init__(self, authenticator: Authenticator, runs: RunService, log: EventLog, agents: AgentRegistry) -> None:
        self.authenticator = authenticator
        self.runs = runs
        self.log = log
        self.agents = agents

    async def user_of(self, request: Request[Any, Any, Any]) -> str:
        """The user who signed this request; raises as `principal_of`."""
        return (await self.principal_of(request)).user_id

    async def principal_of(self, request: Request[Any, Any, Any]) -> Principal:
        """Who signed this request, and until when.

        Raises:
            AuthenticationError: there is no valid token.
            KeysUnavailableError: whether it is valid cannot be told now.
        """
        return await self.authenticator.authenticate(find_token(request.headers.get("authorization"), ()))

    def view(self, run: RunSummary) -> RunView:
        """A run as its user sees it."""
        open_run = self.runs.open_run(run.user_id, run.run_id)
        return RunView(
            run.run_id,
            run.request_id,
            run.thread_id,
            run.agent,
            state_of(run, awaiting_input=bool(open_run and open_run.awaiting_input)).value,
            run.outcome.value if run.outcome else None,
            run.last_seq,
            run.acked_seq,
            run.trace_id,
            run.started_unix_ns,
            run.ended_unix_ns,
        )

    async def ledger(self, run_id: str, user_id: str | None) -> LedgerReport:
        """The run's ledger, live or as it was settled; `user_id` `None` is the operator.

        Raises:
            RejectedError: `unknown_run`, also where it is another user's.
        """
        summary = await self.log.run(run_id)
        if summary is None or (user_id is not None and summary.user_id != user_id):
            raise RejectedError(RejectCode.UNKNOWN_RUN, f"there is no run {run_id!r}")
        ledger = self.runs.ledger_of(run_id)
        if ledger is not None:
            return report_of(stamps_of(ledger))
        stored = await self.log.stamps(run_id)
        if stored is None:
            return await self._without_stamps(summary)
        return report_of(decode_stamps(stored))

    async def _without_stamps(self, run: RunSummary) -> LedgerReport:
        types: list[EventType] = []
        while events := await self.log.replay(run.run_id, len(types), limit=PAGE_EVENTS_MAX):
            types += [decode_envelope(event.body).type for event in events]
        return report_without_stamps(
            run_id=run.run_id,
            user_id=run.user_id,
            agent=run.agent,
            trace_id=run.trace_id,
            started_unix_ns=run.started_unix_ns,
            outcome=run.outcome,
            types=types,
        )


def shared(state: State) -> HttpRuns:
    """The routes' shared part, from the application's state."""
    found: HttpRuns = state["http_runs"]
    return found


class RunsController(Controller):
    """`/runs` and what is under it."""

    path = "/runs"

    @post(status_code=202)
    async def start(self, request: Request[Any, Any, Any], state: State) -> Response[Any]:
        """Start a run, or find the one that the same `Idempotency-Key` started. Its events go to the user's sockets."""
        http = shared(state)
        user_id = await http.user_of(request)
        asked = await read_body(request, RunRequest)
        request_id = request.headers.get("idempotency-key") or str(uuid_utils.uuid7())
        accepted = await http.runs.accept(
            user_id, StartRun(request_id, asked.input, asked.agent, asked.thread_id, asked.traceparent)
        )
        announcement = announce(accepted)
        if accepted.created:
            frame = encode_frame(announcement)
            http.runs.start(accepted, lambda follower: follower.send(frame))
        context = accepted.context
        return Response(
            RunStarted(context.run_id, context.request_id, context.thread_id),
            status_code=202 if accepted.created else 200,
            headers={"Location": f"/runs/{context.run_id}"},
        )

    @get()
    async def page(self, request: Request[Any, Any, Any], state: State) -> RunPage:
        """The user's runs, newest first."""
        http = shared(state)
        user_id = await http.user_of(request)
        limit = read_integer(request, "limit", 20, low=1, high=PAGE_RUNS_MAX)
        before = request.query_params.get("before") or None
        found = await http.log.runs(user_id, limit=limit + 1, before_run_id=before)
        following = found[limit - 1].run_id if len(found) > limit else None
        return RunPage([http.view(run) for run in found[:limit]], following)

    @get("/{run_id:str}")
    async def one(self, request: Request[Any, Any, Any], state: State, run_id: FromPath[str]) -> RunView:
        """One run."""
        http = shared(state)
        return http.view(await http.runs.find(await http.user_of(request), run_id))

    @get("/{run_id:str}/events")
    async def events(self, request: Request[Any, Any, Any], state: State, run_id: FromPath[str]) -> Response[Any]:
        """The run's events after a seq: a page of JSON from the log, or, where the client accepts it, a stream that
        goes on until the run has ended.
        """
        http = shared(state)
        principal = await http.principal_of(request)
        run = await http.runs.find(principal.user_id, run_id)
        after = read_integer(request, "after", 0, low=0, high=SEQ_MAX)
        if wants_stream(request):
            return stream_events(state["gateway"], request, principal, run, after)
        limit = read_integer(request, "limit", PAGE_EVENTS_MAX, low=1, high=PAGE_EVENTS_MAX)
        stored = await http.log.replay(run_id, after, limit=limit)
        if not stored and after < run.last_seq:
            raise EventsExpiredError(run_id, 0)  # since the run was looked up
        page = EventPage(run_id, run.last_seq, [msgspec.Raw(event.body) for event in stored])
        return Response(page, headers={"Vary": "Accept"})

    @get("/{run_id:str}/ledger")
    async def ledger(self, request: Request[Any, Any, Any], state: State, run_id: FromPath[str]) -> LedgerReport:
        """What each event of the run has crossed, and when."""
        http = shared(state)
        return await http.ledger(run_id, await http.user_of(request))

    @delete("/{run_id:str}", status_code=202)
    async def cancel(self, request: Request[Any, Any, Any], state: State, run_id: FromPath[str]) -> Response[RunView]:
        """Cancel the run; its terminal event says when it has ended. Cancelling a cancelled run changes nothing."""
        http = shared(state)
        user_id = await http.user_of(request)
        try:
            await http.runs.cancel(user_id, run_id)
        except RejectedError as error:
            if error.reject_code is not RejectCode.RUN_ENDED:
                raise
            run = await http.runs.find(user_id, run_id)
            if run.outcome is not Outcome.CANCELLED:
                raise
            return Response(http.view(run), status_code=200)
        return Response(http.view(await http.runs.find(user_id, run_id)), status_code=202)


@get("/agents")
async def agents(request: Request[Any, Any, Any], state: State) -> list[AgentView]:
    """The agents that can be asked, the default first."""
    http = shared(state)
    await http.user_of(request)
    default = http.agents.names[0]
    return [
        AgentView(
            spec.name, spec.description, tuple(required.value for required in spec.requires), spec.name == default
        )
        for spec in http.agents
    ]
