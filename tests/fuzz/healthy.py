"""`python -m fuzz.healthy URL`, the token on standard input: a user who goes on working, in a process of its own.

One run after another until standard input ends. Each is a line of JSON on standard output: when it began and
ended (Unix seconds), how long each event took from its envelope's time to this client (milliseconds), and what was
wrong with it.
"""

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

import uvloop

from fuzz.agents import THOUGHTS
from tracewire.client import Client

EVENTS = THOUGHTS + 2


async def work(url: str, token: str) -> None:
    """Run after run."""
    loop = asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    async with Client(url, token, reconnect=False) as client:
        while not over.done():
            print(json.dumps(await one_run(client)), flush=True)


async def one_run(client: Client) -> dict[str, Any]:
    """One run, and how it went."""
    began = time.time()
    latencies_ms: list[float] = []
    seqs: list[int] = []
    run = await client.start_run("x", agent="paced")
    async for envelope in run:
        latencies_ms.append((time.time() - datetime.fromisoformat(envelope.time).timestamp()) * 1_000)
        seqs.append(envelope.seq)
    problems = []
    if seqs != list(range(1, EVENTS + 1)):
        problems.append(f"the seqs are {seqs}")
    if not run.receipt_agrees:
        problems.append(f"the receipt says {run.receipt}, there came {dict(run.received)}")
    return {"began": began, "ended": time.time(), "latencies_ms": latencies_ms, "problems": problems}


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], sys.stdin.readline().strip()))
