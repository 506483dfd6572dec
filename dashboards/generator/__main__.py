"""`python -m dashboards.generator`: write every board to `dashboards/grafana`, and remove what is none of them."""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.generator import delivery, process, runbook, runs, users
from dashboards.generator.frame import Board, built

FOLDER: Final = Path(__file__).parents[1] / "grafana"


def boards() -> list[Board]:
    """Every board, in the order of the links between them."""
    runbook_text = runbook.SOURCE.read_text(encoding="utf-8")
    return [delivery.board(), users.board(), runs.board(), process.board(), runbook.board(runbook_text)]


def files() -> dict[str, str]:
    """The text of each file by its name: the same for the same sources, whenever and wherever it is made."""
    return {
        f"{board.uid}.json": json.dumps(built(board), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
        + "\n"
        for board in boards()
    }


def write(folder: Path) -> None:
    """Make the folder hold these files and no other board."""
    folder.mkdir(exist_ok=True)
    made = files()
    for stale in {path.name for path in folder.glob("*.json")} - set(made):
        (folder / stale).unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
