"""The frames of the wire: what a client may send is read, and all else is refused in words that help."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from tracewire.gateway import frames
from tracewire.gateway.frames import CLIENT_FRAMES, BadFrameError, ClientFrame, ServerFrame, decode_frame, encode_frame
from tracewire_telemetry.vocabulary import RejectCode

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_fields = st.sampled_from(["request_id", "input", "agent", "thread_id", "run_id", "input_id", "value", "seq", "count"])
_frame_like = st.builds(
    lambda kind, body: {"type": kind, **body},
    st.sampled_from([*CLIENT_FRAMES, "ready", "", "ACK"]) | _json,
    st.dictionaries(_fields, _json, max_size=5),
)


def decoded(text: str) -> ClientFrame | BadFrameError:
    """The frame, or the one refusal that may come instead."""
    try:
        return decode_frame(text)
    except BadFrameError as error:
        return error


@given(text=st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
@example("\ud800")
@example("")
@example("\x00")
@example('{"type":"ack"')
@settings(max_examples=120, deadline=None)
def test_any_text_is_a_frame_or_is_refused_as_malformed_or_unknown(text: str) -> None:
    """Nothing else is raised: an exception that got out would close the socket."""
    found = decoded(text)
    assert not isinstance(found, BadFrameError) or found.reject_code in (RejectCode.MALFORMED, RejectCode.UNKNOWN_FRAME)


@given(value=_json | _frame_like)
@settings(max_examples=120, deadline=None)
def test_any_json_is_a_frame_or_is_refused_by_what_it_says_it_is(value: Any) -> None:
    """A known type with wrong fields is malformed; an unknown or missing one is an unknown frame; ids are echoed."""
    found = decoded(json.dumps(value, ensure_ascii=False))
    if not isinstance(found, BadFrameError):
        assert found.__struct_config__.tag == value["type"]
        return
    if isinstance(value, dict) and found.reject_code is RejectCode.UNKNOWN_FRAME:
        assert value.get("type") not in CLIENT_FRAMES
    for name in ("request_id", "run_id"):
        given_id = value.get(name) if isinstance(value, dict) else None
        if getattr(found, name) is not None:
            assert given_id == getattr(found, name)
    assert len(str(found)) < 400


@pytest.mark.parametrize("depth", [10, 100, 900, 1_000, 10_000, 30_000])
@pytest.mark.parametrize(
    "around",
    ['{"type":%s}', '{"type":"start_run","request_id":"r","input":%s}', '{"type":"ack","run_id":%s,"seq":1}', "%s"],
)
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_a_frame_nested_however_deeply_is_no_crash(depth: int, around: str, left: str, right: str) -> None:
    """64 KiB of brackets are a frame or a refusal."""
    found = decoded(around % (left * depth + "1" + right * depth))
    assert isinstance(found, BadFrameError | frames.StartRunFrame)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"authenticate","token":"t"}', frames.Authenticate("t")),
        ('{"type":"start_run","request_id":"r","input":"q"}', frames.StartRunFrame("r", "q")),
        (
            '{"type":"start_run","request_id":"r","input":{"question":1},"agent":"a","thread_id":"t","traceparent":"00"}',
            frames.StartRunFrame("r", {"question": 1}, "a", "t", "00"),
        ),
        ('{"type":"cancel_run","run_id":"x"}', frames.CancelRun("x")),
        ('{"type":"provide_input","run_id":"x","input_id":"i","value":true}', frames.ProvideInput("x", "i", True)),
        ('{"type":"ack","run_id":"x","seq":3}', frames.Ack("x", 3)),
        ('{"type":"ack","run_id":"x","seq":3,"count":3}', frames.Ack("x", 3, 3)),
        ('{"type":"ack","run_id":"x","seq":0}', frames.Ack("x", 0)),
        ('{"type":"resume","runs":{"x":0,"y":7}}', frames.Resume({"x": 0, "y": 7})),
        ('{"type":"resume","runs":{}}', frames.Resume({})),
        ('{"type":"pong","id":1}', frames.Pong(1)),
        ('{"type":"pong"}', frames.Pong()),
        ('{"seq":3,"later":[1],"run_id":"x","type":"ack"}', frames.Ack("x", 3)),
    ],
)
def test_every_frame_of_the_wire_is_read(text: str, frame: ClientFrame) -> None:
    """In any order of its fields; what a later version adds is ignored."""
    assert frame == decode_frame(text)


def test_the_list_of_frames_is_that_of_the_union() -> None:
    """The refusal of an unknown frame names all that there are."""
    tags = [cls.__struct_config__.tag for cls in ClientFrame.__args__]
    assert list(CLIENT_FRAMES) == tags
    found = decoded('{"type":"subscribe"}')
    assert isinstance(found, BadFrameError)
    assert (found.reject_code, found.frame) == (RejectCode.UNKNOWN_FRAME, "subscribe")
    assert f"there is no frame 'subscribe'; there are {', '.join(CLIENT_FRAMES)}" == str(found)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", RejectCode.MALFORMED, "not JSON"),
        ("{", RejectCode.MALFORMED, "not JSON"),
        ("ping", RejectCode.MALFORMED, "not JSON"),
        ("[]", RejectCode.MALFORMED, "one JSON object with a `type`"),
        ("null", RejectCode.MALFORMED, "one JSON object with a `type`"),
        ("1", RejectCode.MALFORMED, "one JSON object with a `type`"),
        ("{}", RejectCode.UNKNOWN_FRAME, "has no `type`"),
        ('{"type":null}', RejectCode.UNKNOWN_FRAME, "has no `type`"),
        ('{"type":7}', RejectCode.UNKNOWN_FRAME, "there is no frame '7'"),
        ('{"type":"Ack","run_id":"x","seq":1}', RejectCode.UNKNOWN_FRAME, "there is no frame 'Ack'"),
        ('{"type":"ack","run_id":"x"}', RejectCode.MALFORMED, "ack: Object missing required field `seq`"),
        ('{"type":"ack","run_id":"x","seq":-1}', RejectCode.MALFORMED, "ack: Expected `int` >= 0 - at `$.seq`"),
        ('{"type":"ack","run_id":"x","seq":1.5}', RejectCode.MALFORMED, "$.seq"),
        ('{"type":"ack","run_id":"x","seq":"1"}', RejectCode.MALFORMED, "$.seq"),
        ('{"type":"ack","run_id":"x","seq":true}', RejectCode.MALFORMED, "$.seq"),
        ('{"type":"ack","run_id":"x","seq":9007199254740993}', RejectCode.MALFORMED, "$.seq"),
        ('{"type":"ack","run_id":"x","seq":1e999}', RejectCode.MALFORMED, "$.seq"),
        ('{"type":"ack","run_id":7,"seq":1}', RejectCode.MALFORMED, "$.run_id"),
        ('{"type":"resume","runs":["x"]}', RejectCode.MALFORMED, "$.runs"),
        ('{"type":"resume","runs":{"x":-1}}', RejectCode.MALFORMED, "$.runs[...]"),
        ('{"type":"start_run","input":"q"}', RejectCode.MALFORMED, "`request_id`"),
        ('{"type":"start_run","request_id":"r"}', RejectCode.MALFORMED, "`input`"),
        ('{"type":"start_run","request_id":null,"input":1}', RejectCode.MALFORMED, "$.request_id"),
        ('{"type":"authenticate"}', RejectCode.MALFORMED, "`token`"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(text: str, code: RejectCode, said: str) -> None:
    """To the person who writes the client."""
    found = decoded(text)
    assert isinstance(found, BadFrameError)
    assert (code, True) == (found.reject_code, said in str(found)), str(found)


def test_a_refusal_echoes_the_ids_that_the_frame_had() -> None:
    """So that the client knows which of its requests it was; what is no text is no id."""
    found = decoded('{"type":"start_run","request_id":"r-1","run_id":7}')
    assert isinstance(found, BadFrameError)
    assert (found.frame, found.request_id, found.run_id) == ("start_run", "r-1", None)


def test_a_refusal_does_not_repeat_a_long_frame() -> None:
    """A megabyte of `type` is not sent back."""
    found = decoded(json.dumps({"type": "x" * 1_000_000}))
    assert isinstance(found, BadFrameError)
    assert len(str(found)) < 300


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (
            frames.Ready("c", "ada", 20.0, {"frame_bytes": 65536}, ("analyst",), [], False),
            {"type": "ready", "connection_id": "c", "user_id": "ada", "heartbeat_seconds": 20.0,
             "limits": {"frame_bytes": 65536}, "agents": ["analyst"], "runs": [], "runs_more": False},
        ),
        (
            frames.RunAccepted("r", "x", "t"),
            {"type": "run_accepted", "request_id": "r", "run_id": "x", "thread_id": "t"},
        ),
        (frames.Ping(3), {"type": "ping", "id": 3}),
        (frames.Authenticated(99), {"type": "authenticated", "expires_at": 99}),
        (frames.Draining(2.0), {"type": "draining", "retry_after_seconds": 2.0}),
        (frames.Unavailable("log_unavailable"), {"type": "unavailable", "code": "log_unavailable"}),
    ],
)  # fmt: skip
def test_a_frame_of_the_server_has_exactly_the_fields_of_the_wire(frame: ServerFrame, expected: dict[str, Any]) -> None:
    """As any JSON reader sees it."""
    assert expected == json.loads(encode_frame(frame))


def test_what_a_refusal_and_a_resume_do_not_know_is_absent() -> None:
    """Not null: `request_id?`, `run_id?`, `retry_after_seconds?`, `reason?`."""
    rejected = frames.Rejected("ack", RejectCode.ACK_AHEAD, "m", UNSET, UNSET, UNSET)
    assert json.loads(encode_frame(rejected)) == {
        "type": "rejected",
        "frame": "ack",
        "code": "ack_ahead",
        "message": "m",
    }
    resumed = frames.Resumed("x", True, "running", 1, 4)
    assert (json.loads(encode_frame(resumed))) == {
        "type": "resumed",
        "run_id": "x",
        "recovered": True,
        "state": "running",
        "from_seq": 1,
        "last_seq": 4,
    }


def test_every_frame_of_the_server_is_one_line() -> None:
    """`tracewire.v1.lines` splits on the line end alone."""
    frame = frames.Rejected("a\nb", RejectCode.MALFORMED, "line\r\n\u2028two", UNSET, UNSET, UNSET)
    assert b"\n" not in encode_frame(frame)
    assert msgspec.json.decode(encode_frame(frame))["message"] == "line\r\n\u2028two"
