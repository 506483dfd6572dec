"""The exact tree of a trace: what fits, what does not, and what is said of it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.trace import SpanKind, StatusCode

from support.made_spans import basket, made
from tracewire_telemetry.testing import (
    ABSENT,
    ANY,
    any_number,
    assert_tree,
    assert_whole,
    in_any_order,
    optional,
    span,
)
from tracewire_telemetry.testing.patterns import SpanPattern
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace


def expected(**root: Any) -> SpanPattern:
    """The basket's tree, exactly."""
    children = [
        span("query", kind="client"),
        in_any_order(span("stock"), span("price", children=[span("tax")])),
        span("answer", status="ok"),
    ]
    return span("GET /basket", **({"children": children} | root))


def test_the_exact_tree_holds() -> None:
    """Names, kinds, status, children, parallel parts in whichever order they were written."""
    assert_tree(basket(), expected(kind="server"))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": SpanKind.SERVER},
        {"status": StatusCode.UNSET},
        {"scope": "shop"},
        {"resource": {"service.name": "shop"}},
        {"attributes": {"http.status_code": 200, "user.id": ANY, "password": ABSENT}},
        {"attributes": {"http.status_code": int, "user.id": re.compile(r"ada-\d+")}},
        {"attributes": {"http.status_code": lambda code: code < 300}},
        {"attributes": {"http.status_code": 200, "user.id": str}, "exact_attributes": True},
        {"links": 0},
        {"events": []},
    ],
)
def test_a_span_is_as_it_must_be(fields: dict[str, Any]) -> None:
    """Attributes by value, type, expression, predicate, presence and absence; the rest by value."""
    assert_tree(basket(), expected(**fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "client"}, "the kind is 'server', must be 'client'"),
        ({"status": "error"}, "the status is 'unset', must be 'error'"),
        ({"scope": "other"}, "the scope is 'shop', must be 'other'"),
        ({"resource": {"service.name": "till"}}, "resource attribute service.name is 'shop', must be 'till'"),
        ({"attributes": {"http.status_code": 404}}, "attribute http.status_code is 200, must be 404"),
        ({"attributes": {"http.status_code": str}}, "attribute http.status_code is 200, must be <str>"),
        ({"attributes": {"http.status_code": True}}, "attribute http.status_code is 200, must be True"),
        ({"attributes": {"user.id": re.compile("ada")}}, "attribute user.id is 'ada-1815', must be /ada/"),
        ({"attributes": {"user.id": ABSENT}}, "attribute user.id = 'ada-1815' must not be there"),
        ({"attributes": {"order": ANY}}, "attribute order is not there, must be <any>"),
        ({"attributes": {}, "exact_attributes": True}, "attribute http.status_code = 200 must not be there"),
        ({"links": 1}, "it has 0 links, must have 1"),
        ({"events": ["sold"]}, "its events are [], must be ['sold']"),
        ({"status_message": "no"}, "the status says '', must be no"),
    ],
)
def test_what_a_span_is_not_is_said(fields: dict[str, Any], said: str) -> None:
    """Which field, what it is, what it must be."""
    with pytest.raises(AssertionError) as raised:
        assert_tree(basket(), expected(**fields))
    assert f"different: GET /basket [server]: {said}" in str(raised.value)


def without(name: str) -> RecordedTrace:
    """The basket without the spans of that name."""
    return RecordedTrace(s for s in basket() if s.name != name)


def test_a_missing_span_is_named_with_what_it_stood_under_and_shown_beside_the_expected_tree() -> None:
    """The two trees in two columns: a gap where the span should be."""
    with pytest.raises(AssertionError) as raised:
        assert_tree(without("tax"), expected())
    said = str(raised.value)
    assert "missing: tax under price" in said
    [row] = [line for line in said.splitlines() if line.startswith("- ")]
    assert [part.strip() for part in row.split("│")] == ["-     tax", ""]


def test_a_span_too_many_is_named_with_what_it_stands_under() -> None:
    """And the pattern that fits is not called missing."""
    trace = basket()
    more = made("surprise", trace.named("answer")[0], at=(75, 80))
    with pytest.raises(AssertionError) as raised:
        assert_tree(RecordedTrace([*trace, more]), expected())
    assert "not expected: surprise [internal] under answer" in str(raised.value)
    assert "missing" not in str(raised.value)
    assert "different" not in str(raised.value)


def test_another_order_is_a_difference_unless_any_will_do() -> None:
    """Children are held by their start."""
    in_order = [span("query"), span("stock"), span("price", children=ANY), span("answer")]
    with pytest.raises(AssertionError, match="missing: stock under GET /basket"):
        assert_tree(basket(), span("GET /basket", children=in_order))
    assert_tree(basket(), span("GET /basket", children=[in_any_order(*reversed(in_order))]))


def several(count: int) -> RecordedTrace:
    """A root with so many ticks and a tock."""
    root = made("root", at=(0, 1000))
    ticks = [made("tick", root, at=(n, n + 1)) for n in range(count)]
    return RecordedTrace([root, *ticks, made("tock", root, at=(900, 901))])


@pytest.mark.parametrize(
    ("limits", "count", "fits"),
    [
        ({}, 0, True),
        ({}, 700, True),
        ({"at_least": 2}, 1, False),
        ({"at_least": 2}, 2, True),
        ({"at_most": 2}, 3, False),
        ({"at_least": 1, "at_most": 3}, 3, True),
    ],
)
def test_any_number_is_held_to_its_limits(limits: dict[str, int], count: int, fits: bool) -> None:
    """At least, at most; hundreds are no trouble."""
    wanted = span("root", children=[any_number(span("tick"), **limits), span("tock")])
    shuffled = span("root", children=[in_any_order(span("tock"), any_number(span("tick"), **limits))])
    for pattern in (wanted, shuffled):
        if fits:
            assert_tree(several(count), pattern)
        else:
            with pytest.raises(AssertionError, match="tick"):
                assert_tree(several(count), pattern)


def test_parallel_parts_are_shared_out_where_several_patterns_take_a_span() -> None:
    """The pattern that takes anything does not take what another needs."""
    root = made("root", at=(0, 10))
    first, second = made("a", root, at=(1, 2), attributes={"n": 1}), made("a", root, at=(1, 2), attributes={"n": 2})
    trace = RecordedTrace([root, first, second])
    both = in_any_order(span("a"), span("a", attributes={"n": 1}))
    assert_tree(trace, span("root", children=[both]))
    with pytest.raises(AssertionError, match="attribute n is 2, must be 1"):
        assert_tree(trace, span("root", children=[in_any_order(*[span("a", attributes={"n": 1})] * 2)]))


def test_an_optional_span_may_be_there_once() -> None:
    """Or not at all."""
    wanted = span("root", children=[optional(span("tick")), span("tock")])
    assert_tree(several(0), wanted)
    assert_tree(several(1), wanted)
    with pytest.raises(AssertionError, match="not expected: tick"):
        assert_tree(several(2), wanted)


def test_true_is_no_number_and_a_list_is_a_tuple() -> None:
    """What Python takes for equal is not always; what the SDK turns into another type is."""
    root = made("root", attributes={"flag": True, "one": 1, "parts": ("a", "b")})
    assert_tree([root], span("root", attributes={"flag": bool, "one": int, "parts": ["a", "b"]}))
    for key, wanted in (("flag", int), ("flag", 1), ("one", True), ("one", bool)):
        with pytest.raises(AssertionError, match=f"attribute {key} is"):
            assert_tree([root], span("root", attributes={key: wanted}))


def test_names_can_be_expressions_and_predicates() -> None:
    """As a route with an id in it."""
    assert_tree(basket(), span(re.compile(r"GET /\w+"), children=ANY))
    assert_tree(basket(), span(lambda name: name.endswith("basket"), children=ANY))
    with pytest.raises(AssertionError, match="/GET/"):
        assert_tree(basket(), span(re.compile("GET"), children=ANY))


def test_a_partial_tree_passes_over_what_it_does_not_name() -> None:
    """Anywhere in the trace; but what it names must be there, in order."""
    assert_tree(basket(), span("GET /basket", children=[span("query"), span("answer")]), partial=True)
    assert_tree(basket(), span("price", children=[span("tax")]), span("query"), partial=True)
    with pytest.raises(AssertionError, match="missing: duty under price"):
        assert_tree(basket(), span("price", children=[span("duty")]), partial=True)
    with pytest.raises(AssertionError, match="missing: answer under GET /basket"):
        assert_tree(basket(), span("GET /basket", children=[span("answer"), span("query")]), partial=True)


def test_a_partial_tree_of_two_thousand_spans_is_found() -> None:
    """No recursion over siblings."""
    assert_tree(several(2_000), span("root", children=[span("tock")]), partial=True)


@pytest.mark.parametrize("partial", [False, True])
def test_siblings_may_be_more_than_calls_can_be_within_each_other(partial: bool) -> None:
    """Each named; one that is not there is told."""
    root = made("root", at=(0, 3_000))
    trace = RecordedTrace([root, *(made(f"item {number}", root, at=(number, number + 1)) for number in range(600))])
    items = [span(f"item {number}") for number in range(600)]
    assert_tree(trace, span("root", children=items), partial=partial)
    with pytest.raises(AssertionError, match="missing: one more under root"):
        assert_tree(trace, span("root", children=[*items, span("one more")]), partial=partial)


def test_a_large_difference_shows_what_differs_and_where() -> None:
    """Of hundreds of rows only those around the difference."""
    with pytest.raises(AssertionError) as raised:
        assert_tree(several(500), span("root", children=[any_number(span("tick")), span("bong")]))
    said = str(raised.value)
    assert "missing: bong under root" in said
    assert "not expected: tock [internal] under root" in said
    assert len(said.splitlines()) < 30


@pytest.mark.parametrize("look", [lambda t: assert_tree(t, span("a")), assert_whole])
def test_an_empty_recording_always_fails(look: Callable[[list[RecordedSpan]], None]) -> None:
    """Whatever is asked of it."""
    with pytest.raises(AssertionError, match="the recording is empty"):
        look([])
    with pytest.raises(ValueError, match="needs the tree"):
        assert_tree(basket())


def bent(name: str, **changes: Any) -> RecordedTrace:
    """The basket with one span changed."""
    return RecordedTrace(replace(s, **changes) if s.name == name else s for s in basket())


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (bent("tax", parent_id="00000000000000ff"), "tax is an orphan: its parent 00000000000000ff"),
        (without("price"), "tax is an orphan"),
        (bent("query", parent_id=""), "it has 2 roots"),
        (bent("tax", start_ns=1), "tax starts"),
        (bent("tax", end_ns=1), "tax ends before it starts"),
        (bent("tax", trace_id="f" * 32), "the spans are of 2 traces"),
        (bent("GET /basket", attributes={"tracewire.trace.span_count": 7}), "its root counts 7 spans, 6 are here"),
        (RecordedTrace([*(same := basket()), same.named("tax")[0]]), "1 span ids are repeated"),
    ],
)
def test_what_keeps_a_trace_from_being_one_whole_tree_is_named(trace: RecordedTrace, said: str) -> None:
    """Orphans, several roots, repeated ids, times that cannot be, a count that is not met."""
    assert_whole(basket())
    with pytest.raises(AssertionError, match=re.escape(said)):
        assert_whole(trace)


def test_a_root_under_another_programs_span_is_whole_where_that_is_said() -> None:
    """A service that was called with a trace context."""
    called = bent("GET /basket", parent_id="00000000000000ff")
    with pytest.raises(AssertionError, match="orphan"):
        assert_tree(called, expected())
    assert_tree(called, expected(), remote_parent=True)
    assert_whole(called, remote_parent=True)
