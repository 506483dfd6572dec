"""The frames of the wire other than envelopes, as they are written and read.

What is said of them here is what `/schema/frames.json` and the TypeScript types say.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tracewire.errors import RejectedError
from tracewire_telemetry.vocabulary import RejectCode

RunId = Annotated[str, Meta(description="The run's id, a UUIDv7.")]
RequestId = Annotated[
    str,
    Meta(
        description="The client's own name for its request, 1 to 128 characters, unique for the user as long as the "
        "run is kept."
    ),
]
ThreadId = Annotated[str, Meta(description="The conversation that the run belongs to.")]
Seq = Annotated[int, Meta(description="Counts a run's events from 1, without gaps.", ge=0, le=2**53)]
Seconds = Annotated[float, Meta(description="In seconds.")]

# From the client.


class Authenticate(Struct, frozen=True, tag="authenticate"):
    """Signs in within the first 10 seconds, or renews on an open socket; answered by `authenticated`."""

    token: Annotated[str, Meta(description="A token, never repeated in an answer or a log.")]


class StartRunFrame(Struct, frozen=True, tag="start_run"):
    """Starts a run; answered by `run_accepted`. The same `request_id` again is answered with the same run."""

    request_id: RequestId
    input: Annotated[Any, Meta(description="What the agent is asked: any JSON value.")]
    agent: Annotated[str | None, Meta(description="Its name; without one, the server's first.")] = None
    thread_id: Annotated[str | None, Meta(description="The conversation to go on with; without one, a new one.")] = None
    traceparent: Annotated[str | None, Meta(description="W3C trace context, to which the run's trace links.")] = None


class CancelRun(Struct, frozen=True, tag="cancel_run"):
    """Asks an open run to end with `agent_cancelled`."""

    run_id: RunId


class ProvideInput(Struct, frozen=True, tag="provide_input"):
    """Answers an `input_required`."""

    run_id: RunId
    input_id: Annotated[str, Meta(description="That of the `input_required`.")]
    value: Annotated[Any, Meta(description="The answer: any JSON value.")]


class Ack(Struct, frozen=True, tag="ack"):
    """Promises that events 1 to `seq` of the run were processed, not merely received."""

    run_id: RunId
    seq: Seq
    count: Annotated[Seq | None, Meta(description="How many distinct events were processed; must equal `seq`.")] = None


class Resume(Struct, frozen=True, tag="resume"):
    """Follows these runs from after the seqs that it names; counts as their acks. Answered by a `resumed` for each."""

    runs: Annotated[dict[str, Seq], Meta(description="The last seq that was processed, by run id; 0 for none.")]


class Pong(Struct, frozen=True, tag="pong"):
    """Answers a `ping`."""

    id: Annotated[Any, Meta(description="That of the `ping`.")] = None


ClientFrame = Authenticate | StartRunFrame | CancelRun | ProvideInput | Ack | Resume | Pong
CLIENT_FRAMES = ("authenticate", "start_run", "cancel_run", "provide_input", "ack", "resume", "pong")

# From the server.


class RunListing(Struct, frozen=True):
    """One run in `ready`. It is followed only once a `resume` names it."""

    run_id: RunId
    request_id: RequestId
    agent: str
    state: Annotated[str, Meta(description="`running`, `awaiting_input`, `completed`, `failed` or `cancelled`.")]
    last_seq: Seq
    acked_seq: Seq


class Ready(Struct, frozen=True, tag="ready"):
    """The one sign that the whole chain behind the socket is up."""

    connection_id: str
    user_id: str
    heartbeat_seconds: Annotated[float, Meta(description="Time between the server's pings.")]
    limits: Annotated[
        dict[str, int],
        Meta(description="`frame_bytes`, `event_bytes`, `runs_per_user`, `sockets_per_user`."),
    ]
    agents: Annotated[tuple[str, ...], Meta(description="The agents that can be asked, the default first.")]
    runs: Annotated[
        list[RunListing],
        Meta(description="The user's open runs, and ended ones not acked to their end: the newest 100."),
    ]
    runs_more: Annotated[bool, Meta(description="Whether there are more such runs; `GET /runs` lists all.")]


class RunAccepted(Struct, frozen=True, tag="run_accepted"):
    """The run's record is durable, and none of its events was sent on this socket before."""

    request_id: RequestId
    run_id: RunId
    thread_id: ThreadId


class Rejected(Struct, frozen=True, tag="rejected"):
    """A frame was refused. `message` says what was wrong and what to do."""

    frame: Annotated[str | None, Meta(description="The type of the frame, where it had one.")]
    code: RejectCode
    message: str
    request_id: RequestId | UnsetType = UNSET
    run_id: RunId | UnsetType = UNSET
    retry_after_seconds: Seconds | UnsetType = UNSET


class Resumed(Struct, frozen=True, tag="resumed"):
    """Answers one run of a `resume`. Recovered: every event from `from_seq` on follows, then live. Not recovered:
    nothing follows, and `from_seq` says where the log now begins.
    """

    run_id: RunId
    recovered: bool
    state: Annotated[str | None, Meta(description="As in `ready`; `null` where there is no such run.")]
    from_seq: Seq
    last_seq: Seq
    reason: Annotated[str, Meta(description="Why not: `expired` or `unknown_run`.")] | UnsetType = UNSET


class Ping(Struct, frozen=True, tag="ping"):
    """A heartbeat, to be answered by `pong` with the same id."""

    id: int


class Authenticated(Struct, frozen=True, tag="authenticated"):
    """The token of an `authenticate` holds."""

    expires_at: Annotated[int, Meta(description="Until when, in Unix seconds.")]


class Draining(Struct, frozen=True, tag="draining"):
    """The server is about to stop, and will close with 4000: come back then."""

    retry_after_seconds: Seconds


class Unavailable(Struct, frozen=True, tag="unavailable"):
    """The server cannot go on now, and will close with 4004: come back and resume."""

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
