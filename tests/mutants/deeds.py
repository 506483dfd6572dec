"""What a mutant has really done, said in the server's log: a row to which nothing was done would prove nothing."""

from typing import Final

import structlog

EVENT: Final = "mutant_did"
_log = structlog.get_logger("mutants")


def note(user_id: str) -> None:
    """It is done to this user."""
    _log.info(EVENT, user_id=user_id)
