"""A run whose page is a hidden tab of a real Chromium for two minutes: nothing is lost, and no alarm is raised.

Spoken over Chromium's own protocol: a test tool's focus emulation would keep the tab visible.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from tests.support.servers import ServerProcess
from websockets.asyncio.client import ClientConnection, connect

HIDDEN_SECONDS = 120
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--remote-debugging-port=0",
)
SCRIPT = """
(async () => {
  const { Tracewire } = await import("/client/tracewire.js");
  const client = new Tracewire(location.origin.replace("http", "ws") + "/ws", { token: TOKEN });
  window.states = [];
  client.addEventListener("state", ({ detail }) => window.states.push(detail.state));
  await client.connect();
  window.hiddenWhile = 0;
  const run = await client.start(String(SECONDS), { agent: "ticks" });
  window.runId = run.runId;
  (async () => {
    window.received = 0;
    for await (const event of run) { window.received += 1; window.hiddenWhile += document.hidden ? 1 : 0; }
    window.agrees = run.receiptAgrees;
  })();
  return run.runId;
})()
"""


class Chromium:
    """One browser, spoken to over its own protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command, and what came of it."""
        self._calls += 1
        command: dict[str, Any] = {"id": self._calls, "method": method, "params": parameters}
        await self._socket.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(await self._socket.recv())
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def evaluate(self, session: str, expression: str) -> Any:
        """What an expression gives in the page."""
        answer = await self.call(
            "Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value", answer)


async def watch_hidden(server: ServerProcess, browser: Chromium) -> bool:
    """Run the check; whether everything held."""
    page = (await browser.call("Target.createTarget", url=server.url, newWindow=True))["targetId"]
    session = (await browser.call("Target.attachToTarget", targetId=page, flatten=True))["sessionId"]
    await asyncio.sleep(1)  # a navigation under way refuses commands
    while await browser.evaluate(session, "document.readyState") != "complete":
        await asyncio.sleep(0.05)
    script = SCRIPT.replace("TOKEN", json.dumps(server.token("alice"))).replace("SECONDS", str(HIDDEN_SECONDS))
    run_id = await browser.evaluate(session, script)
    other = (await browser.call("Target.createTarget", url="about:blank"))["targetId"]
    await browser.call("Target.activateTarget", targetId=other)
    started = time.monotonic()
    while await browser.evaluate(session, "window.agrees === undefined"):
        if time.monotonic() - started > HIDDEN_SECONDS + 60:
            print("the run did not end")
            return False
        await asyncio.sleep(1)
    seen = {name: await browser.evaluate(session, f"window.{name}") for name in ("received", "hiddenWhile", "agrees")}
    states = await browser.evaluate(session, "window.states")
    async with httpx.AsyncClient() as http:
        metrics = (await http.get(f"{server.ops_url}/metrics")).text
        report = (await http.get(f"{server.ops_url}/runs/{run_id}/ledger")).json()
        incidents = (await http.get(f"{server.ops_url}/incidents")).json()["incidents"]
    alarms = sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith("tracewire_events_missing_total{")
    )
    sent = len(report["events"])
    late = sum(row["verdict"] != "in_time" for row in report["events"])
    print(f"hidden for {time.monotonic() - started:.0f} s: {sent} events sent, {seen['received']} received, "
          f"{seen['hiddenWhile']} while hidden, {late} not acked in time, {alarms:.0f} missing, "
          f"{len(incidents)} incidents, states {states}, "
          f"receipt agrees: {seen['agrees']}")  # fmt: skip
    whole = sent == seen["received"] == HIDDEN_SECONDS + 4
    quiet = alarms == 0 and late == 0 and incidents == []
    return bool(seen["agrees"] and whole and quiet and seen["hiddenWhile"] >= HIDDEN_SECONDS - 5)


async def watch(server: ServerProcess, address: str) -> bool:
    """Connect to the browser, and watch."""
    async with connect(address, max_size=None) as socket:
        return await watch_hidden(server, Chromium(socket))


def main() -> int:
    """Start a server and a browser of its own; the exit code."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is missing: install Debian's package chromium")
        return 1
    agent = ("--agent", "tests.soak.agents:ticks")
    with (
        tempfile.TemporaryDirectory(prefix="tracewire-soak-", ignore_cleanup_errors=True) as folder,
        ServerProcess(Path(folder) / "data", *agent) as server,
    ):
        command = [chromium, *ARGUMENTS, f"--user-data-dir={folder}/profile", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
            try:
                assert browser.stderr is not None
                said = next(line for line in browser.stderr if "DevTools listening on" in line)
                return 0 if asyncio.run(watch(server, said.split(" on ")[1].strip())) else 1
            finally:
                browser.terminate()


if __name__ == "__main__":
    sys.exit(main())
