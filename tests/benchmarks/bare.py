"""The floor: a bare ASGI application on uvicorn, which sends frames that it was given and reads the acks.

It encodes nothing, checks nobody, and keeps nothing. A client cannot tell it from Tracewire: it gets the bytes of a run
that Tracewire sent. Run it as `python -m tests.benchmarks.bare FRAMES`, where `FRAMES` has a frame on each line:
`ready`, `run_accepted`, then the run's envelopes. It prints its port, and a line for each run that is acked to its end.
"""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.bare_server import Receive, Send, serve
from tests.support.servers import START_SECONDS

SETTLED = "run_settled"


class BareSender:
    """The ASGI application: for each socket it sends the same frames, one each turn of the event loop."""

    def __init__(self, frames: list[str]) -> None:
        self._ready, self._accepted, *self._envelopes = frames

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        await send({"type": "websocket.send", "text": self._ready})
        await receive()
        acks = asyncio.create_task(self._read_acks(receive))
        await send({"type": "websocket.send", "text": self._accepted})
        for envelope in self._envelopes:
            await send({"type": "websocket.send", "text": envelope})
            # Without it a whole run would leave in one write; the runs of a server that works go side by side.
            await asyncio.sleep(0)
        await acks
        print(SETTLED, file=sys.stderr, flush=True)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def _read_acks(self, receive: Receive) -> None:
        last = f'"count":{len(self._envelopes)}}}'
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect" or message["text"].endswith(last):
                return


class BareProcess:
    """The bare sender as a process on a free port. Use it as a context manager; it is stopped by its own id."""

    def __init__(self, frames: Path) -> None:
        self._log = frames.with_suffix(".log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(frames)], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare sender did not start:\n{self.log_text()}")
        self.ws_url = f"ws://127.0.0.1:{int(line)}/ws"
        return self

    def token(self, user_id: str) -> str:
        """It asks for none; the client sends one all the same."""
        return f"nobody-looks-at-the-token-of-{user_id}"

    def log_text(self) -> str:
        """Everything that it has said."""
        return self._log.read_text()

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(START_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()


if __name__ == "__main__":
    serve(BareSender(Path(sys.argv[1]).read_text().splitlines()))
