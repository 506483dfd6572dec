"""Reading what a request says: its JSON body, and the integers of its query. What does not fit is refused by name."""

import re
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from tracewire.errors import RejectedError
from tracewire_telemetry.vocabulary import RejectCode

SEQ_MAX: Final = 2**53
"""The largest seq that a request can name: every client's numbers hold it exactly."""
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json", re.ASCII | re.IGNORECASE)
T = TypeVar("T")


async def read_body(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """The request's JSON body in this shape.

    Raises:
        RejectedError: `malformed`, saying what is wrong and where.
        HTTPException: 415, where the body says that it is something else; 413, where it is too large.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if content_type and not _JSON.fullmatch(content_type):
        raise HTTPException(
            status_code=415,
            detail=f"the body must be JSON, with `Content-Type: application/json`, not {content_type[:64]!r}",
        )
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.DecodeError as error:
        raise RejectedError(RejectCode.MALFORMED, f"the body: {error}") from None
    except UnicodeDecodeError:
        raise RejectedError(RejectCode.MALFORMED, "the body is not UTF-8") from None


def read_integer(request: Request[Any, Any, Any], name: str, default: int, *, low: int, high: int) -> int:
    """A number of the query, from `low` to `high`; the default where it is not there.

    Raises:
        RejectedError: `malformed`, saying what it must be.
    """
    return integer_of(name, request.query_params.get(name), default, low=low, high=high)


def integer_of(name: str, text: str | None, default: int, *, low: int, high: int) -> int:
    """The number that a text of a request says, from `low` to `high`; the default where there is none.

    Raises:
        RejectedError: `malformed`, saying what it must be.
    """
    if text is None:
        return default
    if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
        raise RejectedError(RejectCode.MALFORMED, f"{name} must be an integer from {low} to {high}, not {text[:64]!r}")
    return int(text)
