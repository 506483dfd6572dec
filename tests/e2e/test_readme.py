"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from support.servers import FIVE, ServerProcess

README = Path(__file__).resolve().parents[2] / "README.md"
LINES_MAX = {"import asyncio, json, sys": 15, "async def support(ctx):": 8}


def block_that_begins(first_line: str) -> str:
    """The README's code block whose first line this is."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return next(block for block in blocks if block.startswith(first_line))


def test_client_and_agent_are_as_short_as_promised() -> None:
    """Fifteen lines for a client, eight for an agent."""
    lines = {first: block_that_begins(first).splitlines() for first in LINES_MAX}
    assert [] == [first for first, block in lines.items() if sum(map(bool, block)) > LINES_MAX[first]]


def test_the_client_gets_a_whole_run_from_the_analyst(tmp_path: Path) -> None:
    """Run twice, it prints the same run: all five types, started first, completed last, without a gap."""
    with ServerProcess(tmp_path / "data") as server:
        code = block_that_begins("import asyncio, json, sys").replace("ws://127.0.0.1:8000/ws", server.ws_url)
        command = [sys.executable, "-c", code, server.token("alice")]
        said = [subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout for _ in "12"]
    rows = [[line.split(maxsplit=2)[:2] for line in text.splitlines()] for text in said]
    events = [[row for row in printed if row[0] in FIVE or row[0] == "agent_delta"] for printed in rows]
    assert events[0] == events[1]
    assert ["agent_started", "agent_completed"] == [events[0][0][0], events[0][-1][0]]
    assert set(FIVE) <= {row[0] for row in events[0]}
    assert [str(seq) for seq in range(1, len(events[0]) + 1)] == [row[1] for row in events[0]]


def test_the_python_client_gets_a_whole_run_and_tells_of_its_connection(tmp_path: Path) -> None:
    """Its states, each event once and in order, and that everything came."""
    with ServerProcess(tmp_path / "data") as server:
        code = block_that_begins("import asyncio, sys").replace("ws://127.0.0.1:8000/ws", server.ws_url)
        command = [sys.executable, "-c", code, server.token("alice")]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    seqs = [int(line.split()[0]) for line in said if line.split()[0].isdigit()]
    assert list(range(1, len(seqs) + 1)) == seqs
    assert len(seqs) >= len(FIVE)
    assert [line.split()[0] for line in said if line.startswith(("ready", "closed"))] == ["ready", "closed"]
    assert "everything came" in said


def test_the_agent_is_served_and_asked(tmp_path: Path) -> None:
    """Saved under the name that the README gives it, it answers."""
    (tmp_path / "my_agents.py").write_text(block_that_begins("async def support(ctx):"))
    with ServerProcess(tmp_path / "data", "--agent", "my_agents:support", cwd=tmp_path) as server:
        ask = [sys.executable, "-m", "tracewire.cli", "ask", "where is my parcel?", "--agent", "support"]
        where = ["--url", server.ws_url, "--data-dir", str(tmp_path / "data")]
        asked = subprocess.run([*ask, *where], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Here is what I found" in asked
    assert "it agrees" in asked
