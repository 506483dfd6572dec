"""The schemas: they describe all that the code reads and writes, and hold for what it reads and writes."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from tracewire.events import (
    EVENT_CLASSES,
    AgentCancelled,
    AgentCompleted,
    AgentDelta,
    AgentError,
    AgentStarted,
    AgentThinking,
    Envelope,
    Event,
    InputRequired,
    Receipt,
    ToolCompleted,
    ToolExecuting,
    encode_envelope,
)
from tracewire.gateway import frames
from tracewire.gateway.frames import ClientFrame, ServerFrame, decode_frame, encode_frame
from tracewire.gateway.openapi import openapi_document
from tracewire.gateway.schema import EXAMPLES, frames_schema
from tracewire_telemetry.vocabulary import EventType, RejectCode, ResumeOutcome, RunErrorCode, ToolStatus

SCHEMA = frames_schema()
DOCUMENT = openapi_document("1.2.3")
RECEIPT = Receipt(3, {"agent_started": 1, "agent_completed": 1})
EVENTS: list[Event] = [
    AgentStarted("began"),
    AgentThinking("hm", 1),
    ToolExecuting("call_1", "look", {"q": [1, None, "x"]}),
    ToolCompleted("call_1", "look", ToolStatus.OK, {"found": 1}, 1.5),
    ToolCompleted("call_1", "look", ToolStatus.ERROR, None, 1.5, error="no", truncated={"result": 70_000}),
    AgentDelta("te"),
    InputRequired("input_1", "approval", "Send it?"),
    InputRequired("input_1", "question", "To whom?", schema={"type": "string"}),
    AgentCompleted(["any", {"value": 1}], 3.0, RECEIPT),
    AgentError(RunErrorCode.TIMEOUT, "too long", True, RECEIPT),
    AgentCancelled("by the user", RECEIPT),
]
SERVER_FRAMES: list[ServerFrame] = [
    frames.Ready("c", "ada", 20.0, {"frame_bytes": 1}, ("analyst",), [], False),
    frames.Ready("c", "ada", 20.0, {}, (), [frames.RunListing("r", "q", "five", "running", 3, 0)], True),
    frames.RunAccepted("q", "r", "t"),
    frames.Rejected(None, RejectCode.MALFORMED, "no"),
    frames.Rejected("start_run", RejectCode.RATE_LIMITED, "no", "q", "r", 1.5),
    frames.Resumed("r", True, "running", 4, 9),
    frames.Resumed("r", False, None, 0, 0, reason="unknown_run"),
    frames.Ping(1),
    frames.Authenticated(1_700_000_000),
    frames.Draining(2.0),
    frames.Unavailable("log_unavailable"),
]


def validator(definition: str) -> Draft202012Validator:
    """A validator of one definition of the frames' schema."""
    return Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{definition}"}]})


def problems(definition: str, value: Any) -> list[str]:
    """What is wrong with a value."""
    return [error.message for error in validator(definition).iter_errors(value)]


def test_the_schema_is_one_of_the_dialect_that_it_names() -> None:
    """JSON Schema 2020-12; every reference in it leads somewhere."""
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert {ref.rpartition("/")[2] for ref in references(SCHEMA)} <= set(SCHEMA["$defs"])


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in a schema."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)


def tags_of(union: str) -> set[str]:
    """The `type`s of what a union of the schema holds."""
    names = [choice["$ref"].rpartition("/")[2] for choice in SCHEMA["$defs"][union]["oneOf"]]
    return {SCHEMA["$defs"][name]["properties"]["type"]["enum"][0] for name in names}


def test_every_frame_and_every_event_is_there() -> None:
    """Those of the code, and no others."""
    assert tags_of("ClientFrame") == {cls.__struct_config__.tag for cls in get_args(ClientFrame)}
    assert tags_of("ServerFrame") == {cls.__struct_config__.tag for cls in get_args(ServerFrame)}
    assert tags_of("Envelope") == {event_type.value for event_type in EventType} == {cls.value for cls in EVENT_CLASSES}
    assert tags_of("TerminalEnvelope") == {"agent_completed", "agent_error", "agent_cancelled"}


def test_everything_says_what_it_is() -> None:
    """A definition without words is of no use to who reads it."""
    wordless = [name for name, definition in SCHEMA["$defs"].items() if not definition.get("description")]
    assert wordless == []
    assert "\n" not in "".join(definition["description"] for definition in SCHEMA["$defs"].values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_frame_are_such_frames(name: str) -> None:
    """By its schema and by the code that reads frames."""
    for example in EXAMPLES[name]:
        assert problems(name, example) == problems("ClientFrame", example) == []
        assert type(decode_frame(json.dumps(example))).__name__ == name


def test_every_frame_of_a_client_has_an_example() -> None:
    """At least one, each in the schema."""
    assert set(EXAMPLES) == {cls.__name__ for cls in get_args(ClientFrame)}
    assert all(SCHEMA["$defs"][name]["examples"] == EXAMPLES[name] for name in EXAMPLES)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type.value)
def test_an_envelope_as_it_is_written_fits_the_schema_of_its_type_alone(event: Event) -> None:
    """Of each type, with and without what may be left out."""
    envelope = Envelope(event.type, "r", 1, "2026-01-02T03:04:05.678901Z", "five", "00-" + "1" * 32, event)
    written = json.loads(encode_envelope(envelope))
    assert problems("Envelope", written) == []
    assert problems(f"{type(event).__name__}Envelope", written) == []
    assert problems("ServerFrame", written) != []


def test_every_type_of_event_was_looked_at() -> None:
    """And every frame of the server."""
    assert {type(event) for event in EVENTS} == set(EVENT_CLASSES.values())
    assert {type(frame) for frame in SERVER_FRAMES} == set(get_args(ServerFrame))


@pytest.mark.parametrize("frame", SERVER_FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_as_it_is_written_fits_its_schema_alone(frame: ServerFrame) -> None:
    """Of each type, with and without what may be left out."""
    written = json.loads(encode_frame(frame))
    assert problems("ServerFrame", written) == []
    assert problems(type(frame).__name__, written) == []
    assert problems("Envelope", written) != []


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "ack", "run_id": "r"},
        {"type": "ack", "run_id": "r", "seq": -1},
        {"type": "ack", "run_id": 7, "seq": 1},
        {"type": "resume", "runs": {"r": "1"}},
        {"type": "start_run", "request_id": "q"},
        {"type": "nothing"},
        {},
        [],
    ],
    ids=json.dumps,
)
def test_what_the_code_refuses_the_schema_refuses(broken: Any) -> None:
    """So that a client that validates hears of it before the server does."""
    assert problems("ClientFrame", broken) != []
    with pytest.raises(frames.BadFrameError):
        decode_frame(json.dumps(broken))


def test_joined_deltas_may_name_their_first_seq() -> None:
    """They alone."""
    assert "first_seq" in SCHEMA["$defs"]["AgentDeltaEnvelope"]["properties"]
    holders = [name for name, one in SCHEMA["$defs"].items() if "first_seq" in one.get("properties", {})]
    assert holders == ["AgentDeltaEnvelope"]


# OpenAPI.


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of the document."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_schema_of_the_document_is_valid_and_leads_somewhere() -> None:
    """OpenAPI 3.1 takes JSON Schema 2020-12 as it is."""
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert {ref.removeprefix("#/components/schemas/") for ref in references(DOCUMENT)} <= set(schemas)
    assert schemas["EventPage"]["properties"]["events"]["items"] == {"$ref": "#/components/schemas/Envelope"}
    assert "ClientFrame" not in schemas


def test_every_operation_can_be_called_from_what_it_says() -> None:
    """A name of its own, a summary, a known tag; each `{name}` of its path declared, and nothing declared twice."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names) > 10
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, _, operation in operations():
        declared = [(one["in"], one["name"]) for one in operation.get("parameters", [])]
        assert {name for where, name in declared if where == "path"} == set(part(path))
        assert len(set(declared)) == len(declared)
        assert operation["summary"]
        assert set(operation["tags"]) <= tags


def part(path: str) -> Iterator[str]:
    """The names in a path."""
    return (piece[1:-1] for piece in path.split("/") if piece.startswith("{"))


def test_every_refusal_is_a_problem_document_with_codes_of_the_wire() -> None:
    """401 and 503 wherever a token is asked for, and nowhere else."""
    codes = {code.value for code in RejectCode} | {ResumeOutcome.EXPIRED.value}
    for path, method, operation in operations():
        public = operation.get("security") == []
        refusals = {
            status: answer
            for status, answer in operation["responses"].items()
            if status >= "400" and (path, status) != ("/ready", "503")
        }
        assert public is ("401" not in refusals), (path, method)
        for status, answer in refusals.items():
            content = answer["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert content["example"]["status"] == int(status)
            assert content["example"]["code"] in codes
    assert DOCUMENT["security"] == [{"bearer": []}]
    assert DOCUMENT["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
