"""Losses that are true, to see that the soak of alarms finds them; and the server that commits those of its links.

    python -m soak.alarm_planted serve --port 0

Two users lose `agent_thinking`, at the engine and at the socket; a third, of the kind `withholds`, does not ack.
"""

import asyncio
import contextlib
import sys
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosed

from support.losses import Losses, loser
from support.wire import EVENT_NAMES, wire_to
from tracewire import cli

REFERENCE: Final = "support.losses:loses"
LOSERS: Final = (loser("engine", "agent_thinking"), loser("socket", "agent_thinking"))
WITHHOLDER: Final = "withholds"


async def lose(url: str, token: str) -> None:
    """One run of a loser, who acks what came without a gap, until it is cancelled or its socket is closed."""
    async with wire_to(url, token) as wire:
        run_id = await wire.start_run("go", agent="loses")
        processed = 0
        await wire.ack(run_id, processed)
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    frame = await wire.receive()
                    if frame["type"] in EVENT_NAMES and frame["seq"] == processed + 1:
                        processed += 1
                        await wire.ack(run_id, processed)


async def lose_all(url: str, tokens: dict[str, str]) -> None:
    """All losers, each once."""
    await asyncio.gather(*(lose(url, tokens[user_id]) for user_id in LOSERS))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        Losses(patch)
        cli.main(sys.argv[1:])
