"""How a run ends by what its agent does: the result, the terminal event, the ledger and our log say the same."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from structlog.testing import capture_logs

from tracewire.delivery.user_websocket_emitter import EmitOutcome
from tracewire.engine.user_execution_engine import RunResult, UserExecutionEngine
from tracewire.errors import (
    ContractBrokenError,
    DirectConstructionError,
    InvalidInputError,
    LogUnavailableError,
    NotSerializableError,
    RunEndedError,
    WiringError,
)
from tracewire.events import Receipt
from tracewire_telemetry.vocabulary import EventType, Outcome
from unit.ledgers import ROOT_SPAN_ID
from unit.stations import Stations, after, in_virtual_time

AGENT = "agent_of_the_test"
WHOSE = {"agent": AGENT, "user_id": "ada", "run_id": "run"}


def ended_as(outcome: str, message: str) -> dict[str, Any]:
    """The record of our log that tells of a run's end."""
    return {"event": "run_ended", "log_level": "info", **WHOSE, "outcome": outcome, "reason": message}


@in_virtual_time
async def test_a_run_that_completes_gives_its_answer_and_has_nothing_to_say_in_our_log() -> None:
    """It begins with the agent's name; the ledger has its outcome, and the engine's moments."""

    async def agent(ctx: Any) -> Any:
        await after(3)
        return {"answer": ctx.input}

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent(42)
    receipt = Receipt(2, {"agent_started": 1, "agent_completed": 1})
    assert RunResult(Outcome.COMPLETED, {"answer": 42}, "", receipt) == result
    assert ("agent_started", {"message": f"{AGENT} started"}) == stations.told[0]
    assert [] == logged
    assert (Outcome.COMPLETED, False) == (stations.ledger.outcome, stations.run.owes_end)
    assert 3 == round((stations.ledger.engine[1] - stations.ledger.engine[0]) / 1e9)
    assert {} == stations.ledger.waiting


@in_virtual_time
async def test_an_engine_runs_once() -> None:
    """A second run would write into the first one's events."""
    stations = Stations()
    await stations.run_agent()
    with pytest.raises(RunEndedError, match=r"^this engine has run already; create one for each run$"):
        await stations.run_agent()
    assert ["agent_started", "agent_completed"] == stations.types


def test_an_engine_is_not_built_by_hand() -> None:
    """It says who builds one."""
    with pytest.raises(DirectConstructionError) as refused:
        UserExecutionEngine()
    told = (
        "L3: UserExecutionEngine is not built directly: it would have no bridge; "
        "call ExecutionFactory.create_user_engine(context)"
    )
    assert ("L3", told) == (refused.value.check, str(refused.value))


class OddError(BaseException):
    """Not an `Exception`."""


EXITS = "_AgentExitError: the agent raised"
FAILURES: list[tuple[Callable[[], BaseException], str, str, bool]] = [
    (lambda: ValueError("no good"), "agent_exception", "ValueError: no good", False),
    (lambda: OddError("odd"), "agent_exception", "OddError: odd", False),
    (lambda: SystemExit(3), "agent_exception", f"{EXITS} SystemExit", False),
    (lambda: KeyboardInterrupt(), "agent_exception", f"{EXITS} KeyboardInterrupt", False),
    (lambda: GeneratorExit(), "agent_exception", f"{EXITS} GeneratorExit", False),
    (lambda: NotSerializableError("no JSON"), "not_serializable", "no JSON", False),
    (lambda: ContractBrokenError("not now"), "contract_broken", "not now", False),
    (lambda: LogUnavailableError("full"), "log_unavailable", "full", True),
    (lambda: WiringError("L5", "loose"), "worker_lost", "L5: loose", True),
    (lambda: TimeoutError("its own"), "agent_exception", "TimeoutError: its own", False),
]


@pytest.mark.parametrize(("error", "code", "message", "retryable"), FAILURES, ids=[row[1] + row[2] for row in FAILURES])
@in_virtual_time
async def test_an_agent_that_raises_ends_its_run_with_the_code_of_its_error(
    error: Callable[[], BaseException], code: str, message: str, retryable: bool
) -> None:
    """Our log has the traceback once, and the run's end."""
    raised = error()

    async def agent(_: Any) -> None:
        raise raised

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent()
    counts = {"agent_started": 1, "agent_error": 1}
    assert RunResult(Outcome(code), None, message, Receipt(2, counts)) == result
    receipt = {"last_seq": 2, "counts": counts}
    assert {"code": code, "message": message, "retryable": retryable, "receipt": receipt} == stations.last
    assert (Outcome(code), Outcome(code)) == (stations.stored.outcome, stations.ledger.outcome)
    failed, ended = logged
    said = failed.pop("exc_info")
    assert raised in (said, said.__cause__)
    assert {"event": "agent_failed", "log_level": "error", **WHOSE, "code": code} == failed
    assert ended_as(code, message) == ended


@in_virtual_time
async def test_an_input_that_the_agent_refuses_is_no_defect() -> None:
    """The user is told what is wrong with it; our log needs no traceback."""

    async def agent(_: Any) -> None:
        raise InvalidInputError("a number is wanted")

    stations = Stations(agent)
    with capture_logs() as logged:
        await stations.run_agent("x")
    assert ("agent_exception", "a number is wanted") == (stations.last["code"], stations.last["message"])
    refused = {"event": "agent_refused_input", "log_level": "info", **WHOSE, "why": "a number is wanted"}
    assert [refused, ended_as("agent_exception", "a number is wanted")] == logged


@in_virtual_time
async def test_an_agent_that_cancels_itself_has_failed() -> None:
    """Nobody else had asked for it."""

    async def agent(_: Any) -> None:
        raise asyncio.CancelledError

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent()
    message = "the agent cancelled itself"
    assert (Outcome.AGENT_EXCEPTION, message, message) == (result.outcome, result.message, stations.last["message"])
    assert [ended_as("agent_exception", message)] == logged


@in_virtual_time
async def test_an_answer_that_is_no_json_is_an_error_that_says_so() -> None:
    """In the run's terminal event and in our log."""

    async def agent(_: Any) -> object:
        return object()

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent()
    what = "agent_completed of run run: Encoding objects of type object is unsupported"
    assert (Outcome.NOT_SERIALIZABLE, None, f"the agent's answer: {what}") == (
        result.outcome, result.output, result.message,
    )  # fmt: skip
    assert ("not_serializable", False) == (stations.last["code"], stations.last["retryable"])
    failed = {"event": "agent_failed", "log_level": "error", "agent": AGENT, "run_id": "run", "error": what}
    assert [failed, ended_as("not_serializable", result.message)] == logged
    assert ["agent_started", "agent_error"] == stations.types


@in_virtual_time
async def test_tools_that_an_agent_forgets_are_named_in_our_log() -> None:
    """By their names, in order."""

    async def agent(ctx: Any) -> str:
        for name in ("search", "look"):
            await ctx.tool(name).open()
        return "done"

    stations = Stations(agent)
    with capture_logs() as logged:
        result = await stations.run_agent()
    left = {"event": "tools_left_open", "log_level": "warning", "agent": AGENT, "run_id": "run"}
    assert [left | {"tools": ["look", "search"]}] == logged
    assert (Outcome.COMPLETED, 6) == (result.outcome, result.receipt.last_seq)


@pytest.mark.parametrize("known", [True, False])
@in_virtual_time
async def test_a_defect_of_ours_is_told_to_the_user_and_in_our_log(known: bool) -> None:
    """The run ends with `worker_lost`; what is not an error of ours is told by its type alone, and logged whole."""
    stations = Stations()

    async def broken(envelope: Any) -> EmitOutcome:
        if known:
            return EmitOutcome(envelope.seq, 1)  # it did nothing
        raise KeyError("secret")

    stations.bridge._emits[EventType.AGENT_COMPLETED] = broken
    with capture_logs() as logged:
        result = await stations.run_agent()
    cause = "L5: emit_agent_completed returned, and the log does not hold seq 2" if known else "KeyError"
    message = f"internal error: {cause}"
    assert (Outcome.WORKER_LOST, message) == (result.outcome, result.message)
    assert ("worker_lost", message, True) == tuple(stations.last[name] for name in ("code", "message", "retryable"))
    failed = {"event": "engine_failed", "log_level": "error", "agent": AGENT, "run_id": "run", "exc_info": True}
    assert [failed, ended_as("worker_lost", message)] == logged
    assert (2, {}) == (stations.ledger.last_seq, stations.ledger.waiting)


@in_virtual_time
async def test_a_run_that_was_ended_behind_its_engine_is_not_ended_twice() -> None:
    """Its engine says so, and writes nothing more."""

    async def agent(_: Any) -> None:
        await stations.bridge.cancel("behind its back", stations.stamp(EventType.AGENT_CANCELLED))

    stations = Stations(agent)
    with capture_logs() as logged, pytest.raises(RunEndedError):
        await stations.run_agent()
    assert ["agent_started", "agent_cancelled"] == stations.types
    assert ["emitted_after_end"] == [entry["event"] for entry in logged]


@in_virtual_time
async def test_the_agent_works_within_its_runs_span_and_nobody_else_does() -> None:
    """What it instruments itself hangs in the run's trace."""
    found: list[int] = []

    async def agent(_: Any) -> None:
        found.append(trace.get_current_span().get_span_context().span_id)

    stations = Stations(agent)
    await stations.run_agent()
    found.append(trace.get_current_span().get_span_context().span_id)
    assert [ROOT_SPAN_ID, 0] == found
