"""One probe: a user of its own goes the whole way, through the real socket, and names the link that fails.

Enters: a server's URL and a token. Leaves: a `ProbeReport`. A run of the analyst on the sample recording emits all five
critical types; what arrives is held against its receipt, and the run's ledger, over HTTP, against all five links.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
from msgspec import Struct

from tracewire import timeline
from tracewire.client import Client, ClientError, ClientRun, ConnectionFailedError, RequestRejectedError
from tracewire_telemetry.vocabulary import CRITICAL_TYPES, LINKS, EventType, Link

INPUT: Final = {"question": "what is missing?", "recording_id": "sample"}
AGENT: Final = "analyst"
WITHIN_SECONDS: Final = 20.0
"""A run of the analyst on the sample takes a tenth of a second; a server that needs this long serves nobody."""
LEDGER_TIMEOUT_SECONDS: Final = 10.0
TITLES: Final = {
    Link.ENGINE: "the run is accepted, and its agent emits the five events",
    Link.BRIDGE: "they are sequenced",
    Link.EMITTER: "they are durable",
    Link.SOCKET: "they are written to the socket",
    Link.CLIENT: "they arrive in order and are acknowledged, and the receipt agrees",
}
_NAMED: Final = re.compile(r"\b(L[1-6]): ")
_LINK_OF_CHECK: Final = {
    "L1": Link.ENGINE,
    "L2": Link.ENGINE,
    "L3": Link.BRIDGE,
    "L4": Link.EMITTER,
    "L5": Link.EMITTER,
    "L6": Link.SOCKET,
}
_CHECK_OF_LINK: Final = {Link.EMITTER: "L5", Link.SOCKET: "L6", Link.CLIENT: "L6"}
"""Which wiring check a link's failure amounts to, where the server does not name one."""


class Broken(Struct, frozen=True):
    """What does not hold: the link, `None` where it is none of them, and the wiring check (L1 to L6) that it fails,
    where there is one.
    """

    link: Link | None
    why: str
    check: str | None = None

    def __str__(self) -> str:
        if self.link is None:
            return self.why
        where = self.link.value
        return f"{where} ({self.check}): {self.why}" if self.check else f"{where}: {self.why}"


class LinkCheck(Struct, frozen=True):
    """One link: whether it holds, or (`None`) was not reached behind the one that does not."""

    link: Link
    holds: bool | None
    message: str

    @property
    def line(self) -> str:
        """One line for people."""
        word = {True: "ok", False: "BROKEN", None: "--"}[self.holds]
        return f"{self.link.value:8}{word:6} {TITLES[self.link]}: {self.message}"


class ProbeReport(Struct, frozen=True):
    """What a probe found. No `links` where there was no connection to look at them over."""

    run_id: str | None
    broken: Broken | None
    links: tuple[LinkCheck, ...] = ()


class Went(Struct, frozen=True):
    """How a run went, as its client saw it; `trouble` is what kept it from its end."""

    order: Sequence[str]
    received: Mapping[str, int]
    receipt_agrees: bool
    receipt: Any
    ended_badly: str | None
    trouble: ClientError | str | None


async def probe(url: str, token: str, *, within_seconds: float = WITHIN_SECONDS) -> ProbeReport:
    """Go the whole way once. `url` is the socket's; nothing is raised for what a server does, or does not do."""
    until = asyncio.get_running_loop().time() + within_seconds
    client, seen = Client(url, token, reconnect=False), _Seen()
    try:
        async with asyncio.timeout_at(until):
            await client.__aenter__()
        await _see(client, seen, until)
    except ClientError as error:
        seen.trouble = error
    except TimeoutError:
        seen.trouble = f"no {'terminal event' if client.ready else 'ready'} within {within_seconds:g} s"
    run = seen.run
    if not client.ready:
        return ProbeReport(None, Broken(None, str(seen.trouble)))
    if run is None:
        broken = Broken(Link.ENGINE, _told(seen.trouble) or "no run was accepted")
        return ProbeReport(None, _named(broken), _checks(broken, None))
    ledger, unread = await _ledger(url, token, run.run_id)
    went = Went(seen.order, run.received, run.receipt_agrees, run.receipt, _bad_end(run), seen.trouble)
    found = judge(went, ledger) if ledger is not None else Broken(None, unread)
    return ProbeReport(run.run_id, _named(found) if found is not None else None, _checks(found, ledger))


class _Seen:
    def __init__(self) -> None:
        self.run: ClientRun | None = None
        self.order: list[str] = []
        self.trouble: ClientError | str | None = None


async def _see(client: Client, seen: _Seen, until: float) -> None:
    try:
        async with asyncio.timeout_at(until):
            seen.run = await client.start_run(INPUT, agent=AGENT)
            async for envelope in seen.run:
                seen.order.append(envelope.type.value)
    except asyncio.CancelledError:
        # Whoever probes has to go: the run that nobody watches any more need not go on.
        if seen.run is not None:
            with contextlib.suppress(ClientError):
                await seen.run.cancel()
        raise
    finally:
        await client.close()


async def _ledger(url: str, token: str, run_id: str) -> tuple[dict[str, Any] | None, str]:
    try:
        async with http_client(url, token, timeout_seconds=LEDGER_TIMEOUT_SECONDS) as http:
            found = await timeline.settled_ledger(http, run_id)
    except (httpx.HTTPError, ValueError) as error:
        return None, f"the ledger of run {run_id} could not be read: {str(error) or type(error).__name__}"
    return found, f"the server gives no ledger of run {run_id}"


def http_client(url: str, token: str, *, timeout_seconds: float) -> httpx.AsyncClient:
    """HTTP of the server whose socket's URL this is, signed in by the token."""
    base = url.replace("ws", "http", 1).rsplit("/", 1)[0]
    headers = {"Authorization": f"Bearer {token}"}
    # Certificates are read where they are needed alone: that takes tens of milliseconds of the loop.
    return httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout_seconds, verify=base.startswith("https"))


def judge(went: Went, ledger: Mapping[str, Any]) -> Broken | None:
    """The first link that does not hold, by what the client saw and what the ledger says; `None`: all of them do.

    Pure. What was not joined lets nothing through, and the server says which joint it was; else the first link in the
    chain's order that has not taken an event is the one at which it was lost.
    """
    rows: Sequence[Mapping[str, Any]] = ledger["events"]
    if went.ended_badly is not None and (ledger["waiting"] == [] or _NAMED.search(went.ended_badly)):
        return Broken(Link.ENGINE, went.ended_badly)
    also = f" ({_told(went.trouble)})" if went.trouble is not None else ""
    if ledger["waiting"]:
        also = f" ({went.ended_badly})" if went.ended_badly is not None else also
        return Broken(Link.BRIDGE, f"{', '.join(ledger['waiting'])} emitted and not sequenced{also}")
    for link in LINKS:
        lost = next((row for row in rows if row[link.value] is None), None)
        if lost is not None:
            crossed = sum(row[link.value] is not None for row in rows)
            return Broken(
                link, f"{lost['type']} (seq {lost['seq']}) has not crossed it; {crossed} of {len(rows)} have{also}"
            )
    emitted = {row["type"] for row in rows}
    for event_type in CRITICAL_TYPES:
        if event_type.value not in emitted:
            return Broken(Link.ENGINE, f"the agent emitted no {event_type.value}{also}")
        if not went.received.get(event_type.value):
            return Broken(Link.CLIENT, f"{event_type.value} did not arrive{also}")
    if went.trouble is not None:
        return Broken(Link.CLIENT, _told(went.trouble))
    if (went.order[0], went.order[-1]) != (EventType.AGENT_STARTED.value, EventType.AGENT_COMPLETED.value):
        return Broken(Link.BRIDGE, f"the first event is {went.order[0]}, the last {went.order[-1]}")
    if not went.receipt_agrees:
        return Broken(Link.CLIENT, f"the receipt says {went.receipt}, there came {dict(went.received)}")
    if ledger["missing"]:
        late = ledger["missing"][0]
        return Broken(Link(late["link"]), f"{late['event_type']} was missing there, and came after its deadline")
    if not ledger["settled"]:
        return Broken(Link.CLIENT, "the run is not settled, though each event is acknowledged")
    return None


def _bad_end(run: ClientRun) -> str | None:
    terminal = run.terminal
    if terminal is None or terminal.type is EventType.AGENT_COMPLETED:
        return None
    said = terminal.data.get("message") or terminal.data.get("reason")
    return f"the run ended with {terminal.type.value}, {terminal.data.get('code', 'no code')}: {said}"


def _told(trouble: ClientError | str | None) -> str:
    if isinstance(trouble, RequestRejectedError):
        return f"refused, {trouble.code}: {trouble}"
    if isinstance(trouble, ConnectionFailedError):
        return f"the connection was lost: {trouble}"
    return str(trouble or "")


def _named(broken: Broken) -> Broken:
    """With the wiring check: the one that the server names, else the one that the link stands for."""
    found = _NAMED.search(broken.why)
    if found:
        return Broken(_LINK_OF_CHECK[found[1]], broken.why, found[1])
    return Broken(broken.link, broken.why, _CHECK_OF_LINK.get(broken.link)) if broken.link else broken


def _checks(broken: Broken | None, ledger: Mapping[str, Any] | None) -> tuple[LinkCheck, ...]:
    if broken is not None and broken.link is None:
        return ()
    at = _named(broken).link if broken is not None else None
    rows: Sequence[Mapping[str, Any]] = ledger["events"] if ledger is not None else ()
    reached, checks = True, list[LinkCheck]()
    for link in LINKS:
        if link is at and broken is not None:
            checks.append(LinkCheck(link, False, broken.why))
            reached = False
        elif reached:
            crossed = sum(row[link.value] is not None for row in rows)
            checks.append(LinkCheck(link, True, f"{crossed} of {len(rows)} events"))
        else:
            checks.append(LinkCheck(link, None, f"not reached ({at.value if at else ''})"))
    return tuple(checks)
