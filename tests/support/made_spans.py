"""Spans made by hand, for the tests of what looks at them."""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
MS: Final = 1_000_000
START_NS: Final = 1_700_000_000 * 1_000_000_000
_numbers = itertools.count(1)


def made(
    name: str,
    parent: RecordedSpan | None = None,
    *,
    at: tuple[float, float] = (0, 1),
    attributes: Mapping[str, Any] | None = None,
    service: str = "shop",
    **fields: Any,
) -> RecordedSpan:
    """A span that lasted from one millisecond to another."""
    values: dict[str, Any] = {
        "name": name,
        "kind": "internal",
        "trace_id": parent.trace_id if parent is not None else TRACE_ID,
        "span_id": f"{next(_numbers):016x}",
        "parent_id": parent.span_id if parent is not None else "",
        "start_ns": START_NS + int(at[0] * MS),
        "end_ns": START_NS + int(at[1] * MS),
        "status": "unset",
        "attributes": dict(attributes or {}),
        "links": (),
        "scope": "shop",
        "resource": {"service.name": service},
        "sampled": True,
    }
    return RecordedSpan(**(values | fields))


def basket() -> RecordedTrace:
    """A root with a query, two lookups side by side, and an answer."""
    root = made("GET /basket", kind="server", at=(0, 100), attributes={"http.status_code": 200, "user.id": "ada-1815"})
    query = made("query", root, kind="client", at=(5, 20), attributes={"db.rows": 3})
    price = made("price", root, at=(30, 60), attributes={"for": "ada-1815"})
    stock = made("stock", root, at=(31, 50))
    tax = made("tax", price, at=(35, 40), attributes={"rate": 0.2})
    answer = made("answer", root, at=(70, 90), status="ok")
    return RecordedTrace([query, tax, stock, price, answer, root])
