"""Spans as they come in, and waiting for those that are to come: without sleeping; a time-out says why."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tracewire_telemetry.testing.otlp_json import group_by_trace
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace
from tracewire_telemetry.testing.waiting import whats_missing

WAIT_SECONDS = 15.0
_T = TypeVar("_T")
LedgerReader = Callable[[str], Mapping[str, Any] | None]
"""Gives the ledger of a run as `GET /runs/{id}/ledger` answers it, `None` where there is none."""


class Recording:
    """Spans as they came in. Safe to use from several threads.

    `ledger`, where it is given, is asked what a run waits for when its trace does not come in time: a trace leaves the
    server only when its run is settled, so that nothing of an unsettled one is here.
    """

    def __init__(self, *, ledger: LedgerReader | None = None) -> None:
        self.ledger = ledger
        self.problems: list[str] = []
        self.texts: list[str] = []
        self._spans: list[RecordedSpan] = []
        self._by_trace: defaultdict[str, list[RecordedSpan]] = defaultdict(list)
        self._traces_of_run: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._replays: dict[str, None] = {}
        self._changed = threading.Condition(threading.RLock())

    @property
    def spans(self) -> list[RecordedSpan]:
        """Everything recorded so far."""
        with self._changed:
            return list(self._spans)

    @property
    def traces(self) -> list[RecordedTrace]:
        """Everything recorded so far, by trace, in the order of their first start."""
        return group_by_trace(self.spans)

    def clear(self) -> None:
        """Forget everything recorded so far."""
        with self._changed:
            for held in (self._spans, self._by_trace, self._traces_of_run, self._replays, self.problems, self.texts):
                held.clear()

    def trace_of_run(self, run_id: str) -> RecordedTrace:
        """What was recorded of a run's trace so far."""
        with self._changed:
            own = [trace_id for trace_id in self._traces_of_run.get(run_id, ()) if trace_id not in self._replays]
            return RecordedTrace(span for trace_id in own for span in self._by_trace[trace_id])

    def replays_of_run(self, run_id: str) -> list[RecordedTrace]:
        """The traces of replays that came after the run was settled, in the order of their export."""
        with self._changed:
            own = [trace_id for trace_id in self._replays if trace_id in self._traces_of_run.get(run_id, ())]
            return [RecordedTrace(self._by_trace[trace_id]) for trace_id in own]

    def wait_for_run(
        self, run_id: str, *, timeout_seconds: float = WAIT_SECONDS, ledger: LedgerReader | None = None
    ) -> RecordedTrace:
        """Wait until the run's trace is whole, by the span count on its root.

        Blocks the calling thread: from async code, run it in a thread (`asyncio.to_thread`).

        Raises:
            AssertionError: it did not become whole in time; the message says what is here, which links of which event
                are not, and, where there is a ledger to ask, who has not acked.
        """
        __tracebackhide__ = True

        def whole(_: Sequence[RecordedSpan]) -> RecordedTrace | None:
            trace = self.trace_of_run(run_id)
            return trace if trace.complete else None

        found = self.wait_until(whole, timeout_seconds=timeout_seconds)
        if found is None:
            ask = ledger or self.ledger
            report = ask(run_id) if ask is not None else None
            said = [
                f"the trace of run {run_id} is not whole after {timeout_seconds:g} s",
                *whats_missing(self.trace_of_run(run_id), report),
                *self._what_else(),
            ]
            raise AssertionError("\n  ".join(said))
        return found

    def wait_for_trace(
        self,
        wanted: Callable[[RecordedTrace], bool] | None = None,
        *,
        spans: int | None = None,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> RecordedTrace:
        """Wait for the first trace for which `wanted` holds and that has at least so many spans; for any program.

        A trace counts only with its root and without orphans, since a program gives no other sign that it is whole;
        give `spans` where children may end after the root. Blocks the calling thread.

        Raises:
            AssertionError: none came in time; the message says which traces did, and what they lacked.
        """
        __tracebackhide__ = True
        least = 1 if spans is None else spans

        def lacks(trace: RecordedTrace) -> str:
            if len(trace) < least:
                return f"{least - len(trace)} of {least} spans"
            if orphans := trace.orphans:
                return f"the parent of {', '.join(span.name for span in orphans)}"
            return "" if wanted is None or wanted(trace) else "what was asked for"

        def look(_: Sequence[RecordedSpan]) -> RecordedTrace | None:
            return next((trace for trace in self.traces if not lacks(trace)), None)

        found = self.wait_until(look, timeout_seconds=timeout_seconds)
        if found is None:
            here = [
                f"trace {trace.spans[0].trace_id} lacks {lacks(trace)}; it has {_names(trace)}" for trace in self.traces
            ]
            said = [f"no such trace after {timeout_seconds:g} s", *(here or ["nothing was recorded"])]
            raise AssertionError("\n  ".join([*said, *self._what_else()]))
        return found

    def wait_until(
        self, look: Callable[[Sequence[RecordedSpan]], _T | None], *, timeout_seconds: float = WAIT_SECONDS
    ) -> _T | None:
        """Wait until `look` finds something in the spans; `None` where it does not in time."""
        found: list[_T] = []

        def looked() -> bool:
            seen = look(self._spans)
            if seen is not None:
                found.append(seen)
            return bool(found)

        with self._changed:
            self._changed.wait_for(looked, timeout_seconds)
        return found[0] if found else None

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        """Record these; who waits looks again."""
        with self._changed:
            for span in spans:
                self._spans.append(span)
                self._by_trace[span.trace_id].append(span)
                if run_id := span.attributes.get("tracewire.run.id"):
                    self._traces_of_run[run_id][span.trace_id] = None
                if not span.parent_id and span.name == "send replay":
                    self._replays[span.trace_id] = None
            self._changed.notify_all()

    def add_text(self, text: str) -> None:
        """Keep the text of a signal that is no trace (metrics, log records), to be searched for secrets."""
        with self._changed:
            self.texts.append(text)

    def add_problem(self, problem: str) -> None:
        """Note what came and could not be read; a wait that fails tells it."""
        with self._changed:
            self.problems.append(problem)
            self._changed.notify_all()

    def _what_else(self) -> list[str]:
        said = [f"what came could not be read: {problem}" for problem in self.problems[:5]]
        if self._spans and not said:
            said.append(f"in all {len(self._spans)} spans of {len(self._by_trace)} traces were recorded")
        return said


def _names(trace: Iterable[RecordedSpan]) -> str:
    counts = Counter(span.name for span in trace)
    return ", ".join(f"{name} × {count}" if count > 1 else name for name, count in counts.items())
