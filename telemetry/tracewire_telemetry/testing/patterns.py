"""How an expected tree of spans is written: what a span must be like, and what stands under it.

    span("invoke_agent analyst", kind="internal", attributes={"gen_ai.agent.name": "analyst", "tracewire.run.id": str},
         children=[
             any_number(span("create agent_delta")),
             in_any_order(span("execute_tool a"), span("execute_tool b")),
         ])

What is left out is not looked at, but for children: those not named must not be there, unless `children=ANY`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import EllipsisType
from typing import Any, Final

from msgspec import Struct

from tracewire_telemetry.testing.spans import RecordedSpan

Name = str | re.Pattern[str] | Callable[[str], bool]
"""A span's name: the text itself, an expression that matches all of it, or a predicate."""


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT
"""As the value of an attribute: it must not be there."""
ANY: Final = ...
"""As the value of an attribute: it must be there. As `children`: whatever stands under the span."""


class SpanPattern(Struct, frozen=True):
    """What one span must be like; made by `span`. `children` of `None`: whatever stands under it."""

    name: Name
    kind: str | None
    status: str | None
    status_message: Any
    scope: str | None
    resource: Mapping[str, Any]
    attributes: Mapping[str, Any]
    exact_attributes: bool
    links: int | None
    events: tuple[str, ...] | None
    children: "tuple[Expected, ...] | None"

    @property
    def title(self) -> str:
        """The span's name as people read it."""
        return title_of(self.name)

    def takes_name(self, name: str) -> bool:
        """Whether a span of this name can be meant."""
        return meets(self.name, name)

    def mismatches(self, found: RecordedSpan) -> list[str]:
        """What of the span itself is not as it must be, its children left out."""
        said = [] if self.takes_name(found.name) else [f"the name is {found.name!r}, must be {self.title}"]
        for what, wanted, is_now in (
            ("kind", self.kind, found.kind),
            ("status", self.status, found.status),
            ("scope", self.scope, found.scope),
        ):
            if wanted is not None and wanted != is_now:
                said.append(f"the {what} is {is_now!r}, must be {wanted!r}")
        if self.status_message is not None and not meets(self.status_message, found.status_message):
            said.append(f"the status says {found.status_message!r}, must be {title_of(self.status_message)}")
        if self.links is not None and self.links != len(found.links):
            said.append(f"it has {len(found.links)} links, must have {self.links}")
        if self.events is not None and self.events != (names := tuple(event.name for event in found.events)):
            said.append(f"its events are {list(names)}, must be {list(self.events)}")
        said += _differences("attribute", self.attributes, found.attributes)
        said += _differences("resource attribute", self.resource, found.resource)
        if self.exact_attributes:
            beyond = sorted(found.attributes.keys() - {str(key) for key in self.attributes})
            said += [f"attribute {key} = {found.attributes[key]!r} must not be there" for key in beyond]
        return said


class Repeated(Struct, frozen=True):
    """So many spans of one pattern, one after the other; `most` of `None`: without a limit."""

    pattern: SpanPattern
    least: int
    most: int | None


class InAnyOrder(Struct, frozen=True):
    """These, next to each other among their siblings, in whichever order they started."""

    items: tuple[SpanPattern | Repeated, ...]


Expected = SpanPattern | Repeated | InAnyOrder


def span(
    name: Name,
    *,
    kind: str | Enum | None = None,
    status: str | Enum | None = None,
    status_message: Any = None,
    scope: str | None = None,
    resource: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    exact_attributes: bool = False,
    links: int | None = None,
    events: Sequence[str] | None = None,
    children: Sequence[Expected] | EllipsisType = (),
) -> SpanPattern:
    """A span as it must be.

    Args:
        name: the text itself, a compiled expression that matches all of it, or a predicate.
        kind: `internal`, `server`, `client`, `producer`, `consumer`, or OpenTelemetry's `SpanKind`.
        status: `unset`, `ok`, `error`, or OpenTelemetry's `StatusCode`.
        status_message: the status's description, as an attribute's value is given.
        scope: the name of the instrumentation scope.
        resource: attributes of the resource that must be there, as `attributes`.
        attributes: by key the value that must be there: the value itself, its type, a compiled expression that matches
            all of it, a predicate, `ANY` (be there at all) or `ABSENT` (not be there).
        exact_attributes: whether there must be no attribute beyond these.
        links: how many links it must have.
        events: the names of its events, in order.
        children: what stands directly under it, by start: all of it, unless `ANY` (nothing is looked at).
    """
    return SpanPattern(
        name=name,
        kind=_word(kind),
        status=_word(status),
        status_message=status_message,
        scope=scope,
        resource=dict(resource or {}),
        attributes=dict(attributes or {}),
        exact_attributes=exact_attributes,
        links=links,
        events=tuple(events) if events is not None else None,
        children=None if isinstance(children, EllipsisType) else tuple(children),
    )


def any_number(pattern: SpanPattern, *, at_least: int = 0, at_most: int | None = None) -> Repeated:
    """Any number of such spans, one after the other, within the limits."""
    return Repeated(pattern, at_least, at_most)


def optional(pattern: SpanPattern) -> Repeated:
    """Such a span, or none."""
    return Repeated(pattern, 0, 1)


def in_any_order(*items: SpanPattern | Repeated) -> InAnyOrder:
    """These, next to each other among their siblings, in whichever order they started: parallel parts."""
    return InAnyOrder(items)


def meets(wanted: Any, value: Any) -> bool:
    """Whether a value is what was wanted of it: equal, of the type, matched by the expression or the predicate."""
    if wanted is ANY:
        return True
    if isinstance(wanted, re.Pattern):
        return isinstance(value, str) and wanted.fullmatch(value) is not None
    if isinstance(wanted, type):
        return isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool)
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(wanted, bool) != isinstance(value, bool):
        return False
    return bool(_plain(wanted) == _plain(value))


def title_of(wanted: Any) -> str:
    """What was wanted of a value, as people read it."""
    if isinstance(wanted, re.Pattern):
        return f"/{wanted.pattern}/"
    if isinstance(wanted, type):
        return f"<{wanted.__name__}>"
    if wanted is ANY:
        return "<any>"
    if callable(wanted):
        return f"<{getattr(wanted, '__name__', 'predicate')}>"
    return wanted if isinstance(wanted, str) else repr(wanted)


def _differences(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    said = []
    for key, value in wanted.items():
        name = str(key)
        if value is ABSENT:
            if name in found:
                said.append(f"{what} {name} = {found[name]!r} must not be there")
        elif name not in found:
            said.append(f"{what} {name} is not there, must be {_shown(value)}")
        elif not meets(value, found[name]):
            said.append(f"{what} {name} is {found[name]!r}, must be {_shown(value)}")
    return said


def _shown(wanted: Any) -> str:
    return repr(wanted) if isinstance(wanted, str) else title_of(wanted)


def _plain(value: Any) -> Any:
    """The value with lists for tuples, which the SDK makes of them and OTLP does not, and enumerations' values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _word(value: str | Enum | None) -> str | None:
    if isinstance(value, str):
        return value.lower()
    return value.name.lower() if value is not None else None
