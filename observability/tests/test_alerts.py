"""The alerts: Prometheus' own tool runs each on made series, where it must fire and where it must be silent."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import metrics_reference
import promql_lint
import pytest
import yaml
from alert_cases import CASES, SCENARIOS, Case, Scenario

from e2e_cluster.unpacked import PROMTOOL, ensure_unpacked
from patio_observability import rules
from patio_observability.alerts import ALERTS, DEFAULTS, GROUPS, THRESHOLDS
from patio_observability.alerts.model import Alert, fill
from patio_observability.queries import all_queries

ROOT = metrics_reference.ROOT
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
RUNS = [(alert, case) for alert in ALERTS for case in CASES[alert.name]]
RUN_IDS = [f"{alert.name}-{case.name}".replace(" ", "_") for alert, case in RUNS]


@pytest.fixture(scope="session")
def promtool() -> Path:
    return ensure_unpacked(PROMTOOL)


@pytest.mark.api
def test_promtool_accepts_the_plain_rules(promtool: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules.plain())
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.api
def test_promtool_can_read_every_query_of_every_panel(promtool: Path, tmp_path: Path) -> None:
    recorded = [
        {"record": "query", "expr": query["expr"], "labels": {"number": str(number)}}
        for number, query in enumerate(all_queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(recorded)} rules found" in done.stdout


@pytest.mark.api
@pytest.mark.parametrize(
    ("alert", "case"), RUNS, ids=[f"{alert.name}-{case.name}".replace(" ", "_") for alert, case in RUNS]
)
def test_alert_fires_where_it_must_and_nowhere_else(alert: Alert, case: Case, promtool: Path, tmp_path: Path) -> None:
    rule: dict[str, Any] = {"alert": alert.name, "expr": fill(alert.expr, DEFAULTS), "for": alert.wait}
    rule["labels"] = {"severity": alert.severity}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    expected = [{"exp_labels": {**labels, "severity": alert.severity}} for labels in case.fires]
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"alertname": alert.name, "eval_time": case.at, "exp_alerts": expected}],
    }
    document: dict[str, Any] = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.api
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "_"))
def test_only_these_alerts_fire_in_a_scenario(scenario: Scenario, promtool: Path, tmp_path: Path) -> None:
    moments = scenario.fires or {f"{minute}m": () for minute in range(5, 120, 5)}
    tests = []
    for moment, firing in moments.items():
        # A rule that gives the name of each firing alert once, whatever its labels.
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
        expr = 'group by (alertname) (ALERTS{alertstate="firing"})'
        tests.append({"expr": expr, "eval_time": moment, "exp_samples": expected})
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in scenario.series.items()],
        "promql_expr_test": tests,
    }
    (tmp_path / "rules.yaml").write_text(rules.plain())
    document: dict[str, Any] = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    command = [promtool, "test", "rules", tmp_path / "test.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.api
def test_dashboard_of_a_model_with_an_odd_name_is_a_url(promtool: Path, tmp_path: Path) -> None:
    name = 'org/a&b #1 "x"'
    series = f'patio:num_requests_running{{namespace="a", pod="p", model_name={json.dumps(name)}}}'
    labels = {"severity": "critical", "namespace": "a", "model_name": name}
    annotations = {
        "summary": "No pod serves a model any more",
        "description": f"The model {name} in a had engines 15 minutes ago, and has none now.",
        "dashboard_url": "/d/patio-fleet?var-namespace=a&var-model_name=org%2Fa%26b+%231+%22x%22",
        "runbook_url": "docs/runbooks/engines.md#patiomodelgone",
    }
    alerts = [{"exp_labels": labels, "exp_annotations": annotations}]
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": "0x10 _x40"}],
        "alert_rule_test": [{"alertname": "PatioModelGone", "eval_time": "22m", "exp_alerts": alerts}],
    }
    (tmp_path / "rules.yaml").write_text(rules.plain())
    document: dict[str, Any] = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    command = [promtool, "test", "rules", tmp_path / "test.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@every_alert
def test_alert_is_tested_firing_and_silent(alert: Alert) -> None:
    cases = CASES[alert.name]
    assert [case for case in cases if case.fires]
    assert [case for case in cases if not case.fires and case.series]


@every_alert
def test_expression_is_sound(alert: Alert) -> None:
    expr = fill(alert.expr, DEFAULTS)
    assert list(promql_lint.unknown_names(expr)) == []
    assert list(promql_lint.rates_of_gauges(expr)) == []
    assert list(promql_lint.counters_without_rate(expr)) == []
    assert list(promql_lint.unguarded_divisions(expr)) == []
    assert not re.search(r"\b(vllm|sglang|kube|container)[:_]", expr), (
        "no alert needs an engine's names or another exporter"
    )
    for labels in re.findall(r"\bby \(([^)]*)\)", expr):
        assert labels.startswith("cluster, namespace"), "alerts of several clusters stay apart"


@every_alert
def test_texts_use_only_labels_that_the_alert_has(alert: Alert) -> None:
    text = f"{alert.summary} {alert.description} {rules.dashboard_path(alert)}"
    for case in CASES[alert.name]:
        for labels in case.fires:
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels.keys()


@every_alert
def test_texts_and_runbook_are_whole_sentences(alert: Alert) -> None:
    assert not alert.summary.endswith(".")
    assert "{{" not in alert.summary
    assert alert.description.endswith(".")
    book = alert.runbook
    for text in (book.means, book.users, *book.fix, *(look.means for look in book.look)):
        assert text.endswith(".")
    assert book.look
    assert book.fix
    assert not book.quiet or book.quiet.endswith(".")


def test_matchers_name_values_that_the_products_write() -> None:
    folders = [ROOT / name / "src" for name in ("protocol", "sidecar", "operator")]
    sources = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    documented = (ROOT / "docs/concepts/metrics.md").read_text()
    # vLLM writes the first one; the others stand for all, and for what Prometheus and the kubelet write.
    of_others = {("finished_reason", "error"), ("alertstate", "firing"), ("container", "POD")}
    for query in all_queries():
        for label, value in promql_lint.matchers(query["expr"]):
            if (label, value) not in of_others and value not in ("", ".*"):
                assert f'"{value}"' in sources or f"`{value}`" in documented, (label, value, query)


def test_runbooks_look_for_what_sidecars_log() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "sidecar/src").rglob("*.py"))
    found = 0
    for alert in ALERTS:
        for look in alert.runbook.look:
            if "-c patio " in look.command:
                (pattern,) = re.findall(r"grep (?:-E )?'?([^']+)'?$", look.command)
                found += 1
                assert re.search(pattern.replace("ADAPTER", "%s"), sources), look.command
    assert found > 4


def test_metrics_in_runbooks_exist() -> None:
    for alert in ALERTS:
        for look in alert.runbook.look:
            if found := re.search(r"grep -E '\^patio:\(([^']*)\)'", look.command):
                names = re.sub(r"_\(sum\|count\)", "", found[1]).split("|")
                for name in names:
                    assert any(metric.startswith(f"patio:{name}") for metric in metrics_reference.metrics()), name


def test_names_are_unique_and_begin_with_patio() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"Patio([A-Z][a-z]*)+", name) for name in names)
    assert set(CASES) == set(names)


def test_every_threshold_is_used_and_every_used_one_is_there() -> None:
    names = [threshold.name for threshold in THRESHOLDS]
    assert len(names) == len(set(names))
    assert {name for alert in ALERTS for name in alert.thresholds} == set(names)
    assert all(threshold.default in threshold.allowed for threshold in THRESHOLDS if threshold.allowed)


def test_every_alert_has_its_section_in_the_runbooks() -> None:
    for group in GROUPS:
        page = (ROOT / f"docs/runbooks/{group.name}.md").read_text()
        assert re.findall(r"^## (\w+)$", page, re.M) == [alert.name for alert in group.alerts]
        for found in re.findall(r"\]\(#(\w+)\)", page):
            assert found in {rules.anchor(alert) for alert in group.alerts}
