"""The deadlines of events and agents: as they are set, in seconds, and as the ledger counts them."""

from functools import cache
from typing import Final, NamedTuple

from msgspec import Struct

NS_PER_SECOND: Final = 1_000_000_000


class LinkDeadlines(Struct, frozen=True):
    """How long an event may take to each link, in seconds, from the later of the previous stamp and the moment
    at which a live socket carries the run.

    `silence_seconds` is how long a pinged socket may show no life, `heal_seconds` how long an incident waits for its
    events to come after all once its run has ended or its user's last socket has gone.
    """

    bridge_seconds: float = 1.0
    emitter_seconds: float = 2.0
    socket_seconds: float = 6.0
    client_seconds: float = 10.0
    silence_seconds: float = 5.0
    heal_seconds: float = 30.0


class EngineDeadlines(Struct, frozen=True):
    """How long, in seconds, an agent may take to `agent_started`, over its next event, and over a tool."""

    start_seconds: float = 5.0
    idle_seconds: float = 60.0
    tool_seconds: float = 60.0


class Limits(NamedTuple):
    """Both kinds of deadlines in nanoseconds. `step` is the shortest way of an event from any link to the next."""

    bridge: int
    emitter: int
    socket: int
    client: int
    silence: int
    heal: int
    start: int
    idle: int
    tool: int
    step: int


@cache
def limits_of(links: LinkDeadlines, engine: EngineDeadlines) -> Limits:
    """The deadlines as the ledger counts them."""
    seconds = (
        links.bridge_seconds, links.emitter_seconds, links.socket_seconds, links.client_seconds,
        links.silence_seconds, links.heal_seconds,
        engine.start_seconds, engine.idle_seconds, engine.tool_seconds,
    )  # fmt: skip
    nanoseconds = [int(value * NS_PER_SECOND) for value in seconds]
    return Limits._make((*nanoseconds, min(nanoseconds[:4])))
