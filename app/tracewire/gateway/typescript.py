"""The frames as TypeScript types, made from their JSON Schema: `make types` writes them, and a test holds them to it.

Enters: `frames_schema`. Leaves: `console/frames.d.ts`, served at `/client/frames.d.ts`.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from tracewire.gateway.schema import Schema, frames_schema

TARGET: Final = Path(__file__).parents[1] / "console" / "frames.d.ts"
WIDTH: Final = 110
_PLAIN: Final = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_NAME: Final = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)


def typescript(schema: Schema) -> str:
    """One exported type for each definition of the schema, in the order of their names."""
    parts = [
        "// The frames of tracewire.v1. Written by `make types` from the server's code: do not edit.\n",
        *(_definition(name, definition) for name, definition in schema["$defs"].items()),
        '/** The type of an event. */\nexport type EventType = Envelope["type"];\n',
    ]
    return "\n".join(parts)


def _definition(name: str, schema: Schema) -> str:
    comment = _comment(schema.get("description"), "")
    if "properties" not in schema:
        return f"{comment}export type {name} ={_broken(_alternatives(schema))};\n"
    required = set(schema.get("required", ()))
    fields = [
        f"{_comment(field.get('description'), '  ')}  {_key(key)}{'' if key in required else '?'}: {_type(field)};\n"
        for key, field in schema["properties"].items()
    ]
    return f"{comment}export interface {name} {{\n{''.join(fields)}}}\n"


def _alternatives(schema: Schema) -> list[str]:
    if "enum" in schema:
        return [json.dumps(value) for value in schema["enum"]]
    return [_type(choice) for choice in schema.get("oneOf") or schema.get("anyOf") or [schema]]


def _broken(alternatives: list[str]) -> str:
    line = " " + " | ".join(alternatives)
    return line if len(line) < WIDTH - 30 else "".join(f"\n  | {alternative}" for alternative in alternatives)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema or "anyOf" in schema or "oneOf" in schema:
        return " | ".join(_alternatives(schema))
    match schema.get("type"):
        case "array":
            item = _type(schema.get("items", {}))
            return f"({item})[]" if " " in item else f"{item}[]"
        case "object":
            return f"Record<string, {_type(_values(schema))}>"
        case str(name):
            return _PLAIN[name]
        case None:
            return "unknown"
        case unknown:
            raise ValueError(f"no TypeScript for the JSON Schema type {unknown!r}")


def _values(schema: Schema) -> Any:
    values = schema.get("additionalProperties", {})
    return values if isinstance(values, dict) else {}


def _key(name: str) -> str:
    return name if _NAME.fullmatch(name) else json.dumps(name)


def _comment(description: str | None, indent: str) -> str:
    if not description:
        return ""
    words = description.replace("*/", "* /").split()
    lines = [words[0]]
    for word in words[1:]:
        if len(indent) + len(lines[-1]) + len(word) + 4 > WIDTH:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}\n" for line in lines) + f"{indent} */\n"


if __name__ == "__main__":
    TARGET.write_text(typescript(frames_schema()), encoding="utf-8")
