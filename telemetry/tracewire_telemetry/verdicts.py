"""What became of each event of a run, as the objective counts it. Pure."""

from collections import Counter
from typing import Final

from tracewire_telemetry.ledger import NS_PER_SECOND, TYPE_INDEX, RunLedger
from tracewire_telemetry.vocabulary import LINKS, NEXT, EventType, Link, Verdict

IN_TIME_NS: Final = 2 * NS_PER_SECOND
"""An event acked within 2 s of the engine's stamp is in time (the objective of telemetry.md §3)."""


def verdicts_of(ledger: RunLedger) -> list[Verdict]:
    """The verdict on each event that has a seq; final when the run is settled.

    What is blocked behind a missing event has not reached the user either, and is missing to the objective.
    """
    found: list[Verdict] = []
    blocked = False
    for index in range(ledger.last_seq):
        lost = ledger.gone.get(index + 1)
        if lost is not None:
            blocked |= lost.link is not Link.CLIENT and not ledger.client[index]
            found.append(Verdict.MISSING)
        elif ledger.client[index]:
            in_time = ledger.client[index] - ledger.known_ns(index + 1) <= IN_TIME_NS
            found.append(Verdict.IN_TIME if in_time else Verdict.LATE)
        elif blocked and ledger.followers and index + 1 not in ledger.gone:
            found.append(Verdict.MISSING)
        else:
            found.append(Verdict.NO_SOCKET)
    return found


def count_verdicts(ledger: RunLedger) -> Counter[tuple[EventType, Verdict]]:
    """One verdict for each event but deltas; to be asked when the run is settled."""
    verdicts = enumerate(verdicts_of(ledger), start=1)
    counts = Counter((ledger.event_type(seq), verdict) for seq, verdict in verdicts if not ledger.is_delta(seq))
    for lost in ledger.missing:
        if lost.seq is not None or lost.event_type in (NEXT, EventType.AGENT_DELTA):
            continue
        event_type = EventType(lost.event_type)
        came_late = lost.link is Link.ENGINE and TYPE_INDEX[event_type] in ledger.types
        if not came_late:  # else it has a seq by now, and a verdict of its own
            counts[event_type, Verdict.MISSING] += 1
    return counts


def stamps_lost(ledger: RunLedger) -> Counter[Link]:
    """Links that events of a settled run crossed without a stamp, as a stamp of a later link shows: telemetry was
    lost there, and no event. An ack that was lost is covered by the next one, and no trace of it is left.
    """
    columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
    found: Counter[Link] = Counter()
    if not any(0 in column for column in columns):
        return found
    for seq, stamps in enumerate(zip(*columns, strict=True), start=1):
        if ledger.gone.get(seq) is not None:
            continue  # it was the event, not its stamp
        last = max((link for link, stamp in enumerate(stamps) if stamp), default=0)
        found.update(LINKS[link] for link in range(last) if not stamps[link])
    return found


def slowest_delivery(ledger: RunLedger) -> int | None:
    """The index of the acked event that took longest from engine to ack; `None` where none is acked."""
    client = ledger.client
    acked = (index for index in range(min(ledger.acked, len(client))) if client[index])
    return max(acked, key=lambda index: client[index] - ledger.known_ns(index + 1), default=None)


def delivery_max_ns(ledger: RunLedger) -> int:
    """The longest way from engine to ack among the events that were acked."""
    index = slowest_delivery(ledger)
    return 0 if index is None else ledger.client[index] - ledger.known_ns(index + 1)
