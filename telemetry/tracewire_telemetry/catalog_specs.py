"""The shapes of the catalogue's entries: what is said of a label, a metric, an attribute, a span, a log record."""

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Final

from msgspec import Struct
from msgspec.structs import force_setattr
from opentelemetry.trace import SpanKind

from tracewire_telemetry.vocabulary import Link

PREFIX: Final = "tracewire_"
SECONDS_BUCKETS: Final = tuple(2.0**exponent for exponent in range(-16, 7))
RUN_SECONDS_BUCKETS: Final = tuple(2.0**exponent for exponent in range(-4, 13))


class LabelSpec(Struct, frozen=True):
    """One label: its name, what it says, and the meaning of each value of its closed set.

    Of an open set, `values` is empty, and `bound` says what bounds it.
    """

    name: str
    meaning: str
    values: Mapping[str, str] = {}
    bound: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "values", MappingProxyType(dict(self.values)))  # a declaration that nobody can change

    def __hash__(self) -> int:
        return hash((self.name, *self.values))


class MetricSpec(Struct, frozen=True):
    """One metric: its name behind its prefix, what it says, its unit (UCUM, or what is counted), and its labels.

    A label with an open set is filled at start-up (agents and tools that are known then). The series of a `passing`
    metric come and go; all others are there from the start.
    """

    name: str
    kind: str
    help: str
    unit: str
    label_specs: tuple[LabelSpec, ...] = ()
    buckets: tuple[float, ...] = ()
    passing: bool = False
    prefix: str = PREFIX

    @property
    def full_name(self) -> str:
        """The name as Prometheus shows it."""
        return self.prefix + self.name

    @property
    def labels(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each label with its closed set of values, which is empty for an open one."""
        return tuple((label.name, tuple(label.values)) for label in self.label_specs)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return tuple(label.name for label in self.label_specs)

    def series(self, open_values: Mapping[str, int]) -> int:
        """How many series it has with so many values of each open label, by the label's name."""
        combinations = prod(len(label.values) or open_values[label.name] for label in self.label_specs)
        return combinations * (len(self.buckets) + 3 if self.buckets else 1)  # +Inf, sum and count


class AttributeSpec(Struct, frozen=True):
    """One attribute: its key, the type of its value, what it says, and where the name is from.

    `values` is its closed set; of an open one `cardinality` says what it grows with.
    """

    key: str
    type: str
    meaning: str
    cardinality: str
    source: str
    unit: str = ""
    values: tuple[str, ...] = ()


class SpanSpec(Struct, frozen=True):
    """One kind of span. Its name is `operation` and, after a space, what `of` stands for.

    `parent` is the operation of its parent, empty for a root. `link` is the link whose stamp ends it. `sometimes` says
    of each attribute that is not always there when it is; `scope` is the instrumentation scope.
    """

    operation: str
    of: str
    kind: SpanKind
    parent: str
    meaning: str
    always: tuple[str, ...]
    sometimes: Mapping[str, str]
    scope: str
    link: Link | None = None
    links_to: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "sometimes", MappingProxyType(dict(self.sometimes)))  # as above

    error: str = ""

    def __hash__(self) -> int:
        return hash((self.operation, self.of))

    def named(self, of: str) -> str:
        """The name of such a span."""
        return f"{self.operation} {of}"

    @property
    def attributes(self) -> frozenset[str]:
        """The keys of all attributes that it may have."""
        return frozenset((*self.always, *self.sometimes))
