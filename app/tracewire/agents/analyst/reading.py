"""Bytes in, a `Reading` out: what kind of file it is, and every frame in it with its place.

Pure and synchronous; 16 MiB take seconds of CPU, so it belongs in a thread. It decodes message by message: no single
call holds the interpreter for longer than one look over the whole file takes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Raw

from tracewire.agents.analyst.frames import (
    FRAMES_MAX,
    UNREADABLE_SHOWN_MAX,
    Frame,
    Reading,
    Source,
    Unreadable,
    UnreadableError,
    place,
)
from tracewire.agents.analyst.har import HarFile, har_messages, open_har
from tracewire.agents.analyst.messages import NOT_JSON, Broken, Message, Sockets, decoded, unwrap
from tracewire.agents.analyst.names import CLIENT_FRAMES, SERVER_FRAMES, folded
from tracewire.agents.analyst.shapes import frame_of

EXPECTED: Final = (
    "I read a HAR file with its WebSocket messages, a JSONL file with one frame a line, or a JSON array of frames."
)

_PACKED_HEADS: Final = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstd"}
_LIST_FIELDS: Final = ("frames", "events", "messages", "records")
_BINARY_LOOK_BYTES: Final = 4096


def read_recording(name: str, body: bytes) -> Reading:
    """Read a recording of any of the known kinds. Lines that hold no frame are counted and named, never fatal.

    Raises:
        UnreadableError: there is no event of an agent in it. The message says what was found and what was expected.
    """
    text = _as_utf8(body)
    har = open_har(text)
    if har is not None:
        reading = collect(name, Source.HAR, har_messages(har), empty_sockets=har.empty_sockets)
    else:
        raws = _array(text)
        if raws is None:
            reading = collect(name, Source.LINES, _lines(text))
        else:
            reading = collect(name, Source.ARRAY, _items(raws))
    if not any(_is_known(frame) for frame in reading.frames):
        raise UnreadableError(f"{_what_was_found(reading, har)} {EXPECTED}")
    return reading


def collect(name: str, source: Source, messages: Iterable[Message], *, empty_sockets: int = 0) -> Reading:
    """Bring messages into frames. It stops at `FRAMES_MAX`, what is no frame counted too."""
    frames: list[Frame] = []
    named: list[Unreadable] = []
    sockets = Sockets()
    places = unreadable = 0
    cut = False
    for message in messages:
        if cut:
            break
        places += 1
        for part, value in message.objects():
            if len(frames) + unreadable == FRAMES_MAX:
                cut = True
                break
            frame = _frame(message, part, value, sockets)
            if frame is not None:
                frames.append(frame)
                continue
            unreadable += 1
            if len(named) < UNREADABLE_SHOWN_MAX:
                why = value.why if isinstance(value, Broken) else "JSON, but without a type"
                named.append(Unreadable(place=place(source, message.socket or 1, message.line, part), why=why))
    return Reading(
        source=source,
        name=name,
        frames=tuple(frames),
        places=places,
        unreadable=unreadable,
        unreadable_first=tuple(named),
        empty_sockets=empty_sockets,
        cut=cut,
    )


def _frame(message: Message, part: int, value: object, sockets: Sockets) -> Frame | None:
    frame = frame_of(
        value,
        socket=sockets.number(message),
        line=message.line,
        part=part,
        sent=message.sent,
        arrived=message.time,
    )
    return None if frame is None else sockets.settle(message, frame)


def _as_utf8(body: bytes) -> bytes:
    """The text without its byte order mark.

    Raises:
        UnreadableError: it is empty, packed or no text.
    """
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):  # a shell of Windows redirects into UTF-16
        try:
            body = body.decode("utf-16").encode()
        except UnicodeError:
            raise UnreadableError(f"The file is no text. {EXPECTED}") from None
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise UnreadableError(f"The file is empty. {EXPECTED}")
    for head, packed in _PACKED_HEADS.items():
        if body.startswith(head):
            raise UnreadableError(f"The file is packed ({packed}): unpack it first. {EXPECTED}")
    if b"\0" in body[:_BINARY_LOOK_BYTES]:
        raise UnreadableError(f"The file is binary, not text. {EXPECTED}")
    return body


def _array(text: bytes) -> list[Raw] | None:
    """The items of a JSON array of frames, or of the list in an object that holds nothing but one; else `None`."""
    try:
        if text.lstrip().startswith(b"["):
            return msgspec.json.decode(text, type=list[Raw])
        fields = msgspec.json.decode(text, type=dict[str, Raw])
        found = next((fields[field] for field in _LIST_FIELDS if field in fields), None)
        return None if found is None else msgspec.json.decode(found, type=list[Raw])
    except NOT_JSON:
        return None


def _items(raws: list[Raw]) -> Iterator[Message]:
    for number, raw in enumerate(raws, start=1):
        yield unwrap(number, decoded(bytes(raw)))


def _lines(text: bytes) -> Iterator[Message]:
    """Line by line without a list of them: a file of 16 MiB may have millions."""
    start, number = 0, 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].strip()
        start, number = end + 1, number + 1
        if line:
            yield unwrap(number, decoded(line))


def _is_known(frame: Frame) -> bool:
    kind = folded(frame.name)
    return frame.event is not None or kind in SERVER_FRAMES or kind in CLIENT_FRAMES


def _what_was_found(reading: Reading, har: HarFile | None) -> str:
    """Why nothing could be made of the file, in words that help its owner."""
    if har is not None and not har.sockets:
        if har.empty_sockets:
            return (
                f"The HAR has {har.empty_sockets} WebSocket(s), but their messages were not exported: "
                "record again with the developer tools open before the socket connects, or use Chromium."
            )
        return "The HAR has no WebSocket in it."
    if reading.frames:
        types = Counter(frame.name for frame in reading.frames).most_common(5)
        shown = ", ".join(f"`{name[:40]}` ({count})" for name, count in types)
        return f"The file has {len(reading.frames)} JSON objects, but no event of an agent among them: {shown}."
    if reading.unreadable_first:
        first = reading.unreadable_first[0]
        return f"None of the {reading.places} lines or messages is a frame ({first.place}: {first.why})."
    return "The file holds no frame."
