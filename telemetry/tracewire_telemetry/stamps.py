"""A run's ledger as data: what is kept in the event log when the run is settled, and what people are shown.

`Stamps` is compact (columns of microseconds) and is what the log holds; `LedgerReport` is one row an event and is what
`/runs/{id}/ledger` answers, for open and for settled runs alike.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tracewire_telemetry.deadlines import settled as ledger_settled
from tracewire_telemetry.ledger import RunLedger
from tracewire_telemetry.verdicts import verdicts_of
from tracewire_telemetry.vocabulary import EVENT_TYPES, EventType, Link, Outcome, Verdict


class MissingRow(Struct, frozen=True):
    """An event that a link did not take by its deadline. `since_ms` and `at_ms` count from the run's start.

    `event_type` is `next` where the engine fell silent.
    """

    link: Link
    event_type: str
    seq: int | None
    since_ms: float
    at_ms: float


class Stamps(Struct, frozen=True):
    """The columns of a run. Each of the five lists holds microseconds since the run's start, -1 for "not stamped"."""

    run_id: str
    user_id: str
    agent: str
    trace_id: str
    started_unix_ns: int
    ended_us: int
    outcome: Outcome | None
    settled: bool
    types: list[int]
    links: list[list[int]]
    verdicts: list[int]
    missing: list[MissingRow]
    waiting: list[EventType]
    followers: int
    unknown_acked_seq: int | None = None
    """Of a run whose stamps a crash took: how far its user had acked it, which is all that is known."""


class LedgerRow(Struct, frozen=True):
    """One event: milliseconds since the run's start at which each link took it, `null` where it has not."""

    seq: int
    type: EventType
    engine: float | None
    bridge: float | None
    emitter: float | None
    socket: float | None
    client: float | None
    verdict: Verdict | None


class LedgerReport(Struct, frozen=True):
    """What each event of a run has crossed, and when.

    `verdict` is `null` until the run is settled. `waiting` are events that the engine emitted and the bridge has not
    sequenced. `sockets` is how many sockets follow the run now.
    """

    run_id: str
    user_id: str
    agent: str
    trace_id: str
    started: str
    ended_ms: float | None
    outcome: Outcome | None
    settled: bool
    chain_complete: bool
    pending: int
    sockets: int
    events: list[LedgerRow]
    missing: list[MissingRow]
    waiting: list[EventType]


_VERDICTS = tuple(Verdict)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Stamps)


def stamps_of(ledger: RunLedger) -> Stamps:
    """The run's columns as they stand now."""
    start = ledger.opened_ns

    def since(moment: int) -> int:
        return (moment - start) // 1000 if moment else -1

    def since_ms(moment: int) -> float:
        return round((moment - start) / 1e6, 3)

    settled = bool(ledger.settled_ns) or ledger_settled(ledger)
    gone, verdicts = ledger.gone, verdicts_of(ledger)
    columns = (ledger.engine, ledger.bridge, ledger.emitter, ledger.socket, ledger.client)
    return Stamps(
        run_id=ledger.identity.run_id,
        user_id=ledger.identity.user_id,
        agent=ledger.identity.agent,
        trace_id=f"{ledger.identity.trace_id:032x}",
        started_unix_ns=ledger.unix_ns(start),
        ended_us=since(ledger.ended_ns),
        outcome=ledger.outcome,
        settled=settled,
        types=list(ledger.types),
        links=[[since(moment) for moment in column] for column in columns],
        verdicts=[
            _VERDICTS.index(verdict) if settled or gone.get(seq) is not None or ledger.client[seq - 1] else -1
            for seq, verdict in enumerate(verdicts, start=1)
        ],
        missing=[
            MissingRow(lost.link, str(lost.event_type), lost.seq, since_ms(lost.since_ns), since_ms(lost.at_ns))
            for lost in ledger.missing
        ],
        waiting=[event_type for event_type, _ in ledger.waiting.values()],
        followers=len(ledger.followers),
    )


def unknown_stamps(ledger: RunLedger) -> Stamps:
    """The columns of an ended run whose stamps a crash took: what happened, and of no event when."""
    unknown = [-1] * ledger.last_seq
    return replace(stamps_of(ledger), links=[unknown] * 5, verdicts=unknown, unknown_acked_seq=ledger.acked)


def encode_stamps(stamps: Stamps) -> bytes:
    """The stamps as JSON, for the event log."""
    return _encoder.encode(stamps)


def decode_stamps(body: bytes) -> Stamps:
    """Read what `encode_stamps` wrote.

    Raises:
        msgspec.DecodeError: it did not write this.
    """
    return _decoder.decode(body)


def report_of(stamps: Stamps) -> LedgerReport:
    """The stamps as rows for people and programs."""

    def milliseconds(us: int) -> float | None:
        return None if us < 0 else us / 1000

    rows: list[LedgerRow] = []
    for index, type_index in enumerate(stamps.types):
        engine, bridge, emitter, socket, client = (milliseconds(column[index]) for column in stamps.links)
        verdict = _VERDICTS[stamps.verdicts[index]] if stamps.verdicts[index] >= 0 else None
        rows.append(LedgerRow(index + 1, EVENT_TYPES[type_index], engine, bridge, emitter, socket, client, verdict))
    unacked = [row for row in rows if row.emitter is not None and row.client is None]
    pending = 0 if stamps.followers else sum(row.verdict is not Verdict.MISSING for row in unacked)
    lost = stamps.unknown_acked_seq is not None
    if stamps.unknown_acked_seq is not None:
        pending = len(rows) - stamps.unknown_acked_seq
    return LedgerReport(
        run_id=stamps.run_id,
        user_id=stamps.user_id,
        agent=stamps.agent,
        trace_id=stamps.trace_id,
        started=datetime.fromtimestamp(stamps.started_unix_ns / 1e9, UTC).isoformat(timespec="microseconds"),
        ended_ms=milliseconds(stamps.ended_us),
        outcome=stamps.outcome,
        settled=stamps.settled,
        chain_complete=not stamps.missing and not lost,
        pending=pending,
        sockets=stamps.followers,
        events=rows,
        missing=stamps.missing,
        waiting=stamps.waiting,
    )


def report_without_stamps(
    *,
    run_id: str,
    user_id: str,
    agent: str,
    trace_id: str,
    started_unix_ns: int,
    outcome: Outcome | None,
    types: Iterable[EventType],
) -> LedgerReport:
    """The report of a run whose stamps were lost in a crash: its events as the log holds them, every stamp null."""
    rows = [
        LedgerRow(seq, event_type, None, None, None, None, None, None) for seq, event_type in enumerate(types, start=1)
    ]
    started = datetime.fromtimestamp(started_unix_ns / 1e9, UTC).isoformat(timespec="microseconds")
    return LedgerReport(
        run_id, user_id, agent, trace_id, started, None, outcome, outcome is not None, False, 0, 0, rows, [], []
    )
