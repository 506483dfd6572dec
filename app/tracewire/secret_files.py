"""Secrets that are handed over in files, so that no process list, no image and no compose file holds them.

Enters: the environment. Leaves: the environment with each `…_FILE` of a secret replaced by what its file holds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUFFIX: Final = "_FILE"
SECRETS: Final = ("TRACEWIRE_JWT_SECRET", "TRACEWIRE_OPS_TOKEN")
"""What can be named by a file: the variable with `_FILE` behind it."""


def read_secret_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The environment with the secrets in place of the files that hold them, and what is wrong with any of these.

    White space around a secret is left out: editors and `echo` end a file with a line's end.
    """
    read = dict(environ)
    failures: list[str] = []
    for name in SECRETS:
        path = read.pop(name + SUFFIX, "")
        if not path:
            continue
        if environ.get(name):
            failures.append(f"{name}{SUFFIX} and {name}: one secret, said twice; leave one of them away")
            continue
        try:
            read[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            # What does not look like a path may be the secret itself, put there by mistake.
            shown = f"={path}" if path.startswith(("/", ".", "~")) else ""
            failures.append(
                f"{name}{SUFFIX}{shown}: {error.strerror}; name a file that the server can read, by its path"
            )
            continue
        except UnicodeDecodeError:
            failures.append(f"{name}{SUFFIX}={path}: is no text; the file must hold the secret alone")
            continue
        if not read[name]:
            failures.append(f"{name}{SUFFIX}={path}: is empty; put the secret there")
    return read, failures
