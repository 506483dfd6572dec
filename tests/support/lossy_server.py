"""The `tracewire` command whose links lose events of the users who are named after them (`support.losses`).

    python -m support.lossy_server serve --agent support.losses:loses

What is lost is never let go.
"""

import sys

import pytest

from support.losses import Losses
from tracewire import cli

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        Losses(patch)
        cli.main(sys.argv[1:])
