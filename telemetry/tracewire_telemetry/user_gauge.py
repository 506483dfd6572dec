"""Which users are in violation now, by name, for as many as there are slots. Pure: it is told the time.

A counter labelled by user could not alert on a user's first missing event, and would hold a series for every user that
ever was. This one holds a series only while its user is in violation, and at least for a time that no scrape misses.
"""

import hashlib
import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from tracewire_telemetry.ledger import NS_PER_SECOND
from tracewire_telemetry.vocabulary import Link

USER_ID_CHARACTERS_MAX: Final = 128
_HASH_CHARACTERS: Final = 32


class SeriesKey(NamedTuple):
    """The labels of one series."""

    user_id: str
    event_type: str
    link: Link


class _Entry:
    __slots__ = ("count", "ended_ns", "shown_ns")

    def __init__(self, now: int) -> None:
        self.count = 0
        self.ended_ns = 0
        self.shown_ns = now


class UserGauge:
    """The series of `user_events_missing`. A series that finds no slot waits for one, first come first served.

    Args:
        slots: series named at once.
        least_seconds: how long a series is shown at least, also where its incident ends at once.
        hashed: name users by a hash of their id; ids that are long or do not print are hashed in any case.
    """

    def __init__(self, *, slots: int, least_seconds: float, hashed: bool) -> None:
        self._slots = slots
        self._least_ns = int(least_seconds * NS_PER_SECOND)
        self._hashed = hashed
        self._entries: dict[SeriesKey, _Entry] = {}
        self._users: Counter[str] = Counter()
        self._named: dict[SeriesKey, _Entry] = {}
        self._unnamed: OrderedDict[SeriesKey, _Entry] = OrderedDict()
        self._expiries: list[tuple[int, SeriesKey]] = []

    def add(self, key: SeriesKey, count: int, now: int) -> None:
        """So many more events of this user are missing."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(now)
            self._users[key.user_id] += 1
            if len(self._named) < self._slots:
                self._named[key] = entry
            else:
                self._unnamed[key] = entry
        elif entry.ended_ns:
            entry.count = entry.ended_ns = 0
        entry.count += count

    def end(self, key: SeriesKey, count: int, now: int) -> None:
        """So many of them are missing no more; the series goes when none is left, and has been seen."""
        entry = self._entries.get(key)
        if entry is None or entry.ended_ns:
            return
        if entry.count > count:
            entry.count -= count
            return
        entry.ended_ns = now  # the last count goes on being shown
        heapq.heappush(self._expiries, (max(now, entry.shown_ns + self._least_ns), key))

    def expire(self, now: int) -> None:
        """Let go of what is over and has been seen, and give its slots to those that wait."""
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is None or not entry.ended_ns:
                continue
            until = max(entry.ended_ns, entry.shown_ns + self._least_ns)
            if until > now:  # it began anew, or got its slot, meanwhile
                heapq.heappush(self._expiries, (until, key))
                continue
            self._forget(key, now)

    def _forget(self, key: SeriesKey, now: int) -> None:
        del self._entries[key]
        self._users[key.user_id] -= 1
        if not self._users[key.user_id]:
            del self._users[key.user_id]
        self._unnamed.pop(key, None)
        if self._named.pop(key, None) is not None and self._unnamed:
            successor, entry = self._unnamed.popitem(last=False)
            entry.shown_ns = now
            self._named[successor] = entry

    def series(self) -> Iterator[tuple[tuple[str, str, str], int]]:
        """The labels (user, type, link) and values of the series that have a slot."""
        for (user_id, event_type, link), entry in self._named.items():
            yield (self._shown(user_id), event_type, link.value), entry.count

    @property
    def users_affected(self) -> int:
        """Users in violation, named or not."""
        return len(self._users)

    @property
    def overflow(self) -> int:
        """Series that wait for a slot."""
        return len(self._unnamed)

    def _shown(self, user_id: str) -> str:
        if self._hashed or len(user_id) > USER_ID_CHARACTERS_MAX or not user_id.isprintable():
            return hashed_user(user_id)
        return user_id


def hashed_user(user_id: str) -> str:
    """The user's name in metrics that do not name them."""
    return "sha256:" + hashlib.sha256(user_id.encode(errors="surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
