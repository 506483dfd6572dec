"""What an attacker sends: frames and requests made from the schemas that the server itself publishes, and broken.

Everything follows from a seed and an index, so that what failed can be sent again. Nothing here knows the product.
"""

import json
from random import Random
from typing import Any, Final, NamedTuple

from support.raw_socket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

METHODS: Final = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
CLOSES_SENT: Final = (1000, 1001, 1003, 1008, 3000, 4999)
"""Codes that a hostile socket may close with, and gets back. None of them is one that only a broken server sends."""
LONG_TEXTS: Final = (200, 5_000, 60_000)
ODD_TEXTS: Final = (
    "", " ",
    "\x00", "\x7f", "\n", "\u202e", "\ufeff", "\ufffe", "\U0010ffff", "é" * 130, "Ω̴̡̢" * 20, "'; DROP TABLE runs; --",
    "../../../etc/passwd", "%s%n", "null", "__proto__", "${jndi:x}", "<script>", "\u2028", "a\r\nset-cookie: x",
)  # fmt: skip
ODD_NUMBERS: Final = ("0", "-1", "1e400", "-0.0", "9" * 25, "9" * 400, "1.5", "18446744073709551616",
                      "9007199254740993", "1e-400", "0x10", "NaN", "Infinity", "01", "+1", "2147483648")  # fmt: skip


class SocketAttack(NamedTuple):
    """One hostile socket. `user` is whose token it brings: a number, or what is none; `ends` says how it goes."""

    user: int | str | None
    headers: dict[str, str | None]
    pieces: list[bytes]
    frames: int
    ends: str


class HttpAttack(NamedTuple):
    """Requests for one connection, each with the method that tells whether its answer has a body; then what is none."""

    user: int | str | None
    requests: list[tuple[str, bytes]]
    rubbish: bytes


class Hostile:
    """Makes attacks.

    Args:
        frames: the server's `/schema/frames.json`.
        routes: its `/schema/openapi.json`.
        runs: ids of runs that the attackers own, or that somebody else does.
        users: how many users the attackers are.
    """

    def __init__(self, frames: dict[str, Any], routes: dict[str, Any], runs: list[str], users: int) -> None:
        definitions = frames["$defs"]
        names = [each["$ref"].rpartition("/")[2] for each in definitions["ClientFrame"]["oneOf"]]
        self._frames = [definitions[name] for name in names]
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in routes["paths"].items()
            for method, operation in methods.items()
        ]
        self._runs = runs
        self._users = users

    def attack(self, seed: str, index: int) -> SocketAttack | HttpAttack:
        """The attack of this seed and number, always the same."""
        rng = Random(f"{seed}:{index}")
        return self._http(rng) if rng.random() < 0.25 else self._socket(rng)

    def _user(self, rng: Random) -> int | str | None:
        kind = rng.random()
        if kind < 0.8:
            return rng.randrange(self._users)
        return None if kind < 0.9 else rng.choice(["x", "a.b.c", "e30.e30.", "ticket-x", "%", "é", "." * 500])

    # Sockets.

    def _socket(self, rng: Random) -> SocketAttack:
        headers: dict[str, str | None] = {}
        if rng.random() < 0.03:
            headers["Origin"] = rng.choice(["null", "https://evil.test", "http://[", "", "http://127.0.0.1:1"])
        count = rng.randint(4, 14)
        pieces = [self.hostile_frame(rng) for _ in range(count)]
        ends = rng.choice(["answered"] * 6 + ["closed", "cut", "half-closed"])
        if rng.random() < 0.2:
            pieces.append(violation(rng))
            ends = "violated"
        elif ends == "closed":
            pieces.append(close_frame(rng.choice(CLOSES_SENT), rng.choice([b"", b"bye", "ü".encode()])))
        if rng.random() < 0.5:
            whole = b"".join(pieces)
            at = rng.randrange(len(whole) + 1)
            pieces = [whole[:at], whole[at:]]
        return SocketAttack(self._user(rng), headers, pieces, count + (ends in ("closed", "violated")), ends)

    def hostile_frame(self, rng: Random) -> bytes:
        """One frame, or one message in fragments: the socket outlives it, but for a bounded number of such."""
        kind = rng.random()
        if kind < 0.04:
            return frame(rng.choice((PING, PONG)), rng.randbytes(rng.randint(0, 125)))
        if kind < 0.08:
            return frame(BINARY, rng.randbytes(rng.choice((0, 1, 30, 3_000))))
        payload = self.hostile_text(rng)
        if kind < 0.2:
            return fragments(rng, payload)
        return frame(TEXT, payload)

    def hostile_text(self, rng: Random) -> bytes:
        """The UTF-8 of one text message."""
        kind = rng.random()
        if kind < 0.06:
            return rng.randbytes(rng.randint(0, 60)).decode("latin-1").encode()
        if kind < 0.12:
            depth = rng.choice((2, 100, 1_000, 5_000, 20_000))
            inner, outer = rng.choice((("[", "]"), ('{"a":', "}")))
            body = inner * depth + "1" + outer * depth * rng.choice((1, 1, 0))
            return f'{{"type":"start_run","request_id":"r","agent":"none","input":{body[:60_000]}}}'.encode()
        text = self._object(rng)
        return mutate(rng, text) if rng.random() < 0.4 else text.encode("utf-8", "surrogatepass")

    def _object(self, rng: Random) -> str:
        """A frame of a type that there is, some of its fields not what they should be, as JSON text."""
        definition = rng.choice(self._frames)
        fields: list[tuple[str, str]] = []
        for name, schema in definition["properties"].items():
            required = name in definition["required"] or name == "type"
            if rng.random() < (0.06 if required else 0.5):
                continue
            fields.append((name, odd_json(rng) if rng.random() < 0.15 else self._value(rng, name, schema)))
        if rng.random() < 0.1:
            fields.append((rng.choice(["extra", "type", "run_id", ""]), odd_json(rng)))
        if rng.random() < 0.05 and fields:
            fields.append(rng.choice(fields))
        if rng.random() < 0.3:
            rng.shuffle(fields)
        return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields) + "}"

    def _value(self, rng: Random, name: str, schema: dict[str, Any]) -> str:
        """A value that the schema takes, mostly."""
        if "enum" in schema:
            return json.dumps(rng.choice(schema["enum"]))
        if name == "run_id" and rng.random() < 0.7:
            return json.dumps(rng.choice(self._runs))
        if name == "runs":
            ids = [rng.choice([*self._runs, odd_text(rng)]) for _ in range(rng.choice((0, 1, 3, 40)))]
            return "{" + ",".join(f"{json.dumps(run)}:{rng.choice(('0', '1', '7', '-1', '1e9'))}" for run in ids) + "}"
        if name == "agent" and rng.random() < 0.9:
            return json.dumps(odd_text(rng) or "none")  # so that few runs come of it: they are not what is tried here
        if schema.get("type") == "integer" or "anyOf" in schema:
            return rng.choice([*ODD_NUMBERS[:3], "1", "2", "null", "9007199254740992"])
        return json.dumps(odd_text(rng))

    # HTTP.

    def _http(self, rng: Random) -> HttpAttack:
        user = self._user(rng)
        requests = [self._request(rng) for _ in range(rng.randint(1, 8))]
        return HttpAttack(user, requests, http_rubbish(rng) if rng.random() < 0.3 else b"")

    def _request(self, rng: Random) -> tuple[str, bytes]:
        """A request whose framing holds; `{authorization}` stands where the token goes."""
        method, path, operation = rng.choice(self._operations)
        if rng.random() < 0.3:
            method = rng.choice(METHODS)
        path = path.replace("{run_id}", rng.choice(self._runs) if rng.random() < 0.5 else quoted(rng))
        if rng.random() < 0.1:
            path = rng.choice(ODD_PATHS).format(quoted(rng))
        names = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
        pairs = [
            f"{name}={rng.choice(ODD_NUMBERS) if rng.random() < 0.6 else quoted(rng)}"
            for name in [*names, "token"]
            if rng.random() < 0.5
        ]
        target = path + ("?" + "&".join(pairs) if pairs else "")
        body = b""
        if "requestBody" in operation or rng.random() < 0.1:
            body = rng.choice([b"", b"{}", b"[]", b"null", rng.randbytes(rng.randint(1, 200)), self.hostile_text(rng)])
            if rng.random() < 0.5:
                body = f'{{"input":{odd_json(rng)},"agent":{json.dumps(odd_text(rng) or "x")}}}'.encode(
                    "utf-8", "surrogatepass"
                )
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "{authorization}"]
        lines += [line for line in HTTP_HEADERS if rng.random() < 0.06]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        return method, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


ODD_PATHS: Final = ("/", "/ws", "/console/{}", "/client/{}", "/metrics", "//", "/runs/", "/{}", "/runs/../live",
                    "/%2e%2e/", "/console/sign-in")  # fmt: skip
HTTP_HEADERS: Final = (
    "Accept: text/event-stream", "Accept: */*;q=NaN", "Last-Event-ID: 1", "Last-Event-ID: -1", "Last-Event-ID: x",
    "Content-Type: text/plain", "Content-Type: application/json; charset=utf-7", "Content-Type: multipart/form-data",
    "Idempotency-Key: " + "k" * 129, "Idempotency-Key: \xff\xfe", "Cookie: a=b; =; ;;", "Origin: null",
    "Range: bytes=0-", "If-None-Match: *",
    "Accept-Encoding: gzip, br;q=0", "X-Forwarded-For: 1.2.3.4", "X-HTTP-Method-Override: DELETE",
    "traceparent: 00-0-0-0", "baggage: " + "a=b," * 200, "Content-Encoding: gzip", "Access-Control-Request-Method: GET",
)  # fmt: skip


def odd_text(rng: Random) -> str:
    """A text that somebody might stumble over."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(ODD_TEXTS)
    if kind < 0.45:
        return "x" * rng.choice(LONG_TEXTS)
    return "".join(rng.choices('ab-_{}[]"\\ é0', k=rng.randint(1, 20)))


def odd_json(rng: Random) -> str:
    """A JSON value of any kind, and some that are none."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(ODD_NUMBERS)
    if kind < 0.6:
        return json.dumps(odd_text(rng), ensure_ascii=rng.random() < 0.5)
    return rng.choice(
        [
            "null",
            "true",
            "false",
            "[]",
            "{}",
            '"\\ud800"',
            '"\\u0000"',
            "[[[[[1]]]]]",
            '{"a":{"a":1},"a":2}',
            "[1,",
            "tru",
        ]
    )


def quoted(rng: Random) -> str:
    """Part of a path or a query, as a request line takes it."""
    return rng.choice(
        ["%00", "%ff%fe", "..%2f..%2fetc", "a" * 300, "%C3%BC", "%", "%zz", "+", "~", "x%0d%0ay", "*", "0"]
    )


def mutate(rng: Random, text: str) -> bytes:
    """The text with something of it broken; still UTF-8."""
    at = rng.randrange(len(text) + 1)
    broken = rng.choice(
        [
            text[:at],
            text[:at] + text[at + 1 :],
            text[:at] + rng.choice(["\x00", "\\", '"', "{", "}", ",", "\u2028", "é"]) + text[at:],
            text + text,
            "\ufeff" + text,
            text.replace(":", "=", 1),
            text.replace('"', "'"),
            text.replace("}", ",}"),
            "/* */" + text,
            text.upper(),
            f"[{text}]",
            " " * rng.choice((1, 5_000)) + text,
        ]
    )
    return broken.encode("utf-8", "replace")


def fragments(rng: Random, payload: bytes) -> bytes:
    """The message in up to five fragments, with control frames between some."""
    cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randint(0, 4)))
    edges = [0, *cuts, len(payload)]
    made = b""
    for index, start in enumerate(edges[:-1]):
        last = index == len(edges) - 2
        made += frame(CONTINUATION if index else TEXT, payload[start : edges[index + 1]], fin=last)
        if not last and rng.random() < 0.3:
            made += frame(rng.choice((PING, PONG)), rng.randbytes(rng.randint(0, 125)))
    return made


def violation(rng: Random) -> bytes:
    """What no socket outlives."""
    junk = rng.randbytes(rng.randint(1, 60))
    return rng.choice(
        [
            frame(rng.choice((3, 7, 11, 15)), junk),
            frame(TEXT, junk, reserved=rng.randint(1, 7)),
            frame(TEXT, b"{}", masked=False),
            frame(PING, b"p" * 126),
            frame(PING, junk, fin=False),
            frame(CONTINUATION, junk),
            frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
            frame(TEXT, b"\xff\xfe" + junk),
            frame(TEXT, b"x" * 65_537),
            frame(TEXT, b"", length_bytes=8, declared=rng.choice((1 << 20, 1 << 40, 1 << 63, (1 << 64) - 1))),
            frame(CLOSE, b"\x03"),
            close_frame(rng.choice((0, 999, 1004, 1005, 1006, 1015, 2999, 5000))),
            close_frame(1000, b"\xff\xff"),
            b"\x00\x00" + junk,
            b"GET / HTTP/1.1\r\n\r\n",
        ]
    )


def http_rubbish(rng: Random) -> bytes:
    """What no HTTP server takes, or what never ends."""
    junk = rng.randbytes(rng.randint(1, 200))
    head = b"POST /runs HTTP/1.1\r\nHost: x\r\n"
    return rng.choice(
        [
            junk,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + junk,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /live HTTP/9.9\r\n\r\n",
            b"GET  /live HTTP/1.1\r\n\r\n",
            b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
            head + b"Content-Length: -1\r\n\r\n",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + junk,
            head + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
            head + b"Content-Length: 99999999999999999999\r\n\r\n",
            head + b"Content-Length: 100\r\n\r\n{",
            head + b"X: " + b"y" * 9_000 + b"\r\n\r\n",
            head + b"X-A: b\r\n" * 200 + b"\r\n",
            head + b"no colon\r\n\r\n",
            head + b"\xff: \xfe\r\n\r\n",
            head + b"X: a\r\n b\r\n\r\n",
            head + b"X: a\x00b\r\n\r\n",
            b"POST /recordings HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc",
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket, h2c\r\nConnection: upgrade\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
    )
