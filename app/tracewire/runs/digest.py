"""What is left of a run's events once they have expired: how many there were of each type, and which tools stayed open.

Without it, a run that a crash interrupts after its window has moved could not be closed with an honest receipt. It
holds nothing that a user or an agent said but the names of tools. Pure.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from tracewire.bridge.contract import RunContract
from tracewire.eventlog import StoredEvent
from tracewire_telemetry.vocabulary import EventType


class _Kept(Struct, frozen=True):
    counts: dict[str, int]
    open_tools: dict[str, str]


class _Data(Struct, frozen=True):
    tool_call_id: str | None = None
    tool_name: str = ""


class _Head(Struct, frozen=True):
    type: EventType
    data: _Data


_kept = msgspec.json.Decoder(_Kept)
_head = msgspec.json.Decoder(_Head)


def restore_contract(digest: bytes | None) -> RunContract:
    """The contract of a run as the events that the digest stands for left it."""
    contract = RunContract()
    if digest is not None:
        kept = _kept.decode(digest)
        contract.counts.update({EventType(name): count for name, count in kept.counts.items()})
        contract.open_tools.update(kept.open_tools)
        contract.seen_tools.update(kept.open_tools)
    return contract


def apply_events(contract: RunContract, events: Iterable[StoredEvent]) -> None:
    """Let the contract see further events of the run, in order."""
    for event in events:
        head = _head.decode(event.body)
        contract.apply(head.type, head.data.tool_call_id, head.data.tool_name)


def digest_of(contract: RunContract) -> bytes:
    """What `restore_contract` makes the same contract of; calls that are over can no longer be told from new ones."""
    counts = {event_type.value: count for event_type, count in contract.counts.items() if count}
    return msgspec.json.encode(_Kept(counts, contract.open_tools))
