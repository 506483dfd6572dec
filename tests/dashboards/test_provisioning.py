"""What Grafana is given beside the boards: data sources, a folder, addresses in alerts; and that all of it fits."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from dashboards.generator import links
from support.alert_rules import DASHBOARDS, Rule, alerts
from support.board_queries import boards, variables
from tracewire_telemetry.catalog import Attribute

PROVISIONING = DASHBOARDS / "provisioning"
SOURCES_TEXT = (PROVISIONING / "datasources" / "tracewire.yaml").read_text(encoding="utf-8")
SOURCES: dict[str, dict[str, Any]] = {one["type"]: one for one in yaml.safe_load(SOURCES_TEXT)["datasources"]}
BOARDS = boards()
LABELS = {"job", "instance", "user_id", "event_type", "link"}


def test_the_boards_choose_the_data_sources_that_are_provisioned() -> None:
    """By uid; where these are not there, Grafana takes its default."""
    for board in BOARDS.values():
        for kind in ("prometheus", "tempo"):
            assert SOURCES[kind]["uid"] == variables(board)[f"{kind}_datasource"]["current"]["value"]


def test_data_sources_lead_to_each_other() -> None:
    """From a point to its trace, from a span to its metrics, from rules to silences."""
    metrics = SOURCES["prometheus"]["jsonData"]
    (destination,) = metrics["exemplarTraceIdDestinations"]
    assert ("trace_id", SOURCES["tempo"]["uid"]) == (destination["name"], destination["datasourceUid"])
    assert SOURCES["alertmanager"]["uid"] == metrics["alertmanagerUid"]
    assert SOURCES["prometheus"]["uid"] == SOURCES["tempo"]["jsonData"]["tracesToMetrics"]["datasourceUid"]
    scrape = yaml.safe_load((DASHBOARDS / "prometheus" / "prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert scrape == metrics["timeInterval"]


def test_what_is_for_grafana_is_not_taken_for_the_environments() -> None:
    """Grafana reads the file's single dollars as variables of its own environment."""
    text = "".join(line for line in SOURCES_TEXT.splitlines() if not line.lstrip().startswith("#"))
    assert re.findall(r"(?<!\$)\$(?!\$)", text.replace("$$", "")) == []


def test_there_is_no_secret() -> None:
    """What a Prometheus of yours asks for is yours to add."""
    for path in PROVISIONING.rglob("*.yaml"):
        settings = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
        assert not re.search(r"(?i)password|token|secure|authorization", settings), path.name


def test_a_spans_run_is_found_in_its_tags_and_leads_to_its_ledger() -> None:
    """The expression is read as Grafana does, over a span's attributes as it has them."""
    (correlation,) = SOURCES["tempo"]["correlations"]
    (reading,) = correlation["config"]["transformations"]
    tags = [
        {"key": "user.id", "value": "ada"},
        {"key": Attribute.RUN_ID, "value": "0199-run"},
        {"key": Attribute.EVENT_SEQ, "value": 3},
    ]
    found = re.search(reading["expression"], json.dumps(tags, separators=(",", ":")))
    assert found is not None
    assert "0199-run" == found[1]
    address = correlation["config"]["target"]["url"].replace(f"$${{{reading['mapValue']}}}", found[1])
    assert "http://127.0.0.1:9464/runs/0199-run/ledger" == address
    assert ("external", "tags") == (correlation["type"], reading["field"])


def test_the_boards_stand_in_a_folder_of_their_own() -> None:
    """Under a fixed uid, and nobody's change of one is lost without a word: there can be none."""
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "tracewire.yaml").read_text())["providers"]
    assert ("Tracewire", "tracewire", False) == (provider["folder"], provider["folderUid"], provider["allowUiUpdates"])
    assert "/var/lib/grafana/dashboards" == provider["options"]["path"]


@pytest.mark.parametrize("name", alerts())
def test_an_alert_leads_to_a_board_and_chooses_what_it_is_about(name: str) -> None:
    """A board that is there, variables that it has, of labels that the alert has."""
    address = alerts()[name]["annotations"]["dashboard_url"]
    found = urlsplit(re.sub(r"\{\{ \$labels\.(\w+) \| urlquery \}\}", r"\1", address))
    uid = found.path.removeprefix("/d/")
    assert ("http", "127.0.0.1:3000", True) == (found.scheme, found.netloc, uid in BOARDS)
    chosen = {variable: label for variable, (label,) in parse_qs(found.query).items()}
    for variable, label in chosen.items():
        assert variable.removeprefix("var-") in variables(BOARDS[uid])
        assert label in labels_of(alerts()[name]), f"{name} has no label {label}"


def labels_of(rule: Rule) -> set[str]:
    """The labels that the alert has: those it is summed by, or else the target's."""
    summed = re.findall(r"by \(([^)]*)\)", rule["expr"])
    if "job:tracewire" in rule["expr"]:
        return {"job"}
    by = {label.strip() for group in summed for label in group.split(",")} & LABELS
    return by or {"job", "instance"}


def test_alerts_on_users_lead_to_users() -> None:
    """With the user chosen, where the alert is about one."""
    for name in ("TracewireUserEventsMissing", "TracewireManyUsersMissingEvents", "TracewireUserSlotsOverflow"):
        assert f"/d/{links.USERS}?" in alerts()[name]["annotations"]["dashboard_url"]
    one = alerts()["TracewireUserEventsMissing"]["annotations"]["dashboard_url"]
    assert one.endswith("var-user={{ $labels.user_id | urlquery }}")
