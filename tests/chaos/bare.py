"""A client of one page, as somebody writes it from the wire's description: it trusts the server to send each event
once, in order, on each socket, and notes where it does not. It reconnects, resumes and acks by itself.
"""

import asyncio
import contextlib
import json
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from chaos.journal import Journal, RunJournal
from chaos.killing import HEARTBEAT_SECONDS, pause
from chaos.users import OPEN_RUNS_MAX, THINK_SECONDS, TokenProvider
from tracewire_telemetry.vocabulary import EVENT_TYPES

EVENT_NAMES: Final = frozenset(event_type.value for event_type in EVENT_TYPES)
SILENT_SECONDS: Final = 3.0 * HEARTBEAT_SECONDS
OFFERS: Final = (None, ["tracewire.v1"], ["tracewire.v1.lines"])
CUT_SHARE, STALL_SHARE = 0.06, 0.04
"""After a pause, how often it loses its socket, or stops reading for a while."""
FOR_NOW: Final = frozenset({"draining", "not_ready"})


class BareUser:
    """A user with a socket and nothing else. `cuts` counts the sockets that it lost on purpose."""

    def __init__(self, journal: Journal, url: str, token: TokenProvider) -> None:
        self.cuts = 0
        self._journal = journal
        self._url = url
        self._token = token
        self._socket: ClientConnection | None = None
        self._ready = False
        self._clean = False
        self._due: dict[str, int] = {}
        self._reading = asyncio.Event()
        self._reading.set()

    async def live(self, over: asyncio.Event) -> None:
        """Until it is over, every run has ended, and the server lists none that is not acked to its end."""
        asking = asyncio.create_task(self._ask(over))
        try:
            last = False
            while not (last and self._clean):
                last = over.is_set() and not self._journal.unfinished
                await self._one_socket(over)
                await pause(self._journal.random.uniform(0.1, 0.6), asyncio.Event())
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, over: asyncio.Event) -> None:
        journal, random = self._journal, self._journal.random
        while not over.is_set():
            if len(journal.unfinished) < OPEN_RUNS_MAX:
                run = journal.ask()
                if self._ready:
                    await self._try_to_send(self._start_of(run))
            await pause(random.uniform(*THINK_SECONDS), over)
            if self._socket is not None and random.random() < CUT_SHARE:
                self.cuts += 1
                self._socket.transport.abort()
            elif random.random() < STALL_SHARE:
                journal.stalls += 1
                self._reading.clear()
                await pause(random.uniform(1, 8), over)
                self._reading.set()

    async def _one_socket(self, over: asyncio.Event) -> None:
        offer, self._clean = self._journal.random.choice(OFFERS), False
        try:
            async with connect(
                self._url,
                additional_headers={"Authorization": f"Bearer {await self._token()}"},
                subprotocols=[Subprotocol(name) for name in offer] if offer else None,
                compression=None,
                ping_interval=None,
                max_size=None,
                open_timeout=SILENT_SECONDS,
                close_timeout=1,
            ) as socket:
                self._socket, self._due = socket, {}
                while not self._ready or not over.is_set() or self._journal.unfinished:
                    await self._reading.wait()
                    async with asyncio.timeout(SILENT_SECONDS):
                        message = await socket.recv(decode=True)
                    assert isinstance(message, str)
                    for line in message.split("\n"):
                        await self._take(json.loads(line))
        except ConnectionClosed as error:
            self._journal.losses += 1
            code = error.rcvd.code if error.rcvd else 1006
            if code >= 4500 or code in (1002, 1003, 1007, 1008, 1009, 1011):
                self._journal.note("wrong", "", f"the server closed with {code}")
        except (OSError, InvalidHandshake, EOFError, TimeoutError):
            self._journal.losses += 1
        finally:
            self._socket, self._ready = None, False

    async def _take(self, frame: dict[str, Any]) -> None:
        journal = self._journal
        match frame["type"]:
            case "ready":
                await self._catch_up(frame)
            case "run_accepted":
                run = journal.runs.get(frame["request_id"])
                if run is None:
                    journal.note("foreign", frame["run_id"], f"it was accepted for {frame['request_id']}")
                else:
                    journal.accept(run, frame["run_id"])
                    self._due.setdefault(run.run_id, 1)
            case "resumed":
                journal.resumes += 1
                if not frame["recovered"]:
                    journal.note("lost", frame["run_id"], f"it was not recovered: {frame['reason']}")
            case "rejected" if frame["code"] not in FOR_NOW:
                journal.note("wrong", frame.get("run_id", ""), f"{frame['frame']} was rejected: {frame['message']}")
            case "ping":
                await self._try_to_send({"type": "pong", "id": frame["id"]})
            case name if name in EVENT_NAMES:
                await self._take_event(frame)

    async def _take_event(self, frame: dict[str, Any]) -> None:
        run = self._journal.by_run_id(frame["run_id"])
        if run is None:
            self._journal.note("foreign", frame["run_id"], f"event {frame['seq']} came, and it was never accepted")
            return
        if frame["run_id"] not in self._due:
            run.note("wrong", frame["seq"], "it came before the run was accepted or resumed on this socket")
        run.take(frame)
        self._due[run.run_id] = run.last_seq + 1
        if run.ended or run.last_seq % 8 == 0:
            await self._try_to_send(_ack(run.run_id, run.last_seq))

    async def _catch_up(self, ready: dict[str, Any]) -> None:
        """Resume what is unfinished, ask again for what was not accepted, ack again what had ended."""
        waiting = [run for run in self._journal.unfinished if run.run_id]
        self._due = {run.run_id: run.last_seq + 1 for run in waiting}
        if waiting:
            await self._try_to_send({"type": "resume", "runs": {run.run_id: run.last_seq for run in waiting}})
        for run in self._journal.unfinished:
            if not run.run_id:
                await self._try_to_send(self._start_of(run))
        self._ready, self._clean = True, not ready["runs"]
        for listed in ready["runs"]:
            ended = self._journal.by_run_id(listed["run_id"])
            if ended is not None and ended.ended:
                await self._try_to_send(_ack(ended.run_id, ended.last_seq))

    def _start_of(self, run: RunJournal) -> dict[str, Any]:
        return {"type": "start_run", "request_id": run.request_id, "agent": "chaotic", "input": run.asked}

    async def _try_to_send(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):  # reading finds that out too, and begins anew
                await self._socket.send(json.dumps(frame))


def _ack(run_id: str, seq: int) -> dict[str, Any]:
    return {"type": "ack", "run_id": run_id, "seq": seq, "count": seq}
