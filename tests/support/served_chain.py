"""A server process seen from outside: its socket, its HTTP, its log lines, and the traces that it exports.

Nothing of it is reached into. Which link broke is what the server itself says, to the user in `agent_error` or to the
operator in its log; where it says nothing, the event was lost where payloads and trace show it missing.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from support.auth import E2EAuthHelper
from support.chain_checks import (
    WITHIN_SECONDS,
    Finding,
    joint,
    payload_findings,
    trace_findings,
    traceparents,
)
from support.servers import ServerProcess
from support.wire import Frame, Wire, wire_to
from tracewire_telemetry.testing.recorder import OtlpReceiver
from tracewire_telemetry.testing.spans import RecordedSpan, RecordedTrace

TESTS: Final = Path(__file__).parents[1]
QUICK: Final = {
    "TRACEWIRE_OUTBOX_AGE_SECONDS": "1",
    "TRACEWIRE_EMITTER_DEADLINE_SECONDS": "30",
    "TRACEWIRE_SOCKET_DEADLINE_SECONDS": "1.2",
    "TRACEWIRE_CLIENT_DEADLINE_SECONDS": "1",
    "TRACEWIRE_HEAL_DEADLINE_SECONDS": "0",
}
"""For a server that delivers nothing: an event counts as missing a second after it was due at a socket or a client."""
_NAMED: Final = re.compile(r"\b(L[1-6]): ")


class ServedRun(Struct, frozen=True):
    """One run as it looked from outside. Times are monotonic seconds of this process.

    `first_event` is `None` where no event came. `trace` holds no span where none was exported.
    """

    user_id: str
    run_id: str
    input_value: Any
    asked: float
    first_event: float | None
    ended: float
    received: list[Frame]
    trace: RecordedTrace
    findings: list[Finding]


class ServedChain:
    """The server process, the receiver of its traces, and the issuer of its users' tokens."""

    def __init__(self, process: ServerProcess, receiver: OtlpReceiver, auth: E2EAuthHelper) -> None:
        self.process = process
        self.receiver = receiver
        self.auth = auth

    @asynccontextmanager
    async def signed_in(self, user_id: str) -> AsyncIterator[Wire]:
        """A ready socket of this user."""
        with joint("L6"):
            socket = wire_to(self.process.ws_url, self.auth.token(user_id))
            wire = await socket.__aenter__()
        try:
            yield wire
        finally:
            await socket.__aexit__(None, None, None)

    async def run(
        self, wire: Wire, user_id: str, input_value: Any, *, agent: str, within_seconds: float = WITHIN_SECONDS
    ) -> ServedRun:
        """Start a run on the socket, receive and ack it to its end, and hold it against what must be."""
        asked = time.monotonic()
        with joint("L6"):
            async with asyncio.timeout(within_seconds):
                run_id = await wire.start_run(input_value, agent=agent)
        return await self.follow(wire, user_id, run_id, input_value, asked=asked, within_seconds=within_seconds)

    async def follow(
        self, wire: Wire, user_id: str, run_id: str, input_value: Any, *, asked: float, within_seconds: float
    ) -> ServedRun:
        """Receive and ack an accepted run to its end, and hold it against what must be."""
        findings: list[Finding] = []
        first_event: float | None = None
        try:
            async with asyncio.timeout(within_seconds):
                if not wire.events(run_id):
                    await wire.receive_where(lambda frame: frame.get("run_id") == run_id and "seq" in frame)
                first_event = time.monotonic()
                await wire.receive_run(run_id)
        except TimeoutError:
            findings.append(Finding("L6", "payload", f"no terminal event on the socket within {within_seconds:g} s"))
        except ConnectionClosed as error:
            findings.append(Finding("L6", "payload", f"the server closed the socket: {error}"))
        ended, received = time.monotonic(), wire.events(run_id)
        if processed := without_gap(received):
            with suppress(ConnectionClosed):  # said above
                await wire.ack(run_id, processed)
        trace = await asyncio.to_thread(self._trace, run_id)
        durable, acked_seq = await self.read_back(user_id, run_id)
        findings += payload_findings(durable, user_id, run_id, "L5", input_value=input_value)
        findings += payload_findings(received, user_id, run_id, "L6", input_value=input_value)
        if acked_seq != len(durable):
            findings.append(Finding("L6", "payload", f"of {len(durable)} events {acked_seq} are acknowledged"))
        findings += trace_findings(trace, user_id, run_id, sockets=1, traceparents=unflagged(traceparents(durable)))
        named = self.link_named_for(run_id, received)
        if named is not None:
            # What is not joined lets nothing through: all that is missing behind it is missing because of it.
            findings = [msgspec.structs.replace(finding, check=named) for finding in findings]
        return ServedRun(user_id, run_id, input_value, asked, first_event, ended, received, trace, findings)

    def _trace(self, run_id: str) -> RecordedTrace:
        try:
            return self.receiver.wait_for_run(run_id)
        except AssertionError:
            return self.receiver.trace_of_run(run_id)

    async def read_back(self, user_id: str, run_id: str) -> tuple[list[Frame], int]:
        """The run's envelopes as its user reads them over HTTP, and up to which seq they are acknowledged."""
        headers = {"Authorization": f"Bearer {self.auth.token(user_id)}"}
        async with httpx.AsyncClient(base_url=self.process.url, headers=headers, timeout=30) as http:
            events, run = await asyncio.gather(http.get(f"/runs/{run_id}/events"), http.get(f"/runs/{run_id}"))
        return events.raise_for_status().json()["events"], run.raise_for_status().json()["acked_seq"]

    def link_named_for(self, run_id: str, received: Iterable[Frame]) -> str | None:
        """The broken link that the server names for this run: in its `agent_error`, or in its log."""
        said = [event["data"]["message"] for event in received if event["type"] == "agent_error"]
        said += [line["error"] for line in self.process.log_records("run_not_wired") if line["run_id"] == run_id]
        named = (_NAMED.search(message) for message in said)
        return next((found[1] for found in named if found), None)

    def span(self, trace_id: str, span_id: str) -> RecordedSpan | None:
        """Any span that was exported, by its ids."""
        exported = self.receiver.spans
        return next((span for span in exported if (span.trace_id, span.span_id) == (trace_id, span_id)), None)


@asynccontextmanager
async def served_chain(
    folder: Path, *, auth: E2EAuthHelper | None = None, fault: str | None = None, **environ: str
) -> AsyncIterator[ServedChain]:
    """`tracewire serve` with the agents of these suites, sign-in by the issuer, and its traces received.

    `fault` names the link that is broken in it, or the fault in full (`support.faulty_server`).
    """
    issuer = auth or E2EAuthHelper.by_secret()
    program = ("-m", "support.faulty_server", "--fault", fault) if fault else ("-m", "tracewire.cli")
    with OtlpReceiver() as receiver:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "TRACEWIRE_DRAIN_GRACE_SECONDS": "0",
            **issuer.environ,
            **(QUICK if fault is not None and fault.startswith("L6") else {}),
            **environ,
        }
        agents = [part for name in ("five", "withholds") for part in ("--agent", f"support.agents:{name}")]
        process = ServerProcess(folder / "data", *agents, environ=variables, cwd=TESTS, program=program)
        await asyncio.to_thread(process.__enter__)
        try:
            yield ServedChain(process, receiver, issuer)
        finally:
            await asyncio.to_thread(process.__exit__)


def unflagged(contexts: Iterable[str]) -> list[str]:
    """These trace contexts as they can be read off exported spans: Python's OTLP exporter leaves the flags out."""
    return [f"{context.rpartition('-')[0]}-00" for context in contexts]


def without_gap(events: Sequence[Frame]) -> int:
    """The newest seq up to which all events came, in order: what an honest client acks."""
    processed = 0
    for event in events:
        if event["seq"] == processed + 1:
            processed += 1
    return processed
