"""Alerts fire when they should, and not otherwise; and each says what to do."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.needs import command
from tests.fakes.prometheus import ROOT, SHIPPED

SCENARIOS = sorted(Path(__file__).parent.glob("scenarios/*.yaml"))
RULES = sorted(SHIPPED.glob("rules/*.yaml"))


def promtool(*arguments: str | Path) -> None:
    tool = command("promtool", "prometheus")
    done = subprocess.run(
        [tool, *map(str, arguments)], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = (group for path in RULES for group in yaml.safe_load(path.read_text())["groups"])
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_rules_are_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_the_configuration_is_one() -> None:
    """Debian's promtool has no discovery of Kubernetes' pods, so it cannot read the other one."""
    promtool("check", "config", SHIPPED / "prometheus-static.yaml")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_scenarios(scenario: Path) -> None:
    promtool("test", "rules", scenario)


def test_every_alert_fires_in_a_scenario_and_is_silent_in_another() -> None:
    """Each scenario says all alerts that fire in it; so those that it does not name are silent."""
    fired: Counter[str] = Counter()
    silent: set[str] = set()
    for scenario in SCENARIOS:
        for test in yaml.safe_load(scenario.read_text())["tests"]:
            [asked] = test["promql_expr_test"]
            if "ALERTS" not in asked["expr"]:
                continue
            named = set(re.findall(r'alertname="(\w+)"', str(asked.get("exp_samples", ""))))
            fired.update(named)
            silent |= ALERTS.keys() - named
    assert fired.keys() == ALERTS.keys()
    assert silent == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    """And the page that it leads to has a section for it, with more than a line."""
    told = ALERTS[name]["annotations"]
    assert ALERTS[name]["labels"]["severity"] in {"page", "ticket"}
    assert told.keys() == {"summary", "description", "action", "runbook"}
    path, _, anchor = told["runbook"].partition("#")
    assert anchor == name.lower()
    page = (ROOT / path).read_text()
    [section] = re.findall(rf"^### {name}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert len(section.split()) > 25


def test_the_page_knows_no_other_alerts() -> None:
    page = (SHIPPED / "README.md").read_text()
    assert set(re.findall(r"^### (Looper\w+)$", page, re.MULTILINE)) == ALERTS.keys()
