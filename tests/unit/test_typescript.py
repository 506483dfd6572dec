"""The TypeScript types: what is committed is what the code says, and the generator says it right."""

import re
from typing import Any

import pytest

from tracewire.gateway.schema import frames_schema
from tracewire.gateway.typescript import TARGET, typescript


def test_the_committed_types_are_those_of_the_code() -> None:
    """A frame that changes without them would reach front ends as a lie; `make types` writes them anew."""
    assert TARGET.read_text(encoding="utf-8") == typescript(frames_schema()), "run `make types`"


def test_every_type_that_is_named_is_exported() -> None:
    """A name that nothing declares would fail in the front end's compiler, not here."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*|\"[^\"]*\"", "", typescript(frames_schema()), flags=re.DOTALL)
    exported = re.findall(r"export (?:type|interface) (\w+)", text)
    assert len(set(exported)) == len(exported)
    assert set(re.findall(r"\b[A-Z]\w+", text)) - {"Record"} == set(exported)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer", "minimum": 0}, "number"),
        ({}, "unknown"),
        ({"description": "anything"}, "unknown"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"$ref": "#/$defs/Other"}, "Other"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "(string | null)[]"),
        ({"type": "array"}, "unknown[]"),
        ({"type": "object"}, "Record<string, unknown>"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "Record<string, number>"),
    ],
)
def test_a_field_has_the_type_that_its_schema_says(schema: dict[str, Any], expected: str) -> None:
    """Field by field; one that is not required may be left out."""
    text = typescript({"$defs": {"One": {"properties": {"a": schema, "b-c": {}}, "required": ["a"]}}})
    assert f"  a: {expected};\n" in text
    assert '  "b-c"?: unknown;\n' in text


def test_a_schema_that_has_no_type_in_typescript_is_refused() -> None:
    """Rather than written down wrong."""
    with pytest.raises(KeyError):
        typescript({"$defs": {"One": {"properties": {"a": {"type": "date"}}}}})
    with pytest.raises(ValueError, match="JSON Schema type"):
        typescript({"$defs": {"One": {"properties": {"a": {"type": ["string", "null"]}}}}})


def test_a_description_cannot_end_its_comment() -> None:
    """Whatever a docstring says."""
    text = typescript({"$defs": {"One": {"description": "a */ b " * 40, "enum": ["x"]}}})
    assert text.count("*/") == 2
