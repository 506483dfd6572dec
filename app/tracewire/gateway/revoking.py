"""Revoking, effective at once: the tokens are refused from now on, and what they have open is closed."""

import asyncio
import time
from concurrent.futures import Executor

import structlog

from tracewire.gateway.auth import AuthenticationError
from tracewire.gateway.revocation import Revocation, Revocations
from tracewire.gateway.socket_gateway import SocketGateway

_log = structlog.get_logger("tracewire.gateway")


class Revoker:
    """Revokes, and takes back. What it says is done is on the disk.

    Args:
        revocations: those in force.
        gateway: whose sockets and streams are closed.
        threads: where the disk is waited for.
    """

    def __init__(self, revocations: Revocations, gateway: SocketGateway, threads: Executor) -> None:
        self.revocations = revocations
        self._gateway = gateway
        self._threads = threads
        self._saving = asyncio.Lock()

    async def revoke(self, *, user_id: str | None, token_id: str | None, expires_at: float | None) -> Revocation:
        """Revoke the tokens of a user, or one token; see `Revocations.add`.

        Raises:
            RejectedError: as `Revocations.add`.
            OSError: it is in force, but the disk did not take it: a restart would forget it.
        """
        revocation = self.revocations.add(user_id=user_id, token_id=token_id, expires_at=expires_at)
        closed = self._close_revoked()
        _log.info("revoked", revocation_id=revocation.id, user_id=user_id, token_id=token_id, closed=closed)
        await self._save()
        return revocation

    async def restore(self, revocation_id: str) -> bool:
        """Take a revocation back; whether there was one.

        Raises:
            OSError: the disk did not take it: after a restart the tokens would be revoked again.
        """
        revocation = self.revocations.remove(revocation_id)
        if revocation is None:
            return False
        _log.info("revocation_removed", revocation_id=revocation_id, user_id=revocation.user_id)
        await self._save()
        return True

    def _close_revoked(self) -> int:
        """Close every socket and stream whose token holds no more; how many."""
        closed = 0
        for session in list(self._gateway.sessions):
            if session.principal is None:
                continue
            try:
                self._gateway.authenticator.check(session.principal, time.time())
            except AuthenticationError as error:
                session.close(error.close_code)
                closed += 1
        return closed

    async def _save(self) -> None:
        """One at a time, each with what is in force when its turn comes: the last one written is the newest."""
        async with self._saving:
            kept = tuple(self.revocations)
            await asyncio.get_running_loop().run_in_executor(self._threads, self.revocations.save, kept)
