"""The floor of a resume: a bare ASGI application on uvicorn that reads the rows of a log and writes them to a socket.

Run it as `python -m tests.benchmarks.bare_replay DATABASE`; it prints its port. It checks nobody and keeps nothing.
"""

import asyncio
import json
import sqlite3
import sys
from typing import Any

from tests.benchmarks.bare_server import Receive, Send, serve

PAGE_EVENTS = 64


class BareReplay:
    """The ASGI application: on the first frame it sends every row of the one run that the database holds."""

    def __init__(self, database: str) -> None:
        self._rows = sqlite3.connect(database)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        await send({"type": "websocket.send", "text": json.dumps({"type": "ready"})})
        await receive()
        last_seq = 0
        (run_no,) = self._rows.execute("SELECT min(run_no) FROM events").fetchone()
        query = "SELECT seq, body FROM events WHERE run_no = ? AND seq > ? ORDER BY seq LIMIT ?"
        while rows := self._rows.execute(query, (run_no, last_seq, PAGE_EVENTS)).fetchall():
            last_seq = rows[-1][0]
            for _, body in rows:
                await send({"type": "websocket.send", "text": body.decode() if isinstance(body, bytes) else body})
            await asyncio.sleep(0)
        while (await receive())["type"] != "websocket.disconnect":
            pass


if __name__ == "__main__":
    serve(BareReplay(sys.argv[1]))
