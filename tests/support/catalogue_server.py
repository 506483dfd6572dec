"""The `tracewire` command with two faults: some users' events lose a stamp, and one token makes the sign-in raise.

    python -m support.catalogue_server serve --port 0

What they lead to is declared in the catalogue, and nothing healthy emits it.
"""

import sys
from typing import Any, Final

import pytest

from support.lies import lose_stamps
from tracewire import cli
from tracewire.gateway.sockets import SocketSession

DEFECT: Final = "defect"
"""The token at which the sign-in raises."""


def raise_at_defect(patch: pytest.MonkeyPatch) -> None:
    """Make a defect of the server of one token."""
    authenticate = SocketSession._authenticate

    async def raise_or_authenticate(session: SocketSession, frame: Any) -> None:
        if frame.token == DEFECT:
            raise RuntimeError("a defect, as the test asked for")
        await authenticate(session, frame)

    patch.setattr(SocketSession, "_authenticate", raise_or_authenticate)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        lose_stamps(monkeypatch)
        raise_at_defect(monkeypatch)
        cli.main(sys.argv[1:])
