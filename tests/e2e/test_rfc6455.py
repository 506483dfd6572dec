"""The rules of RFC 6455, by hand on a TCP connection to a real `tracewire serve`: frames, closes, handshakes.

The Autobahn suite's own package needs Python 2, so its sections are laid down here: framing (1), pings (2), reserved
bits (3), opcodes (4), fragments (5), UTF-8 (6), closes (7), limits (9). Each case says which section asks what.

Where the server differs from the letter of the RFC, all of it by the `websockets` package's parser, none of it harmful:

- A length that is not written as short as it can be is taken. 5.2 obliges who sends, and says nothing to who reads.
- A length with its high bit set, and a control frame over the message limit, are closed with 1009, not 1002: the length
  is held against the limit before the other rules.
- UTF-8 is checked when a message is whole. 8.1 asks that the connection fails, not that it does so at the first byte.
- A second close, and a ping behind a close, are not looked at (1.4, 5.5.2 allow it).

What uvicorn or that parser gets wrong, mended in `gateway/transport.py`, each with its case below: a text of bad UTF-8
with a close behind it in one segment raised inside the protocol, and every such text logged a traceback; control frames
between the fragments of a message counted towards its limit; a message that was whole before a violation was dropped
if both came in one segment; after a close the connection was ended at once, so that what the peer was still sending
could reset the close away; empty fragments, and pongs to a peer that reads none, were kept without bound; a handshake
with a body, or a header that its parser does not take, got no answer and stayed open for ever; one over HTTP/1.0 was
accepted; one of another version was refused without saying which is spoken (4.4).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from support.raw_socket import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WAIT_SECONDS,
    RawSocket,
    Received,
    close_frame,
    frame,
    handshake,
    raw_socket,
    tcp_to,
)
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES_MAX = 64 * 1024
END = b"the end"
SOCKETS_MAX = 10
MEMORY_MIB_MAX = 256
"""Far above what the server takes for all else here, far below what the floods here weigh."""
PIECES_MAX = 2_000
"""A case that is longer than so many bytes is sent in so many pieces, not byte by byte."""


class Case(NamedTuple):
    """Bytes that a client sends, what the RFC asks of the server, and what the server answers.

    `answers` are the server's frames in their order: `pong:…`, `close:…`, and `rejected:…` with the type of a frame
    that only an intact message can have told it. Without a close the connection must go on: it answers a ping.
    """

    name: str
    asks: str
    sends: bytes
    answers: tuple[str, ...]

    @property
    def ends(self) -> bool:
        """Whether the server has to close."""
        return bool(self.answers) and self.answers[-1].startswith("close:")


def said(name: str) -> bytes:
    """A text that the server answers with `rejected:` and this name."""
    return json.dumps({"type": name}, ensure_ascii=False).encode()


def filled(size: int) -> bytes:
    """The text of `said("full")`, padded to a size in bytes."""
    return said("full").ljust(size)


def cut(text: bytes, *at: int, control: bytes = b"") -> bytes:
    """A text message in fragments, cut at these places, with the control frames between them."""
    edges = [0, *at, len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    last = len(parts) - 1
    made = [frame(TEXT if index == 0 else CONTINUATION, part, fin=index == last) for index, part in enumerate(parts)]
    return control.join(made)


A = said("päng")
BAD_UTF8 = b'{"type":"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"}'
LIMIT_REASON = 123

FRAMING = (
    Case("text", "5.6: a text message is taken", frame(TEXT, A), ("rejected:päng",)),
    Case("empty text", "5.6: a message may be empty; it is no frame of ours", frame(TEXT), ("rejected:None",)),
    Case("binary", "5.6: taken; our protocol has none", frame(BINARY, A), ("rejected:None",)),
    Case("many frames", "5.2: one segment may hold many", frame(TEXT, A) * 8, ("rejected:päng",) * 8),
    Case("16 bits of length", "5.2", frame(TEXT, filled(126)), ("rejected:full",)),
    Case("65,535 bytes", "5.2: the longest of 16 bits", frame(TEXT, filled(65_535)), ("rejected:full",)),
    Case("65,536 bytes", "5.2: the shortest of 64 bits", frame(TEXT, filled(65_536)), ("rejected:full",)),
    Case("16 bits for 5 bytes", "5.2: who sends MUST be minimal", frame(TEXT, A, length_bytes=2), ("rejected:päng",)),
    Case("64 bits for 5 bytes", "5.2: who sends MUST be minimal", frame(TEXT, A, length_bytes=8), ("rejected:päng",)),
    Case("high bit of length", "5.2: MUST be 0", frame(TEXT, b"x", length_bytes=8, declared=1 << 63), ("close:1009",)),
    Case("a byte over the limit", "7.4.1: 1009", frame(TEXT, filled(FRAME_BYTES_MAX + 1)), ("close:1009",)),
    Case("declared over the limit", "7.4.1: 1009", frame(TEXT, b"", length_bytes=8, declared=1 << 40), ("close:1009",)),
    Case(
        "fragments over the limit",
        "7.4.1: 1009, also where no fragment is too large",
        cut(filled(FRAME_BYTES_MAX + 1), 30_000, 60_000),
        ("close:1009",),
    ),
    Case("unmasked", "5.1: MUST close; 1002 is for it", frame(TEXT, A, masked=False), ("close:1002",)),
    Case("unmasked ping", "5.1", frame(PING, b"x", masked=False), ("close:1002",)),
    Case("unmasked close", "5.1", frame(CLOSE, b"\x03\xe8", masked=False), ("close:1002",)),
    *(
        Case(
            f"reserved bits {bits:03b}",
            "5.2: MUST fail, none was agreed on",
            frame(opcode, A, reserved=bits),
            ("close:1002",),
        )
        for bits, opcode in ((4, TEXT), (2, TEXT), (1, BINARY), (7, PING), (5, CLOSE), (2, CONTINUATION))
    ),
    *(
        Case(f"opcode {opcode:#x}", "5.2: reserved, MUST fail", frame(opcode, A), ("close:1002",))
        for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    ),
    Case(
        "text, then a reserved opcode, then a ping",
        "what is whole before the failure is taken, what follows is not",
        frame(TEXT, A) + frame(5, A) + frame(PING, b"late"),
        ("close:1002",),
    ),
)

CONTROL = (
    Case("ping", "5.5.2: a pong with the same data", frame(PING, b"hello"), ("pong:hello",)),
    Case("empty ping", "5.5.2", frame(PING), ("pong:",)),
    Case("ping of 125 bytes", "5.5: the most", frame(PING, b"p" * 125), (f"pong:{'p' * 125}",)),
    Case("ping with bytes that are no text", "5.5.2: any data", frame(PING, b"\xfe\xff\x00"), ("pong:\\xfe\\xff\x00",)),
    Case(
        "ten pings",
        "5.5.2: in their order",
        b"".join(frame(PING, b"%d" % n) for n in range(10)),
        tuple(f"pong:{n}" for n in range(10)),
    ),
    Case("unasked pong", "5.5.3: no answer is expected", frame(PONG, b"hello"), ()),
    Case("ping of 126 bytes", "5.5: MUST be 125 or less", frame(PING, b"p" * 126), ("close:1002",)),
    Case("pong of 126 bytes", "5.5", frame(PONG, b"p" * 126), ("close:1002",)),
    Case("close of 126 bytes", "5.5", frame(CLOSE, b"\x03\xe8" + b"r" * 124), ("close:1002",)),
    Case(
        "fragmented ping", "5.5: MUST NOT be", frame(PING, b"a", fin=False) + frame(CONTINUATION, b"b"), ("close:1002",)
    ),
    Case("fragmented close", "5.5", frame(CLOSE, b"\x03\xe8", fin=False), ("close:1002",)),
)

FRAGMENTS = (
    Case("two fragments", "5.4", cut(A, 4), ("rejected:päng",)),
    Case("a fragment a byte", "5.4", cut(A, *range(1, len(A))), ("rejected:päng",)),
    Case("empty fragments", "5.4: a fragment may be empty", cut(A, 0, 0, 4, 4, len(A)), ("rejected:päng",)),
    Case("a letter cut in two", "5.6: UTF-8 of the whole message", cut(A, A.index(b"\xc3") + 1), ("rejected:päng",)),
    Case("fragmented binary", "5.4", frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b"), ("rejected:None",)),
    Case(
        "ping between",
        "5.4: control frames MAY come between, 5.5: are answered",
        cut(A, 4, control=frame(PING, b"mid")),
        ("pong:mid", "rejected:päng"),
    ),
    Case("pong between", "5.4", cut(A, 4, 6, control=frame(PONG)), ("rejected:päng",)),
    Case(
        "ping between the fragments of the largest message",
        "5.4, 5.5: a control frame is no part of the message",
        cut(filled(FRAME_BYTES_MAX), FRAME_BYTES_MAX - 2, control=frame(PING, b"p" * 125)),
        (f"pong:{'p' * 125}", "rejected:full"),
    ),
    Case("continuation of nothing", "5.4: MUST fail", frame(CONTINUATION, A), ("close:1002",)),
    Case("unfinished continuation of nothing", "5.4", frame(CONTINUATION, A, fin=False), ("close:1002",)),
    Case("continuation after a whole message", "5.4", frame(TEXT, A) + frame(CONTINUATION, A), ("close:1002",)),
    Case(
        "text within a message",
        "5.4: MUST NOT be interleaved",
        frame(TEXT, A, fin=False) + frame(TEXT, A),
        ("close:1002",),
    ),
    Case("binary within a message", "5.4", frame(TEXT, A, fin=False) + frame(BINARY, A), ("close:1002",)),
    Case(
        "close within a message",
        "5.5.1: answered by a close, or failed",
        frame(TEXT, A, fin=False) + close_frame(1000),
        ("close:1002",),
    ),
)

UTF8 = (
    Case("bad UTF-8", "8.1: MUST fail; 1007", frame(TEXT, BAD_UTF8), ("close:1007",)),
    Case("bad UTF-8 over fragments", "8.1", cut(BAD_UTF8, 12, 22, 23), ("close:1007",)),
    Case("cut short within a letter", "8.1", frame(TEXT, b'{"type":"\xc3'), ("close:1007",)),
    Case("overlong slash", "8.1, RFC 3629", frame(TEXT, b"\xc0\xaf"), ("close:1007",)),
    Case("beyond U+10FFFF", "8.1, RFC 3629", frame(TEXT, b"\xf4\x90\x80\x80"), ("close:1007",)),
    Case(
        "U+10FFFF and U+FFFF", "RFC 3629: valid", frame(TEXT, said("\U0010ffff\uffff")), ("rejected:\U0010ffff\uffff",)
    ),
    Case("a nul", "valid UTF-8, no JSON", frame(TEXT, b'{"type":"\x00"}'), ("rejected:None",)),
    Case(
        "bad UTF-8, then a text",
        "8.1: what follows is not read",
        frame(TEXT, BAD_UTF8) + frame(TEXT, A),
        ("close:1007",),
    ),
    Case("bad UTF-8 in binary", "8.1 is about text", frame(BINARY, BAD_UTF8), ("rejected:None",)),
)

CLOSES = (
    Case("close without a code", "5.5.1, 7.4.1: answered; no code is 1005, never sent", frame(CLOSE), ("close:1005",)),
    Case("close of one byte", "5.5.1: a body MUST begin with two", frame(CLOSE, b"\x03"), ("close:1002",)),
    Case("close with a reason", "5.5.1: the code is echoed", close_frame(1000, b"bye"), ("close:1000",)),
    Case("close with the longest reason", "5.5", close_frame(1000, b"r" * LIMIT_REASON), ("close:1000",)),
    Case("close with bad UTF-8", "8.1, 7.1.6: MUST fail", close_frame(1000, BAD_UTF8), ("close:1007",)),
    *(
        Case(f"close {code}", "7.4: may be sent", close_frame(code), (f"close:{code}",))
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4500, 4999)
    ),
    *(
        Case(f"close {code}", "7.4: MUST NOT be sent", close_frame(code), ("close:1002",))
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    Case("two closes", "5.5.1: none after the first", close_frame(1000) + close_frame(1001), ("close:1000",)),
    Case("text after the close", "1.4: discarded", close_frame(1000) + frame(TEXT, A), ("close:1000",)),
    Case("ping after the close", "5.5.2: no pong then", close_frame(1000) + frame(PING, b"late"), ("close:1000",)),
    Case("rubbish after the close", "1.4: discarded", close_frame(1000) + b"\xff" * 100, ("close:1000",)),
    Case(
        "ping, then close", "5.5: both answered", frame(PING, b"last") + close_frame(1000), ("pong:last", "close:1000")
    ),
)

CASES = (*FRAMING, *CONTROL, *FRAGMENTS, *UTF8, *CLOSES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server process, under uvloop and httptools as people run it."""
    environ = {"TRACEWIRE_REQUEST_HEAD_SECONDS": "1", "TRACEWIRE_HEARTBEAT_SECONDS": "300"}
    with ServerProcess(tmp_path_factory.mktemp("rfc6455") / "data", environ=environ) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_raised(server: ServerProcess) -> Iterator[None]:
    """Whatever a peer sends is its own fault: the server logs no error and no traceback, then or later."""
    before = len(server.log_text())
    yield
    new = server.log_text()[before:]
    assert [line for line in new.splitlines() if '"level": "error"' in line or "Traceback" in line] == []


def told(received: Received) -> str:
    """A frame of the server, as a case names it."""
    if received.opcode == CLOSE:
        return f"close:{received.close_code}"
    if received.opcode == PONG:
        return "pong:" + received.payload.decode("utf-8", "backslashreplace")
    document = json.loads(received.payload)
    return f"{document['type']}:{document.get('frame')}"


async def answers_of(socket: RawSocket, case: Case) -> list[str]:
    """What the server sends: until it ends the connection, where the case does; else as many frames as the case names,
    and what comes besides before a last ping is answered.
    """
    if case.ends:
        # Whether a message was answered before the close behind it is a race that nobody is owed the end of.
        return [answer for answer in map(told, await socket.read_to_end()) if not answer.startswith("rejected:")]
    found: list[str] = []
    while len(found) < len(case.answers):
        received = await socket.read_frame()
        if received is None:
            return [*found, "the connection ended"]
        found.append(told(received))
    socket.send(frame(PING, END))
    while (received := await socket.read_frame()) not in (None, Received(PONG, END)):
        found.append(told(received))
    return found if received is not None else [*found, "the connection ended"]


@pytest.mark.parametrize("delivery", ["one segment", "in pieces"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_frames_are_answered_as_the_rfc_asks(server: ServerProcess, case: Case, delivery: str) -> None:
    """However TCP cuts them: in one segment, and byte by byte."""
    async with raw_socket(server.url, server.token(f"{case.name}, {delivery}")) as socket:
        if delivery == "one segment":
            socket.send(case.sends)
        else:
            await socket.send_in_pieces(case.sends, -(-len(case.sends) // PIECES_MAX))
        found = await answers_of(socket, case)
    assert list(case.answers) == found, f"RFC 6455, {case.asks}"


# What the table cannot say.


async def test_a_message_that_is_whole_counts_though_a_violation_follows_in_its_segment(server: ServerProcess) -> None:
    """How TCP cuts a stream must not decide whether a run is started (7.1.7 ends the reading where the failure is)."""
    token = server.token("starts, then errs")
    start = b'{"type":"start_run","request_id":"r","input":"what ran?"}'
    async with raw_socket(server.url, token) as socket:
        socket.send(frame(TEXT, start) + frame(TEXT, start, reserved=1))
        assert [1002] == [received.close_code for received in await socket.read_to_end() if received.opcode == CLOSE]
    async with raw_socket(server.url, token) as socket:
        socket.send(frame(TEXT, start))
        accepted = json.loads((await socket.read_frame() or Received(0, b"")).payload)
        assert ("run_accepted", "r") == (accepted["type"], accepted["request_id"])
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as http:
        listed = (await http.get("/runs")).json()
    assert ["r"] == [run["request_id"] for run in listed["runs"]]


async def test_bad_text_with_a_close_behind_it_fails_or_closes(server: ServerProcess) -> None:
    """Both are right (8.1, 5.5.1). uvicorn raised inside the protocol where both came in one segment."""
    async with raw_socket(server.url, server.token("errs and closes")) as socket:
        socket.send(frame(TEXT, BAD_UTF8) + close_frame(1000))
        (close,) = await socket.read_to_end()
    assert close.close_code in (1000, 1007)


async def test_a_ping_behind_bad_text_does_no_harm(server: ServerProcess) -> None:
    """Whether it is answered before the failure is the parser's business; nothing is written after the close."""
    async with raw_socket(server.url, server.token("errs and pings")) as socket:
        socket.send(frame(TEXT, BAD_UTF8) + frame(PING, b"late"))
        answers = [told(received) for received in await socket.read_to_end()]
    assert answers in (["close:1007"], ["pong:late", "close:1007"])


async def test_the_close_of_the_server_can_be_read_whatever_the_client_still_sends(server: ServerProcess) -> None:
    """A reset would take it from under the client's eyes (7.1.1: the peer's last bytes are read first)."""
    async with raw_socket(server.url, server.token("keeps sending")) as socket:
        socket.send(frame(TEXT, A, reserved=1) + frame(TEXT, filled(60_000)) * 64)
        received = await socket.read_frame()
        assert received is not None
        assert "close:1002" == told(received)


async def test_after_the_close_handshake_the_server_ends_the_connection_first(server: ServerProcess) -> None:
    """7.1.1 asks that of servers: the wait state of TCP is then the server's."""
    async with raw_socket(server.url, server.token("closes")) as socket:
        socket.send(close_frame(1000))
        assert ["close:1000"] == [told(received) for received in await socket.read_to_end()]


@pytest.mark.parametrize("left", ["idle", "within a frame", "within a message"])
@pytest.mark.parametrize("how", ["half-closed", "cut"])
async def test_a_connection_that_ends_without_a_close_frees_its_place(
    server: ServerProcess, left: str, how: str
) -> None:
    """However it was left: the user has all sockets again, which more than there may be at once shows."""
    token = server.token(f"{left} {how}")
    sent = {"idle": b"", "within a frame": frame(TEXT, A)[:5], "within a message": frame(TEXT, A, fin=False)}[left]
    for _ in range(SOCKETS_MAX):
        async with raw_socket(server.url, token) as socket:
            socket.send(sent)
            if how == "half-closed":
                socket.writer.write_eof()
                assert [] == await socket.read_to_end()
    for _ in range(SOCKETS_MAX):
        # A socket that was cut is gone when the server has read so: until then the place is taken.
        async with asyncio.timeout(WAIT_SECONDS):
            while not await taken(server, token):
                pass


async def taken(server: ServerProcess, token: str) -> bool:
    """Whether a socket of this user becomes ready."""
    async with tcp_to(server.url) as socket:
        socket.send(handshake(host_of(server), Authorization=f"Bearer {token}"))
        await socket.read_head()
        received = await socket.read_frame()
        return received is not None and received.opcode == TEXT


async def test_pings_of_a_peer_that_reads_nothing_end_its_connection(server: ServerProcess) -> None:
    """Each asks for a pong, and the pongs must not pile up: 64 MiB of them are far more than is ever kept."""
    flood = frame(PING, b"p" * 125) * 1_000
    async with raw_socket(server.url, server.token("floods")) as socket:
        socket.writer.transport.pause_reading()
        with pytest.raises(ConnectionError):
            await send_all(socket, flood, 64 * 1024 * 1024 // len(flood))
    peak_mib = int(re.findall(r"VmHWM:\s+(\d+) kB", status_of(server))[0]) // 1024
    assert peak_mib < MEMORY_MIB_MAX


async def test_empty_fragments_are_not_kept(server: ServerProcess) -> None:
    """A message may have any number of them (5.4), and they are within every limit of its size."""
    async with raw_socket(server.url, server.token("empties")) as socket:
        socket.send(frame(TEXT, A, fin=False))
        before = memory_kib(server)
        await send_all(socket, frame(CONTINUATION, fin=False) * 10_000, 100)
        socket.send(frame(CONTINUATION))
        received = await socket.read_frame()
        assert received is not None
        assert "rejected:päng" == told(received)
    # The references to a million of them alone would be 8 MiB.
    assert memory_kib(server) - before < 4 * 1024


async def send_all(socket: RawSocket, data: bytes, times: int) -> None:
    """Send the same again and again, as fast as the server takes it."""
    async with asyncio.timeout(60):
        for _ in range(times):
            socket.send(data)
            await socket.writer.drain()


def status_of(server: ServerProcess) -> str:
    """What Linux says of the process."""
    return Path(f"/proc/{server.process.pid}/status").read_text()


def memory_kib(server: ServerProcess) -> int:
    """The resident memory of the process."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status_of(server))[0])


def host_of(server: ServerProcess) -> str:
    """Host and port, as the `Host` header has them."""
    return urlsplit(server.url).netloc


# The opening handshake (4.2.1, 4.2.2).


class Opening(NamedTuple):
    """A handshake, what the RFC asks of the server, and the status with which it is answered."""

    name: str
    asks: str
    changes: dict[str, str | None]
    status: int
    method: str = "GET"
    version: str = "1.1"
    path: str = "/ws"


OPENINGS = (
    Opening("as it should be", "4.2.2: 101", {}, 101),
    Opening("names in other cases", "4.2.1: without case", {"Upgrade": "WebSocket", "Connection": "UPGRADE"}, 101),
    Opening("connection with more tokens", "4.2.1: includes the token", {"Connection": "keep-alive, Upgrade"}, 101),
    Opening("an extension that nobody knows", "9.1: ignored", {"Sec_WebSocket_Extensions": "x-unknown; a=1"}, 101),
    Opening("compression offered", "9.1: declined by silence", {"Sec_WebSocket_Extensions": "permessage-deflate"}, 101),
    Opening("a long header", "HTTP: within the limit", {"X_Long": "x" * 8_000}, 101),
    Opening("too long a header", "HTTP: 431", {"X_Long": "x" * 9_000}, 431),
    Opening("no key", "4.2.1: MUST; 400", {"Sec_WebSocket_Key": None}, 400),
    Opening("an empty key", "4.2.1: 16 bytes in base64", {"Sec_WebSocket_Key": ""}, 400),
    Opening("a short key", "4.2.1: 16 bytes in base64", {"Sec_WebSocket_Key": "YWJj"}, 400),
    Opening("a key that is no base64", "4.2.1", {"Sec_WebSocket_Key": "!" * 24}, 400),
    Opening("no version", "4.4: 426, or 400", {"Sec_WebSocket_Version": None}, 400),
    Opening("version 8", "4.4: 426 with the version that is spoken", {"Sec_WebSocket_Version": "8"}, 426),
    Opening("version 14", "4.4", {"Sec_WebSocket_Version": "14"}, 426),
    Opening("version that is no number", "4.4", {"Sec_WebSocket_Version": "new"}, 426),
    Opening("POST", "4.1: MUST be GET; 405", {}, 405, method="POST"),
    Opening("a body", "4.1: GET has none", {"Content_Length": "5"}, 400),
    Opening("no upgrade", "4.2.1: not a handshake; 405 over HTTP", {"Upgrade": None, "Connection": None}, 405),
    Opening("upgrade to something else", "4.2.1: not a handshake", {"Upgrade": "h2c"}, 405),
    Opening("connection without upgrade", "4.2.1: not a handshake", {"Connection": "keep-alive"}, 405),
    Opening("another path", "4.2.2: an HTTP error; the framework knows 403 alone", {}, 403, path="/nothing"),
    Opening("HTTP 1.0", "4.2.1: 1.1 or higher", {}, 400, version="1.0"),
)


@pytest.mark.parametrize("opening", OPENINGS, ids=[opening.name for opening in OPENINGS])
async def test_handshakes_are_answered_as_the_rfc_asks(server: ServerProcess, opening: Opening) -> None:
    """Each with a status; 426 says which version is spoken, and nothing is negotiated that was not agreed on."""
    async with tcp_to(server.url) as socket:
        sent = handshake(
            host_of(server), opening.path, method=opening.method, version=opening.version, **opening.changes
        )  # fmt: skip
        socket.send(sent)
        status, headers = await socket.read_head()
    assert opening.status == status, f"RFC 6455, {opening.asks}: {headers}"
    assert (ACCEPT if status == 101 else None) == headers.get("sec-websocket-accept")
    assert "sec-websocket-extensions" not in headers
    if status == 426:
        assert "13" == headers["sec-websocket-version"]


async def test_a_handshake_byte_by_byte_is_a_handshake(server: ServerProcess) -> None:
    """TCP has no messages."""
    async with tcp_to(server.url) as socket:
        await socket.send_in_pieces(handshake(host_of(server), Authorization=f"Bearer {server.token('slow')}"))
        status, _ = await socket.read_head()
        received = await socket.read_frame()
    assert (101, TEXT) == (status, received and received.opcode)


async def test_half_a_handshake_is_ended(server: ServerProcess) -> None:
    """A connection that never finishes its handshake is answered 408 after `TRACEWIRE_REQUEST_HEAD_SECONDS`."""
    async with tcp_to(server.url) as socket:
        socket.send(handshake(host_of(server))[:-4])
        status, _ = await socket.read_head()
        assert 408 == status
