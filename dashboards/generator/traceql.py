"""Searches among the traces, by the attributes that the catalogue declares. A trace exists once its run is settled."""

from typing import Final

from tracewire_telemetry.catalog import EVENT_MISSING, Attribute

_RUN: Final = f'span.{Attribute.OPERATION_NAME} = "invoke_agent"'
_WHO: Final = (Attribute.USER_ID, Attribute.AGENT_NAME, Attribute.RUN_ID, Attribute.RUN_OUTCOME)
_USER: Final = f'span.{Attribute.USER_ID} =~ "$user"'
_AGENT: Final = f'span.{Attribute.AGENT_NAME} =~ "$agent"'


def _search(*conditions: str, shown: tuple[Attribute, ...]) -> str:
    return f"{{ {' && '.join(conditions)} }} | select({', '.join(f'span.{name}' for name in shown)})"


MISSING_EVENTS: Final = _search(
    f'span.{Attribute.ERROR_TYPE} = "{EVENT_MISSING}"',
    _USER,
    shown=(Attribute.USER_ID, Attribute.EVENT_TYPE, Attribute.LINK, Attribute.EVENT_SEQ, Attribute.RUN_ID),
)
"""The span of the link that did not take an event: its user, type, link and run."""
INCOMPLETE_RUNS: Final = _search(_RUN, f"span.{Attribute.CHAIN_COMPLETE} = false", _USER, shown=_WHO)
PENDING_RUNS: Final = _search(
    _RUN, f"span.{Attribute.EVENTS_PENDING} > 0", _USER, shown=(*_WHO, Attribute.EVENTS_PENDING)
)
FAILED_RUNS: Final = _search(_RUN, "status = error", _AGENT, shown=_WHO)
SLOW_RUNS: Final = _search(
    _RUN, f"span.{Attribute.DELIVERY_MAX_MS} >= 2000", _AGENT, shown=(*_WHO, Attribute.DELIVERY_MAX_MS)
)
