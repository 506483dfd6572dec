"""What else can be asked of a trace: order in time, links, how many, absence, shares of the time, no secret anywhere.

Each raises AssertionError where it does not hold, and where the recording is empty: a check of nothing would always
pass.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tracewire_telemetry.testing.matching import span_line
from tracewire_telemetry.testing.patterns import Name, SpanPattern, meets, title_of
from tracewire_telemetry.testing.recording import Recording
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.testing.trees import some

Which = Name | SpanPattern
"""Which spans are meant: by their name, or by a pattern (its children are not looked at)."""

SECRET_PATTERNS: Final = (
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}",  # a signed token
    r"(?i)\bbearer[ .]+[\w.~+/-]{12,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[0-9A-Za-z]{30,}",
    r"\bsk-[\w-]{20,}",
    r"\bxox[abprs]-[\w-]{10,}",
    r"://[^/\s:@]+:[^/\s:@]+@",
    r"(?i)\b(?:password|passwd|secret|api[_-]?key|access[_-]?token)\b[\"']?\s*[=:]\s*[\"']?(?!\[|<|\*)[^\s\"'&,;]{6,}",
)
"""What a secret looks like in a text: tokens, private keys, passwords in URLs and in assignments."""
SECRET_KEYS: Final = re.compile(r"(?i)(?:^|[._-])(?:authorization|cookie|password|passwd|secret|api[_-]?key|token)$")
"""Attributes whose very name says that the value is a secret, unless it is empty or redacted."""
_REDACTED: Final = re.compile(r"(?i)^[\[<*(]?(?:redacted|\*+|removed|hidden|…)[\])>*]?$|^$")


def spans_of(trace: Iterable[RecordedSpan], which: Which) -> list[RecordedSpan]:
    """The spans that are meant, by start."""
    found = [span for span in trace if _is(which, span)]
    return sorted(found, key=lambda span: (span.start_ns, span.end_ns))


def assert_count(
    trace: Iterable[RecordedSpan],
    which: Which,
    count: int | None = None,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
) -> list[RecordedSpan]:
    """So many spans are there, by start: exactly `count`, or within the limits."""
    __tracebackhide__ = True
    if count is None and at_least is None and at_most is None:
        raise ValueError("assert_count needs count, at_least or at_most")
    whole = some(trace)
    found = spans_of(whole, which)
    least, most = (count, count) if count is not None else (at_least, at_most)
    if (least is not None and len(found) < least) or (most is not None and len(found) > most):
        wanted = (
            f"{count}"
            if count is not None
            else " and ".join(
                f"at {word} {limit}" for word, limit in (("least", least), ("most", most)) if limit is not None
            )
        )
        raise AssertionError(f"there are {len(found)} spans {_title(which)}, must be {wanted}; {_here(whole)}")
    return found


def assert_absent(trace: Iterable[RecordedSpan], which: Which) -> None:
    """No such span is there."""
    __tracebackhide__ = True
    whole = some(trace)
    if found := spans_of(whole, which):
        under = [parent.name for span in found if (parent := whole.parent(span)) is not None]
        where = f" under {', '.join(sorted(set(under)))}" if under else ""
        raise AssertionError(f"{_title(which)} must not be there, but is, {len(found)} times{where}")


def assert_order(trace: Iterable[RecordedSpan], *which: Which, one_after_another: bool = False) -> None:
    """The spans began in this order, by the first of each; with `one_after_another`, each when the one before ended."""
    __tracebackhide__ = True
    whole = some(trace)
    firsts: list[RecordedSpan] = [assert_count(whole, wanted, at_least=1)[0] for wanted in which]
    for before, after in itertools.pairwise(firsts):
        if after.start_ns < before.start_ns:
            early = (before.start_ns - after.start_ns) / 1e6
            raise AssertionError(f"{after.name} began {early:g} ms before {before.name}, must begin after it")
        if one_after_another and after.start_ns < before.end_ns:
            early = (before.end_ns - after.start_ns) / 1e6
            raise AssertionError(f"{after.name} began {early:g} ms before {before.name} ended, must begin after that")


def assert_links(
    trace: Iterable[RecordedSpan], which: Which, targets: Sequence[RecordedSpan | tuple[str, str]]
) -> None:
    """Each such span links to exactly these: spans, or (trace id, span id) in hex."""
    __tracebackhide__ = True
    wanted = [(t.trace_id, t.span_id) if isinstance(t, RecordedSpan) else t for t in targets]
    for span in assert_count(trace, which, at_least=1):
        if sorted(span.links) != sorted(wanted):
            absent, beyond = set(wanted) - set(span.links), set(span.links) - set(wanted)
            raise AssertionError(f"{span.name} lacks links to {sorted(absent)}, must not link to {sorted(beyond)}")


def assert_shares(trace: Iterable[RecordedSpan], budgets: Mapping[str, float]) -> None:
    """All spans of each name together took at most this share (0 to 1) of the root's duration.

    A ratio holds on a slow machine too, as long as it is about where the time goes, and not how much there is.
    """
    __tracebackhide__ = True
    whole = some(trace)
    root = whole.root
    duration = root.end_ns - root.start_ns
    said = []
    for name, share_max in budgets.items():
        found = spans_of(whole, name)
        if not found:
            raise AssertionError(f"the budget of {name} is about no span; {_here(whole)}")
        share = _covered_ns(found) / duration if duration else 1.0
        if share > share_max:
            said.append(f"{name} took {share:.0%} of {root.name}, may take {share_max:.0%}")
    if said:
        raise AssertionError("\n  ".join(["over budget", *said]))


def assert_no_secret(
    *signals: Recording | Iterable[RecordedSpan] | str, values: Iterable[str] = (), patterns: Iterable[str] = ()
) -> None:
    """No signal holds a secret: none of these values, nothing that looks like one (`SECRET_PATTERNS`, `SECRET_KEYS`).

    Args:
        signals: recordings (their spans, metrics and log records), traces, and texts, as of logs or a scrape.
        values: secrets that are known, as the token that the test signed in with.
        patterns: further expressions for what a secret looks like.

    Raises:
        AssertionError: one does, or a signal is empty. The message says where, and shows no more than its beginning.
    """
    __tracebackhide__ = True
    if not signals:
        raise ValueError("assert_no_secret needs what is to be searched")
    known = [value for value in values if value]
    expressions = [re.compile(pattern) for pattern in (*SECRET_PATTERNS, *patterns)]
    said = []
    for number, signal in enumerate(signals, 1):
        places = list(_places(signal, f"signal {number}"))
        if not places:
            raise AssertionError(f"signal {number} is empty: nothing was searched for secrets")
        for where, key, text in places:
            if (secret := _secret_in(key, text, known, expressions)) is not None:
                said.append(f"{where.replace(secret, '…')} holds a secret: {_masked(secret)}")
    if said:
        raise AssertionError("\n  ".join([f"{len(said)} secrets were let out", *said[:20]]))


def _secret_in(key: str, text: str, known: Sequence[str], expressions: Sequence[re.Pattern[str]]) -> str | None:
    for value in known:
        if value in text:
            return value
    for expression in expressions:
        if found := expression.search(text):
            return found[0]
    return text if SECRET_KEYS.search(key) and not _REDACTED.match(text) else None


def _places(signal: Recording | Iterable[RecordedSpan] | str, where: str) -> Iterator[tuple[str, str, str]]:
    """Each text of a signal: where it stands, the key it stands under, and the text."""
    if isinstance(signal, str):
        yield from ((f"{where}, line {n}", "", line) for n, line in enumerate(signal.splitlines(), 1) if line.strip())
        return
    if isinstance(signal, Recording):
        for number, text in enumerate(signal.texts, 1):
            yield from _places(text, f"{where}, metrics or logs {number}")
    for span in signal.spans if isinstance(signal, Recording) else signal:
        yield f"the name of {span.name}", "", span.name
        yield f"the status of {span.name}", "", span.status_message
        parts = [("", span.attributes), ("resource ", span.resource)]
        parts += [(f"event {event.name} ", event.attributes) for event in span.events]
        parts += [("link ", attributes) for attributes in span.link_attributes]
        for kind, attributes in parts:
            for key, value in attributes.items():
                for text in _texts(value):
                    yield f"{span.name}: {kind}attribute {key}", key, text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def _masked(secret: str) -> str:
    return f"{secret[: min(4, len(secret) // 4)]}… ({len(secret)} characters)"


def _covered_ns(spans: Sequence[RecordedSpan]) -> int:
    """For how long at least one of these spans was open; they are sorted by start."""
    total, until = 0, 0
    for span in spans:
        total += max(0, span.end_ns - max(span.start_ns, until))
        until = max(until, span.end_ns)
    return total


def _is(which: Which, span: RecordedSpan) -> bool:
    if isinstance(which, SpanPattern):
        return not which.mismatches(span)
    wanted: Callable[[str], bool] | str | re.Pattern[str] = which
    return meets(wanted, span.name)


def _title(which: Which) -> str:
    return which.title if isinstance(which, SpanPattern) else title_of(which)


def _here(trace: RecordedTrace) -> str:
    names = sorted({span_line(span) for span in trace})
    return f"here are {', '.join(names)}"
