"""What must hold of every schedule: while it runs (`Written`), and at its end."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from simulation.devices import EVENT_NAMES, Sighting
from simulation.incidents import Truth
from simulation.memory_log import Disk, StoredRun
from simulation.network import Wire
from tracewire.bridge.contract import RunContract
from tracewire.events import ReceivedEnvelope, decode_envelope
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.verdicts import IN_TIME_NS, count_verdicts
from tracewire_telemetry.vocabulary import NEXT, TERMINAL_TYPES, EventType, Link, Verdict


class _Peek(Struct):
    type: str
    run_id: str = ""
    seq: int = 0
    first_seq: int | UnsetType = UNSET
    from_seq: int = 0
    recovered: bool = False


_peek = msgspec.json.Decoder(_Peek)


class Written:
    """Looks at every frame as it is written to a socket: it is durable, its user's, and next in its run's order."""

    def __init__(self, disk: Disk, truth: Truth) -> None:
        self._disk = disk
        self._truth = truth
        self._next: dict[tuple[int, str], int] = {}
        self.newest: dict[str, int] = {}

    def look(self, wire: Wire, body: bytes) -> Iterator[str]:
        """What is wrong with this frame."""
        for line in body.split(b"\n"):
            frame = _peek.decode(line)
            key = (wire.number, frame.run_id)
            if frame.type == "resumed" and frame.recovered:
                self._next[key] = frame.from_seq
            elif frame.type == "run_accepted":
                self._next.setdefault(key, 1)
            elif frame.type in EVENT_NAMES:
                yield from self._event(wire, frame, line)

    def _event(self, wire: Wire, frame: _Peek, line: bytes) -> Iterator[str]:
        said = f"socket {wire.number} of {wire.user_id} was sent {frame.type} {frame.seq} of run {frame.run_id}"
        run = self._disk.runs.get(frame.run_id)
        if run is None or not self._disk.holds(frame.run_id, frame.seq):
            yield f"{said}, which the log does not hold"
            return
        if run.record.user_id != wire.user_id:
            yield f"{said}, which is {run.record.user_id}'s"
        key = (wire.number, frame.run_id)
        first = frame.seq if frame.first_seq is UNSET else frame.first_seq
        expected = self._next.get(key)
        # Who asks again for a run that it has followed gets it again, from the first event on.
        if first not in (expected, 1):
            yield f"{said}, and {expected} is next there"
        self._next[key] = frame.seq + 1
        self._truth.written(frame.run_id, first, frame.seq)
        self.newest[frame.run_id] = max(self.newest.get(frame.run_id, 0), frame.seq)
        if frame.first_seq is UNSET and run.bodies[frame.seq - 1] != line:
            yield f"{said}, which is not what the log holds"

    def look_at_ack(self, run_id: str, seq: int) -> Iterator[str]:
        """What is wrong with this ack, as it is kept."""
        if seq > self.newest.get(run_id, 0):
            yield f"an ack of {seq} is kept for run {run_id}, of which {self.newest.get(run_id, 0)} were sent"


def problems_of_run(run: StoredRun) -> Iterator[str]:
    """What is wrong with a run as the log holds it."""
    run_id, contract = run.record.run_id, RunContract()
    envelopes = [decode_envelope(body) for body in run.bodies]
    for seq, envelope in enumerate(envelopes, start=1):
        call = envelope.data.get("tool_call_id")
        violation = contract.check(envelope.type, call)
        if violation is not None:
            yield f"run {run_id}: seq {seq}: {violation.message}"
        contract.apply(envelope.type, call, envelope.data.get("tool_name", ""))
        if (envelope.run_id, envelope.seq) != (run_id, seq):
            yield f"run {run_id}: the log holds {envelope.run_id}/{envelope.seq} as {seq}"
    if contract.open_tools:
        yield f"run {run_id}: {sorted(contract.open_tools)} were never completed"
    terminal = [envelope for envelope in envelopes if envelope.type in TERMINAL_TYPES]
    if len(terminal) != 1 or envelopes[-1] is not terminal[0] or run.outcome is None:
        ends = [f"{envelope.seq} {envelope.type.value}" for envelope in terminal]
        yield f"run {run_id}: of {len(envelopes)} events terminal are {ends}, the outcome is {run.outcome}"
        return
    receipt = terminal[0].data["receipt"]
    counts = Counter(envelope.type.value for envelope in envelopes)
    if receipt != {"last_seq": len(envelopes), "counts": dict(counts)}:
        yield f"run {run_id}: the receipt says {receipt}, the log holds {dict(counts)}"
    if run.acked > len(run.bodies):
        yield f"run {run_id}: {run.acked} are acked of {len(run.bodies)}"


def problems_of_sighting(seen: Sighting, disk: Disk, *, last_life: bool) -> Iterator[str]:
    """What is wrong with what a caller saw."""
    run = disk.runs.get(seen.run_id)
    said = f"{seen.life}: run {seen.run_id}"
    if run is None:
        yield f"{said} is not in the log"
        return
    if run.record.user_id != seen.user_id:
        yield f"{said} is {run.record.user_id}'s"
    expected = 1
    for envelope in seen.envelopes:
        first = envelope.seq if envelope.first_seq is UNSET else envelope.first_seq
        if first != expected:
            yield f"{said}: {first} came where {expected} is next"
        expected = envelope.seq + 1
        if envelope.seq > len(run.bodies):
            yield f"{said}: seq {envelope.seq} was seen, the log ends at {len(run.bodies)}"
        elif not _same(envelope, first, run):
            yield f"{said}: seq {envelope.seq} was seen as another event than the log holds"
    if last_life and expected != len(run.bodies) + 1:
        yield f"{said}: seen up to {expected - 1}, the log holds {len(run.bodies)}"


def _same(envelope: ReceivedEnvelope, first: int, run: StoredRun) -> bool:
    originals = [decode_envelope(body) for body in run.bodies[first - 1 : envelope.seq]]
    if len(originals) == 1:
        return originals[0] == envelope
    text = "".join(original.data["text"] for original in originals)
    deltas = all(original.type is EventType.AGENT_DELTA for original in originals)
    return deltas and envelope.data["text"] == text


def problems_of_ledger(ledger: RunLedger, *, calm: bool) -> Iterator[str]:
    """What is wrong with a run's ledger. `calm`: nothing was done to the run, so nothing may be missing or late."""
    said = f"ledger of run {ledger.identity.run_id}"
    columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
    if {len(column) for column in columns} != {len(ledger.types)}:
        yield f"{said}: its columns have {[len(column) for column in columns]} stamps of {len(ledger.types)} events"
        return
    if not ledger.acked <= ledger.committed_count <= len(ledger.types):
        yield f"{said}: {ledger.acked} acked, {ledger.committed_count} committed, {len(ledger.types)} sequenced"
    for seq, stamps in enumerate(zip(*columns, strict=True), start=1):
        given = [stamp for stamp in stamps if stamp]
        if not stamps[0] or given != sorted(given):
            yield f"{said}: the stamps of {seq} do not rise: {stamps}"
        if bool(stamps[4]) != (seq <= ledger.acked):
            yield f"{said}: {seq} has the ack's stamp {stamps[4]}, acked are {ledger.acked}"
    # A terminal event waits at the bridge for the tools that it closes: they leave the engine's hands after it.
    rising = (columns[0][:-1], columns[1], columns[2])
    if any(column[i] < column[i - 1] for column in rising for i in range(1, len(column)) if column[i]):
        yield f"{said}: a later event crossed a link before an earlier one"
    for missing in ledger.missing:
        if missing.seq is None or missing.link is Link.ENGINE:
            continue
        stamp = columns[list(Link).index(missing.link)][missing.seq - 1]
        if stamp and stamp < missing.at_ns:
            yield f"{said}: {missing.seq} is missing at {missing.link.value}, which took it in time"
    yield from _problems_of_verdicts(ledger, said, calm=calm)


def _problems_of_verdicts(ledger: RunLedger, said: str, *, calm: bool) -> Iterator[str]:
    if not ledger.settled_ns:
        yield f"{said} is not settled"
        return
    verdicts = count_verdicts(ledger)
    owed = sum(not ledger.is_delta(seq) for seq in range(1, ledger.last_seq + 1))
    owed += sum(lost.seq is None and lost.event_type not in (EventType.AGENT_DELTA, NEXT) for lost in ledger.missing)
    if sum(verdicts.values()) != owed:
        yield f"{said}: {dict(verdicts)} are {sum(verdicts.values())} verdicts on {owed} events"
    in_time = sum(
        bool(acked) and acked - emitted <= IN_TIME_NS and not ledger.is_delta(seq)
        for seq, (emitted, acked) in enumerate(zip(ledger.engine, ledger.client, strict=True), start=1)
    )
    told = sum(count for (_, verdict), count in verdicts.items() if verdict is Verdict.IN_TIME)
    if told > in_time:
        yield f"{said}: {told} events are called in time, {in_time} were acked so"
    if calm and (ledger.missing or told != owed):
        yield f"{said}: nothing was done to it, yet {ledger.missing} are missing and the verdicts are {dict(verdicts)}"


def problems_of_counts(counts: list[int], ledgers: list[RunLedger], *, refused: bool) -> Iterator[str]:
    """What is wrong with the counters of one server's life: each event counts once a link that it crossed. One that
    the log `refused` has crossed engine and bridge, if a scrape came by, and is in no ledger.
    """
    columns: list[Any] = [[], [], [], [], []]
    for ledger in ledgers:
        for index, column in enumerate((ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)):
            columns[index].extend(column)
    crossed = [sum(map(bool, column)) for column in columns]
    exact = 2 if refused else 0
    if crossed[exact:] != counts[exact:] or any(a > b for a, b in zip(crossed[:exact], counts, strict=False)):
        yield f"the counters have {counts} events a link, the ledgers {crossed}"
