"""The one context type: ids that are empty or mixed up are refused before an event can go to the wrong key."""

from typing import Any

import pytest

from tracewire.engine.context import UserExecutionContext
from tracewire.errors import WiringError

IDS = {"user_id": "ada", "run_id": "run-1", "thread_id": "thread-1", "request_id": "request-1"}


@pytest.mark.parametrize("name", sorted(IDS))
@pytest.mark.parametrize("empty", ["", " ", "\t\n", None])
def test_an_empty_id_is_refused_by_name(name: str, empty: str | None) -> None:
    """`None` too, which would become the text "None" somewhere further on."""
    values: dict[str, Any] = IDS | {name: empty}
    with pytest.raises(WiringError, match=rf"L2: .*lacks {name};"):
        UserExecutionContext(**values)


def test_every_empty_id_is_named_at_once() -> None:
    """Not just the first."""
    with pytest.raises(WiringError, match="user_id, run_id, thread_id, request_id"):
        UserExecutionContext("", "", "", "")


@pytest.mark.parametrize(("one", "other"), [("user_id", "run_id"), ("user_id", "thread_id"), ("run_id", "thread_id")])
def test_two_ids_that_are_the_same_are_refused(one: str, other: str) -> None:
    """Somebody passed one for the other: its events would go to a key that no socket has."""
    with pytest.raises(WiringError, match=r"L2: .*two of them are the same"):
        UserExecutionContext(**(IDS | {one: IDS[other]}))


def test_a_request_id_may_be_any_id_the_client_likes() -> None:
    """It is the client's own; also one that equals another id."""
    assert UserExecutionContext(**(IDS | {"request_id": "run-1"})).request_id == "run-1"


def test_a_context_cannot_be_changed() -> None:
    """It is handed from station to station."""
    context = UserExecutionContext(**IDS)
    with pytest.raises(AttributeError):
        context.user_id = "bob"  # type: ignore[misc] # that it fails is the point
    assert UserExecutionContext(**IDS) == context
