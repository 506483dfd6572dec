"""What of a span is the same in every run of a program: its values without ids, times, addresses and secrets."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from tracewire_telemetry.testing.checks import SECRET_KEYS, SECRET_PATTERNS
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

VARIES: Final = (
    "thread.*",
    "process.*",
    "host.*",
    "net.*",
    "network.peer.*",
    "client.*",
    "server.*",
    "code.lineno",
    "code.line.number",
    "code.filepath",
    "code.file.path",
    "code.stacktrace",
    "exception.stacktrace",
    "http.host",
    "http.server_name",
    "http.user_agent",
    "user_agent.*",
    "*.port",
    "*.size",
    "*_ms",
    "*duration*",
    "*_length",
    "*.uptime",
)
"""Attributes whose values differ from run to run: a golden trace holds that they are there, as `<varies>`."""
LEFT_OUT: Final = ("tracewire.keep.reason",)
"""Attributes that do not count: a trace may be kept for being slow; errors and incidents have other signs."""
IDS: Final = ("*.id", "*_id", "*.ids", "*.uuid", "enduser.*")
"""Attributes whose values are ids. One that stands on the root is called by its name wherever else it occurs."""
_ROOT_IDS_CHARACTERS_MIN: Final = 6
"""Shorter ids are no use as parts of other values: `1` would be found everywhere."""

_TEXTS: Final = (
    *((re.compile(pattern), "<secret>") for pattern in SECRET_PATTERNS),
    (re.compile(r"(?<=://)[^/\s?#]+"), "<host>"),
    (re.compile(r"\b(?:localhost|\d{1,3}(?:\.\d{1,3}){3})(?::\d+)?\b"), "<host>"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "<email>"),
    (re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"(?i)\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,}\b"), "<hex>"),
    (re.compile(r"\b\d{8,}\b"), "<digits>"),
    (re.compile(r"(?<=0x)[0-9a-fA-F]+"), "<address>"),
)


class Normaliser:
    """Makes the values of one trace comparable with those of another.

    Args:
        trace: the trace; the ids on its roots are known by their attributes' names.
        varies: further attributes, as globs, of which only that they are there counts.
        leave_out: attributes, as globs, that do not count at all.
        replace: by regular expression what stands in its place, in names and texts.
    """

    def __init__(
        self,
        trace: RecordedTrace,
        *,
        varies: Iterable[str] = (),
        leave_out: Iterable[str] = (),
        replace: Mapping[str, str] | None = None,
    ) -> None:
        self._varies = (*VARIES, *varies)
        self._leave_out = (*LEFT_OUT, *leave_out)
        self._replace = [(re.compile(pattern), text) for pattern, text in (replace or {}).items()]
        self._known = dict(sorted(_root_ids(trace).items(), key=lambda item: (-len(item[0]), item[1])))

    def text(self, text: str) -> str:
        """A name or a text without what varies in it. One line: what breaks lines is escaped."""
        for pattern, replacement in self._replace:
            text = pattern.sub(replacement, text)
        for value, key in self._known.items():
            if len(value) >= _ROOT_IDS_CHARACTERS_MIN:
                text = text.replace(value, f"<{key}>")
        for pattern, replacement in _TEXTS:
            text = pattern.sub(replacement, text)
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")

    def attributes(self, span: RecordedSpan) -> dict[str, str]:
        """The span's attributes as texts, by key."""
        return {
            key: self._value(key, value)
            for key, value in sorted(span.attributes.items())
            if not _is_one_of(key, self._leave_out)
        }

    def _value(self, key: str, value: Any) -> str:
        if SECRET_KEYS.search(key):
            return "<secret>"
        if _is_one_of(key, self._varies):
            return "<varies>"
        if isinstance(value, str) and value in self._known:
            return f"<{self._known[value]}>"
        if _is_one_of(key, IDS):
            changed = self.text(str(value)) if isinstance(value, str) else ""
            return changed if "<" in changed else "<id>"
        return self._shown(value)

    def _shown(self, value: Any) -> str:
        if isinstance(value, str):
            return '"' + self.text(value) + '"'
        if isinstance(value, bool) or value is None:
            return {True: "true", False: "false", None: "null"}[value]
        if isinstance(value, float):
            return "<number>"
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key}: {self._value(str(key), item)}" for key, item in sorted(value.items())) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self._shown(item) for item in value) + "]"
        return str(value)


def _root_ids(trace: RecordedTrace) -> dict[str, str]:
    """The ids on the trace's top spans, each with the name of the first attribute that holds it."""
    found: dict[str, str] = {}
    orphans = {span.span_id for span in trace.orphans}
    for span in trace:
        if not span.parent_id or span.span_id in orphans:
            for key, value in sorted(span.attributes.items()):
                if isinstance(value, str) and value and _is_one_of(key, IDS):
                    found.setdefault(value, key)
    return found


def _is_one_of(key: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(key, glob) for glob in globs)
