"""The `tracewire` command with a watch that looks at nothing: missing events are noticed by nobody.

    python -m support.blind_server serve --port 0

The detection canary waits for a second more than the deadlines, so that a test need not wait for long.
"""

import sys

from tracewire import canary, cli
from tracewire_telemetry.watch import Watch


def _look_at_nothing(*_: object, **__: object) -> bool:
    return False


if __name__ == "__main__":
    Watch.tick = _look_at_nothing  # type: ignore[method-assign] # the fault
    canary.DETECTION_MARGIN_SECONDS = 1.0  # type: ignore[misc] # as above
    cli.main(sys.argv[1:])
