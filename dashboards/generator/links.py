"""Where links lead: the boards' fixed uids, and the ops port of the instance that a row is about."""

from typing import Final

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

DELIVERY: Final = "tracewire-delivery"
USERS: Final = "tracewire-users"
RUNS: Final = "tracewire-runs"
PROCESS: Final = "tracewire-process"
RUNBOOK: Final = "tracewire-runbook"
TITLES: Final = {
    DELIVERY: "Delivery",
    USERS: "Users",
    RUNS: "Runs and agents",
    PROCESS: "Process",
    RUNBOOK: "Runbook",
}
KEPT: Final = ("prometheus_datasource", "tempo_datasource", "job", "instance")
"""The variables that every board has, and every link between boards keeps."""

Link = dict[str, object]


def to_board(uid: str, **variables: str) -> str:
    """A board's address, with the time and the variables shown now; `variables` are further ones."""
    kept = "&".join(f"${{{name}:queryparam}}" for name in KEPT)
    more = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?${{__url_time_range}}&{kept}{more}"


def field(name: str) -> str:
    """A column of the row that is clicked, fit for an address."""
    column = name if name.isidentifier() else f'["{name}"]'
    return f"${{__data.fields{'.' if name.isidentifier() else ''}{column}:percentencode}}"


def incidents(instance: str, user: str | None = None) -> str:
    """The live incidents on an instance's ops port, of one user."""
    return f"http://{instance}/incidents" + (f"?user={user}" if user else "?state=open")


def ledger(run: str) -> str:
    """What each event of a run has crossed. Any instance on the same log answers: `ops` is the one that is asked."""
    return f"http://${{ops}}/runs/{run}/ledger"


def link(title: str, url: str, *, elsewhere: bool = False) -> Link:
    """A link of a field; `elsewhere` opens it in a tab of its own."""
    return {"title": title, "url": url, "targetBlank": elsewhere}


def panel_link(title: str, url: str, *, elsewhere: bool = False) -> DashboardLink:
    """A link of a panel, or of a board."""
    shown = DashboardLink(title).type(DashboardLinkType.LINK).url(url).target_blank(elsewhere)
    return shown.icon("external link" if elsewhere else "dashboard").tooltip(title)
