"""A golden test from an exported trace: the golden file, and a test that runs the program and holds it against that."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from tracewire_telemetry.testing.golden import file_name, golden_text
from tracewire_telemetry.testing.otlp_json import TraceFormatError, read_traces
from tracewire_telemetry.testing.spans import RecordedTrace
from tracewire_telemetry.testing.trees import top_spans

_WIDTH: Final = 100


class ImportRefusedError(ValueError):
    """No golden test was written; the message says why, and what to do."""


class Program(Struct, frozen=True):
    """How the program is run that is to show the trace again. One of the three, or none: then the test says where.

    `command` is a command line, whose process exports to the receiver; `call` is `module:function`, which is given a
    tracer provider; `agent` is a Tracewire agent as `module:name`, which is run with `input_value`.
    """

    command: str = ""
    call: str = ""
    agent: str = ""
    input_value: str = ""


class Imported(Struct, frozen=True):
    """What was written."""

    test: Path
    golden: Path
    spans: int


def import_golden(
    source: Path,
    out: Path,
    program: Program,
    *,
    name: str = "",
    trace_id: str = "",
    remote_parent: bool = False,
    force: bool = False,
) -> Imported:
    """Write a golden file and its test from an exported trace.

    Args:
        source: the export (`otlp_json` says of which kinds).
        out: the folder for the test.
        program: how the program is run.
        name: what the test is called; by default, after the trace's root.
        trace_id: which trace of the file, by the beginning of its id; needed where it holds several.
        remote_parent: whether the root may hang under a span that the file does not hold.
        force: whether files that are there are overwritten.

    Raises:
        ImportRefusedError: there is no such trace, it is not whole, or a file is there already.
        TraceFormatError: the file is no trace.
    """
    trace = _chosen(read_traces(source), trace_id, source)
    try:
        text = golden_text(trace, remote_parent=remote_parent)
    except AssertionError as error:
        raise ImportRefusedError(
            f"{source}: {error}\nexport it anew once it is whole; where its root was called by another program, whose "
            "spans are not in the file, say --remote-parent"
        ) from error
    root = top_spans(trace, remote_parent=remote_parent)[0]
    slug = re.sub(r"\W+", "_", (name or root.name).lower()).strip("_") or "trace"
    test = out / f"test_{slug}.py"
    golden = out / f"test_{slug}.traces" / f"{file_name(f'test_{slug}')}.txt"
    present = [path for path in (test, golden) if path.exists()]
    if present and not force:
        raise ImportRefusedError(f"{', '.join(map(str, present))}: there already; give another --name, or --force")
    test_text = _test(slug, source.name, trace, program, remote_parent=remote_parent)  # before anything is written
    golden.parent.mkdir(parents=True, exist_ok=True)
    golden.write_text(text, encoding="utf-8")
    test.write_text(test_text, encoding="utf-8")
    return Imported(test, golden, len(trace))


def _chosen(traces: Sequence[RecordedTrace], trace_id: str, source: Path) -> RecordedTrace:
    found = [trace for trace in traces if trace.spans[0].trace_id.startswith(trace_id.lower())]
    if len(found) == 1:
        return found[0]
    held = "\n".join(f"  {t.spans[0].trace_id}  {len(t)} spans, {_most_of(t)}" for t in (found or traces)[:20])
    which = f"{len(found)} of its traces begin with {trace_id!r}" if trace_id else f"it holds {len(traces)} traces"
    raise ImportRefusedError(f"{source}: {which}; say which one by --trace-id:\n{held}")


def _most_of(trace: RecordedTrace) -> str:
    roots = [span.name for span in trace if not span.parent_id]
    return roots[0] if roots else f"no root, mostly {Counter(span.name for span in trace).most_common(1)[0][0]}"


def _test(slug: str, source: str, trace: RecordedTrace, program: Program, *, remote_parent: bool) -> str:
    """The text of the test's file."""
    option = ", remote_parent=True" if remote_parent else ""
    opening = f'"""The trace of {_one_line(source)}, held against what the program shows now."""\n'
    service = str(trace.spans[0].resource.get("service.name", ""))
    resource = json.dumps({"service.name": service}, ensure_ascii=False) if service else ""
    began = trace.spans[0].trace_id[:8]
    what = f'    """As in trace {began}…; `pytest --update-traces` keeps what the program shows now."""\n'
    if program.agent:
        return (
            f"{opening}\n\n"
            f"def test_{slug}(tracewire_agent, golden_trace):\n{what}"
            f"    with tracewire_agent({json.dumps(program.agent)}) as served:\n"
            f'        run = served.run("user-1", {json.dumps(program.input_value, ensure_ascii=False)})\n'
            f"    golden_trace(run.trace{option})\n"
        )
    if program.command:
        try:
            words = shlex.split(program.command)
        except ValueError as error:
            raise ImportRefusedError(f"--command {program.command}: {error}; quote it as for a shell") from error
        return (
            f"{opening}\nimport os\nimport subprocess\n\n"
            f"COMMAND = {_listed(words)}\n\n\n"
            f"def test_{slug}(otlp_receiver, golden_trace):\n{what}"
            f"    own = {resource.replace('service.name', 'OTEL_SERVICE_NAME') or '{}'}\n"
            "    environ = os.environ | otlp_receiver.environment | own\n"
            "    subprocess.run(COMMAND, env=environ, check=True, timeout=60)\n"
            f"    golden_trace(otlp_receiver.wait_for_trace(spans={len(trace)}){option})\n"
        )
    if program.call:
        module, _, function = program.call.partition(":")
        if not (re.fullmatch(r"[\w.]+", module) and function.isidentifier()):
            raise ImportRefusedError(f"--call {program.call}: must be module:function")
        return (
            f"{opening}\nfrom {module} import {function}\n\n\n"
            f"def test_{slug}(trace_recorder, golden_trace):\n{what}"
            f"    {function}(trace_recorder.provider({resource}))\n"
            f"    golden_trace(trace_recorder.wait_for_trace(spans={len(trace)}){option})\n"
        )
    return (
        f"{opening}\n\n"
        "def run_the_program(provider):\n"
        '    """Do what shows this trace, with spans by this tracer provider."""\n'
        '    raise NotImplementedError("say here how your program is run")\n\n\n'
        f"def test_{slug}(trace_recorder, golden_trace):\n{what}"
        f"    run_the_program(trace_recorder.provider({resource}))\n"
        f"    golden_trace(trace_recorder.wait_for_trace(spans={len(trace)}){option})\n"
    )


def _listed(words: Sequence[str]) -> str:
    line = json.dumps(words, ensure_ascii=False)
    return line if len(line) < _WIDTH else json.dumps(words, ensure_ascii=False, indent=4)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


__all__ = ["ImportRefusedError", "Imported", "Program", "TraceFormatError", "import_golden"]
