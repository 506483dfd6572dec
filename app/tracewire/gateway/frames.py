"""The frames of the wire other than envelopes, as they are written and read."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tracewire.errors import RejectedError
from tracewire_telemetry.vocabulary import RejectCode

Seq = Annotated[int, Meta(ge=0, le=2**53)]

# From the client.


class Authenticate(Struct, frozen=True, tag="authenticate"):
    token: str


class StartRunFrame(Struct, frozen=True, tag="start_run"):
    request_id: str
    input: Any
    agent: str | None = None
    thread_id: str | None = None
    traceparent: str | None = None


class CancelRun(Struct, frozen=True, tag="cancel_run"):
    run_id: str


class ProvideInput(Struct, frozen=True, tag="provide_input"):
    run_id: str
    input_id: str
    value: Any


class Ack(Struct, frozen=True, tag="ack"):
    run_id: str
    seq: Seq
    count: Seq | None = None


class Resume(Struct, frozen=True, tag="resume"):
    runs: dict[str, Seq]


class Pong(Struct, frozen=True, tag="pong"):
    id: Any = None


ClientFrame = Authenticate | StartRunFrame | CancelRun | ProvideInput | Ack | Resume | Pong
CLIENT_FRAMES = ("authenticate", "start_run", "cancel_run", "provide_input", "ack", "resume", "pong")

# From the server.


class RunListing(Struct, frozen=True):
    """One run in `ready`."""

    run_id: str
    request_id: str
    agent: str
    state: str
    last_seq: int
    acked_seq: int


class Ready(Struct, frozen=True, tag="ready"):
    connection_id: str
    user_id: str
    heartbeat_seconds: float
    limits: dict[str, int]
    agents: tuple[str, ...]
    runs: list[RunListing]
    runs_more: bool


class RunAccepted(Struct, frozen=True, tag="run_accepted"):
    request_id: str
    run_id: str
    thread_id: str


class Rejected(Struct, frozen=True, tag="rejected"):
    frame: str | None
    code: RejectCode
    message: str
    request_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    retry_after_seconds: float | UnsetType = UNSET


class Resumed(Struct, frozen=True, tag="resumed"):
    run_id: str
    recovered: bool
    state: str | None
    from_seq: int
    last_seq: int
    reason: str | UnsetType = UNSET


class Ping(Struct, frozen=True, tag="ping"):
    id: int


class Authenticated(Struct, frozen=True, tag="authenticated"):
    expires_at: int


class Draining(Struct, frozen=True, tag="draining"):
    retry_after_seconds: float


class Unavailable(Struct, frozen=True, tag="unavailable"):
    code: str


ServerFrame = Ready | RunAccepted | Rejected | Resumed | Ping | Authenticated | Draining | Unavailable


class _Any(Struct, frozen=True):
    type: Any = None
    request_id: Any = None
    run_id: Any = None


_encoder = msgspec.json.Encoder()
_frames: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_any = msgspec.json.Decoder(_Any)


def encode_frame(frame: ServerFrame) -> bytes:
    """The frame as JSON."""
    return _encoder.encode(frame)


class BadFrameError(RejectedError):
    """What a client sent is no frame. It knows what can be told of it for the refusal."""

    def __init__(self, code: RejectCode, message: str, seen: _Any) -> None:
        super().__init__(code, message)
        self.frame = seen.type if isinstance(seen.type, str) else None
        self.request_id = seen.request_id if isinstance(seen.request_id, str) else None
        self.run_id = seen.run_id if isinstance(seen.run_id, str) else None


def decode_frame(text: str) -> ClientFrame:
    """Read one frame of a client.

    Raises:
        BadFrameError: `malformed` or `unknown_frame`, saying what is wrong.
    """
    try:
        return _frames.decode(text)
    except RecursionError:
        raise BadFrameError(RejectCode.MALFORMED, "the frame is nested too deeply", _Any()) from None
    except msgspec.ValidationError as error:
        problem = str(error)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadFrameError(RejectCode.MALFORMED, f"the frame is not JSON: {error}", _Any()) from None
    try:
        seen = _any.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise BadFrameError(RejectCode.MALFORMED, "a frame is one JSON object with a `type`", _Any()) from None
    if seen.type not in CLIENT_FRAMES:
        known = ", ".join(CLIENT_FRAMES)
        message = "the frame has no `type`" if seen.type is None else f"there is no frame {str(seen.type)[:64]!r}"
        raise BadFrameError(RejectCode.UNKNOWN_FRAME, f"{message}; there are {known}", seen)
    raise BadFrameError(RejectCode.MALFORMED, f"{seen.type}: {problem}", seen)
