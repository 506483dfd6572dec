"""Tickets: for pages that cannot bring a token to the handshake, or should not show it there.

`POST /tickets` gives one for the token that it brings; offered once as subprotocol `bearer.<ticket>` it stands for it.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from litestar import Request, post
from litestar.datastructures import State
from msgspec import Struct

from tracewire.errors import RejectedError
from tracewire.gateway.auth import AuthenticationError, Authenticator, Principal
from tracewire.gateway.protocol import find_token
from tracewire_telemetry.vocabulary import RejectCode

PREFIX: Final = "ticket-"
RANDOM_BYTES: Final = 32


class Tickets:
    """The unused ones. They live in memory: a restart forgets them, which costs their holders one more request.

    Args:
        seconds: how long each may wait for its use.
        per_user_max: how many of one user may wait.
        clock: monotonic seconds.
    """

    def __init__(self, *, seconds: float, per_user_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._per_user_max = per_user_max
        self._clock = clock
        self._waiting: dict[str, tuple[Principal, float]] = {}
        self._of_user: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def issue(self, principal: Principal) -> str:
        """A ticket that stands for this principal, once.

        Raises:
            RejectedError: `rate_limited`, where too many of the user's wait.
        """
        self._forget_expired()
        if self._of_user[principal.user_id] >= self._per_user_max:
            raise RejectedError(
                RejectCode.RATE_LIMITED,
                f"you have {self._per_user_max} unused tickets, the most a user may have; use one, or wait",
                retry_after_seconds=self.seconds,
            )
        ticket = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        self._waiting[ticket] = (principal, self._clock() + self.seconds)
        self._of_user[principal.user_id] += 1
        return ticket

    def redeem(self, ticket: str) -> Principal:
        """Whom the ticket stands for; it is used up.

        Raises:
            AuthenticationError: it is unknown, used or expired: the three cannot be told apart.
        """
        self._forget_expired()
        if ticket not in self._waiting:
            raise AuthenticationError("the ticket is used, expired or none of this server's; get a new one")
        return self._remove(ticket)

    def _remove(self, ticket: str) -> Principal:
        principal, _ = self._waiting.pop(ticket)
        self._of_user[principal.user_id] -= 1
        if not self._of_user[principal.user_id]:
            del self._of_user[principal.user_id]
        return principal

    def _forget_expired(self) -> None:
        """All wait equally long, so the first issued are the first to expire."""
        now = self._clock()
        while self._waiting:
            ticket, (_, until) = next(iter(self._waiting.items()))
            if now < until:
                return
            self._remove(ticket)


class TicketView(Struct, frozen=True):
    """A ticket, to be offered as subprotocol `bearer.<ticket>` within so many seconds."""

    ticket: str
    expires_in_seconds: float


@post("/tickets", status_code=201)
async def issue_ticket(request: Request[Any, Any, Any], state: State) -> TicketView:
    """A ticket for one socket, in exchange for the token of this request. The socket expires with the token."""
    authenticator: Authenticator = state["authenticator"]
    tickets: Tickets = state["tickets"]
    principal = await authenticator.authenticate(find_token(request.headers.get("authorization"), ()))
    return TicketView(tickets.issue(principal), tickets.seconds)
