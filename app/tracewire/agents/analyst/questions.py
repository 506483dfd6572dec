"""What a question asks for, told by its words; and the input that the analyst takes.

Pure. A question may ask for several things. One that has none of the words asks for nothing that is known, and is
answered with the overview.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from tracewire.errors import InvalidInputError

SAMPLE: Final = "sample"
"""The recording id that stands for the recording that ships with the package."""

QUESTION_CHARACTERS_MAX: Final = 4000
"""Of a longer question the beginning is read."""

ACCEPTED_INPUT: Final = (
    'The analyst takes a question as text, or {"question": text, "recording_id": text}; '
    f'the recording id comes from POST /recordings, or is "{SAMPLE}". Without one it looks at your own runs.'
)


class Intent(StrEnum):
    """One thing that a question can ask for; the value is how the answer calls it."""

    LOSSES = "what is missing"
    ORDER = "what came twice or out of order"
    TOOLS = "how the tool calls went"
    ENDINGS = "how the runs ended"
    SILENCE = "where it was silent or slow"
    FOREIGN = "what belongs to somebody else"
    COUNTS = "which events there are, and how many"
    RECENT = "which runs there were lately"
    OVERVIEW = "an overview"


_WORDS: Final[dict[Intent, str]] = {
    Intent.LOSSES: r"miss(?:ing|ed|es)?|los[ts]|losing|loss(?:es)?|gaps?|drop(?:ped|s)?|disappear\w*|vanish\w*|"
    r"incomplete|complete(?:ness)?|arriv\w*|deliver\w*|receipts?|swallow\w*",
    Intent.ORDER: r"repeat\w*|duplicat\w*|twice|doubled?|(?:out of |in |wrong )order|order(?:ed|ing)?|replay\w*",
    Intent.TOOLS: r"tools?|calls?|functions?",
    Intent.ENDINGS: r"errors?|fail\w*|end(?:ed|s|ing)?|terminal|finish\w*|crash\w*|cancel\w*|outcomes?|stuck|spinner|"
    r"hang\w*|hung|died?",
    Intent.SILENCE: r"slow\w*|stall\w*|silen\w*|wait\w*|latenc\w*|delay\w*|long(?:est)?|paus\w*|stuck|spinner|hang\w*|"
    r"hung|freez\w*|frozen|fast|durations?",
    Intent.FOREIGN: r"foreign|(?:an)?other(?:'s)? (?:users?|people)|others'|someone|somebody|leak\w*|contaminat\w*|"
    r"belong\w*|isolat\w*|stranger\w*",
    Intent.COUNTS: r"how many|counts?|number of|types?|statistics|figures",
    Intent.RECENT: r"late(?:ly|st)|recent\w*|my (?:own )?(?:last )?runs?|last runs?|history|ran|today|yesterday",
    Intent.OVERVIEW: r"overview|summar\w*|what happened|everything|report|check|analy[sz]e|investigate|look at|wrong|"
    r"problems?|issues?|healthy|fine|ok(?:ay)?|anything",
}
_PATTERNS: Final = {intent: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for intent, words in _WORDS.items()}
_THE_SAMPLE: Final = re.compile(r"\b(?:the|this|your) sample\b|\bsample (?:recording|file)\b", re.IGNORECASE)
_RUN_NUMBER: Final = re.compile(r"\brun (?:no\.? ?|#)?(\d{1,4})\b", re.IGNORECASE)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Question(Struct, frozen=True):
    """A question, read. `intents` is empty where none of its words is known. `labels` and `run_ids` are named runs."""

    text: str
    recording_id: str | None = None
    intents: tuple[Intent, ...] = ()
    labels: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[Intent, ...]:
        """What is answered: the overview, where nothing was understood."""
        return self.intents or (Intent.OVERVIEW,)


def read_question(value: Any) -> Question:
    """The input of a run as a question.

    Raises:
        InvalidInputError: the input has another form. The message says which is accepted.
    """
    text, recording_id = _fields(value)
    text = text.strip()[:QUESTION_CHARACTERS_MAX]
    if recording_id is None and _THE_SAMPLE.search(text):
        recording_id = SAMPLE
    return Question(
        text=text,
        recording_id=recording_id,
        intents=tuple(intent for intent, pattern in _PATTERNS.items() if pattern.search(text)),
        labels=tuple(f"run {int(number)}" for number in _RUN_NUMBER.findall(text)),
        run_ids=tuple(run_id.lower() for run_id in _UUID.findall(text)),
    )


def _fields(value: Any) -> tuple[str, str | None]:
    if isinstance(value, str):
        return value, None
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{ACCEPTED_INPUT} This input is {_kind(value)}.")
    unknown = sorted(str(name) for name in value if name not in ("question", "recording_id"))
    if unknown:
        raise InvalidInputError(f"{ACCEPTED_INPUT} This input has other fields: {', '.join(unknown)[:200]}.")
    question = value.get("question", "")
    recording_id = value.get("recording_id")
    if not isinstance(question, str):
        raise InvalidInputError(f"{ACCEPTED_INPUT} Here `question` is {_kind(question)}.")
    if recording_id is not None and not isinstance(recording_id, str):
        raise InvalidInputError(f"{ACCEPTED_INPUT} Here `recording_id` is {_kind(recording_id)}.")
    return question, recording_id.strip() or None if recording_id else None


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
