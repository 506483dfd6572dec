"""One message of a socket as a file holds it, the objects within it, and the socket that it belongs to."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from tracewire.agents.analyst.frames import Frame
from tracewire.agents.analyst.names import folded
from tracewire.agents.analyst.shapes import PAYLOAD_FIELDS, TIME_FIELDS, TYPE_FIELDS, time_of

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON of any content can raise."""

decode_json: Final = msgspec.json.Decoder().decode

_SENT: Final = frozenset({"send", "sent", "out", "outgoing", "outbound", "client"})
_RECEIVED: Final = frozenset({"receive", "received", "recv", "in", "incoming", "inbound", "server"})
_DIRECTION_FIELDS: Final = ("direction", "dir", "type")
_BODY_FIELDS: Final = (*PAYLOAD_FIELDS, "message", "frame")
_SOCKET_FIELDS: Final = ("socket", "socket_id", "socketId", "connection", "connection_id", "connectionId")


class Broken(Struct, frozen=True):
    """Stands for what could not be decoded, and says why."""

    why: str


class Message(Struct, frozen=True):
    """A message as it was found. `body` is a text (JSON, perhaps several lines of it), a decoded value or `Broken`.

    `socket` is its number where the file gives one, `label` a name for it; `sent` is `None` where it is not known.
    """

    line: int
    body: Any
    socket: int | None = None
    label: str | None = None
    sent: bool | None = None
    time: float | None = None

    def objects(self) -> Iterator[tuple[int, Any]]:
        """The values in it, numbered from 1 where it holds several (`tracewire.v1.lines`), else 0."""
        if not isinstance(self.body, str | bytes):
            yield 0, self.body
            return
        separator: Any = "\n" if isinstance(self.body, str) else b"\n"
        texts = [text for text in self.body.split(separator) if text.strip()]
        for part, text in enumerate(texts, start=1 if len(texts) > 1 else 0):
            yield part, decoded(text)


def decoded(text: str | bytes) -> Any:
    """The JSON value, or `Broken`."""
    try:
        return decode_json(text)
    except NOT_JSON as error:
        return Broken(f"not JSON ({error})" if isinstance(error, msgspec.DecodeError) else "not JSON")


def unwrap(line: int, value: Any) -> Message:
    """A decoded line as a message: taken out of `{"time", "direction", "data"}` or the like, or as it is."""
    if not isinstance(value, dict):
        return Message(line=line, body=value)
    sent = _direction(value)
    body = next((value[field] for field in _BODY_FIELDS if field in value), None)
    typed = any(isinstance(value.get(field), str) for field in TYPE_FIELDS)
    if sent is None and (typed or not _holds_frame(body)):
        return Message(line=line, body=value)
    if not isinstance(body, str | dict):
        return Message(line=line, body=value, sent=sent)
    time = next((time_of(value[field]) for field in TIME_FIELDS if field in value), None)
    label = next((str(value[field]) for field in _SOCKET_FIELDS if isinstance(value.get(field), str | int)), None)
    return Message(line=line, body=body, label=label, sent=sent, time=time)


def _direction(value: Mapping[str, Any]) -> bool | None:
    for field in _DIRECTION_FIELDS:
        word = value.get(field)
        if isinstance(word, str):
            word = folded(word)
            if word in _SENT or word in _RECEIVED:
                return word in _SENT
    return None


def _holds_frame(body: Any) -> bool:
    return isinstance(body, dict) or (isinstance(body, str) and body.lstrip().startswith("{"))


class Sockets:
    """Numbers the sockets of a file that does not: by their labels, or by their `ready` frames, one to a socket."""

    def __init__(self) -> None:
        self._labels: dict[str, int] = {}
        self._current = 1
        self._begun = False

    def number(self, message: Message) -> int:
        """The socket that a message belongs to, as far as its frame does not say more."""
        if message.socket is not None:
            return message.socket
        if message.label is not None:
            return self._labels.setdefault(message.label, len(self._labels) + 1)
        return self._current

    def settle(self, message: Message, frame: Frame) -> Frame:
        """The frame, on the next socket if it is the `ready` that opens one."""
        if message.socket is not None or message.label is not None:
            return frame
        opens = folded(frame.name) == "ready" and not frame.sent
        if opens and self._begun:
            self._current += 1
            frame = msgspec.structs.replace(frame, socket=self._current)
        self._begun = self._begun or opens or frame.event is not None
        return frame
