"""Somebody's agent served for a test: what `tracewire_agent` gives, and what it says where no run comes about."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from support.dying_agent import EXIT_CODE
from support.servers import FIVE
from tracewire_telemetry.testing import ServedAgent, assert_chain

TESTS = Path(__file__).parents[1]
Serve = Callable[..., AbstractContextManager[ServedAgent]]


def answered(frame: dict[str, Any]) -> dict[str, Any] | None:
    """Yes to whatever is asked."""
    if frame["type"] != "input_required":
        return None
    return {"type": "provide_input", "run_id": frame["run_id"], "input_id": frame["data"]["input_id"], "value": True}


def test_a_run_has_its_frames_its_trace_and_its_scrapes(tracewire_agent: Serve) -> None:
    """Over a real socket, acked as it came; the agent that was given is the one that runs."""
    with tracewire_agent("support.agents:five", cwd=TESTS) as served:
        run = served.run("ada", "ask")
        assert served.ledger(run.run_id) is not None
        assert '"event": "ready"' in served.log_text
    assert (run.event_types, run.acked_seq, run.output) == (list(FIVE), 5, "answer for ada: ask")
    assert run.metrics_before != run.metrics_after
    assert_chain(run, events=FIVE, user_id="ada")


def test_a_client_that_does_not_ack_is_named(tracewire_agent: Serve) -> None:
    """Its run's trace does not leave; the wait says who owes which ack."""
    with (
        tracewire_agent("support.agents:five", cwd=TESTS) as served,
        pytest.raises(
            AssertionError, match="event 5 agent_completed has not crossed client: user ada has not acked it"
        ),
    ):
        served.run("ada", "ask", ack=False, timeout_seconds=4)


def test_questions_of_the_agent_are_answered(tracewire_agent: Serve) -> None:
    """What `on_event` gives back is sent."""
    with tracewire_agent("support.agents:asks", cwd=TESTS) as served:
        run = served.run("ada", "go", on_event=answered)
    assert "input_required" in run.event_types
    assert run.event_types[-1] == "agent_completed"


def test_an_agent_that_raises_says_so_wherever_a_check_fails(tracewire_agent: Serve) -> None:
    """The error's own words, in the chain and beside a value that was compared."""
    with tracewire_agent("support.agents:raises", cwd=TESTS) as served:
        run = served.run("ada", "exception")
    error = "agent_exception: ValueError: no good"
    assert (run.error, run.output) == (error, None)
    assert repr(run).endswith(f"agent_error; {error}>")
    with pytest.raises(AssertionError, match=f"its client was told {error}"):
        assert_chain(run, events=FIVE)


def test_a_server_that_ends_by_itself_is_told_of_by_the_run_and_by_the_next(tracewire_agent: Serve) -> None:
    """With its exit code and what it logged; one that was stopped is told apart from that."""
    with tracewire_agent("support.dying_agent:dies", cwd=TESTS) as served:
        for said in (r"did not end before the socket closed .*\n.*, input_required\n  ", "^"):
            expected = f"{said}the server has ended by itself, with exit code {EXIT_CODE}; what it logged last:\n"
            with pytest.raises(AssertionError, match=expected):
                served.run("ada", "go", on_event=answered)
    with pytest.raises(RuntimeError, match="the server is not running: use it within `with tracewire_agent"):
        served.run("ada", "go")


def test_an_input_that_is_no_json_is_said(tracewire_agent: Serve) -> None:
    """Before anything is sent."""
    with (
        tracewire_agent("support.agents:five", cwd=TESTS) as served,
        pytest.raises(TypeError, match="must be JSON: Obj"),
    ):
        served.run("ada", object())


def test_a_server_that_does_not_start_says_why(tracewire_agent: Serve) -> None:
    """The agent's name, and what the server had to say; none of the kit's own code."""
    with (
        pytest.raises(AssertionError, match=r"(?s)agent support.agents:no_such did not start:.*no_such") as raised,
        tracewire_agent("support.agents:no_such", cwd=TESTS),
    ):
        pass
    assert [entry.path for entry in raised.traceback.filter(raised)] == [Path(__file__)]


def test_a_run_that_is_refused_says_why(tracewire_agent: Serve) -> None:
    """The server's code and words."""
    refused = pytest.raises(AssertionError, match="the server refused the run: unknown_agent: ")
    with tracewire_agent("support.agents:five", cwd=TESTS) as served, refused:
        served.run("ada", "go", agent="nobody")
