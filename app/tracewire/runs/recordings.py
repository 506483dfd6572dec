"""Recordings that users hand in for the analyst, kept on disk, each for its user alone.

One file a recording: a line of JSON with its name, then the bytes as they came. A recording of another user and one
that does not exist cannot be told apart. Every method blocks on the disk: call it in a thread, never on the event loop.
"""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Final

import msgspec
import uuid_utils
from msgspec import Struct

from tracewire.errors import TracewireError

RECORDING_BYTES_MAX: Final = 16 * 1024 * 1024
"""The size of a recording, at most."""

RECORDINGS_PER_USER_MAX: Final = 20
"""How many recordings of one user are kept; the oldest go first."""

NAME_CHARACTERS_MAX: Final = 200
"""A longer name is cut."""

ABANDONED_SECONDS: Final = 3600.0
"""A half-written file of this age was left by a crash, and is removed by the user's next save."""

_RECORDING_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SUFFIX: Final = ".recording"
_UNFINISHED_SUFFIX: Final = ".unfinished"


class RecordingError(TracewireError):
    """Anything that the store of recordings refuses."""

    code = "recording"


class TooLargeError(RecordingError):
    """The recording has more bytes than the store takes; nothing was kept."""

    code = "recording_too_large"


class UnknownRecordingError(RecordingError):
    """No such recording, or it is another user's, or it was removed for newer ones."""

    code = "unknown_recording"


class Recording(Struct, frozen=True):
    """`body` is what was handed in, byte for byte; `name` is for people, and names no file."""

    name: str
    body: bytes


class _Header(Struct, frozen=True):
    name: str


class RecordingStore:
    """Recordings below `data_dir`. Safe to call from several threads, and from several processes on one folder.

    Every method blocks: run it in a thread. An `OSError` of the disk is passed on; a save that raised kept nothing.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bytes_max: int = RECORDING_BYTES_MAX,
        per_user_max: int = RECORDINGS_PER_USER_MAX,
    ) -> None:
        if bytes_max < 1 or per_user_max < 1:
            raise ValueError(f"bytes_max and per_user_max must be at least 1, not {bytes_max} and {per_user_max}")
        self._root = data_dir / "recordings"
        self.bytes_max = bytes_max
        self.per_user_max = per_user_max

    def save(self, user_id: str, name: str, body: bytes) -> str:
        """Keep a recording and answer its id (UUIDv7); it is on disk when this returns, and whole or not there at all.

        The user's oldest recordings beyond `per_user_max` are removed.

        Raises:
            TooLargeError: `body` has more than `bytes_max` bytes.
        """
        if len(body) > self.bytes_max:
            raise TooLargeError(f"the recording has {len(body):,} bytes; at most {self.bytes_max:,} are taken")
        folder = self._folder(user_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        recording_id = str(uuid_utils.uuid7())
        header = msgspec.json.encode(_Header(name=_cleaned(name)))
        _write_atomically(folder, recording_id, header + b"\n", body)
        self._remove_oldest(folder)
        return recording_id

    def load(self, user_id: str, recording_id: str) -> Recording:
        """The recording, if it is this user's.

        Raises:
            UnknownRecordingError: it is not there, or not this user's; the two read the same.
        """
        if _RECORDING_ID.fullmatch(recording_id):
            with contextlib.suppress(FileNotFoundError):
                path = self._folder(user_id) / f"{recording_id}{_SUFFIX}"
                content = path.read_bytes()
                os.utime(path)  # its age counts from its last use
                header, _, body = content.partition(b"\n")
                return Recording(name=msgspec.json.decode(header, type=_Header).name, body=body)
        raise UnknownRecordingError(f"there is no recording {recording_id[:64]!r} of yours")

    def remove_unused(self, before_unix_seconds: float) -> int:
        """Remove the recordings of all users that were handed in and last loaded before this time; their number."""
        removed = 0
        for path in self._root.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # its user's newer ones have just replaced it
                if path.stat().st_mtime < before_unix_seconds:
                    path.unlink()
                    removed += 1
        return removed

    def _folder(self, user_id: str) -> Path:
        """A folder whose name a user cannot choose."""
        return self._root / hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()

    def _remove_oldest(self, folder: Path) -> None:
        kept = sorted(folder.glob(f"*{_SUFFIX}"))  # UUIDv7: the order of names is the order of time
        for path in kept[: max(0, len(kept) - self.per_user_max)]:
            path.unlink(missing_ok=True)
        for path in folder.glob(f"*{_UNFINISHED_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def _cleaned(name: str) -> str:
    """The name without what would break a line of a log or of an answer."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable.strip()[:NAME_CHARACTERS_MAX] or "recording"


def _write_atomically(folder: Path, recording_id: str, *parts: bytes) -> None:
    """Write a file that is whole under its name or not there: synced before the rename, the folder after it."""
    unfinished = folder / f"{recording_id}{_UNFINISHED_SUFFIX}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / f"{recording_id}{_SUFFIX}")
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
