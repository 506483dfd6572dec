"""The Collector's sampling policies, evaluated in Python as tail_sampling 0.161 does; what it does not know it refuses.

What is subtle there is here too: `numeric_attribute` reads an integer, and takes a double for 0; a condition of OTTL on
an attribute that is not there is false; a policy that says no keeps nobody else from saying yes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tracewire_telemetry.testing.spans import RecordedSpan

Policy = Mapping[str, Any]
_AT_LEAST = re.compile(r'span\.attributes\["([\w.]+)"\] (>=|>) (\d+)')


def deciding(policies: Sequence[Policy], spans: Sequence[RecordedSpan]) -> list[str]:
    """The names of the policies that keep this trace, the share left out."""
    return [policy["name"] for policy in policies if policy["type"] != "probabilistic" and samples(policy, spans)]


def samples(policy: Policy, spans: Sequence[RecordedSpan]) -> bool:
    """Whether this policy alone keeps the trace.

    Raises:
        ValueError: a policy, or a condition of one, that is not evaluated here.
    """
    kind = policy["type"]
    options = policy.get(kind, {})
    match kind:
        case "always_sample":
            return True
        case "status_code":
            return any(span.status.upper() in options["status_codes"] for span in spans)
        case "boolean_attribute":
            return any(span.attributes.get(options["key"]) is options["value"] for span in spans)
        case "numeric_attribute":
            return any(_in_range(span.attributes.get(options["key"]), options) for span in spans)
        case "ottl_condition":
            return any(_holds(condition, span) for condition in options["span"] for span in spans)
        case "not":
            return not samples(options["not_sub_policy"], spans)
    raise ValueError(f"the policy {policy['name']} is a {kind}, which is not evaluated here")


def _in_range(value: Any, options: Mapping[str, int]) -> bool:
    if value is None:
        return False
    integer = value if isinstance(value, int) and not isinstance(value, bool) else 0
    return options.get("min_value", -(1 << 63)) <= integer <= options.get("max_value", 1 << 63)


def _holds(condition: str, span: RecordedSpan) -> bool:
    if condition == "IsRootSpan()":
        return not span.parent_id
    found = _AT_LEAST.fullmatch(condition)
    if found is None:
        raise ValueError(f"the condition {condition} is not evaluated here")
    name, operator, bound = found.groups()
    value = span.attributes.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value >= int(bound) if operator == ">=" else value > int(bound)
