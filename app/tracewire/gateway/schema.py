"""What crosses the socket as JSON Schema (2020-12), made from the classes that read and write it.

`/schema/frames.json` serves it; `typescript.py` makes the TypeScript types of it.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tracewire.events import EVENT_CLASSES, Event
from tracewire.gateway.frames import ClientFrame, RunId, ServerFrame
from tracewire_telemetry.vocabulary import TERMINAL_TYPES, EventType

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Final = "#/$defs/{name}"
UNIONS: Final = {
    "ClientFrame": "Any frame that a client sends.",
    "ServerFrame": "Any frame that the server sends and that is no event.",
    "Envelope": "Any event, with its run, its place in it, its time and its trace context.",
    "TerminalEnvelope": "The last event of a run. Every run has exactly one.",
}
_RUN: Final = "0197f1c2-7a3b-7c4d-8e5f-60718293a4b5"
EXAMPLES: Final[dict[str, list[dict[str, Any]]]] = {
    "Authenticate": [{"type": "authenticate", "token": "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"}],
    "StartRunFrame": [
        {"type": "start_run", "request_id": "question-1", "input": "what is missing in the sample recording?"},
        {
            "type": "start_run",
            "request_id": "question-2",
            "agent": "analyst",
            "input": {"question": "which tool calls failed?", "recording_id": "sample"},
            "thread_id": "thread-1",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        },
    ],
    "CancelRun": [{"type": "cancel_run", "run_id": _RUN}],
    "ProvideInput": [{"type": "provide_input", "run_id": _RUN, "input_id": "input_1", "value": True}],
    "Ack": [{"type": "ack", "run_id": _RUN, "seq": 5, "count": 5}, {"type": "ack", "run_id": _RUN, "seq": 5}],
    "Resume": [{"type": "resume", "runs": {_RUN: 3}}],
    "Pong": [{"type": "pong", "id": 7}],
}
_DATE_TIME: Final = {"format": "date-time"}
_EventSeq = Annotated[int, Meta(description="Counts the run's events from 1, without gaps.", ge=1, le=2**53)]
Schema = dict[str, Any]


def frames_schema() -> Schema:
    """The schema of every frame and envelope: any one object of the wire fits it, by its `type`."""
    envelopes = [_envelope(event_type, data) for event_type, data in EVENT_CLASSES.items()]
    unions: dict[str, Sequence[type[Struct]]] = {
        "ClientFrame": get_args(ClientFrame),
        "ServerFrame": get_args(ServerFrame),
        "Envelope": envelopes,
        "TerminalEnvelope": [cls for cls in envelopes if cls.__struct_config__.tag in TERMINAL_TYPES],
    }
    definitions = components([cls for name in UNIONS for cls in unions[name]], REFERENCE)
    for name, examples in EXAMPLES.items():
        definitions[name]["examples"] = examples
    for name, description in UNIONS.items():
        definitions[name] = {
            "title": name,
            "description": description,
            "oneOf": [_reference(cls.__name__) for cls in unions[name]],
        }
    return {
        "$schema": DIALECT,
        "title": "The frames of tracewire.v1",
        "description": "One JSON object a frame; with the subprotocol `tracewire.v1.lines` the server may send several "
        "in one frame, one a line. More fields may come: ignore those that are not here.",
        "anyOf": [_reference(name) for name in ("ClientFrame", "ServerFrame", "Envelope")],
        "$defs": dict(sorted(definitions.items())),
    }


def components(classes: Iterable[Any], reference: str) -> dict[str, Schema]:
    """The schemas of these classes and of all that they hold, by name, referring to each other by `reference`."""
    _, found = msgspec.json.schema_components(list(classes), ref_template=reference)
    described: dict[str, Schema] = {name: _flowing(schema) for name, schema in found.items()}
    return described


def within(schema: Schema, root: str, reference: str) -> dict[str, Schema]:
    """The definition `root` of a schema, and those that it needs, referring to each other by `reference`."""
    found: dict[str, Schema] = {}
    wanted = [root]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name], referred = _redirected(schema["$defs"][name], reference)
            wanted += referred
    return found


def _redirected(value: Any, reference: str) -> tuple[Any, list[str]]:
    referred: list[str] = []

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(item) for item in part]
        if not isinstance(part, dict):
            return part
        if isinstance(part.get("$ref"), str):
            referred.append(part["$ref"].rpartition("/")[2])
            return {**part, "$ref": reference.format(name=referred[-1])}
        return {key: walk(item) for key, item in part.items()}

    return walk(value), referred


def _reference(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def _envelope(event_type: EventType, data: type[Event]) -> type[Struct]:
    fields: list[Any] = [
        ("run_id", RunId),
        ("seq", _EventSeq),
        ("time", Annotated[str, Meta(description="When it happened: RFC 3339, UTC.", extra_json_schema=_DATE_TIME)]),
        ("agent", Annotated[str, Meta(description="The agent's name.")]),
        ("traceparent", Annotated[str, Meta(description="W3C trace context of the event.")]),
        ("data", data),
    ]
    if event_type is EventType.AGENT_DELTA:
        joined = Annotated[
            _EventSeq,
            Meta(
                description="Where contiguous deltas were joined into one, for who reads slowly: the seq of the first. "
                "Each counts in acks and receipt. Who has had a part of them resumes, and gets the rest singly."
            ),
        ]
        fields.append(("first_seq", joined | UnsetType, UNSET))
    return msgspec.defstruct(
        f"{data.__name__}Envelope",
        fields,
        tag=event_type.value,
        frozen=True,
        namespace={"__doc__": inspect.cleandoc(data.__doc__ or "")},
    )


def _flowing(value: Any) -> Any:
    """The schema with its descriptions as running text: docstrings are broken and indented for the source."""
    if isinstance(value, dict):
        return {
            key: " ".join(item.split()) if key == "description" and isinstance(item, str) else _flowing(item)
            for key, item in value.items()
        }
    return [_flowing(item) for item in value] if isinstance(value, list) else value
