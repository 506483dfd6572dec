"""Carries attacks out, and looks at every answer: what no server may answer, however it is asked, is a failure."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from support.hostile import CLOSES_SENT, Hostile, HttpAttack, SocketAttack
from support.raw_socket import CLOSE, PONG, TEXT, RawSocket, Received, close_frame, frame, handshake, tcp_to

FRAMES: Final = frozenset(
    {"ready", "run_accepted", "rejected", "resumed", "ping", "authenticated", "agent_started", "agent_thinking"}
    | {"tool_executing", "tool_completed", "agent_delta", "agent_completed", "agent_error", "agent_cancelled"}
)
CLOSES: Final = frozenset({1002, 1007, 1009, 4501, 4502, 4503, 4504, 4505, *CLOSES_SENT})
"""How a hostile socket may be closed. 1011 and 4500 are a broken server's, 4000 to 4499 would be an untrue excuse."""
END: Final = "the end of the attack"
ATTACK_SECONDS: Final = 60.0
LONGEST_ANSWER_BYTES: Final = 1 << 22


class WrongAnswerError(Exception):
    """The server answered what it must not, or not at all."""


class Tally:
    """What was sent and what came of it."""

    def __init__(self) -> None:
        self.frames = 0
        self.requests = 0
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    @property
    def sent(self) -> int:
        """Frames and requests."""
        return self.frames + self.requests


class Attackers:
    """Carry out attacks against one server, `at_once` of them at a time.

    Args:
        url: the public port.
        hostile: makes the attacks.
        tokens: of the attackers, by their number.
        seed: what the attacks follow from.
    """

    def __init__(self, url: str, hostile: Hostile, tokens: list[str], seed: str, *, at_once: int = 64) -> None:
        self.tally = Tally()
        self._url = url
        self._host = url.rpartition("/")[2]
        self._hostile = hostile
        self._tokens = tokens
        self._seed = seed
        self._at_once = at_once
        self._carried_out = 0

    async def attack(self, indexes: Iterator[int], *, going_on: Callable[[], bool], per_second: float = 0) -> None:
        """Carry out these attacks, as long as `going_on` says so; at most so many frames and requests a second."""
        loop = asyncio.get_running_loop()
        due = loop.time()

        async def work() -> None:
            nonlocal due
            for index in indexes:
                if not going_on():
                    return
                if per_second:
                    # Each takes a place in time of its own; else all would wait for the same moment, and burst.
                    due = max(due, loop.time() - 1.0) + self._items_an_attack / per_second
                    await asyncio.wait([loop.create_future()], timeout=max(0.0, due - loop.time()))
                await self.one(index)

        await asyncio.gather(*(work() for _ in range(self._at_once)))

    @property
    def _items_an_attack(self) -> float:
        return self.tally.sent / max(1, self._carried_out) or 1.0

    async def one(self, index: int) -> None:
        """Carry out one attack; what was wrong with the answers is in the tally."""
        self._carried_out += 1
        attack = self._hostile.attack(self._seed, index)
        try:
            async with asyncio.timeout(ATTACK_SECONDS), tcp_to(self._url) as socket:
                if isinstance(attack, SocketAttack):
                    await self._by_socket(socket, attack)
                else:
                    await self._by_http(socket, attack)
        except (WrongAnswerError, AssertionError, ValueError, OSError, TimeoutError, EOFError) as error:
            self.tally.failures.append(f"attack {index} of seed {self._seed}: {type(error).__name__}: {error}")

    def _authorization(self, user: int | str | None) -> str | None:
        if user is None:
            return None
        return f"Bearer {self._tokens[user] if isinstance(user, int) else user}"

    # Sockets.

    async def _by_socket(self, socket: RawSocket, attack: SocketAttack) -> None:
        headers = attack.headers | {"Authorization": self._authorization(attack.user)}
        socket.send(handshake(self._host, **headers))  # type: ignore[arg-type] # `method` is not among them
        status, _ = await socket.read_head()
        if status != 101:
            raise WrongAnswerError(f"the handshake was answered {status}")
        for piece in attack.pieces:
            socket.send(piece)
        self.tally.frames += attack.frames
        if attack.ends == "cut":
            return
        if attack.ends == "half-closed":
            socket.writer.write_eof()
        elif attack.ends == "answered":
            socket.send(frame(TEXT, json.dumps({"type": END}).encode()))
        while (received := await socket.read_frame()) is not None:
            if self._looked_at(received) == END and attack.ends == "answered":
                socket.send(close_frame(1000))

    def _looked_at(self, received: Received) -> str | None:
        """Count what came; the type of the frame that it refuses, if it does."""
        if received.opcode == CLOSE:
            code = received.close_code
            self.tally.answers[f"close {code}"] += 1
            if code not in CLOSES:
                raise WrongAnswerError(f"the socket was closed with {code}: {received.payload[2:]!r}")
        elif received.opcode == TEXT:
            document = json.loads(received.payload)
            kind = document["type"]
            self.tally.answers[f"{kind} {document['code']}" if kind == "rejected" else kind] += 1
            if kind not in FRAMES:
                raise WrongAnswerError(f"the server sent {received.payload[:200]!r}")
            return document.get("frame") if kind == "rejected" else None
        elif received.opcode != PONG:
            raise WrongAnswerError(f"the server sent {received}")
        return None

    # HTTP.

    async def _by_http(self, socket: RawSocket, attack: HttpAttack) -> None:
        authorization = self._authorization(attack.user)
        line = f"Authorization: {authorization}".encode() if authorization else b"X-Nobody: 1"
        for method, request in attack.requests:
            socket.send(request.replace(b"{authorization}", line))
            self.tally.requests += 1
            if not await self._answered(socket, method):
                return
        if attack.rubbish:
            self.tally.requests += 1
            socket.send(attack.rubbish)
            socket.writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                while await self._answered(socket, "GET", owed=False):
                    pass

    async def _answered(self, socket: RawSocket, method: str, *, owed: bool = True) -> bool:
        """Read one answer; whether the connection goes on."""
        try:
            status, headers = await socket.read_head()
            while status == 100:
                status, headers = await socket.read_head()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            if owed:
                raise WrongAnswerError("the connection ended without an answer") from None
            return False
        body = await read_body(socket, method, status, headers)
        self.tally.answers[f"HTTP {status}"] += 1
        if status >= 500:
            raise WrongAnswerError(f"HTTP {status}: {body[:300]!r}")
        if status >= 400 and method != "HEAD" and status != 426:
            problem = json.loads(body) if headers.get("content-type") == "application/problem+json" else {}
            if problem.get("status") != status and "sec-websocket-key" not in body.decode("latin-1").lower():
                raise WrongAnswerError(f"HTTP {status} without a problem document: {headers} {body[:200]!r}")
        return headers.get("connection", "").lower() != "close"


async def read_body(socket: RawSocket, method: str, status: int, headers: dict[str, str]) -> bytes:
    """The body of an answer whose head was read."""
    if method == "HEAD" or status in (204, 304):
        return b""
    reader = socket.reader
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read(LONGEST_ANSWER_BYTES)
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
