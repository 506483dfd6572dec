"""One decoded object in, one `Frame` out: the shapes of every backend, told apart and brought into one.

Pure. What a backend calls its types and fields is looked up in `names`; what is not there is kept under its own name.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tracewire.agents.analyst.frames import STRONG_SEQ_FIELDS, WEAK_SEQ_FIELDS, Frame
from tracewire.agents.analyst.names import CLIENT_FRAMES, SERVER_FRAMES, event_of, folded
from tracewire.events import Receipt
from tracewire_telemetry.vocabulary import EventType

TYPE_FIELDS: Final = ("type", "event", "event_type", "eventType", "kind")
PAYLOAD_FIELDS: Final = ("data", "payload", "body")
RUN_FIELDS: Final = ("run_id", "runId", "run", "execution_id", "executionId")
THREAD_FIELDS: Final = ("thread_id", "threadId", "conversation_id", "conversationId", "session_id", "sessionId")
USER_FIELDS: Final = ("user_id", "userId", "user")
TIME_FIELDS: Final = ("time", "timestamp", "timeStamp", "ts", "created_at", "createdAt")
CALL_FIELDS: Final = ("tool_call_id", "toolCallId", "call_id", "callId")
TOOL_FIELDS: Final = ("tool_name", "toolName", "toolCallName", "tool", "name")
CODE_FIELDS: Final = ("code", "error_code", "errorCode")

FAILED_STATUSES: Final = frozenset({"error", "failed", "failure", "timeout", "timedout", "cancelled", "canceled"})
"""What a tool's `status` says, folded, where the call did not succeed."""
FAILURE_CHARACTERS_MAX: Final = 120

_SEQ_FIELDS: Final = STRONG_SEQ_FIELDS + WEAK_SEQ_FIELDS
_NUMBER_MAX: Final = 2**63


def frame_of(
    value: Any,
    *,
    socket: int,
    line: int,
    part: int = 0,
    sent: bool | None = None,
    arrived: float | None = None,
) -> Frame | None:
    """The object as a frame, or `None` where it has no type. `sent` unknown: the type decides."""
    if not isinstance(value, dict):
        return None
    outer, name = _open(value)
    if name is None:
        return None
    payload = _payload(outer)
    both = (outer, payload) if payload is not outer else (outer,)
    event = _event(name, both)
    kind = folded(name)
    own_time = time_of(_first(both, TIME_FIELDS))
    seq_field, seq = _sequence(both)
    is_tool = event in (EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED)
    return Frame(
        socket=socket,
        line=line,
        part=part,
        name=sys.intern(name),
        event=event,
        sent=(kind in CLIENT_FRAMES) if sent is None else sent,
        time=own_time if arrived is None else arrived,
        run_id=_run_id(both),
        seq=seq,
        first_seq=_number(_first(both, ("first_seq", "firstSeq"))),
        seq_field=seq_field,
        user_id=_text(_first(both, USER_FIELDS)),
        tool_call_id=_text(_first(both, CALL_FIELDS)) if is_tool else None,
        tool_name=_text(_first(both[::-1], TOOL_FIELDS)) if is_tool else None,
        failure=_failure(both[::-1]) if event is EventType.TOOL_COMPLETED else None,
        request_id=_text(_first(both, ("request_id", "requestId"))) if event is None else None,
        code=_text(_first(both[::-1], CODE_FIELDS)) if event is EventType.AGENT_ERROR else None,
        truncated=_truncated(both),
        receipt=_receipt(both) if event is not None else None,
        announced=_announced(kind, outer) if event is None else (),
        digest=_digest(outer, event, own_time) if seq is None else None,
    )


def _open(value: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The object that carries the type, and the type: of several fields the first that is known, else the first.

    A backend may put its event into a frame of its own (`{"type": "message", "payload": {"type": …}}`).
    """
    names = _types(value)
    for name in names:
        if event_of(name) is not None or folded(name) in SERVER_FRAMES or folded(name) in CLIENT_FRAMES:
            return value, name
    for field in PAYLOAD_FIELDS:
        inner = value.get(field)
        if isinstance(inner, dict):
            for name in _types(inner):
                if event_of(name) is not None:
                    return {**value, **inner}, name
    return value, names[0] if names else None


def _types(value: Mapping[str, Any]) -> list[str]:
    return [name for field in TYPE_FIELDS if isinstance(name := value.get(field), str) and name]


def _payload(outer: dict[str, Any]) -> dict[str, Any]:
    for field in PAYLOAD_FIELDS:
        inner = outer.get(field)
        if isinstance(inner, dict):
            return inner
    return outer


def _event(name: str, both: Sequence[Mapping[str, Any]]) -> EventType | None:
    """AG-UI ends a cancelled run with RUN_FINISHED too, and says so in its outcome."""
    event = event_of(name)
    if event is EventType.AGENT_COMPLETED:
        outcome = _first(both, ("outcome", "status"))
        if isinstance(outcome, dict):
            outcome = outcome.get("type")
        if isinstance(outcome, str) and folded(outcome) in ("cancelled", "canceled"):
            return EventType.AGENT_CANCELLED
    return event


def _failure(both: Sequence[Mapping[str, Any]]) -> str | None:
    """How the call failed: its status, and its error where it gives one; `None` where it did not fail."""
    status = _first(both, ("status", "state", "outcome"))
    failed = isinstance(status, str) and folded(status) in FAILED_STATUSES
    error = _first(both, ("error", "error_message", "errorMessage"))
    if isinstance(error, dict):
        error = error.get("message") or error.get("type") or "error"
    said = error if isinstance(error, str) and error else None
    if not failed and said is None and _first(both, ("is_error", "isError")) is not True:
        return None
    word = status if failed and isinstance(status, str) else "error"
    return (f"{word}: {said}" if said else word)[:FAILURE_CHARACTERS_MAX]


def _sequence(both: Sequence[Mapping[str, Any]]) -> tuple[str | None, int | None]:
    """The field that holds the number, and the number: a strong field of any object before a weak one."""
    for field in _SEQ_FIELDS:
        for mapping in both:
            number = _number(mapping.get(field))
            if number is not None:
                return field, number
    return None, None


def _first(mappings: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Any:
    for mapping in mappings:
        for field in fields:
            value = mapping.get(field)
            if value is not None:
                return value
    return None


def _text(value: Any) -> str | None:
    """An id as text: numbers are ids too, in some backends."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _run_id(both: Sequence[Mapping[str, Any]]) -> str | None:
    """One string for all events of a run: a recording may hold hundreds of thousands."""
    run_id = _text(_first(both, RUN_FIELDS)) or _text(_first(both, THREAD_FIELDS))
    return None if run_id is None else sys.intern(run_id)


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _NUMBER_MAX:
        return value
    return None


def time_of(value: Any) -> float | None:
    """Seconds of the epoch, of an ISO 8601 text or of a number of seconds, milli-, micro- or nanoseconds."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
        else:
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e20:
        return None
    for above, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):
        if value > above:
            return value / unit
    return float(value)


def _truncated(both: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    value = _first(both, ("truncated",))
    return tuple(sorted(map(str, value))) if isinstance(value, dict) else ()


def _receipt(both: Sequence[Mapping[str, Any]]) -> Receipt | None:
    """A receipt is in the event, or in its metadata (AG-UI)."""
    metadata = _first(both, ("metadata",))
    holders = [*both, metadata] if isinstance(metadata, dict) else both
    found = _first(holders, ("receipt",))
    if found is None and isinstance(metadata, dict) and isinstance(metadata.get("tracewire"), dict):
        found = metadata["tracewire"].get("receipt")
    if not isinstance(found, dict) or not isinstance(found.get("counts"), dict):
        return None
    last_seq = _number(found.get("last_seq"))
    counts = {str(name): count for name, count in found["counts"].items() if _number(count) is not None}
    return None if last_seq is None else Receipt(last_seq=last_seq, counts=counts)


def _announced(kind: str, frame: Mapping[str, Any]) -> tuple[tuple[str, int | None], ...]:
    """The runs that a control frame names, with the last seq that it gives for each."""
    runs = frame.get("runs")
    if kind == "resume" and isinstance(runs, dict):
        return tuple((str(run_id), _number(last_seq)) for run_id, last_seq in runs.items())
    if kind == "ready" and isinstance(runs, list):
        rows = [row for row in runs if isinstance(row, dict)]
        return tuple((named, _number(row.get("last_seq"))) for row in rows if (named := _text(row.get("run_id"))))
    if kind in ("runaccepted", "resumed"):
        accepted = _text(_first((frame,), RUN_FIELDS))
        return ((accepted, _number(frame.get("last_seq"))),) if accepted else ()
    return ()


def _digest(frame: dict[str, Any], event: EventType | None, own_time: float | None) -> int | None:
    """Two equal texts may be two tokens, and two equal thoughts two thoughts: only the rest is told by its content."""
    if event in (None, EventType.AGENT_DELTA) or (event is EventType.AGENT_THINKING and own_time is None):
        return None
    return hash(msgspec.json.encode(frame, order="sorted"))
