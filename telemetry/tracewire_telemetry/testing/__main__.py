"""`python -m tracewire_telemetry.testing golden trace.json --out tests`: a golden test from an exported trace."""

import argparse
import sys
from pathlib import Path

from tracewire_telemetry.testing.importing import ImportRefusedError, Program, TraceFormatError, import_golden


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit code: 0, or 1 where nothing was written."""
    asked = _parser().parse_args(arguments)
    program = Program(asked.command, asked.call, asked.agent, asked.input)
    try:
        written = import_golden(
            asked.trace,
            asked.out,
            program,
            name=asked.name,
            trace_id=asked.trace_id,
            remote_parent=asked.remote_parent,
            force=asked.force,
        )
    except (ImportRefusedError, TraceFormatError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{written.golden}: {written.spans} spans; review what it keeps\n{written.test}\n")
    if not (asked.command or asked.call or asked.agent):
        sys.stdout.write(f"say in {written.test} how your program is run; until then the test fails\n")
    sys.stdout.write(f"then: python -m pytest {written.test}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tracewire_telemetry.testing", description=__doc__)
    commands = parser.add_subparsers(dest="action", required=True)
    golden = commands.add_parser("golden", help="write a golden trace and its test from an exported trace")
    golden.add_argument("trace", type=Path, help="OTLP JSON, or as Tempo or Jaeger exports a trace")
    golden.add_argument("--out", type=Path, required=True, help="folder of the test")
    golden.add_argument("--name", default="", help="what the test is called; by default, after the trace's root")
    golden.add_argument("--trace-id", default="", help="which trace of the file, by the beginning of its id")
    golden.add_argument("--remote-parent", action="store_true", help="the root was called by a program not in the file")
    golden.add_argument("--force", action="store_true", help="overwrite what is there")
    how = golden.add_mutually_exclusive_group()
    how.add_argument("--command", default="", help="the program's command line; it exports over OTLP")
    how.add_argument("--call", default="", help="module:function, which is given a tracer provider")
    how.add_argument("--agent", default="", help="a Tracewire agent, as module:name")
    golden.add_argument("--input", default="", help="the agent's input")
    return parser


if __name__ == "__main__":
    sys.exit(main())
