"""Between the server and the trace's receiver: spans that are lost, or say what is not so."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from mutants.deeds import note
from mutants.rows import Mutant, mutant_of
from support.faults import STRANGER
from tracewire_telemetry.spans import RunSpans

MS: Final = 1_000_000
LATER_NS: Final = 10_000 * MS
Spans = list[ReadableSpan]


def break_exports(patch: pytest.MonkeyPatch) -> None:
    """Do to the traces of those rows' runs what is to be done to them, as they leave."""
    finish = RunSpans.finish

    def finish_spoiled(run: RunSpans) -> Spans:
        spans = finish(run)
        mutant = mutant_of(run._ledger.identity.user_id)
        spoil = _SPOILS.get(mutant.what) if mutant is not None else None
        if spoil is None or mutant is None:
            return spans
        note(mutant.user_id)
        return spoil(mutant, spans)

    patch.setattr(RunSpans, "finish", finish_spoiled)


def _one(change: Callable[[ReadableSpan, Spans], ReadableSpan | None]) -> Callable[[Mutant, Spans], Spans]:
    """Change the span of the row's operation and type, or leave it out where `None` comes of it."""

    def spoil(mutant: Mutant, spans: Spans) -> Spans:
        name = f"{mutant.where} {mutant.event_type}"
        assert any(span.name == name for span in spans), f"there is no span {name}"
        changed = (change(span, spans) if span.name == name else span for span in spans)
        return [span for span in changed if span is not None]

    return spoil


def _with(span: ReadableSpan, **changes: Any) -> ReadableSpan:
    values: dict[str, Any] = {
        "name": span.name,
        "context": span.get_span_context(),
        "parent": span.parent,
        "resource": span.resource,
        "attributes": span.attributes,
        "kind": span.kind,
        "links": span.links,
        "status": span.status,
        "start_time": span.start_time,
        "end_time": span.end_time,
        "instrumentation_scope": span.instrumentation_scope,
    }
    return ReadableSpan(**(values | changes))


def _parent(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> ReadableSpan | None:
    parent = span.parent
    return next((one for one in spans if parent is not None and _id(one) == parent.span_id), None)


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def _adopted(span: ReadableSpan, spans: Spans) -> ReadableSpan:
    """Its parent is its parent's parent; the tool's span where that is the root."""
    parent = _parent(span, spans)
    above = _parent(parent, spans) if parent is not None else None
    foster = above or next(one for one in spans if one.name.startswith("execute_tool "))
    return _with(span, parent=foster.get_span_context())


def _orphan(span: ReadableSpan, _: Spans) -> ReadableSpan:
    context = span.get_span_context()
    assert context is not None
    return _with(span, parent=SpanContext(context.trace_id, random.getrandbits(62) or 1, False, TraceFlags(1)))


def _early(span: ReadableSpan, spans: Spans) -> ReadableSpan:
    parent = _parent(span, spans)
    assert parent is not None
    return _with(span, start_time=(parent.start_time or 0) - MS)


def _foreign(span: ReadableSpan, _: Spans) -> ReadableSpan:
    return _with(span, attributes={**(span.attributes or {}), "user.id": STRANGER})


def _in_trace(span: ReadableSpan, trace_id: int) -> ReadableSpan:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    moved = SpanContext(trace_id, context.span_id, False, context.trace_flags)
    above = SpanContext(trace_id, parent.span_id, False, parent.trace_flags) if parent is not None else None
    return _with(span, context=moved, parent=above)


def _doubled(_: Mutant, spans: Spans) -> Spans:
    trace_id = random.getrandbits(127) or 1
    return [*spans, *(_in_trace(span, trace_id) for span in spans)]


_SPOILS: Final[dict[str, Callable[[Mutant, Spans], Spans]]] = {
    "unspanned": _one(lambda span, _: None),
    "untraced": lambda _, spans: [],
    "foreign": _one(_foreign),
    "adopted": _one(_adopted),
    "orphan": _one(_orphan),
    "early": _one(_early),
    "backwards": _one(lambda span, _: _with(span, end_time=(span.start_time or 0) - MS)),
    "overtaken": _one(lambda span, _: _with(span, end_time=(span.end_time or 0) + LATER_NS)),
    "strayed": _one(lambda span, _: _in_trace(span, random.getrandbits(127) or 1)),
    "doubled": _doubled,
}
