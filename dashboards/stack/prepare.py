"""The first start of a stack in containers: makes its secrets, once, and gives folders to who is to write them.

    python -m dashboards.stack.prepare --secret /var/lib/tracewire/jwt-secret --token /run/tracewire/ops-token \
        --owner 10001 --give /var/lib/otelcol=10001

What is there already is left alone, so that tokens hold over restarts.
"""

import argparse
import os
import secrets
from pathlib import Path
from typing import Final

SECRET_BYTES: Final = 48
OWN: Final = 0o400
READ_BY_ALL: Final = 0o444


def make_secret(path: Path, mode: int, owner: int | None) -> bool:
    """Make a random secret of so many bytes, readable by its owner or, within the volume, by all; whether it was made.

    Written beside its place and moved there: nobody reads half of one.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, mode)
        file.write(secrets.token_urlsafe(SECRET_BYTES))
    if owner is not None:
        os.chown(beside, owner, owner)
    beside.rename(path)
    return True


def main() -> None:
    """Make what is missing, and say what was made; of the secrets nothing but their place."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.stack.prepare", description="Make a stack's secrets.")
    parser.add_argument("--secret", type=Path, required=True, help="file of the sign-in secret, for its owner alone")
    parser.add_argument("--token", type=Path, required=True, help="file of the ops port's token, for all who mount it")
    parser.add_argument("--owner", type=int, help="user id that the files, and the secret's folder, belong to")
    parser.add_argument(
        "--give", action="append", default=[], metavar="FOLDER=UID", help="folder that this user writes"
    )
    options = parser.parse_args()
    for path, mode in ((options.secret, OWN), (options.token, READ_BY_ALL)):
        made = make_secret(path, mode, options.owner)
        print(f"{path}: {'made' if made else 'there already'}")  # noqa: T201 # a command for a terminal
    given = [one.rpartition("=") for one in options.give]
    if options.owner is not None:
        given.append((str(options.secret.parent), "=", str(options.owner)))
    for folder, _, user in given:
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.chown(folder, int(user), int(user))


if __name__ == "__main__":
    main()
