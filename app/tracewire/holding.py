"""What a server takes hold of before anything else, and can fail to: its ports and its folder."""

import fcntl
import resource
import socket
from pathlib import Path
from typing import IO, Final

from tracewire.errors import StartupError
from tracewire.serving import bind
from tracewire.settings import Settings

FILES_BESIDE_SOCKETS: Final = 512
"""Descriptors for everything but sockets: the log, its readers, recordings, the exporter, what agents open."""
LOCK_FILE: Final = "server.lock"


def hold_ports(settings: Settings) -> tuple[list[socket.socket], list[str]]:
    """The public and the ops port, listening; and what could not be had."""
    held: list[socket.socket] = []
    failures: list[str] = []
    for name, variable, host, port in (
        ("public port", "TRACEWIRE_PORT", settings.host, settings.port),
        ("ops port", "TRACEWIRE_OPS_PORT", settings.ops_host, settings.ops_port),
    ):
        try:
            bound = bind(host, port)
            held.append(bound)
            bound.listen(1)
        except OSError as error:
            failures.append(f"{name} {host}:{port}: {error.strerror or error}; free it, or set {variable}")
    return held, failures


def hold_folder(folder: Path) -> IO[str]:
    """The data folder, made where there is none, for this server alone until the file is closed.

    Raises:
        StartupError: it cannot be written, or another server has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        why = error.strerror or str(error)
        raise StartupError([f"data folder {folder}: {why}; set TRACEWIRE_DATA_DIR to a writable one"]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StartupError(
            [f"data folder {folder}: another server uses it; stop that one, or set TRACEWIRE_DATA_DIR"]
        ) from error
    return lock


def allow_descriptors(settings: Settings) -> int | None:
    """Raise this process's soft limit of open files so that `sockets_max` fits in, as far as the hard limit lets it.

    Returns how many sockets fit in where that is fewer than the setting, otherwise `None`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.sockets_max + FILES_BESIDE_SOCKETS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    return soft - FILES_BESIDE_SOCKETS
