"""The trace kit, for tests: recorders of exported spans, assertions over traces, golden traces, and for Tracewire the
chain in one line and three witnesses. Nothing here runs in a server.

`recorder` and `recording` take spans in, `otlp_json` reads files; `patterns`, `matching` and `trees` are the exact
tree, `checks` what else can be asked, `golden` with `golden_format` and `normalising` the golden traces, `importing` a
golden test from an exported trace; `runs`, `chains`, `witnesses`, `served` and `conversations` are for Tracewire,
`plugin` is for pytest. What testers need can be had from here, and is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracewire_telemetry.testing.chains import assert_chain as assert_chain
    from tracewire_telemetry.testing.chains import some_events as some_events
    from tracewire_telemetry.testing.checks import assert_absent as assert_absent
    from tracewire_telemetry.testing.checks import assert_count as assert_count
    from tracewire_telemetry.testing.checks import assert_links as assert_links
    from tracewire_telemetry.testing.checks import assert_no_secret as assert_no_secret
    from tracewire_telemetry.testing.checks import assert_order as assert_order
    from tracewire_telemetry.testing.checks import assert_shares as assert_shares
    from tracewire_telemetry.testing.golden import GoldenTraces as GoldenTraces
    from tracewire_telemetry.testing.golden import assert_golden as assert_golden
    from tracewire_telemetry.testing.golden import golden_text as golden_text
    from tracewire_telemetry.testing.otlp_json import TraceFormatError as TraceFormatError
    from tracewire_telemetry.testing.otlp_json import read_traces as read_traces
    from tracewire_telemetry.testing.patterns import ABSENT as ABSENT
    from tracewire_telemetry.testing.patterns import ANY as ANY
    from tracewire_telemetry.testing.patterns import any_number as any_number
    from tracewire_telemetry.testing.patterns import in_any_order as in_any_order
    from tracewire_telemetry.testing.patterns import optional as optional
    from tracewire_telemetry.testing.patterns import span as span
    from tracewire_telemetry.testing.recorder import InProcessRecorder as InProcessRecorder
    from tracewire_telemetry.testing.recorder import OtlpReceiver as OtlpReceiver
    from tracewire_telemetry.testing.recording import Recording as Recording
    from tracewire_telemetry.testing.runs import FIVE as FIVE
    from tracewire_telemetry.testing.runs import ClientRecord as ClientRecord
    from tracewire_telemetry.testing.served import ServedAgent as ServedAgent
    from tracewire_telemetry.testing.spans import RecordedSpan as RecordedSpan
    from tracewire_telemetry.testing.spans import RecordedTrace as RecordedTrace
    from tracewire_telemetry.testing.trees import assert_tree as assert_tree
    from tracewire_telemetry.testing.trees import assert_whole as assert_whole
    from tracewire_telemetry.testing.witnesses import DisagreementError as DisagreementError
    from tracewire_telemetry.testing.witnesses import assert_witnesses_agree as assert_witnesses_agree

_HOMES = {
    "chains": ("assert_chain", "some_events"),
    "checks": (
        "assert_absent", "assert_count", "assert_links", "assert_no_secret", "assert_order", "assert_shares",
    ),
    "golden": ("GoldenTraces", "assert_golden", "golden_text"),
    "otlp_json": ("TraceFormatError", "read_traces"),
    "patterns": ("ABSENT", "ANY", "any_number", "in_any_order", "optional", "span"),
    "recorder": ("InProcessRecorder", "OtlpReceiver"),
    "recording": ("Recording",),
    "runs": ("FIVE", "ClientRecord"),
    "served": ("ServedAgent",),
    "spans": ("RecordedSpan", "RecordedTrace"),
    "trees": ("assert_tree", "assert_whole"),
    "witnesses": ("DisagreementError", "assert_witnesses_agree"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"{__name__} has no {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
