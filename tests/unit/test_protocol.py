"""The handshake: which subprotocol, whose token, which origin; and how many bad frames are too many."""

import pytest

from tracewire.gateway.protocol import BadFrames, choose_subprotocol, find_token, origin_allowed

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["tracewire.v1"], "tracewire.v1"),
        (["tracewire.v1.lines"], "tracewire.v1.lines"),
        (["tracewire.v1.lines", "tracewire.v1"], "tracewire.v1.lines"),
        (["tracewire.v1", "tracewire.v1.lines"], "tracewire.v1"),
        (["bearer.abc", "tracewire.v1"], "tracewire.v1"),
        (["bearer.tracewire.v1"], None),
        (["graphql-ws", "Tracewire.V1", "tracewire.v2"], None),
    ],
)
def test_the_first_subprotocol_of_ours_that_is_offered_is_chosen(offered: list[str], chosen: str | None) -> None:
    """A token is never echoed; another's protocol is left alone."""
    assert chosen == choose_subprotocol(offered)


@pytest.mark.parametrize(
    ("authorization", "offered", "token"),
    [
        (None, [], None),
        ("Bearer abc", [], "abc"),
        ("bearer abc", [], "abc"),
        ("BEARER  abc ", [], "abc"),
        (None, ["tracewire.v1", "bearer.abc"], "abc"),
        ("Bearer header", ["bearer.offered"], "header"),
        ("Basic abc", ["bearer.offered"], "offered"),
        ("Bearer", ["bearer.offered"], "offered"),
        ("Bearer ", [], None),
        ("abc", [], None),
        ("", [], None),
        (None, ["bearer.a.b.c"], "a.b.c"),
        (None, ["Bearer.abc"], None),
    ],
)
def test_the_token_is_that_of_the_header_else_that_of_a_subprotocol(
    authorization: str | None, offered: list[str], token: str | None
) -> None:
    """A scheme that is not `Bearer` brings none."""
    assert token == find_token(authorization, offered)


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "development", "expected"),
    [
        (None, "api.example.org", [], False, True),
        ("https://app.example.org", "api.example.org", [], False, False),
        ("https://app.example.org", "api.example.org", ["https://app.example.org"], False, True),
        ("https://app.example.org:8443", "api.example.org", ["https://app.example.org"], False, False),
        ("http://app.example.org", "api.example.org", ["https://app.example.org"], False, False),
        ("https://api.example.org", "api.example.org", [], False, True),
        ("https://API.example.org", "api.EXAMPLE.org", [], False, True),
        ("https://api.example.org:8443", "api.example.org", [], False, False),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", [], False, True),
        ("http://localhost:5173", "127.0.0.1:8000", [], True, True),
        ("http://127.0.0.1:5173", "127.0.0.1:8000", [], True, True),
        ("http://[::1]:5173", "127.0.0.1:8000", [], True, True),
        ("http://localhost:5173", "127.0.0.1:8000", [], False, False),
        ("http://localhost.evil.example", "127.0.0.1:8000", [], True, False),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8000", [], True, False),
        ("http://evil.example", "127.0.0.1:8000", [], True, False),
        ("null", "127.0.0.1:8000", [], True, False),
        ("", "127.0.0.1:8000", [], True, False),
        ("file://", "127.0.0.1:8000", [], True, False),
        ("chrome-extension://abc", "abc", [], True, False),
        ("https://api.example.org", None, [], False, False),
        ("https://user@api.example.org", "api.example.org", [], False, False),
        ("http://localhost@evil.example", "127.0.0.1:8000", [], True, False),
        ("http://[::1", "127.0.0.1:8000", [], True, False),
        ("http://[not-an-address]/", "127.0.0.1:8000", [], True, False),
    ],
)
def test_an_origin_connects_only_where_it_is_known(
    origin: str | None, host: str | None, allowed: list[str], development: bool, expected: bool
) -> None:
    """None (no browser), on the list, the same host, or in development this machine: nothing that merely looks so."""
    assert expected is origin_allowed(origin, host, allowed, development=development)


def test_one_bad_frame_more_than_the_limit_within_a_minute_is_too_many() -> None:
    """Ten are forgiven, the eleventh is not."""
    bad = BadFrames(10)
    assert [bad.count(second * SECOND_NS) for second in range(11)] == [False] * 10 + [True]


def test_bad_frames_of_more_than_a_minute_ago_are_forgotten() -> None:
    """Ten every minute go on for ever; a minute is a sliding one."""
    bad = BadFrames(10)
    for minute in range(5):
        for number in range(10):
            assert not bad.count(minute * 61 * SECOND_NS + number)
    assert not bad.count(5 * 61 * SECOND_NS)
    bad = BadFrames(1)
    assert [bad.count(0), bad.count(60 * SECOND_NS), bad.count(121 * SECOND_NS)] == [False, True, False]


def test_a_limit_of_none_forgives_nothing() -> None:
    """The first bad frame closes the socket."""
    assert BadFrames(0).count(0)
