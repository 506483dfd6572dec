"""The `tracewire` command with one link of its chain broken, for suites whose server is a process of its own.

    python -m support.faulty_server --fault L4 serve --port 0

A fault is named in full, as in `L5-quiet_emit_agent_thinking`, or by its link, which takes the first of that link. It
is put into each server that the command starts, as soon as that has started; the product knows of none of this.
"""

import sys
from collections.abc import Sequence

import pytest

from support.faults import FAULTS, LEAK, Fault
from tracewire import cli, wiring
from tracewire.main import Server

SILENT_SECONDS = 1.0
"""How long `doctor` waits for a delivery that does not come."""


def fault_named(name: str) -> Fault:
    """The fault of this name, or the first of this link."""
    for fault in (*FAULTS, LEAK):
        if name in (str(fault), fault.check):
            return fault
    raise SystemExit(f"there is no fault {name!r}; there are {', '.join(map(str, FAULTS))}")


def break_servers(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Put the fault into each server that is started from now on."""
    start = Server.start

    async def start_and_break(self: Server) -> None:
        await start(self)
        fault.break_it(patch, self)

    patch.setattr(Server, "start", start_and_break)
    patch.setattr(wiring, "DELIVERY_SECONDS", SILENT_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Run the command line with the fault that `--fault` names; everything after it is the command's own."""
    if len(arguments) < 3 or arguments[0] != "--fault":
        raise SystemExit("usage: python -m support.faulty_server --fault NAME COMMAND ...")
    with pytest.MonkeyPatch.context() as patch:
        break_servers(patch, fault_named(arguments[1]))
        cli.main(arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
