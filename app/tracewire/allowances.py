"""How often somebody may do something: allowances that fill up again with time. Pure, told the time."""

from collections import OrderedDict
from typing import Final

NS_PER_SECOND: Final = 1_000_000_000


class Allowance:
    """Up to `burst` at once, `per_second` in the long run."""

    __slots__ = ("_at_ns", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float, now: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at_ns = now

    def take(self, now: int, count: float = 1) -> float:
        """Take `count` at `now` (monotonic nanoseconds) and give 0, or take nothing and give the seconds to wait.

        More than `burst` counts as `burst`: it is granted to who has waited longest.
        """
        self._fill(now)
        wanted = min(count, self._burst)
        if wanted <= self._left:
            self._left -= wanted
            return 0.0
        return (wanted - self._left) / self._per_second

    def give_back(self, count: float = 1) -> None:
        """What was taken was not needed."""
        self._left = min(self._burst, self._left + count)

    def full(self, now: int) -> bool:
        """Whether nothing is taken of it at `now`: it is as a new one."""
        self._fill(now)
        return self._left >= self._burst

    def _fill(self, now: int) -> None:
        if now > self._at_ns:
            self._left = min(self._burst, self._left + (now - self._at_ns) / NS_PER_SECOND * self._per_second)
            self._at_ns = now


class UserAllowances:
    """An allowance a user, whatever their sockets. Who has not come for long is forgotten."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._by_user: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_user)

    def take(self, user_id: str, now: int, count: float = 1) -> float:
        """As `Allowance.take`, of this user's."""
        allowance = self._by_user.get(user_id)
        if allowance is None:
            allowance = self._by_user[user_id] = Allowance(self._per_second, self._burst, now)
        self._by_user.move_to_end(user_id)
        wait = allowance.take(now, count)
        # The first is who came longest ago; a full allowance is as good as none.
        while (first := next(iter(self._by_user))) != user_id and self._by_user[first].full(now):
            del self._by_user[first]
        return wait

    def give_back(self, user_id: str, count: float = 1) -> None:
        """As `Allowance.give_back`."""
        allowance = self._by_user.get(user_id)
        if allowance is not None:
            allowance.give_back(count)
