"""The analyst, the built-in agent: it investigates recordings of agent sockets, and its user's own runs. No model.

A file or the log becomes a `Reading` (`reading`, `har`, `own_runs`), whatever the backend calls things (`shapes`,
`names`). Its frames are sorted into runs (`attribution`, `strangers`, `runs`), each held against its numbers
(`sequences`), the contract (`conduct`) and the clock (`silence`). A question (`questions`) gets its answer (`answers`).
All of that is pure; `agent` awaits.
"""

from typing import Final

from tracewire.agents.analyst.agent import TOOL_NAMES, build_analyst
from tracewire_telemetry.vocabulary import CRITICAL_TYPES

REQUIRED_TYPES: Final = CRITICAL_TYPES
"""What every completed run of the analyst has shown."""

__all__ = ("REQUIRED_TYPES", "TOOL_NAMES", "build_analyst")
