"""The codec: every event survives the wire, no event is larger than the wire allows, and what is cut says so."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from tracewire.errors import NotSerializableError
from tracewire.events import (
    CUTTABLE_FIELDS,
    EVENT_BYTES_MAX,
    EVENT_CLASSES,
    AgentCancelled,
    AgentCompleted,
    AgentDelta,
    AgentError,
    AgentStarted,
    AgentThinking,
    Envelope,
    Event,
    InputRequired,
    Receipt,
    ToolCompleted,
    ToolExecuting,
    decode_envelope,
    encode_envelope,
)
from tracewire_telemetry.vocabulary import EVENT_TYPES, RunErrorCode, ToolStatus

RECEIPT = Receipt(1, {"agent_started": 1})


def enveloped(event: Event, *, run_id: str = "run") -> Envelope:
    """The event in its envelope."""
    return Envelope(event.type, run_id, 7, "2026-07-01T12:00:00.000000Z", "five", f"00-{1:032x}-{2:016x}-01", event)


def data_of(body: bytes) -> dict[str, Any]:
    """`data` as any JSON reader sees it."""
    data: dict[str, Any] = json.loads(body)["data"]
    return data


# --- the round trip -------------------------------------------------------------------------------------------------

_texts = st.text(max_size=40)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)
_durations = st.floats(0, 1e9)
_receipts = st.builds(
    Receipt, st.integers(0, 2**53), st.dictionaries(st.sampled_from([t.value for t in EVENT_TYPES]), st.integers(1, 9))
)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(AgentStarted, _texts),
    st.builds(AgentThinking, _texts, st.integers(1, 2**53)),
    st.builds(ToolExecuting, _texts, _texts, _json),
    st.builds(ToolCompleted, _texts, _texts, st.sampled_from(ToolStatus), _json, _durations, _texts | st.just(UNSET)),
    st.builds(AgentDelta, _texts),
    st.builds(InputRequired, _texts, _texts, _texts, st.dictionaries(_texts, _json, max_size=3) | st.just(UNSET)),
    st.builds(AgentCompleted, _json, _durations, _receipts),
    st.builds(AgentError, st.sampled_from(RunErrorCode), _texts, st.booleans(), _receipts),
    st.builds(AgentCancelled, _texts, _receipts),
)


@given(event=_events)
@settings(max_examples=150, deadline=None)
def test_every_event_survives_the_wire(event: Event) -> None:
    """Encoded, decoded and converted back it is equal, and its envelope too; on the wire it is one line."""
    envelope = enveloped(event)
    body = encode_envelope(envelope)
    assert b"\n" not in body
    received = decode_envelope(body)
    assert event == received.event
    for field in ("type", "run_id", "seq", "time", "agent", "traceparent"):
        assert getattr(envelope, field) == getattr(received, field)
    assert UNSET is received.first_seq


def test_an_envelope_has_exactly_the_fields_of_the_wire() -> None:
    """Type, run, seq, time, agent, traceparent and data, in this order; what is unset is absent, not null."""
    body = encode_envelope(enveloped(ToolCompleted("call_1", "look", ToolStatus.OK, None, 1.5)))
    assert body == (
        b'{"type":"tool_completed","run_id":"run","seq":7,"time":"2026-07-01T12:00:00.000000Z","agent":"five",'
        b'"traceparent":"00-00000000000000000000000000000001-0000000000000002-01",'
        b'"data":{"tool_call_id":"call_1","tool_name":"look","status":"ok","result":null,"duration_ms":1.5}}'
    )


def test_the_union_is_closed() -> None:
    """One class a type, and no class without one."""
    assert list(EVENT_TYPES) == list(EVENT_CLASSES)
    assert [event_type for event_type, cls in EVENT_CLASSES.items() if cls.type is not event_type] == []


def test_joined_deltas_say_which_is_the_first() -> None:
    """A reader gets `first_seq` where it is there."""
    body = encode_envelope(enveloped(AgentDelta("ab")))
    joined = body[:-1] + b',"first_seq":3}'
    assert (decode_envelope(joined).first_seq, decode_envelope(joined).seq) == (3, 7)


def test_a_later_versions_field_is_ignored_and_a_missing_one_is_an_error() -> None:
    """Readers of `tracewire.v1` keep working when something is added."""
    body = encode_envelope(enveloped(AgentDelta("ab")))
    assert decode_envelope(body) == decode_envelope(body[:-1] + b',"later":[1]}')
    with pytest.raises(msgspec.ValidationError):
        decode_envelope(body.replace(b'"seq":7,', b""))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"type":"x"}', b"\xff\xfe"])
def test_what_is_no_envelope_is_a_decode_error(body: bytes) -> None:
    """One exception for the reader to catch."""
    with pytest.raises(msgspec.DecodeError):
        decode_envelope(body)


# --- what is too large ----------------------------------------------------------------------------------------------

_PIECES = ["a", "\n", "\x00", '"', "é", "漢", "😀", "a漢", "x\n\t"]
_large = st.tuples(
    st.sampled_from(_PIECES), st.sampled_from([0, 1, 10, 10_000, 21_000, 33_000, 65_000, 66_000, 200_000])
)
_large_texts = st.lists(_large, min_size=1, max_size=3).map(lambda parts: "".join(piece * n for piece, n in parts))
_large_values = _large_texts | _large_texts.map(lambda text: {"rows": [text, 1], "more": text[:9]})
_large_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(AgentStarted, _large_texts),
    st.builds(AgentThinking, _large_texts, st.just(1)),
    st.builds(ToolExecuting, _texts, _texts, _large_values),
    st.builds(ToolCompleted, _texts, _texts, st.sampled_from(ToolStatus), _large_values, st.just(1.0), _large_texts),
    st.builds(AgentDelta, _large_texts),
    st.builds(
        InputRequired, _texts, _texts, _large_texts, _large_texts.map(lambda text: {"title": text}) | st.just(UNSET)
    ),
    st.builds(AgentCompleted, _large_values, st.just(1.0), st.just(RECEIPT)),
    st.builds(AgentError, st.just(RunErrorCode.TIMEOUT), _large_texts, st.just(True), st.just(RECEIPT)),
    st.builds(AgentCancelled, _large_texts, st.just(RECEIPT)),
)


@given(event=_large_events)
@settings(max_examples=150, deadline=None)
def test_no_event_is_larger_than_the_wire_allows_and_what_is_cut_says_its_full_size(event: Event) -> None:
    """At most 64 KiB; a cut field is a beginning of what was there; every other field is untouched."""
    whole = msgspec.json.encode(enveloped(event))
    body = encode_envelope(enveloped(event))
    assert len(body) <= EVENT_BYTES_MAX
    data, original = data_of(body), data_of(whole)
    truncated = data.pop("truncated", {})
    assert bool(truncated) == (len(whole) > EVENT_BYTES_MAX)
    assert set(truncated) <= set(CUTTABLE_FIELDS)
    for name, value in original.items():
        if name not in truncated:
            assert value == data[name]
            continue
        full = value if isinstance(value, str) else msgspec.json.encode(getattr(event, name)).decode()
        assert len(full.encode()) == truncated[name]
        assert full.startswith(data[name])
        assert len(data[name]) < len(full)
    received = decode_envelope(body).event
    assert type(event) is type(received)


@pytest.mark.parametrize("piece", ["a", "\n", "\x00", '"', "é", "漢", "😀", "a漢"])
def test_a_text_is_cut_by_no_more_than_a_twentieth_of_the_limit_too_much(piece: str) -> None:
    """Whatever its characters take on the wire: an answer in Japanese is not cut to nothing."""
    body = encode_envelope(enveloped(AgentCompleted(piece * 150_000, 1.0, RECEIPT)))
    assert EVENT_BYTES_MAX * 0.95 < len(body) <= EVENT_BYTES_MAX


def test_the_largest_field_is_cut_first() -> None:
    """A short error beside a huge result stays whole."""
    event = ToolCompleted("call_1", "look", ToolStatus.ERROR, "r" * 100_000, 1.0, "the reason")
    data = data_of(encode_envelope(enveloped(event)))
    assert (data["truncated"], data["error"]) == ({"result": 100_000}, "the reason")


def test_a_value_that_is_cut_becomes_the_beginning_of_its_json() -> None:
    """With the size of the JSON as its full size."""
    value = {"rows": ["x" * 10] * 10_000}
    data = data_of(encode_envelope(enveloped(AgentCompleted(value, 1.0, RECEIPT))))
    assert data["output"].startswith('{"rows":["xxxxxxxxxx","xxxxxxxxxx"')
    assert {"output": len(msgspec.json.encode(value))} == data["truncated"]


@pytest.mark.parametrize("size", [EVENT_BYTES_MAX, EVENT_BYTES_MAX + 1])
def test_an_event_of_exactly_the_limit_is_whole(size: int) -> None:
    """One byte more is cut."""
    rest = len(msgspec.json.encode(enveloped(AgentDelta(""))))
    body = encode_envelope(enveloped(AgentDelta("a" * (size - rest))))
    assert (size > EVENT_BYTES_MAX) == ("truncated" in data_of(body))


def test_an_event_whose_names_alone_are_too_large_is_refused() -> None:
    """Cutting an id would make it another's: the message says what to do."""
    event = ToolExecuting("call_1", "n" * EVENT_BYTES_MAX, {"q": "r" * 1_000})
    with pytest.raises(NotSerializableError, match="use shorter names"):
        encode_envelope(enveloped(event))


# --- what is no JSON ------------------------------------------------------------------------------------------------


class _Opaque:
    pass


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "value",
    [_Opaque(), {"at": _Opaque()}, _circle(), _deep(), "\ud800", {"\ud800": 1}, {(1, 2): 3}, {_Opaque(): 1}, print, 3j],
    ids=["object", "nested", "circle", "deep", "surrogate", "key", "tuple key", "object key", "function", "complex"],
)  # fmt: skip
def test_a_value_that_json_cannot_hold_is_refused_by_name(value: Any) -> None:
    """The error names the event's type and its run, and nothing else is raised."""
    with pytest.raises(NotSerializableError, match=r"agent_completed of run run-9"):
        encode_envelope(enveloped(AgentCompleted(value, 1.0, RECEIPT), run_id="run-9"))


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, 2), [1, 2]),
        ({3}, [3]),
        ({1: "a"}, {"1": "a"}),
        (b"ab", "YWI="),
        (True, True),
        (1 << 70, 1 << 70),
        (None, None),
    ],
)
def test_values_that_have_a_plain_json_form_take_it(value: Any, read: Any) -> None:
    """Tuples, sets, number keys and bytes, as msgspec writes them."""
    assert read == data_of(encode_envelope(enveloped(AgentCompleted(value, 1.0, RECEIPT))))["output"]
