"""Time that passes because it must: what is delayed is delayed in real time, as the deadlines are that it misses."""

import asyncio


async def let_pass(seconds: float) -> None:
    """Go on after so long."""
    passed = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(seconds, passed.set_result, None)
    try:
        await passed
    finally:
        timer.cancel()
