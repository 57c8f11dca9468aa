"""The rules fire when they should, on metrics that exist, and the runbook says what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from monitor.metrics import LearnMetrics, Metrics, SegmentMetrics
from tests.harness.brokers import program

TOP = Path(__file__).parents[2]
FOLDER = TOP / "docker" / "prometheus"


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


(GROUP,) = read("rules.yml")["groups"]
ALERTS = {rule["alert"]: rule for rule in GROUP["rules"] if "alert" in rule}


def test_each_rule_fires_when_it_should_and_is_silent_otherwise() -> None:
    promtool = program("promtool")
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]):
        verdict = subprocess.run(
            [promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_each_rule_is_tried_firing_and_silent(name: str) -> None:
    outcomes = {
        bool(case["exp_alerts"])
        for test in read("rules.test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    }
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_each_rule_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    notes = rule["annotations"]
    assert notes["summary"]
    assert notes["description"].endswith(".")
    page, _, anchor = notes["runbook_url"].rpartition("#")
    headings = re.findall(r"^## (.+)$", (TOP / page).read_text(), re.M)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    severity = rule["labels"]["severity"].title()
    assert f"## {name}\n\n*{severity}.*" in (TOP / page).read_text()


def test_the_runbook_speaks_of_these_alerts_and_of_every_reason() -> None:
    text = (TOP / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.M)) == set(ALERTS)
    from monitor.errors import REASONS

    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(REASONS)


def test_the_rules_use_metrics_that_the_daemons_have() -> None:
    ours = Metrics(CollectorRegistry())
    ours.model.labels("ecg", "0").set(1)
    others = (SegmentMetrics(CollectorRegistry()), LearnMetrics(CollectorRegistry()))
    pages = [generate_latest(each.registry) for each in (ours, *others)]
    series = set(re.findall(r"^\w+", b"".join(pages).decode(), re.M))
    used = {
        name
        for rule in GROUP["rules"]
        for name in re.findall(r"(?<![:\w])ecg_monitor_\w+", rule["expr"])
    }
    assert len(used) > 5
    assert used <= series


def test_the_rules_by_job_name_the_jobs_that_are_scraped() -> None:
    jobs = {job["job_name"] for job in read("prometheus.yml")["scrape_configs"]}
    named = re.findall(r'\bup\{job="([^"]+)"', "\n".join(rule["expr"] for rule in GROUP["rules"]))
    assert set(named) == jobs == {"ecg-monitor", "ecg-monitor-segment", "ecg-monitor-learn"}
