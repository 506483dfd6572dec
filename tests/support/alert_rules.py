"""The rules and their promtool tests as data, and rules that are wrong in one place, which the tests must notice."""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
RULES = sorted((DASHBOARDS / "prometheus" / "rules").glob("*.yaml"))
PROMTOOL_TESTS = sorted((ROOT / "tests" / "promtool").glob("*.yaml"))
PROMTOOL_SECONDS = 100

Rule = dict[str, Any]

_COMPARISON = re.compile(r"(==|>=|<=|>|<)\s*(\d+(?:\.\d+)?)")
_SET_OPERATOR = re.compile(r"\b(and|or|unless)\b")
_SWAPPED = {"and": "unless", "unless": "and", "or": "and"}


def groups() -> Iterator[Rule]:
    """Every group of every file."""
    for path in RULES:
        yield from yaml.safe_load(path.read_text())["groups"]


def alerts() -> dict[str, Rule]:
    """The alerts by name."""
    return {rule["alert"]: rule for group in groups() for rule in group["rules"] if "alert" in rule}


def loaded(path: Path) -> dict[str, Any]:
    """A file of promtool tests, every scalar as the text that it is: `0x20` is no number there."""
    tests: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)  # noqa: S506 -- it makes nothing but text
    return tests


def checks() -> Iterator[tuple[str, bool]]:
    """Each check of the promtool tests: an alert, and whether it is expected to fire."""
    for path in PROMTOOL_TESTS:
        for test in loaded(path)["tests"]:
            for check in test["alert_rule_test"]:
                yield check["alertname"], bool(check.get("exp_alerts"))


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """The alert, wrong in one place each: a bound never or always passed, a swapped set operator, other times."""
    expression = rule["expr"]
    for found in _COMPARISON.finditer(expression):
        operator, number = found.groups()
        below, above = ("< -1e9", "< 1e9") if operator[0] == "<" else ("> 1e9", "> -1e9")
        for changed in (below, above):
            what = f"{found.start()}: {operator} {number} is {changed}"
            yield _with(rule, what, expr=_replaced(expression, found, changed))
    for found in _SET_OPERATOR.finditer(expression):
        swapped = _SWAPPED[found[1]]
        yield _with(rule, f"{found.start()}: {found[1]} is {swapped}", expr=_replaced(expression, found, swapped))
    for name in ("for", "keep_firing_for"):
        if name in rule:
            yield _with(rule, f"no {name}", **{name: "0s"})
            yield _with(rule, f"{name} ten times as long", **{name: f"{10 * int(rule[name][:-1])}{rule[name][-1]}"})


def _replaced(text: str, found: re.Match[str], by: str) -> str:
    return text[: found.start()] + by + text[found.end() :]


def _with(rule: Rule, what: str, **changed: str) -> tuple[str, Rule]:
    return what, rule | changed


def noticed(promtool: str, versions: dict[str, Rule], folder: Path) -> set[str]:
    """Which of these versions of one alert fail its promtool tests; with the recording rules that they read.

    All are tested in one go, each under a name of its own, so that the recording rules are evaluated once.
    """
    (rule,) = {one["alert"]: one for one in versions.values()}.values()
    expressions = "".join(one["expr"] for one in versions.values())
    names = {f"{rule['alert']}_{index}": what for index, what in enumerate(versions)}
    records = [
        {**group, "rules": [one for one in group["rules"] if one.get("record", "(none)") in expressions]}
        for group in groups()
    ]
    renamed = [versions[what] | {"alert": name} for name, what in names.items()]
    written = [*(group for group in records if group["rules"]), {"name": "versions", "rules": renamed}]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": written}, sort_keys=False))
    failed: set[str] = set()
    for index, path in enumerate(PROMTOOL_TESTS):
        tests = _of_versions(rule["alert"], list(names), loaded(path))
        tests["group_eval_order"] = [group["name"] for group in written]
        if tests["tests"]:
            file = folder / f"test-{index}.yaml"
            file.write_text(yaml.safe_dump(tests, sort_keys=False))
            failed |= {names[name] for name in _failures(promtool, file)}
    return failed


def _failures(promtool: str, file: Path) -> set[str]:
    """The names of the alerts with a failed check in this file."""
    ran = subprocess.run(
        [promtool, "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROMTOOL_SECONDS,
    )
    said = ran.stdout + ran.stderr
    found = set(re.findall(r"^ *alertname: (\w+), time: ", said, re.MULTILINE))
    # A file that promtool cannot read fails too, and says nothing about the alerts.
    assert bool(found) == bool(ran.returncode), said
    return found


def _of_versions(alert: str, names: list[str], tests: dict[str, Any]) -> dict[str, Any]:
    """The tests that name the alert, each of its checks once for each name."""
    kept = []
    for test in tests["tests"]:
        own = [check for check in test["alert_rule_test"] if check["alertname"] == alert]
        repeated = [copy.deepcopy(check) | {"alertname": name} for check in own for name in names]
        if own:
            kept.append(test | {"alert_rule_test": repeated})
    return tests | {"rule_files": ["rules.yaml"], "tests": kept}
