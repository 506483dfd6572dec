"""`tracewire drill`: loses one event on a running server, and follows what becomes of it to its end.

Enters: the ops port's address, an event, a link. Leaves: a line for each step, and why the drill failed, if it did.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

import httpx
from msgspec import Struct

from tracewire.drill_client import REQUEST_SECONDS, RESYNC, DrillClient, DrillError
from tracewire.drills import NEVER_EMITTED, USER
from tracewire_telemetry.user_gauge import hashed_user
from tracewire_telemetry.vocabulary import EventType, IncidentState, Link

__all__ = ["DrillError", "DrillOrder", "Drilling"]

OPS_URL: Final = "http://127.0.0.1:9464"
WITHIN_SECONDS: Final = 180.0
LOOK_SECONDS: Final = 0.25
ALERT: Final = "TracewireUserEventsMissing"
_LABELS: Final = (USER, hashed_user(USER))
"""How metrics name the user, by `TRACEWIRE_METRICS_USER_ID`."""


class DrillOrder(Struct, frozen=True, kw_only=True):
    """What is to be lost, and where to look. `ws_url`: where the server says, unless it is named here.

    `token` signs in the user `drill`; the server makes one where it signs its own.
    """

    event: str
    link: str
    ops_url: str = OPS_URL
    ops_token: str = ""
    ws_url: str = ""
    token: str = ""
    alertmanager_url: str = ""
    within_seconds: float = WITHIN_SECONDS

    @property
    def expected_type(self) -> str:
        """What the incident is to say of it: of a run that falls silent nobody knows what would have come next."""
        return "next" if (self.link, self.event) == (Link.ENGINE, EventType.AGENT_COMPLETED) else self.event

    @property
    def expected_state(self) -> IncidentState:
        """How the incident is to end: what an agent never emits cannot come after all."""
        never = self.link == Link.ENGINE and self.event in NEVER_EMITTED
        return IncidentState.LOST if never else IncidentState.HEALED


class Drilling:
    """One drill on one server. `say` is given each line for people as it becomes true.

    Raises:
        DrillError: the ops port's address is none.
    """

    def __init__(self, order: DrillOrder, say: Callable[[str], None]) -> None:
        self._order = order
        self._say = say
        headers = {"Authorization": f"Bearer {order.ops_token}"} if order.ops_token else {}
        try:
            self._ops = httpx.AsyncClient(base_url=order.ops_url, headers=headers, timeout=REQUEST_SECONDS)
        except httpx.InvalidURL as error:
            raise DrillError(
                f"{order.ops_url!r} is no URL of an ops port ({error}); it looks like {OPS_URL}"
            ) from error
        self._alerts = httpx.AsyncClient(timeout=REQUEST_SECONDS)

    async def drill(self) -> None:
        """Lose the event, and follow it to the end of its incident.

        Raises:
            DrillError: it says at which step the drill failed, and why.
        """
        order = self._order
        async with self._ops, self._alerts:
            if order.alertmanager_url:
                await self._require_silence()
            armed = await self._ask("POST", "/drills", {"event": order.event, "link": order.link})
            token = order.token or armed["token"]
            if not token:
                raise DrillError(
                    f"this server's tokens are signed elsewhere: get one for the user {armed['user_id']!r} there, and "
                    "bring it in a file with --token-file"
                )
            client = DrillClient(
                order.ws_url or self._reached(armed["ws_url"]),
                token,
                withheld=order.event if order.link == Link.CLIENT else "",
            )
            self._say(f"armed    {order.event} at {order.link}, for one run of user {armed['user_id']}")
            running = asyncio.create_task(client.run(armed["drill_id"], armed["user_id"], armed["agent"]))
            try:
                await self._follow(armed["drill_id"], client, running)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _require_silence(self) -> None:
        """Before anything is lost: Alertmanager answers, and the alert that is to fire does not fire already."""
        alert = await self._alert(self._order.expected_type)
        if alert is not None:
            raise DrillError(
                f"{ALERT} of this drill has fired since {alert['startsAt']} already; it ends some minutes after the "
                "incident did: try again then, or with another event"
            )

    def _reached(self, ws_url: str) -> str:
        """A server that listens on every address is reached by the one at which its ops port answered."""
        told, ops = httpx.URL(ws_url), self._ops.base_url
        return str(told.copy_with(host=ops.host)) if told.host in ("0.0.0.0", "::") else ws_url  # noqa: S104 # told

    async def _follow(self, drill_id: str, client: DrillClient, running: "asyncio.Task[None]") -> None:
        drill = await self._until(running, "the event was not lost", lambda: self._lost(drill_id))
        self._say(f"run      {drill['run_id']}")
        self._say(f"lost     {drill['lost_at']}")
        opened = await self._until(running, "no incident was opened", lambda: self._incident(drill["run_id"]))
        self._say(f"incident {opened['since']}{_after(drill, opened)}  {opened['type']} at {opened['link']}")
        if (opened["link"], opened["type"]) != (self._order.link, self._order.expected_type):
            expected = f"{self._order.expected_type} at {self._order.link}"
            raise DrillError(f"the incident is of {opened['type']} at {opened['link']}, not of {expected}")
        if self._order.alertmanager_url:
            alert = await self._until(running, f"{ALERT} did not fire", lambda: self._alert(opened["type"]))
            self._say(f"alert    {alert['startsAt']}  {ALERT}")
        ended = await self._until(running, "the incident did not end", lambda: self._incident(drill["run_id"], "ended"))
        expected_state = self._order.expected_state
        late = f", {ended['late_seconds']:.1f} s late" if ended["late_seconds"] is not None else ""
        why = ": what the agent never emitted cannot come after all" if ended["state"] == IncidentState.LOST else ""
        back = f", by {RESYNC} and resume" if client.resyncs and ended["state"] == IncidentState.HEALED else ""
        self._say(f"{ended['state']:8} {ended['ended']}{late}{back}{why}")
        if ended["state"] != expected_state:
            raise DrillError(f"the incident ended as {ended['state']}, not as {expected_state}")
        await self._until(running, "the run did not end", partial(_result, running))
        self._say(f"over     the client has all {client.last_seq} events of the run")

    async def _until(self, running: "asyncio.Task[None]", failed: str, look: Callable[[], Any]) -> dict[str, Any]:
        """What a look finds, within the time that a step has.

        Raises:
            DrillError: it is not found in time, or the client fails.
        """
        give_up_at = time.monotonic() + self._order.within_seconds
        while time.monotonic() < give_up_at:
            found: dict[str, Any] | None = await look()
            if found is not None:
                return found
            if running.done():
                running.result()
            await asyncio.sleep(LOOK_SECONDS)
        raise DrillError(f"{failed} within {self._order.within_seconds:g} s")

    # What is looked at.

    async def _lost(self, drill_id: str) -> dict[str, Any] | None:
        drill = await self._ask("GET", f"/drills/{drill_id}")
        return drill if drill["lost_at"] is not None else None

    async def _incident(self, run_id: str, stage: str = "opened") -> dict[str, Any] | None:
        # The oldest: it is the one that the loss opened.
        page = await self._ask("GET", f"/incidents?run={run_id}")
        found: dict[str, Any] | None = next(reversed(page["incidents"]), None)
        return found if found is not None and (stage == "opened" or found["ended"] is not None) else None

    async def _alert(self, event_type: str) -> dict[str, Any] | None:
        url = self._order.alertmanager_url.rstrip("/")
        filters = [f'alertname="{ALERT}"', f'event_type="{event_type}"', f'link="{self._order.link}"']
        try:
            answer = await self._alerts.get(f"{url}/api/v2/alerts", params={"filter": filters, "active": "true"})
            answer.raise_for_status()
            alerts: list[dict[str, Any]] = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DrillError(f"no Alertmanager answers at {url}: {str(error) or type(error).__name__}") from error
        return next((alert for alert in alerts if alert["labels"].get("user_id") in _LABELS), None)

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = await self._ops.request(method, path, json=body)
            told: dict[str, Any] = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            cause = str(error) or type(error).__name__
            raise DrillError(
                f"no ops port answers at {self._order.ops_url}: {cause}; is the server running?"
            ) from error
        except ValueError as error:
            raise DrillError(f"what answers at {self._order.ops_url} is no ops port of Tracewire") from error
        if answer.status_code == 404 and method == "POST":
            raise DrillError(f"{self._order.ops_url} knows no drills: name the ops port with --url, not the public one")
        if answer.is_error:
            raise DrillError(str(told.get("detail") or f"HTTP {answer.status_code}"))
        return told


async def _result(running: "asyncio.Task[None]") -> dict[str, Any] | None:
    return {} if running.done() and running.exception() is None else None


def _after(drill: dict[str, Any], opened: dict[str, Any]) -> str:
    with contextlib.suppress(ValueError):
        lost, since = (datetime.fromisoformat(moment) for moment in (drill["lost_at"], opened["since"]))
        return f", {(since - lost).total_seconds():.1f} s after"
    return ""
