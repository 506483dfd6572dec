"""Users of the soak of alarms who have a socket and nothing else: they ack what they read, reconnect and resume."""

import asyncio
import contextlib
import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from soak.alarm_agents import input_of
from support.wire import EVENT_NAMES, TERMINAL_NAMES

if TYPE_CHECKING:
    from soak.alarm_users import World

OFFERS: Final = (None, ["tracewire.v1"], ["tracewire.v1.lines"])
OPEN_RUNS_MAX: Final = 2


class Bare:
    """One user of one socket. Of the kind `never_acks` it acks and resumes nothing; of the kind `withholds` it stays,
    answers pings, and does not ack the last event of any run: a loss that is true.
    """

    def __init__(self, world: "World", user_id: str, kind: str, random: Random) -> None:
        self.world = world
        self.user_id = user_id
        self.kind = kind
        self.random = random
        self.notes = world.notes_of(user_id, kind)
        self.acks = kind != "never_acks"
        self.asks = True
        self.asked: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, int] = {}
        self.socket: ClientConnection | None = None
        self.ready = False
        self.away_seconds = 0.0
        self.questions: dict[str, str] = {}
        self.network_moves = asyncio.Event()
        self.network_moves.set()

    @property
    def done(self) -> bool:
        """Whether it is over, and nothing is left unread."""
        return self.world.over.is_set() and not self.asked and not self.runs

    async def live(self) -> None:
        """Until it is over and nothing is left unread."""
        acting = asyncio.create_task(self.act())
        try:
            while not self.done:
                await self._one_socket()
                seconds, self.away_seconds = self.away_seconds, 0.0
                await self.world.pause(seconds or self.random.uniform(0.05, 0.5))
                await asyncio.sleep(0.05)
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)

    async def act(self) -> None:
        """Ask for runs, and have mishaps in between."""
        while not self.world.over.is_set():
            if self.asks and self.ready and len(self.asked) + len(self.runs) < OPEN_RUNS_MAX:
                asked = input_of(self.random, self.world.pace, self.world.plan.burst_max)
                request_id = f"{self.user_id}-{len(self.notes.asked)}-{self.random.getrandbits(40)}"
                self.asked[request_id] = asked
                await self.send({"type": "start_run", "request_id": request_id, "agent": "lively", "input": asked})
            await self.world.pause(self.random.uniform(0, 0.5))
            if self.kind != "withholds" and self.world.plan.mishaps and self.random.random() < 0.08:
                await self.have_mishap()

    async def have_mishap(self) -> None:
        """Lose the socket, be offline for a spell, or read nothing for one, as whose network stands still."""
        socket = self.socket
        if socket is None:
            return
        seconds = self.world.pace.spell(self.random)
        match self.random.choice(("cut", "offline", "reads nothing")):
            case "cut":
                self.notes.note("its socket is cut")
                socket.transport.abort()
            case "offline":
                self.notes.note(f"offline for {seconds:.1f} s")
                self.world.counts["offline"] += 1
                self.away_seconds = seconds
                socket.transport.abort()
            case _:
                self.notes.note(f"reads nothing for {seconds:.1f} s")
                self.world.counts["stopped_reading"] += 1
                transport = socket.transport
                transport.pause_reading()
                self.network_moves.clear()
                await self.world.pause(seconds)
                with contextlib.suppress(RuntimeError):  # it is closed
                    transport.resume_reading()
                self.network_moves.set()
                self.notes.note("reads again")

    async def _one_socket(self) -> None:
        offer = self.random.choice(OFFERS)
        try:
            async with connect(
                self.world.url,
                additional_headers={"Authorization": f"Bearer {self.world.token(self.user_id)}"},
                subprotocols=[Subprotocol(name) for name in offer] if offer else None,
                compression=None,
                ping_interval=None,
                max_size=None,
                open_timeout=30,
                close_timeout=1,
            ) as socket:
                self.socket = socket
                while not self.done:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            message = await socket.recv(decode=True)
                        await self.take(str(message))
        except ConnectionClosed as error:
            self.notes.note(f"its socket closed: {error.rcvd.code if error.rcvd else 1006}")
            self.world.counts["reconnects"] += 1
        except (OSError, InvalidHandshake, EOFError, TimeoutError):
            self.world.counts["refused"] += 1
        finally:
            self.socket, self.ready = None, False

    async def take(self, message: str) -> None:
        """Take what one frame holds, then ack it at once."""
        touched: set[str] = set()
        for line in message.split("\n"):
            frame = json.loads(line)
            match frame["type"]:
                case "ready":
                    await self._catch_up()
                case "run_accepted" if frame["request_id"] in self.asked:
                    self.notes.begin(frame["run_id"], self.asked.pop(frame["request_id"])["kind"])
                    self.runs.setdefault(frame["run_id"], 0)
                case "rejected":
                    self.notes.note(f"rejected: {frame['frame']} {frame['code']}")
                    self.asked.pop(frame.get("request_id", ""), None)
                    self.runs.pop(frame.get("run_id", ""), None)
                case "resumed" if not frame["recovered"]:
                    self.runs.pop(frame["run_id"], None)
                case name if name in EVENT_NAMES:
                    touched.add(frame["run_id"])
                    await self._take_event(frame)
        for run_id in touched:
            await self._ack(run_id)

    async def _take_event(self, frame: dict[str, Any]) -> None:
        run_id, seq = frame["run_id"], frame["seq"]
        last = self.runs.setdefault(run_id, 0)
        if seq <= last:
            return
        if frame.get("first_seq", seq) > last + 1:
            self.notes.note(f"run {run_id}: {last} is followed by {seq}")
        self.world.counts["events"] += seq - last
        self.runs[run_id] = seq
        if frame["type"] == "input_required" and self.asks:
            self.questions[run_id] = frame["data"]["input_id"]
            self._answer_later(run_id)
        if self.notes.asked.get(run_id) == "cancelled" and last == 0:
            self.world.counts["cancels"] += 1
            await self.send({"type": "cancel_run", "run_id": run_id})
        if frame["type"] in TERMINAL_NAMES:
            self.world.counts["runs"] += 1
            self.notes.end(run_id)

    def _answer_later(self, run_id: str) -> None:
        seconds = 0.1 if self.world.over.is_set() else self.world.pace.spell(self.random)
        asyncio.get_running_loop().call_later(seconds, self._answer, run_id)

    def _answer(self, run_id: str) -> None:
        if run_id in self.questions and self.ready:
            self.world.counts["answers"] += 1
            frame = {"type": "provide_input", "run_id": run_id, "input_id": self.questions[run_id], "value": 3}
            self.answering = asyncio.create_task(self.send(frame))  # a loop holds its tasks weakly

    async def _ack(self, run_id: str) -> None:
        seq = self.runs.get(run_id, 0)
        if run_id in self.notes.ended:
            self.runs.pop(run_id, None)
            self.questions.pop(run_id, None)
            if self.kind == "withholds":
                seq -= 1
        if self.acks and seq:
            await self.send({"type": "ack", "run_id": run_id, "seq": seq, "count": seq})

    async def _catch_up(self) -> None:
        if not self.acks:
            self.runs.clear()
            self.questions.clear()
        elif self.runs:
            await self.send({"type": "resume", "runs": self.runs})
        for request_id, asked in self.asked.items():
            await self.send({"type": "start_run", "request_id": request_id, "agent": "lively", "input": asked})
        self.ready = True
        for run_id in self.questions:  # the answer may have gone with the socket before
            self._answer_later(run_id)

    async def send(self, frame: dict[str, Any]) -> None:
        """Send it, if there is a socket; who resumes sends it again. A network that stands still carries it later:
        who sends and does not read is alive, and an event that they do not ack is missing indeed.
        """
        socket = self.socket
        await self.network_moves.wait()
        if socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(json.dumps(frame))


class SlowSocket(Bare):
    """A second socket of somebody who asks on the first: it follows, and reads nothing for half of the time."""

    def __init__(self, world: "World", user_id: str, kind: str, random: Random) -> None:
        super().__init__(world, user_id, kind, random)
        self.asks = False

    @property
    def done(self) -> bool:
        """It is over."""
        return self.world.over.is_set()

    async def have_mishap(self) -> None:
        """Each time that it may."""
        await super().have_mishap()
        await self.world.pause(self.world.pace.spell(self.random))


class LeavingUser:
    """People who begin a run, see a part of it, and never come back; one after the other."""

    def __init__(self, world: "World", user_id: str, kind: str, random: Random) -> None:
        self._world = world
        self._user_id = user_id
        self._kind = kind
        self._random = random

    async def live(self) -> None:
        """Until it is over."""
        number = 0
        while not self._world.over.is_set():
            number += 1
            user = Bare(self._world, f"{self._user_id}-{number}", self._kind, self._random)
            living = asyncio.create_task(user.live())
            await self._world.pause(self._random.uniform(0.2, 0.3 * self._world.pace.client_seconds))
            user.notes.note("leaves for good")
            self._world.counts["left"] += 1
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
