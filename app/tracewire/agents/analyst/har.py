"""The WebSocket messages of a HAR file.

Chromium, and the tools that follow it (Playwright, mitmproxy), write `_webSocketMessages` into the entry of a socket:
`{"type": "send" | "receive", "time": seconds of the epoch, "opcode", "data"}`, binary data as base64. Firefox's network
monitor calls the same things `sent`, `received`, `timeStamp` (microseconds), `opCode` and `payload`: those names are
taken too. A socket whose messages were left out of the export is counted.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from tracewire.agents.analyst.messages import NOT_JSON, Broken, Message, decode_json
from tracewire.agents.analyst.names import folded
from tracewire.agents.analyst.shapes import TIME_FIELDS, time_of

MESSAGE_FIELDS: Final = ("_webSocketMessages", "_websocketMessages", "webSocketMessages", "_webSocketFrames")
_DATA_FIELDS: Final = ("data", "payload", "payloadData", "text")
_TEXT: Final = 1
_BINARY: Final = 2
_DATA_OPCODES: Final = (0, _TEXT, _BINARY)

T = TypeVar("T")


class _Log(Struct):
    entries: list[Raw]


class _File(Struct):
    log: _Log


class HarFile(Struct, frozen=True):
    """Its sockets, each with its messages undecoded, and how many sockets came without any."""

    sockets: tuple[tuple[Raw, ...], ...]
    empty_sockets: int


def open_har(body: bytes) -> HarFile | None:
    """The sockets of a HAR in the order of the file, or `None` where the bytes are no HAR."""
    try:
        entries = msgspec.json.decode(body, type=_File).log.entries
    except NOT_JSON:
        return None
    sockets: list[tuple[Raw, ...]] = []
    empty = 0
    for raw in entries:
        entry = _decode_or_none(raw, dict[str, Raw])
        if entry is None:
            continue
        found = next((entry[field] for field in MESSAGE_FIELDS if field in entry), None)
        messages = _decode_or_none(found, list[Raw]) if found is not None else None
        if messages:
            sockets.append(tuple(messages))
        elif messages is not None or _is_socket(entry):
            empty += 1
    return HarFile(sockets=tuple(sockets), empty_sockets=empty)


def har_messages(har: HarFile) -> Iterator[Message]:
    """Every message that carries data: pings, pongs and closes are the sockets' own affair."""
    for socket, messages in enumerate(har.sockets, start=1):
        for line, raw in enumerate(messages, start=1):
            try:
                value = decode_json(raw)
            except NOT_JSON:
                value = None
            if isinstance(value, dict):
                message = _message(socket, line, value)
                if message is not None:
                    yield message
            else:
                yield Message(line=line, body=Broken("not a message of a HAR"), socket=socket)


def _message(socket: int, line: int, value: Mapping[str, Any]) -> Message | None:
    opcode = value.get("opcode", value.get("opCode", _TEXT))
    if opcode not in _DATA_OPCODES:
        return None
    data = next((value[field] for field in _DATA_FIELDS if field in value), None)
    if isinstance(data, dict) and "initial" in data:
        data = Broken("the exporter kept the beginning of a long message only")
    elif not isinstance(data, str | dict):
        data = Broken("a message without data")
    elif isinstance(data, str) and opcode == _BINARY:
        data = _from_base64(data)
    kind = folded(str(value.get("type", "")))
    return Message(
        line=line,
        body=data,
        socket=socket,
        sent={"send": True, "sent": True, "receive": False, "received": False}.get(kind),
        time=next((time_of(value[field]) for field in TIME_FIELDS if field in value), None),
    )


def _from_base64(data: str) -> str | bytes:
    """Binary data as it went over the wire; some exporters write it as plain text."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return data


def _is_socket(entry: Mapping[str, Raw]) -> bool:
    """An entry whose handshake succeeded, or that calls itself a socket."""
    if bytes(entry.get("_resourceType", b"")) == b'"websocket"':
        return True
    request = _decode_or_none(entry.get("request"), dict[str, Raw]) or {}
    return bytes(request.get("url", b"")).startswith((b'"ws://', b'"wss://'))


def _decode_or_none(raw: Raw | None, kind: type[T]) -> T | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except NOT_JSON:
        return None
