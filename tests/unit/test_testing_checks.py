"""What can be asked of a trace beside its tree: how many, order, links, shares of the time, secrets."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from support.made_spans import basket, made
from tracewire_telemetry.testing import (
    InProcessRecorder,
    Recording,
    assert_absent,
    assert_count,
    assert_links,
    assert_no_secret,
    assert_order,
    assert_shares,
    span,
)
from tracewire_telemetry.testing.spans import RecordedTrace, SpanEvent

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLW9mLWl0"


def test_spans_are_counted_by_name_expression_and_pattern() -> None:
    """And given back, by start."""
    assert [s.name for s in assert_count(basket(), re.compile("price|stock"), 2)] == ["price", "stock"]
    assert_count(basket(), span("query", attributes={"db.rows": 3}), 1)
    assert_count(basket(), "query", at_least=1, at_most=1)
    with pytest.raises(AssertionError, match=r"there are 1 spans query, must be 2; here are GET /basket \[server\]"):
        assert_count(basket(), "query", 2)
    with pytest.raises(AssertionError, match="must be at least 2 and at most 3"):
        assert_count(basket(), "query", at_least=2, at_most=3)
    with pytest.raises(ValueError, match="needs count"):
        assert_count(basket(), "query")


def test_what_must_not_be_there_is_said_with_what_it_stands_under() -> None:
    """Absence of a name; presence elsewhere in the trace is no matter."""
    assert_absent(basket(), "surprise")
    with pytest.raises(AssertionError, match="tax must not be there, but is, 1 times under price"):
        assert_absent(basket(), "tax")


def test_the_order_in_time_is_held() -> None:
    """By start, or each after the end of the one before."""
    assert_order(basket(), "query", "price", "stock", "answer")
    assert_order(basket(), "query", "price", "answer", one_after_another=True)
    with pytest.raises(AssertionError, match="query began 65 ms before answer, must begin after it"):
        assert_order(basket(), "answer", "query")
    with pytest.raises(AssertionError, match="stock began 29 ms before price ended"):
        assert_order(basket(), "price", "stock", one_after_another=True)
    with pytest.raises(AssertionError, match="there are 0 spans surprise"):
        assert_order(basket(), "query", "surprise")


def test_links_are_exactly_those() -> None:
    """To spans, or to ids."""
    other = made("theirs")
    root = made("root", links=((other.trace_id, other.span_id),))
    assert_links([root], "root", [other])
    assert_links([root], "root", [(other.trace_id, other.span_id)])
    with pytest.raises(AssertionError, match=r"root lacks links to \[\], must not link to \[\('0af"):
        assert_links([root], "root", [])
    with pytest.raises(AssertionError, match="lacks links to"):
        assert_links([replace(root, links=())], "root", [other])


def test_a_budget_is_a_share_of_the_roots_duration() -> None:
    """Time that overlaps counts once."""
    assert_shares(basket(), {"query": 0.15, "price": 0.3})
    with pytest.raises(AssertionError, match="query took 15% of GET /basket, may take 10%"):
        assert_shares(basket(), {"query": 0.1})
    with pytest.raises(AssertionError, match="the budget of surprise is about no span"):
        assert_shares(basket(), {"surprise": 1})
    root = made("root", at=(0, 10))
    side_by_side = [made("a", root, at=(0, 6)), made("a", root, at=(1, 2)), made("a", root, at=(3, 9))]
    assert_shares([root, *side_by_side], {"a": 0.9})
    with pytest.raises(AssertionError, match="a took 90% of root"):
        assert_shares([root, *side_by_side], {"a": 0.89})


@pytest.mark.parametrize(
    "look",
    [
        lambda t: assert_count(t, "a", 0),
        lambda t: assert_absent(t, "a"),
        lambda t: assert_order(t),
        lambda t: assert_links(t, "a", []),
        lambda t: assert_shares(t, {}),
    ],
)
def test_an_empty_recording_always_fails(look: Callable[[RecordedTrace], Any]) -> None:
    """Though nothing is missing from it, and nothing too much."""
    with pytest.raises(AssertionError, match="the recording is empty"):
        look(RecordedTrace([]))


def test_what_is_no_trace_is_said_with_what_to_give() -> None:
    """A recorder, whose trace may not have come yet, and several traces."""
    with pytest.raises(TypeError, match=r"a recorder is no trace: wait for one, as in trace = trace_recorder\.wait"):
        assert_count(InProcessRecorder(), "a", 0)  # type: ignore[arg-type] # as a tester might
    with pytest.raises(TypeError, match=r"these are 2 traces: give one, as in \[trace\] = read_traces"):
        assert_count([RecordedTrace([]), RecordedTrace([])], "a", 0)  # type: ignore[list-item] # as above


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": f"GET /?token={JWT}"}, "the name of"),
        ({"attributes": {"url": f"/{JWT}"}}, "root: attribute url"),
        ({"attributes": {"list": ["a", f"Bearer {'x' * 20}"]}}, "root: attribute list"),
        ({"attributes": {"http.request.header.authorization": "letmein"}}, "attribute http.request.header.auth"),
        ({"attributes": {"dsn": "db://ada:pw@host/x"}}, "root: attribute dsn"),
        ({"attributes": {"note": "password=hunter22"}}, "root: attribute note"),
        ({"resource": {"key": "-----BEGIN RSA PRIVATE KEY-----"}}, "root: resource attribute key"),
        ({"status_message": "AKIAABCDEFGHIJKLMNOP refused"}, "the status of root"),
        ({"events": (SpanEvent("sent", 1, {"to": "ghp_" + "a" * 36}),)}, "root: event sent attribute to"),
        ({"link_attributes": ({"of": "s3cret-value"},)}, "root: link attribute of"),
    ],
)
def test_a_secret_is_found_wherever_a_span_can_hold_one(changes: dict[str, Any], where: str) -> None:
    """By its look, by its key, by its value; the message says where, and does not repeat it."""
    root = made("root", attributes={"fine": "nothing to see, token of thanks"})
    assert_no_secret([root], values=["s3cret-value"])
    with pytest.raises(AssertionError) as raised:
        assert_no_secret([replace(root, **changes)], values=["s3cret-value"])
    assert where in str(raised.value)
    for secret in (JWT, "hunter22", "s3cret-value", "letmein", "x" * 20, "ABCDEFGHIJKLMNOP", "a" * 36):
        assert secret not in str(raised.value)


def test_secrets_are_looked_for_in_every_signal() -> None:
    """Spans of a recording, metrics and log records that it received, texts of logs and scrapes."""
    recording = Recording()
    recording.add(basket())
    recording.add_text('{"body": "signed in"}')
    assert_no_secret(recording, "a log line\nand another", values=["s3cret"])
    recording.add_text('{"body": "signed in with s3cret"}')
    with pytest.raises(AssertionError, match=r"signal 1, metrics or logs 2, line 1 holds a secret: s… \(6 char"):
        assert_no_secret(recording, values=["s3cret"])
    with pytest.raises(AssertionError, match="signal 2, line 2 holds a secret"):
        assert_no_secret(basket(), "fine\nAuthorization: Bearer abcdefghijklmnop")
    with pytest.raises(AssertionError, match="holds a secret"):
        assert_no_secret("ticket 4711-0815", patterns=[r"\d{4}-\d{4}"])


def test_redacted_values_are_no_secrets_and_nothing_searched_is_a_failure() -> None:
    """A search of nothing would always pass."""
    assert_no_secret([made("a", attributes={"password": "[redacted]", "api_key": "***", "token": ""})])
    for nothing in ("", [], Recording()):
        with pytest.raises(AssertionError, match="signal 2 is empty: nothing was searched"):
            assert_no_secret("a line", nothing)
    with pytest.raises(ValueError, match="needs what is to be searched"):
        assert_no_secret()
