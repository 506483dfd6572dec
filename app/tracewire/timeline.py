"""A run as a terminal shows it: its events as they come, then the time that each took at each link."""

import asyncio
import itertools
import json
import time
from typing import Any, Final

import httpx

from tracewire.client import ClientRun
from tracewire.events import ReceivedEnvelope
from tracewire_telemetry.vocabulary import EventType

WIDTH: Final = 96
LEDGER_SECONDS: Final = 3.0
_HEADER: Final = (
    f"{'seq':>4}  {'type':<16}{'engine→bridge':>14}{'→ emitter':>12}{'→ socket':>12}{'→ acked':>12}{'in all':>12}"
)


def event_line(envelope: ReceivedEnvelope, started_seconds: float, now_seconds: float) -> str:
    """One event under its wire type's name, with the seconds since the question."""
    return _cut(f"  {now_seconds - started_seconds:7.3f} s  {envelope.type.value:<16}  {_said(envelope)}")


def answer_text(envelope: ReceivedEnvelope) -> str:
    """What the run came to, in full."""
    data = envelope.data
    if envelope.type is EventType.AGENT_COMPLETED:
        output = data["output"]
        return _printable(output if isinstance(output, str) else json.dumps(output, indent=2, ensure_ascii=False))
    if envelope.type is EventType.AGENT_ERROR:
        return _printable(f"The run failed ({data['code']}): {data['message']}")
    return _printable(f"The run was cancelled: {data['reason']}")


def receipt_line(run: ClientRun) -> str:
    """Whether client and server agree."""
    if run.receipt_agrees:
        return f"receipt: {run.last_seq} events sent, {run.last_seq} received; it agrees"
    sent = run.receipt.counts if run.receipt else {}
    return f"receipt: DISAGREES; sent {sent}, received {dict(run.received)}"


def link_lines(ledger: dict[str, Any]) -> list[str]:
    """The milliseconds that each event took to each link; contiguous deltas as one line."""
    lines = ["milliseconds to each link", _HEADER]
    rows = ledger["events"]
    index = 0
    while index < len(rows):
        last = index
        while rows[index]["type"] == "agent_delta" and last + 1 < len(rows) and rows[last + 1]["type"] == "agent_delta":
            last += 1
        lines.append(_row(rows[index], rows[last]))
        index = last + 1
    if ledger["missing"]:
        lines += [f"MISSING at {lost['link']}: {lost['event_type']} {lost['seq'] or ''}" for lost in ledger["missing"]]
    return lines


def _row(first: dict[str, Any], last: dict[str, Any]) -> str:
    stations = ("engine", "bridge", "emitter", "socket", "client")
    cells = []
    for before, after in itertools.pairwise(stations):
        cells.append(_difference(last[before], last[after]))
    seq = f"{first['seq']}" if first is last else f"{first['seq']}-{last['seq']}"
    bridge, emitter, socket, client = cells
    whole = _difference(last["engine"], last["client"])
    return f"{seq:>4}  {first['type']:<16}{bridge:>14}{emitter:>12}{socket:>12}{client:>12}{whole:>12}"


def _difference(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{after - before:.3f}"


def _said(envelope: ReceivedEnvelope) -> str:
    data = envelope.data
    match envelope.type:
        case EventType.AGENT_STARTED:
            return str(data["message"])
        case EventType.AGENT_THINKING | EventType.AGENT_DELTA:
            return " ".join(str(data["text"]).split())
        case EventType.TOOL_EXECUTING:
            return f"{data['tool_name']} {_brief(data['arguments'])}"
        case EventType.TOOL_COMPLETED:
            detail = data.get("error") or _brief(data["result"])
            return f"{data['tool_name']} {data['status']}, {data['duration_ms']:.1f} ms  {detail}"
        case EventType.INPUT_REQUIRED:
            return f"{data['kind']}: {data['prompt']}"
        case EventType.AGENT_COMPLETED:
            return f"{data['duration_ms']:.1f} ms"
        case EventType.AGENT_ERROR:
            return f"{data['code']}: {data['message']}"
        case EventType.AGENT_CANCELLED:
            return str(data["reason"])


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _printable(text: str) -> str:
    """The text without what a terminal would obey: events hold what agents and strangers wrote."""
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def _cut(line: str) -> str:
    line = _printable(line)
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


async def settled_ledger(http: httpx.AsyncClient, run_id: str) -> dict[str, Any] | None:
    """The run's ledger once its acks have come in; as it stands where they do not."""
    deadline = time.monotonic() + LEDGER_SECONDS
    found: dict[str, Any] | None = None
    while time.monotonic() < deadline:
        response = await http.get(f"/runs/{run_id}/ledger")
        if response.status_code == 200:
            found = response.json()
            if found and found["settled"]:
                return found
        await asyncio.sleep(0.02)
    return found
