"""The rules: valid, each alert tested both ways by promtool, those tests able to fail, and every name known."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from support.alert_rules import (
    DASHBOARDS,
    PROMTOOL_TESTS,
    RULES,
    Rule,
    alerts,
    checks,
    groups,
    loaded,
    mutants,
    noticed,
)
from support.real_programs import real_program
from tracewire.settings import load_settings
from tracewire_telemetry.catalog import METRICS

ALERTMANAGER_CONFIG = DASHBOARDS / "alertmanager" / "alertmanager.yaml"
ALERTS = {
    "TracewireUserEventsMissing": "warning",
    "TracewireManyUsersMissingEvents": "critical",
    "TracewireUserSlotsOverflow": "critical",
    "TracewireMissingUnnamed": "critical",
    "TracewireDeliveryBurnFast": "critical",
    "TracewireDeliveryBurnSlow": "warning",
    "TracewireCanaryFailing": "critical",
    "TracewireCanaryAbsent": "critical",
    "TracewireDetectionBroken": "critical",
    "TracewireWatchStalled": "critical",
    "TracewireDown": "critical",
    "TracewireProcessGoneWithRunsOpen": "critical",
    "TracewireRunsLostAtStart": "warning",
    "TracewireRunStuck": "critical",
    "TracewireSlowClients": "warning",
    "TracewireResumesFailing": "warning",
    "TracewireEventLogSlow": "warning",
    "TracewireEventLogStuck": "critical",
    "TracewireSpansDropped": "warning",
    "TracewireCollectorLosing": "warning",
    "TracewireTelemetryTargetDown": "warning",
    "TracewireRulesFailing": "critical",
    "TracewireNotificationsFailing": "critical",
    "TracewireWatchdog": "none",
}
NEVER_SILENT = {"TracewireWatchdog"}
STILL_TO_COME: set[str] = set()
"""Metrics that rules query and the catalogue does not declare yet. Take out what it declares; never add."""
DECLARED = {spec.full_name: spec for spec in METRICS}
SECONDS = 60


def promtool() -> str:
    """Prometheus's own tool."""
    return real_program("promtool", package="prometheus")


def run(*command: str | Path) -> str:
    """What the command says; it must succeed."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def queried() -> Counter[str]:
    """The names of our metrics in all expressions, as their catalogue has them."""
    found: Counter[str] = Counter()
    for group in groups():
        for rule in group["rules"]:
            names = re.findall(r"(?<![:\w])tracewire_\w+", rule["expr"])
            found.update(re.sub(r"_(bucket|sum|count)$", "", name) for name in names)
    return found


def test_prometheus_and_alertmanager_accept_rules_and_configurations() -> None:
    """By their own checkers; the configuration finds all the rule files."""
    run(promtool(), "check", "rules", *RULES)
    said = run(promtool(), "check", "config", DASHBOARDS / "prometheus" / "prometheus.yaml")
    assert f"{len(RULES)} rule files found" in said
    amtool = real_program("amtool", package="prometheus-alertmanager")
    run(amtool, "check-config", ALERTMANAGER_CONFIG)


@pytest.mark.parametrize("path", PROMTOOL_TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_and_is_silent_as_its_cases_say(path: Path) -> None:
    """Prometheus's own engine evaluates the rules over the series of the cases."""
    assert "SUCCESS" in run(promtool(), "test", "rules", path)


def test_every_alert_of_the_contract_is_there_and_no_other() -> None:
    """With the severity that it has in the contract."""
    assert {name: rule["labels"]["severity"] for name, rule in alerts().items()} == ALERTS


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    """An alert that is never seen to fire may never fire, one that is never seen silent may always."""
    seen = set(checks())
    assert {name for name in ALERTS if (name, True) not in seen} == set()
    assert {name for name in ALERTS if (name, False) not in seen} == NEVER_SILENT
    assert {name for name, _ in seen} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_that_is_wrong_in_one_place_fails_its_cases(name: str, tmp_path: Path) -> None:
    """Each bound that is never or always passed, each swapped operator, each other time is noticed by some case."""
    rule: Rule = alerts()[name]
    wrong = dict(mutants(rule))
    assert len(wrong) >= 2 or name in NEVER_SILENT
    found = noticed(promtool(), {"as it is": rule, **wrong}, tmp_path)
    assert found == set(wrong)


def test_every_alert_says_what_it_means_and_where_its_runbook_is() -> None:
    """A summary, a description, and a link to a heading that is there."""
    headings = re.findall(r"^## (\w+)$", (DASHBOARDS / "runbook.md").read_text(), re.MULTILINE)
    assert set(headings) == set(ALERTS)
    for name, rule in alerts().items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
        assert rule["annotations"]["runbook_url"] == f"dashboards/runbook.md#{name.lower()}"


def test_every_section_of_the_runbook_says_what_it_means_how_to_see_it_and_what_to_do() -> None:
    """Who is called at night finds the same three things under every heading."""
    _, *sections = re.split(r"^## ", (DASHBOARDS / "runbook.md").read_text(), flags=re.MULTILINE)
    for section in sections:
        parts = re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE)
        assert parts == ["Means.", "See it.", "Do."], section.partition("\n")[0]


def test_every_metric_that_a_rule_or_the_runbook_names_is_declared() -> None:
    """Or is on the list of those to come, which must lose what has come."""
    assert set(queried()) - set(DECLARED) == STILL_TO_COME
    named = set(re.findall(r"(?<![:\w])tracewire_\w+", (DASHBOARDS / "runbook.md").read_text()))
    known = set(DECLARED) | STILL_TO_COME
    assert {name for name in named if re.sub(r"_(bucket|sum|count)$", "", name) not in known} == set()


def test_every_label_that_a_rule_selects_by_has_the_values_that_it_names() -> None:
    """A misspelt value would select nothing, and its alert would be silent for ever."""
    selectors = [
        (re.sub(r"_(bucket|sum|count)$", "", name), label, value)
        for group in groups()
        for rule in group["rules"]
        for name, inside in re.findall(r"\b(tracewire_\w+)\{([^}]*)\}", rule["expr"])
        for label, value in re.findall(r'(\w+)\s*[!=]~?\s*"([^"]*)"', inside)
    ]
    assert len(selectors) > 10
    for name, label, values in selectors:
        known = dict(DECLARED[name].labels)
        assert set(values.split("|")) <= set(known[label]), (name, label, values)


def test_the_series_of_the_cases_are_those_that_a_server_has() -> None:
    """Names and labels as the catalogue declares them: a case on a series that never exists shows nothing."""
    for path in PROMTOOL_TESTS:
        for case in loaded(path)["tests"]:
            for series in case["input_series"]:
                name, labels = re.findall(r"^(\w+)\{(.*)\}$", series["series"])[0]
                spec = DECLARED.get(re.sub(r"_(bucket|sum|count)$", "", name))
                if spec is not None:
                    target = {"job", "instance"} | ({"le"} if name.endswith("_bucket") else set())
                    found = set(re.findall(r'(\w+)="', labels))
                    assert found == {*spec.label_names} | target, (path.name, series["series"])


def test_a_run_counts_as_stuck_a_minute_after_its_deadline() -> None:
    """The rule holds the setting's default, which Prometheus cannot read."""
    default = load_settings({}).run_deadline_seconds
    assert f"> {default + 60:.0f}" in alerts()["TracewireRunStuck"]["expr"]


def test_many_users_are_one_notification_for_each_installation() -> None:
    """What is held back while many users miss events, and only within one job."""
    rules = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())["inhibit_rules"]
    assert [rule["equal"] for rule in rules] == [["job"]] * len(rules)
    held_back = alerts()["TracewireUserEventsMissing"]
    for name in ("TracewireManyUsersMissingEvents", "TracewireUserSlotsOverflow"):
        assert minutes(alerts()[name]["keep_firing_for"]) > minutes(held_back["keep_firing_for"])


def minutes(text: str) -> int:
    """A duration of the rules that is in minutes."""
    assert text.endswith("m")
    return int(text[:-1])


def test_the_watchdog_has_a_receiver_of_its_own() -> None:
    """Everything else goes to the operators."""
    amtool = real_program("amtool", package="prometheus-alertmanager")
    for name in ALERTS:
        receiver = run(
            amtool, "config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}", f"alertname={name}"
        ).strip()
        assert receiver == ("watchdog" if name == "TracewireWatchdog" else "operators"), name
