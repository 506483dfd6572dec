"""What must hold of incidents, by what the network and the disk know of each event; the ledger is not asked alone.

An event is declared missing only where its link had not taken it by its deadline, and all before it had; a client is
asked to come back only because of such an event; a socket is taken for dead only after silence; and each incident ends.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from simulation.memory_log import Disk
from simulation.network import Wire
from simulation.virtual_loop import VirtualLoop
from tracewire_telemetry.incidents import Incident, Incidents, RunIncidents
from tracewire_telemetry.ledger import NS_PER_SECOND, Missing, RunLedger
from tracewire_telemetry.limits import LinkDeadlines
from tracewire_telemetry.vocabulary import IncidentState, Link

if TYPE_CHECKING:
    from simulation.server import KeepingWatch

DEADLINES = (
    LinkDeadlines(
        bridge_seconds=0.5,
        emitter_seconds=1.0,
        socket_seconds=1.5,
        client_seconds=2.0,
        silence_seconds=0.5,
        heal_seconds=3.0,
    ),
    LinkDeadlines(
        bridge_seconds=0.1,
        emitter_seconds=0.05,
        socket_seconds=0.9,
        client_seconds=0.6,
        silence_seconds=0.3,
        heal_seconds=1.5,
    ),
)
"""Wide ones, and ones that the faults break. Neither is broken where nothing is done to a run."""
LOOK_NS = 350_000_000
"""After so long at most what is overdue has been looked at: a tick, and what it waits for."""
HANDLING_NS = 100_000_000
"""An ack that came in this long ago is handled: a session reads the log first."""


class _Acks(Struct):
    type: str
    run_id: str = ""
    seq: int = 0
    count: int | UnsetType = UNSET
    runs: dict[str, int] | UnsetType = UNSET


_acks = msgspec.json.Decoder(_Acks)


class Truth:
    """What has happened to each event, as seen from outside of the server."""

    def __init__(self, loop: VirtualLoop, disk: Disk, wires: list[Wire], say_wrong: Callable[[str], None]) -> None:
        self.loop = loop
        self.disk = disk
        self.wires = wires
        self.say_wrong = say_wrong
        self.declared = 0
        self._acks: dict[str, list[tuple[int, int]]] = {}
        self._miscounted: set[str] = set()
        self._written: dict[tuple[str, int], int] = {}

    def written(self, run_id: str, first_seq: int, last_seq: int) -> None:
        """These events were written to a socket."""
        for seq in range(first_seq, last_seq + 1):
            self._written.setdefault((run_id, seq), self.loop.now_ns)

    def came(self, text: str) -> None:
        """A client's frame has come to the server."""
        frame = _acks.decode(text)
        if frame.type == "ack":
            self._acks.setdefault(frame.run_id, []).append((self.loop.now_ns, frame.seq))
            if frame.count not in (UNSET, frame.seq):
                self._miscounted.add(frame.run_id)
        elif frame.type == "resume" and frame.runs is not UNSET:
            for run_id, seq in frame.runs.items():
                self._acks.setdefault(run_id, []).append((self.loop.now_ns, seq))

    def problems_of(self, ledger: RunLedger, lost: Missing, watch: "KeepingWatch") -> Iterator[str]:
        """What is wrong with declaring this event missing, now."""
        now, run_id, limits = self.loop.now_ns, ledger.identity.run_id, ledger.limits
        said = f"{lost.event_type} {lost.seq} of run {run_id} is called missing at {lost.link.value}"
        if lost.link is Link.ENGINE:
            if now - max(lost.since_ns, *ledger.engine[-1:]) < min(limits.start, limits.idle):
                yield f"{said}, which is not silent for long"
            return
        if lost.link is Link.BRIDGE:
            # It waits since it was emitted, or since the bridge had passed on the one before it.
            if lost.seq is not None or not any(since <= lost.since_ns for _, since in ledger.waiting.values()):
                yield f"{said}, which has it"
            if now < lost.since_ns + limits.bridge:
                yield f"{said}, {lost.since_ns + limits.bridge - now} ns before its deadline"
            return
        if lost.seq is None:
            yield f"{said} without a seq"
            return
        if lost.since_ns == lost.at_ns:
            if run_id not in self._miscounted:
                yield f"{said}, and no client has counted otherwise"
            return
        links = list(Link)
        columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
        taken = [bool(column[lost.seq - 1]) for column in columns]
        if taken != [link < links.index(lost.link) for link in range(len(links))]:
            yield f"{said}; those that had taken it: {taken}"
        before = columns[links.index(lost.link) - 1][lost.seq - 1]
        late_ns = now - before - getattr(limits, lost.link.value)
        if late_ns < 0:
            yield f"{said}, {-late_ns} ns before its deadline"
        if lost.link is Link.EMITTER:
            return
        if not self.disk.holds(run_id, lost.seq):
            yield f"{said}, and the log does not hold it"
        if lost.link is Link.SOCKET and (run_id, lost.seq) in self._written:
            yield f"{said}, and it was written"
        if lost.link is Link.CLIENT:
            yield from self._problems_of_client(ledger, lost, watch, said)

    def _problems_of_client(self, ledger: RunLedger, lost: Missing, watch: "KeepingWatch", said: str) -> Iterator[str]:
        now, run_id = self.loop.now_ns, ledger.identity.run_id
        if (run_id, lost.seq) not in self._written:
            yield f"{said}, and it was never written"
        if any(seq >= (lost.seq or 0) and at < now - HANDLING_NS for at, seq in self._acks.get(run_id, ())):
            yield f"{said}, and its ack had come"
        lively = lost.since_ns + ledger.limits.client - min(NS_PER_SECOND, ledger.limits.client // 2)
        following = [wire for wire in self.wires if watch.follows(wire, run_id)]
        if not any(wire.server.last_life_ns > lively for wire in following):
            yield f"{said}, and none of its {len(following)} sockets is known to be alive"


class JudgedIncidents(Incidents):
    """The incidents of one life of the server, each looked at as it is declared and as it ends."""

    def __init__(self, watch: "KeepingWatch", truth: Truth, *args: Any) -> None:
        super().__init__(*args)
        self.known: dict[str, Incident] = {}
        self.blamed: tuple[int, set[str]] = (0, set())
        self._watch = watch
        self._truth = truth

    def declare(self, ledger: RunLedger, opened: RunIncidents, lost: Missing, now: int) -> None:
        """As `Incidents.declare`."""
        truth = self._truth
        for problem in truth.problems_of(ledger, lost, self._watch):
            truth.say_wrong(problem)
        truth.declared += 1
        if lost.link in (Link.SOCKET, Link.CLIENT):
            if self.blamed[0] != truth.loop.now_ns:
                self.blamed = (truth.loop.now_ns, set())
            self.blamed[1].add(ledger.identity.run_id)
        super().declare(ledger, opened, lost, now)

    def _keep(self, incident: Incident) -> None:
        before = self.known.setdefault(incident.incident_id, incident)
        if before is not incident:
            self._truth.say_wrong(f"there are two of incident {incident.incident_id}")
        super()._keep(incident)

    def _end(self, incident: Incident, state: IncidentState, unix_ns: int | None, now: int) -> None:
        if incident.state is not IncidentState.OPEN:
            self._truth.say_wrong(f"incident {incident.incident_id} is {incident.state.value}, and ends again")
        super()._end(incident, state, unix_ns, now)

    def blames(self, run_ids: set[str]) -> bool:
        """Whether an event of one of these runs was declared missing at its sockets in this very step."""
        at_ns, blamed = self.blamed
        return at_ns == self._truth.loop.now_ns and not blamed.isdisjoint(run_ids)

    def unfinished(self, disk: Disk) -> list[str]:
        """Incidents that have not ended, or whose end is not kept."""
        both = {incident_id: incident.state for incident_id, incident in disk.incidents.items()}
        missing = [
            incident_id for incident_id, incident in self.known.items() if both.get(incident_id) != incident.state
        ]
        return missing + [incident_id for incident_id, state in both.items() if state is IncidentState.OPEN]


def problems_of_incidents(incidents: JudgedIncidents, disk: Disk, ledgers: list[RunLedger]) -> Iterator[str]:
    """What is wrong with a life's incidents when all is at rest."""
    for incident in incidents.known.values():
        kept = disk.incidents.get(incident.incident_id)
        if kept != incident:
            yield f"incident {incident} is kept as {kept}"
        healed = incident.state is IncidentState.HEALED
        if healed and incident.last_seq is not None and not disk.holds(incident.run_id, incident.last_seq):
            yield f"incident {incident.incident_id} is healed, and the log lacks {incident.last_seq}"
    for ledger in ledgers:
        yield from _problems_of_missing(ledger, incidents)


def _problems_of_missing(ledger: RunLedger, incidents: JudgedIncidents) -> Iterator[str]:
    run_id, limits = ledger.identity.run_id, ledger.limits
    mine = [incident for incident in incidents.known.values() if incident.run_id == run_id]
    # One that the log refused after all is nobody's, but was late.
    for link in Link:
        counted = sum(incident.count for incident in mine if incident.link is link)
        declared = sum(lost.link is link for lost in ledger.missing)
        if counted < declared:
            yield f"run {run_id}: {declared} events are missing at {link.value}, incidents count {counted}"
    for incident in mine:
        if incident.state is IncidentState.HEALED or incident.last_seq is None or incident.first_seq is None:
            continue
        acked = ledger.client[incident.last_seq - 1 : incident.last_seq]
        if incident.ended_unix_ns and any(at and ledger.unix_ns(at) < incident.ended_unix_ns for at in acked):
            yield f"run {run_id}: {incident.last_seq} was acked, and its incident is {incident.state.value}"
    columns = (ledger.engine, ledger.bridge, ledger.emitter)
    for before, after, link in ((columns[0], columns[1], Link.BRIDGE), (columns[1], columns[2], Link.EMITTER)):
        limit = getattr(limits, link.value) + LOOK_NS
        for seq, (began, ended) in enumerate(zip(before, after, strict=True), start=1):
            if link is Link.BRIDGE and seq > 1:
                began = max(began, ledger.emitter[seq - 2])  # until then the bridge was busy with the one before
            if ended and ended - began > limit and ledger.gone.get(seq) is None:
                yield f"run {run_id}: {seq} took {ended - began} ns to {link.value}, and nobody was told"
    yield from _problems_of_unacked(ledger)


def _problems_of_unacked(ledger: RunLedger) -> Iterator[str]:
    if any(lost.link is not Link.CLIENT for lost in ledger.missing):
        return  # what stands behind it is blocked
    limit = ledger.limits.client + ledger.limits.silence + LOOK_NS
    for seq, (written, acked) in enumerate(zip(ledger.socket, ledger.client, strict=True), start=1):
        followed = written and max(ledger.carried_since, ledger.left_ns) <= written
        ended = acked or (ledger.settled_ns if ledger.followers else 0)
        if followed and ended - written > limit and seq not in ledger.gone:
            seconds = (ended - written) / NS_PER_SECOND
            yield f"run {ledger.identity.run_id}: {seq} was not acked for {seconds:g} s, and nobody was told"
