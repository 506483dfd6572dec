"""What an agent can do, the envelope that carries it, and the codec.

An event becomes bytes once, in `encode_envelope`; the log and every socket share those bytes.
"""

import time
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracewire.errors import NotSerializableError
from tracewire_telemetry.vocabulary import EventType, RunErrorCode, ToolStatus

EVENT_BYTES_MAX: Final = 64 * 1024
"""The size of an encoded envelope, at most. Larger texts and results are cut, and say so in `data.truncated`."""

Truncated = dict[str, int]
"""Full size in bytes (UTF-8, or JSON for what is not a text) of each field that was cut."""


class Receipt(Struct, frozen=True):
    """What a terminal event says was sent, itself included, so that a client can check that it has everything."""

    last_seq: int
    counts: dict[str, int]


class AgentStarted(Struct, frozen=True):
    """The agent has begun; the first event of every run that does."""

    type: ClassVar[EventType] = EventType.AGENT_STARTED
    message: str
    truncated: Truncated | UnsetType = UNSET


class AgentThinking(Struct, frozen=True):
    """What the agent thinks; `step` counts the thoughts of a run from 1."""

    type: ClassVar[EventType] = EventType.AGENT_THINKING
    text: str
    step: int
    truncated: Truncated | UnsetType = UNSET


class ToolExecuting(Struct, frozen=True):
    """A tool call has begun; `arguments` have their secret-looking values redacted."""

    type: ClassVar[EventType] = EventType.TOOL_EXECUTING
    tool_call_id: str
    tool_name: str
    arguments: Any
    truncated: Truncated | UnsetType = UNSET


class ToolCompleted(Struct, frozen=True):
    """A tool call has ended, however it did; `result` is `null` where it gave none."""

    type: ClassVar[EventType] = EventType.TOOL_COMPLETED
    tool_call_id: str
    tool_name: str
    status: ToolStatus
    result: Any
    duration_ms: float
    error: str | UnsetType = UNSET
    truncated: Truncated | UnsetType = UNSET


class AgentDelta(Struct, frozen=True):
    """A piece of streamed text."""

    type: ClassVar[EventType] = EventType.AGENT_DELTA
    text: str
    truncated: Truncated | UnsetType = UNSET


class InputRequired(Struct, frozen=True):
    """The agent waits for `provide_input`; `kind` is `approval` or `question`, `schema` a text where it was cut."""

    type: ClassVar[EventType] = EventType.INPUT_REQUIRED
    input_id: str
    kind: str
    prompt: str
    schema: dict[str, Any] | str | UnsetType = UNSET
    truncated: Truncated | UnsetType = UNSET


class AgentCompleted(Struct, frozen=True):
    """The run reached its end, with the answer. Terminal."""

    type: ClassVar[EventType] = EventType.AGENT_COMPLETED
    output: Any
    duration_ms: float
    receipt: Receipt
    truncated: Truncated | UnsetType = UNSET


class AgentError(Struct, frozen=True):
    """The run failed; `retryable` says whether the same request can succeed later. Terminal."""

    type: ClassVar[EventType] = EventType.AGENT_ERROR
    code: RunErrorCode
    message: str
    retryable: bool
    receipt: Receipt
    truncated: Truncated | UnsetType = UNSET


class AgentCancelled(Struct, frozen=True):
    """The run was cancelled. Terminal."""

    type: ClassVar[EventType] = EventType.AGENT_CANCELLED
    reason: str
    receipt: Receipt
    truncated: Truncated | UnsetType = UNSET


Event = (
    AgentStarted
    | AgentThinking
    | ToolExecuting
    | ToolCompleted
    | AgentDelta
    | InputRequired
    | AgentCompleted
    | AgentError
    | AgentCancelled
)
"""The closed union. A `match` over it ends with `assert_never`."""

TerminalEvent = AgentCompleted | AgentError | AgentCancelled

EVENT_CLASSES: Final[dict[EventType, type[Event]]] = {
    cls.type: cls
    for cls in (
        AgentStarted,
        AgentThinking,
        ToolExecuting,
        ToolCompleted,
        AgentDelta,
        InputRequired,
        AgentCompleted,
        AgentError,
        AgentCancelled,
    )
}

CUTTABLE_FIELDS: Final = (
    "result",
    "output",
    "arguments",
    "text",
    "message",
    "error",
    "prompt",
    "schema",
    "reason",
)
"""Fields that `encode_envelope` may cut, in the order in which ties are broken."""


class Envelope(Struct, frozen=True):
    """An event with its run, its place in it, its time (RFC 3339, UTC) and its trace context (W3C)."""

    type: EventType
    run_id: str
    seq: int
    time: str
    agent: str
    traceparent: str
    data: Event


class ReceivedEnvelope(Struct, frozen=True):
    """An envelope as a reader gets it. `first_seq` is there where contiguous deltas were joined into one."""

    type: EventType
    run_id: str
    seq: int
    time: str
    agent: str
    traceparent: str
    data: dict[str, Any]
    first_seq: int | UnsetType = UNSET

    @property
    def event(self) -> Event:
        """`data` as the event of its type.

        Raises:
            msgspec.ValidationError: `data` does not have the fields of the type.
        """
        return msgspec.convert(self.data, EVENT_CLASSES[self.type])


class Timestamps:
    """Writes the present as an envelope's `time`. The text of a second is made once: it is asked for every event."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        """RFC 3339, UTC, microseconds."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{nanoseconds // 1000:06d}Z"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ReceivedEnvelope)


def decode_envelope(body: bytes | str) -> ReceivedEnvelope:
    """Read one envelope.

    Raises:
        msgspec.DecodeError: not JSON, or not an envelope (`msgspec.ValidationError` is one).
    """
    return _decoder.decode(body)


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope as one line of JSON of at most `EVENT_BYTES_MAX` bytes; what is too large is cut and named.

    Raises:
        NotSerializableError: a value in it cannot be written as JSON.
    """
    try:
        body = _encoder.encode(envelope)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotSerializableError(f"{envelope.type.value} of run {envelope.run_id}: {error}") from error
    if len(body) <= EVENT_BYTES_MAX:
        return body
    return _encode_cut(envelope, len(body))


def _encode_cut(envelope: Envelope, size: int) -> bytes:
    """Cut the largest field by what is too much, and look again: characters differ in size."""
    data = envelope.data
    truncated: Truncated = {}
    while True:
        fields = [name for name in CUTTABLE_FIELDS if getattr(data, name, UNSET) not in (UNSET, "")]
        if not fields:
            raise NotSerializableError(
                f"{envelope.type.value} of run {envelope.run_id} takes {size} bytes even with its texts cut; "
                f"at most {EVENT_BYTES_MAX} are allowed: use shorter names and ids"
            )
        largest = max(fields, key=lambda name: len(_encoder.encode(getattr(data, name))))
        value = getattr(data, largest)
        text = value if isinstance(value, str) else _encoder.encode(value).decode()
        truncated.setdefault(largest, len(text.encode()))
        # In characters of this text's mean size, so that a text of wide or escaped ones is not cut to nothing.
        share = 1 - (max(size - EVENT_BYTES_MAX, 64) + 128) / len(_encoder.encode(text))
        keep = max(0, min(int(len(text) * share), len(text) - 1))
        data = msgspec.structs.replace(data, **{largest: text[:keep], "truncated": dict(truncated)})
        body = _encoder.encode(msgspec.structs.replace(envelope, data=data))
        size = len(body)
        if size <= EVENT_BYTES_MAX:
            return body
