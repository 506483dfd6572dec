"""What the callers of one user's client saw, event by event, and what was wrong with it as it came."""

import re
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from chaos.agents import input_of
from tracewire_telemetry.vocabulary import TERMINAL_TYPES

USER_PREFIX: Final = "chaos-"
TERMINAL_NAMES: Final = frozenset(event_type.value for event_type in TERMINAL_TYPES)
KINDS: Final = ("lost", "repeated", "foreign", "hanging", "wrong")
_users = re.compile(rf"{USER_PREFIX}\d+")
_encode = msgspec.json.Encoder(order="sorted").encode


class Wrong(NamedTuple):
    """Something that must not be. `kind` is one of `KINDS`; `seq` 0 where it is no one event's."""

    kind: str
    user_id: str
    run_id: str
    seq: int
    what: str

    def __str__(self) -> str:
        event = f" event {self.seq}" if self.seq else ""
        return f"{self.kind}: user {self.user_id} run {self.run_id or '-'}{event}: {self.what}"


class Seen(NamedTuple):
    """One envelope as a caller got it: `first` is below `seq` where deltas were joined, whose text is then kept."""

    first: int
    seq: int
    type: str
    digest: int
    text: str


def seen_of(envelope: Mapping[str, Any]) -> Seen:
    """What is kept of an envelope."""
    data, seq, first = envelope["data"], envelope["seq"], envelope.get("first_seq") or envelope["seq"]
    return Seen(first, seq, envelope["type"], hash(_encode(data)), data["text"] if first < seq else "")


class RunJournal:
    """One run. A caller who lost its memory begins a new viewing; the earlier ones are kept to compare with the log."""

    def __init__(self, user_id: str, request_id: str, asked: dict[str, Any]) -> None:
        self.user_id = user_id
        self.request_id = request_id
        self.asked = asked
        self.run_id = ""
        self.viewings: list[list[Seen]] = [[]]
        self.terminal: dict[str, Any] | None = None
        self.wrongs: list[Wrong] = []

    @property
    def seen(self) -> list[Seen]:
        """The newest viewing."""
        return self.viewings[-1]

    @property
    def last_seq(self) -> int:
        """The newest seq that came."""
        return self.seen[-1].seq if self.seen else 0

    @property
    def ended(self) -> bool:
        """Whether the terminal event came."""
        return self.terminal is not None

    def forget(self) -> None:
        """The caller knows nothing of the run any more."""
        if self.seen:
            self.viewings.append([])
        self.terminal = None

    def take(self, envelope: Mapping[str, Any]) -> None:
        """Note an envelope, and what is wrong with its coming now."""
        seen = seen_of(envelope)
        if envelope["run_id"] != self.run_id:
            self.note("foreign", seen.seq, f"it is of run {envelope['run_id']}")
        if strangers := set(_users.findall(_encode(envelope["data"]).decode())) - {self.user_id}:
            self.note("foreign", seen.seq, f"it names {', '.join(sorted(strangers))}")
        if self.ended:
            self.note("repeated", seen.seq, f"{seen.type} came after the terminal event")
        elif seen.first <= self.last_seq:
            self.note("repeated", seen.seq, f"{seen.type} came after event {self.last_seq}")
        elif seen.first > self.last_seq + 1:
            self.note("lost", self.last_seq + 1, f"event {seen.first} came in its place")
        self.seen.append(seen)
        if seen.type in TERMINAL_NAMES:
            self.terminal = dict(envelope["data"])
            self._hold_receipt_against_it()

    def note(self, kind: str, seq: int, what: str) -> None:
        """Note something that must not be."""
        self.wrongs.append(Wrong(kind, self.user_id, self.run_id, seq, what))

    def _hold_receipt_against_it(self) -> None:
        assert self.terminal is not None
        counts: Counter[str] = Counter()
        for seen in self.seen:
            counts[seen.type] += seen.seq - seen.first + 1
        receipt, came = self.terminal["receipt"], {"last_seq": self.last_seq, "counts": dict(counts)}
        if receipt != came:
            self.note("wrong", self.last_seq, f"the receipt says {receipt}, there came {came}")


class Journal:
    """One user: the runs by their request ids, in the order in which they were asked for."""

    def __init__(self, user_id: str, seed: str) -> None:
        self.user_id = user_id
        self.random = Random(f"{seed}-{user_id}")
        self.runs: dict[str, RunJournal] = {}
        self.wrongs: list[Wrong] = []
        self.losses = 0
        self.resumes = 0
        self.stalls = 0

    @property
    def unfinished(self) -> list[RunJournal]:
        """The runs of which the caller still waits for the end."""
        return [run for run in self.runs.values() if not run.ended]

    def ask(self) -> RunJournal:
        """The next run to ask for."""
        request_id = f"{self.user_id}-{len(self.runs) + 1}"
        run = self.runs[request_id] = RunJournal(self.user_id, request_id, input_of(self.random))
        return run

    def by_run_id(self, run_id: str) -> RunJournal | None:
        """The run of that id, where it is accepted and this user's."""
        return next((run for run in self.runs.values() if run.run_id == run_id), None)

    def accept(self, run: RunJournal, run_id: str) -> None:
        """The server says that this is the run's id; it must always be the same."""
        if run.run_id and run.run_id != run_id:
            self.note("repeated", run_id, f"request {run.request_id} was run {run.run_id} before")
        run.run_id = run_id

    def note(self, kind: str, run_id: str, what: str) -> None:
        """Note something that must not be, of no one event."""
        self.wrongs.append(Wrong(kind, self.user_id, run_id, 0, what))
