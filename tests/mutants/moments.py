"""Time that passes because it must: what is delayed is delayed in real time, as the deadlines are that it misses."""

import asyncio
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 0.05
HELD_SECONDS_MAX: Final = 60.0
"""What is delayed is held until it is found missing, which takes as long as it takes on this machine; no longer."""


async def let_pass(seconds: float) -> None:
    """Go on after so long."""
    passed = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(seconds, passed.set_result, None)
    try:
        await passed
    finally:
        timer.cancel()


async def until(holds: Callable[[], bool]) -> None:
    """Go on when this holds, or after `HELD_SECONDS_MAX`."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + HELD_SECONDS_MAX
    while not holds() and loop.time() < give_up_at:
        await let_pass(LOOK_SECONDS)
