"""Tokens that hold no more although their time is not over: those of a user, or a single one by its id (`jti`).

Kept in one small file of the data folder, so that a restart lets nobody back in. Every server has its own.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import uuid_utils
from msgspec import Struct

from tracewire.errors import RejectedError
from tracewire_telemetry.vocabulary import RejectCode

FILE: Final = "revocations.json"


class Revocation(Struct, frozen=True):
    """One revocation. Of a user: tokens issued up to `revoked_at`, and those that do not say when. Times are Unix
    seconds; after `expires_at` it is forgotten.
    """

    id: str
    revoked_at: int
    user_id: str | None = None
    token_id: str | None = None
    expires_at: float | None = None

    def covers(self, user_id: str, token_id: str | None, issued_at: float | None) -> bool:
        """Whether a token of this user, with this id and issued then, is revoked by it."""
        if self.token_id is not None:
            return token_id == self.token_id
        # A token's `iat` often has whole seconds: one of the second of the revocation may be older than it.
        return user_id == self.user_id and (issued_at is None or int(issued_at) <= self.revoked_at)


class Revocations:
    """Those in force. `load` and `save` block on the disk; the rest does not.

    Args:
        folder: the data folder.
        count_max: how many may be in force.
    """

    def __init__(self, folder: Path, *, count_max: int) -> None:
        self._path = folder / FILE
        self._count_max = count_max
        self._by_id: dict[str, Revocation] = {}
        self._by_user: dict[str, Revocation] = {}
        self._by_token: dict[str, Revocation] = {}

    def load(self) -> None:
        """Read what an earlier server kept.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged. A server that went on without it would let people back in.
        """
        try:
            body = self._path.read_bytes()
        except FileNotFoundError:
            return
        try:
            kept = msgspec.json.decode(body, type=list[Revocation])
        except msgspec.DecodeError as error:
            raise ValueError(f"it is damaged ({error}); repair it, or remove it to let the revoked tokens in") from None
        for revocation in kept:
            self._put(revocation)

    def __iter__(self) -> Iterator[Revocation]:
        self._forget_expired()
        return iter(list(self._by_id.values()))

    def cover(self, user_id: str, token_id: str | None, issued_at: float | None) -> bool:
        """Whether a token of this user, with this id and issued then, is revoked."""
        found = (self._by_user.get(user_id), self._by_token.get(token_id) if token_id is not None else None)
        now = time.time()
        return any(
            revocation is not None
            and (revocation.expires_at is None or now < revocation.expires_at)
            and revocation.covers(user_id, token_id, issued_at)
            for revocation in found
        )

    def add(self, *, user_id: str | None, token_id: str | None, expires_at: float | None) -> Revocation:
        """Revoke a user's tokens, or one token, from now on; an earlier one of the same is replaced. `save` keeps it.

        Raises:
            RejectedError: not exactly one of the two is given, it is over before it begins, or there are too many.
        """
        self._forget_expired()
        if bool(user_id) == bool(token_id):
            raise RejectedError(RejectCode.INVALID_INPUT, "name a user_id or a token_id (the token's jti), one of them")
        now = time.time()
        if expires_at is not None and not now < expires_at:
            raise RejectedError(RejectCode.INVALID_INPUT, "expires_at must lie in the future, in Unix seconds")
        revocation = Revocation(str(uuid_utils.uuid7()), int(now), user_id or None, token_id or None, expires_at)
        replaced = self._same(revocation)
        if replaced is None and len(self._by_id) >= self._count_max:
            raise RejectedError(
                RejectCode.INVALID_INPUT,
                f"{self._count_max} revocations are in force (TRACEWIRE_REVOCATIONS_MAX); delete what is over, and "
                "give an expires_at to those of token ids",
            )
        if replaced is not None:
            self.remove(replaced.id)
        self._put(revocation)
        return revocation

    def remove(self, revocation_id: str) -> Revocation | None:
        """Take one back; `None` where there is none of this id. `save` keeps that."""
        revocation = self._by_id.pop(revocation_id, None)
        if revocation is not None:
            named = self._by_user if revocation.user_id is not None else self._by_token
            named.pop(revocation.user_id or revocation.token_id or "", None)
        return revocation

    def save(self, kept: tuple[Revocation, ...]) -> None:
        """Write these to the disk, whole or not at all.

        Raises:
            OSError: the file is as it was.
        """
        unfinished = self._path.with_suffix(".unfinished")
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _same(self, revocation: Revocation) -> Revocation | None:
        if revocation.user_id is not None:
            return self._by_user.get(revocation.user_id)
        return self._by_token.get(revocation.token_id or "")

    def _put(self, revocation: Revocation) -> None:
        self._by_id[revocation.id] = revocation
        if revocation.user_id is not None:
            self._by_user[revocation.user_id] = revocation
        elif revocation.token_id is not None:
            self._by_token[revocation.token_id] = revocation

    def _forget_expired(self) -> None:
        now = time.time()
        for revocation in list(self._by_id.values()):
            if revocation.expires_at is not None and revocation.expires_at <= now:
                self.remove(revocation.id)
