"""Deltas of one run that wait for a slow socket as one envelope. Pure.

They are joined as bytes, by the layout that `encode_envelope` writes, so that no delta is ever decoded on its way. The
envelope is that of the last, with the text of all and `first_seq`; the log keeps each of them on its own.
"""

from typing import Final, Self

from tracewire.delivery.queued import Queued
from tracewire.events import EVENT_BYTES_MAX

DELTA_BEGINS: Final = b'{"type":"agent_delta",'
_TEXT_BEGINS: Final = b'"data":{"text":"'
"""Where the text begins. It stands in no value before it: there, quotes are escaped."""
_ENDS: Final = b'"}}'
_FIRST_SEQ: Final = b'"},"first_seq":%d}'


class WaitingDeltas:
    """One delta or more, to which further ones are added until it is taken. `bytes` is the size on the wire.

    It has what a `Queued` has but its body, which is made when it is taken.
    """

    __slots__ = ("_last", "_taken", "_text", "bytes", "first_seq", "queued_ns", "run", "seq", "socket")

    def __init__(self, first: Queued) -> None:
        self.first_seq = self.seq = first.seq
        self.queued_ns = first.queued_ns
        self.run = first.run
        self.socket = first.socket
        self.bytes = len(first.body)
        self._last = first.body
        self._text = bytearray()
        self._taken = False

    @classmethod
    def of(cls, queued: Queued) -> Self | None:
        """What the next delta may be added to; `None` where this is no delta, or one whose text was cut."""
        return cls(queued) if queued.body.startswith(DELTA_BEGINS) and queued.body.endswith(_ENDS) else None

    def add(self, queued: Queued) -> bool:
        """Add the run's next delta; whether it could be added."""
        body = queued.body
        if self._taken or queued.seq != self.seq + 1:
            return False
        if not body.startswith(DELTA_BEGINS) or not body.endswith(_ENDS):
            return False
        text = self._last[_text_of(self._last) : -len(_ENDS)]
        size = len(self._text) + len(text) + len(body) - len(_ENDS) + len(_FIRST_SEQ % self.first_seq)
        if size > EVENT_BYTES_MAX:
            return False
        self._text += text
        self._last = body
        self.seq = queued.seq
        self.bytes = size
        return True

    def take(self) -> Queued:
        """The envelope as it is written; nothing is added any more."""
        self._taken = True
        body, first_seq = self._last, 0
        if self.seq != self.first_seq:
            begins, first_seq = _text_of(body), self.first_seq
            body = b"".join((body[:begins], self._text, body[begins : -len(_ENDS)], _FIRST_SEQ % first_seq))
        self._text = bytearray()
        return Queued(body, self.queued_ns, self.run, self.socket, self.seq, first_seq)


def _text_of(body: bytes) -> int:
    return body.index(_TEXT_BEGINS) + len(_TEXT_BEGINS)
