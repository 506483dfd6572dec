"""The board "Runbook": `dashboards/runbook.md` where an alert is looked at, a panel for each alert."""

import re
from pathlib import Path
from typing import Final

from dashboards.generator import links
from dashboards.generator.frame import Board, Placed, Row
from dashboards.generator.house import page

SOURCE: Final = Path(__file__).parents[1] / "runbook.md"
_LINE_CHARACTERS: Final = 150
_HEIGHT_PER_LINE: Final = 0.75


def board(text: str) -> Board:
    """A panel to begin with, then one for each second-level heading, in the text's order."""
    opening, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = [section.partition("\n")[::2] for section in rest]
    contents = "\n".join(
        f"- [{name}](/d/{links.RUNBOOK}?viewPanel={201 + at})" for at, (name, _) in enumerate(sections)
    )
    general = opening.partition("\n")[2].strip()
    first = [
        Placed(page("Alerts", "Each alert's section.", contents), 6, 28),
        Placed(page("Where to look first", "What holds for all alerts.", general), 18, 28),
    ]
    return Board(
        links.RUNBOOK,
        "Tracewire / Runbook",
        "What each alert means, how to see it, what to do. The text is dashboards/runbook.md.",
        [
            Row("For every alert", first),
            Row(
                "Alert by alert",
                [Placed(page(name, f"The alert {name}.", body.strip()), 24, _height(body)) for name, body in sections],
            ),
        ],
    )


def _height(markdown: str) -> int:
    lines = sum(1 + len(line) // _LINE_CHARACTERS for line in markdown.strip().splitlines())
    return 3 + int(lines * _HEIGHT_PER_LINE)
