"""Files of every kind come out as the same frames, each with its place; what is no recording is told clearly."""

import base64
import json

import pytest

from fixtures.recordings import builder
from fixtures.recordings.builder import Script
from tracewire.agents.analyst import reading as reading_module
from tracewire.agents.analyst.frames import FRAMES_MAX, Source, UnreadableError
from tracewire.agents.analyst.investigation import investigate
from tracewire.agents.analyst.reading import read_recording
from tracewire_telemetry.vocabulary import EventType


def script_of_one_run() -> Script:
    script = Script()
    script.ready()
    script.accept("r-1").whole()
    return script


@pytest.mark.parametrize(
    ("write", "source", "third"),
    [
        (builder.jsonl, Source.LINES, "line 3"),
        (builder.jsonl_of_texts, Source.LINES, "line 3"),
        (builder.bare_jsonl, Source.LINES, "line 3"),
        (builder.array, Source.ARRAY, "frame 3"),
        (builder.chromium_har, Source.HAR, "socket 1, message 4"),
        (builder.firefox_har, Source.HAR, "socket 1, message 4"),
    ],
)
def test_every_kind_of_file_holds_the_same_frames(write, source, third):
    script = script_of_one_run()
    reading = read_recording("r", write(script))
    assert reading.source is source
    assert [frame.name for frame in reading.frames] == [frame["type"] for _, _, _, frame in script.frames]
    assert [frame.sent for frame in reading.frames] == [sent for _, sent, _, _ in script.frames]
    assert reading.cite(reading.frames[2]) == third
    assert reading.unreadable == 0
    [one] = investigate(reading).runs
    assert (one.run.run_id, len(one.run.events), one.lost) == ("r-1", 8, 0)


@pytest.mark.parametrize("write", [builder.jsonl, builder.jsonl_of_texts, builder.chromium_har, builder.firefox_har])
def test_the_time_of_arrival_is_read_from_every_unit(write):
    script = script_of_one_run()
    times = [frame.time for frame in read_recording("r", write(script)).frames]
    assert times == pytest.approx([time for time, _, _, _ in script.frames], abs=1e-3)


def test_each_socket_of_a_har_keeps_its_number():
    script = script_of_one_run()
    script.socket = 2
    script.ready()
    script.accept("r-2").whole()
    for write in (builder.chromium_har, builder.jsonl):
        reading = read_recording("r", write(script))
        assert [frame.socket for frame in reading.frames] == [socket for _, _, socket, _ in script.frames]


def test_a_message_of_several_lines_is_several_frames():
    """`tracewire.v1.lines`: split on the line feed alone, never on what else Unicode takes for the end of a line."""
    texts = [
        json.dumps({"type": "agent_delta", "run_id": "r", "seq": n, "data": {"text": "a\u2028b"}}, ensure_ascii=False)
        for n in (1, 2, 3)
    ]
    har = {"log": {"entries": [{"_webSocketMessages": [{"type": "receive", "time": 1.5, "data": "\n".join(texts)}]}]}}
    reading = read_recording("r", json.dumps(har).encode())
    assert [frame.seq for frame in reading.frames] == [1, 2, 3]
    assert reading.cite(reading.frames[1]) == "socket 1, message 1 (object 2)"


def test_binary_messages_are_read_from_base64_or_as_they_are():
    frame = json.dumps({"type": "agent_delta", "run_id": "r", "seq": 1})
    messages = [
        {"type": "receive", "opcode": 2, "data": base64.b64encode(frame.encode()).decode()},
        {"type": "receive", "opcode": 2, "data": frame},
        {"type": "receive", "opcode": 2, "data": base64.b64encode(b"\x00\xff").decode()},
        {"type": "receive", "opcode": 1},
        "no object",
        {"type": "receive", "payload": {"type": "longString", "initial": "{", "length": 9}},
    ]
    reading = read_recording("r", json.dumps({"log": {"entries": [{"_webSocketMessages": messages}]}}).encode())
    assert len(reading.frames) == 2
    assert (reading.unreadable, [bad.place for bad in reading.unreadable_first]) == (
        4,
        [f"socket 1, message {number}" for number in (3, 4, 5, 6)],
    )


def test_unreadable_lines_are_counted_and_the_first_are_named():
    lines = builder.bare_jsonl(script_of_one_run()).split(b"\n")
    bad = [b"", b"not json", b'{"no": "type"}', b"[1]", b"\xff\xfe{", b'"text"', b'{"a":', b"NaN"]
    reading = read_recording("r", b"\n".join([*bad, *lines]))
    assert len(reading.frames) == len(lines)
    assert reading.unreadable == 7
    assert [entry.place for entry in reading.unreadable_first] == [f"line {number}" for number in range(2, 7)]
    assert reading.cite(reading.frames[0]) == "line 9"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\x00\x01\x02" * 100, "binary"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"hello\nworld\n", "line 1: not JSON"),
        (b'{"level": "info", "type": "http"}\n', "no event of an agent"),
        (b'{"log": {"entries": []}}', "no WebSocket"),
        (b'{"log": {"entries": [{"request": {"url": "wss://x/ws"}}]}}', "were not exported"),
        (b'{"log": {"entries": [{"_webSocketMessages": []}]}}', "were not exported"),
        (b'{"log": {"entries": [{"_webSoc', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no frame"),
        (b"\xff\xfe\x00", "no text"),
    ],
)
def test_what_is_no_recording_is_told_with_what_was_expected(body, expected):
    with pytest.raises(UnreadableError, match=expected) as raised:
        read_recording("r", body)
    assert reading_module.EXPECTED in str(raised.value)


def test_utf16_of_a_windows_shell_and_byte_order_marks_are_read():
    text = builder.bare_jsonl(script_of_one_run()).decode()
    assert (
        read_recording("r", text.encode("utf-16")).frames == read_recording("r", b"\xef\xbb\xbf" + text.encode()).frames
    )


def test_a_recording_of_16_mib_is_read_whole():
    line = json.dumps({"type": "agent_delta", "run_id": "r", "seq": 0, "data": {"text": "x" * 300}}).encode()
    count = 16 * 1024 * 1024 // (len(line) + 8)
    body = b"\n".join(line.replace(b'"seq": 0', b'"seq": %d' % n) for n in range(1, count + 1))
    reading = read_recording("r", body)
    assert (len(reading.frames), reading.cut) == (count, False)
    [one] = investigate(reading).runs
    assert (one.lost, one.conduct.counts) == (0, {EventType.AGENT_DELTA: count})


def test_reading_stops_at_the_limit_and_says_so():
    reading = read_recording("r", b'{"type":"delta","run_id":"r","seq":1}\n' + b"x\n" * (FRAMES_MAX + 10))
    assert (reading.cut, reading.unreadable) == (True, FRAMES_MAX - 1)
